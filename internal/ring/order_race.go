//go:build race

package ring

import "sync/atomic"

// store64 and store32 store so that a load after them, of another word, comes
// after them for every processor. The race detector makes of an atomic store
// one of release order, without a fence (__tsan_go_atomic64_store of LLVM's
// compiler-rt): the load may come first then, and two ends miss each other. An
// exchange has the fence.
func store64(p *atomic.Uint64, v uint64) { p.Swap(v) }
func store32(p *atomic.Uint32, v uint32) { p.Swap(v) }
