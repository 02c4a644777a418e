//go:build race

package dekker

import "sync/atomic"

// giveFenced stores 0. A store that the race detector makes has no fence after
// it, so this is an exchange.
func giveFenced(p *atomic.Uint32) { p.Swap(0) }

func occupyFenced(p *atomic.Uint32) { p.Swap(1) }
