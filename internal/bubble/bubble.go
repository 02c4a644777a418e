// Package bubble lets a connection keep real time, and be used from inside and
// outside, if its caller is in a bubble of testing/synctest.
package bubble

import (
	"runtime"
	"sync"
	"time"

	"shmconn/internal/sema"
)

var epoch = time.Now()

// Now returns the time, for differences only. It is cheaper than time.Now.
func Now() time.Duration { return time.Since(epoch) }

// A goroutine in a bubble of testing/synctest has a clock that stands still,
// and what it makes of channels, timers and goroutines belongs to the bubble. A
// socket is not affected: it keeps real time and may be used inside and
// outside. This file makes the same true of a connection.

// plausible is how long a process has been running, mostly. A bubble's clock
// begins in the year 2000, so there Now is years off, and nearly always below
// 0. Outside, a process that is older than this pays for another reading of the
// clock.
const plausible = 90 * 24 * time.Hour

// In reports whether the caller is in a bubble, now being what Now has just
// returned to it.
func In(now time.Duration) bool {
	if 0 <= now && now < plausible {
		return false
	}
	t := time.Now()
	return t == t.Round(0) // it has no reading of the monotonic clock
}

// Outside calls f outside any bubble: at once if the caller is outside, and if
// not soon, on another goroutine.
func Outside(f func()) {
	if !In(Now()) {
		f()
		return
	}
	outside.run(f)
}

// Go starts a goroutine for f, outside any bubble.
func Go(f func()) { Outside(func() { go f() }) }

// A porter is a goroutine outside any bubble, which calls functions for
// goroutines that are inside. It leaves when there was nothing to call for a
// while.
//
// The way out is a cleanup of the garbage collector: these "run outside of any
// bubble" (package testing/synctest), and so does a goroutine that one starts.
type porter struct {
	mu    sync.Mutex
	calls []func() // yet to be called
	there bool     // or coming
	idle  bool     // for a while
	wake  sema.Sema
}

var outside porter

// porterStays is for how long a porter stays without work, in real time.
const porterStays = time.Second

func (p *porter) run(f func()) {
	p.mu.Lock()
	p.calls = append(p.calls, f)
	come := !p.there
	p.there = true
	p.mu.Unlock()
	p.wake.Notify()
	if come {
		p.fetch()
	}
}

// fetch has the garbage collector start serve.
//
//go:noinline
func (p *porter) fetch() {
	runtime.AddCleanup(&struct{ p *porter }{p}, func(p *porter) { go p.serve() }, p)
	runtime.GC()
}

func (p *porter) serve() {
	for {
		idle := time.AfterFunc(porterStays, func() {
			p.mu.Lock()
			p.idle = true
			p.mu.Unlock()
			p.wake.Notify()
		})
		p.wake.Wait()
		idle.Stop()
		p.mu.Lock()
		calls := p.calls
		p.there = len(calls) > 0 || !p.idle
		p.calls, p.idle = nil, false
		stays := p.there
		p.mu.Unlock()
		for _, f := range calls {
			f()
		}
		if !stays {
			return
		}
	}
}
