//go:build !race && (!linux || !amd64)

package dekker

import "sync/atomic"

func giveFenced(p *atomic.Uint32) { p.Store(0) }

func occupyFenced(p *atomic.Uint32) { p.Store(1) }
