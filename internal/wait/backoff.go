package wait

import (
	"sync/atomic"
	"time"
)

// A backoff says when the process does not poll, because others than its party
// want the processors.
//
// To the kernel, polling is work. When another process wants the processor, the
// polling one loses it for a time slice, and sees what arrives in that time
// only afterwards. A sleeping process gets a processor soon after it is woken.
//
// One lost slice can be chance. If the process loses another one within 32
// times the length of the first, it does not poll for twice that time, or for
// 32 times the length of the second: it rests. If it loses one within the
// length of a rest after the rest's end, the next rest is twice as long
// (exponential backoff), a second at most. So polling loses little compared
// with the time that other processes work.
//
// Several goroutines may lose a slice at the same time; the last store counts.
type backoff struct {
	until atomic.Int64 // when the last rest ends
	last  atomic.Int64 // how long it is, or would have been: the first slice begins none
	found atomic.Int64 // when a slice was last found to be lost
}

// rests reports whether the process rests from polling.
func (c *backoff) rests(now time.Duration) bool { return now < time.Duration(c.until.Load()) }

// lost reports whether the caller has to rest because it lost a slice: it has
// wanted the processor from wanted to now.
func (c *backoff) lost(wanted, now time.Duration) bool {
	lost := now - wanted
	if lost < slice {
		return false
	}
	if wanted < time.Duration(c.found.Swap(int64(now))) {
		return c.rests(now) // another goroutine has found the same slice lost
	}
	until, last := time.Duration(c.until.Load()), time.Duration(c.last.Load())
	d, again := rest*lost, now-until < last
	if again {
		d = max(d, 2*last)
	}
	d = min(d, longestRest)
	c.last.Store(int64(d))
	if !again {
		d = 0
	}
	c.until.Store(int64(now + d))
	return again
}

// lost is backoff.lost where others than the party have had the processor.
func (r *pollers) lost(wanted, now time.Duration) bool {
	return now-wanted >= slice && !r.party.had(wanted, now) && r.others.lost(wanted, now)
}
