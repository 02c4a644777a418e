//go:build !linux || !amd64 || race

package dekker

import "sync/atomic"

// Register does nothing: there is no Barrier to be had.
func Register() {}

func cheap() bool { return false }

// Barrier does nothing: Give has the fence.
func Barrier() {}

func release(p *atomic.Uint32) { giveFenced(p) }

func occupy(p *atomic.Uint32) { occupyFenced(p) }
