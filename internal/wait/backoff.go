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
// So after a lost slice the process does not poll for 32 times as long as it
// lost. If it lost the slice within the length of the last rest after that
// rest's end, the next rest is twice the last one (exponential backoff). So
// polling loses little compared with the time that other processes work, and a
// slice that was lost by chance costs little.
//
// Several goroutines may lose a slice at the same time; the last store counts.
type backoff struct {
	until atomic.Int64 // when the last rest ends
	last  atomic.Int64 // how long it is
}

// rests reports whether the process rests from polling.
func (c *backoff) rests(now time.Duration) bool { return now < time.Duration(c.until.Load()) }

// lost reports whether the caller, which has wanted the processor from wanted
// to now, lost a slice in that time, and begins a rest if it did.
func (c *backoff) lost(wanted, now time.Duration) bool {
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

// lost is backoff.lost where others than the party have had the processor.
func (r *pollers) lost(wanted, now time.Duration) bool {
	return now-wanted >= slice && !r.party.had(wanted, now) && r.others.lost(wanted, now)
}
