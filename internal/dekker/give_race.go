//go:build race

package dekker

import "sync/atomic"

// storeFenced stores v. A store that the race detector makes has no fence after
// it, so this is an exchange.
func storeFenced(p *uint32, v uint32) { atomic.SwapUint32(p, v) }
