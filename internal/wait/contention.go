package wait

import (
	"sync/atomic"
	"time"
)

const (
	// slice is what a goroutine that polls loses at least, at a time, to a
	// process that works: the kernel's time slices are a millisecond or some.
	// Who polls, too, yields sooner.
	slice = time.Millisecond

	rest        = 32 // times what was lost
	longestRest = time.Second
)

// A contention says when not to poll, as other processes want the processors.
//
// To the kernel, polling is work: when another process wants the processor, the
// one that polls loses it for a time slice, and finds what comes meanwhile when
// that is over. One that sleeps gets a processor soon after it is woken. So
// after a lost slice the process rests from polling for 32 times as long, or,
// if the slice was lost as soon after the last rest as that was long, for twice
// the last rest (exponential backoff). What polling loses beside processes that
// work is then a small part of the time; and a slice that was lost by chance
// costs little.
//
// Several goroutines may lose a slice at the same time; the last one's word
// counts.
type contention struct {
	until atomic.Int64 // when the last rest ends
	last  atomic.Int64 // how long it is
}

// rests reports whether the process rests from polling.
func (c *contention) rests(now time.Duration) bool { return now < time.Duration(c.until.Load()) }

// lost reports whether a slice was lost from wanted to now, in which the caller
// wanted the processor, and begins a rest if so.
func (c *contention) lost(wanted, now time.Duration) bool {
	lost := now - wanted
	if lost < slice {
		return false
	}
	until, last := time.Duration(c.until.Load()), time.Duration(c.last.Load())
	if wanted < until-last {
		return true // the rest has begun since: another goroutine has found the same slice lost
	}
	d := rest * lost
	if now-until < last {
		d = max(d, 2*last)
	}
	d = min(d, longestRest)
	c.last.Store(int64(d))
	c.until.Store(int64(now + d))
	return true
}
