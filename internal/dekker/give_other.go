//go:build !race && (!linux || !amd64 || !gc)

package dekker

import "sync/atomic"

func storeFenced(p *uint32, v uint32) { atomic.StoreUint32(p, v) }
