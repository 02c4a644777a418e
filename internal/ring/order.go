//go:build !race

package ring

import "sync/atomic"

// store64 and store32 store so that a load after them, of another word, comes
// after them for every processor: that is what sequentially consistent means
// for the pairs of "store mine, then look at yours" between two ends.
func store64(p *atomic.Uint64, v uint64) { p.Store(v) }
func store32(p *atomic.Uint32, v uint32) { p.Store(v) }
