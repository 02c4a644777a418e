package bench

import "time"

// A quota is the length of a slice: so long, or, if n is not 0, so many
// operations.
type quota struct {
	D time.Duration
	N uint64
}

// half returns the first half of a quota by time, and a quota by number as it
// is.
func (q quota) half() quota { return quota{D: q.D / 2, N: q.N} }

// A clock tells a loop when its quota is used up. It reads the time only every
// 20 microseconds or so, as a reading can cost as much as an operation.
type clock struct {
	quota
	start, last time.Time
	batch       uint64
}

func newClock(q quota) *clock {
	now := time.Now()
	return &clock{quota: q, start: now, last: now, batch: 1}
}

// next returns how many operations to do before calling it again. 0 means that
// the quota is used up.
func (c *clock) next() uint64 {
	if c.D == 0 {
		n := min(c.N, 1<<20)
		c.N -= n
		return n
	}
	now := time.Now()
	if now.Sub(c.start) >= c.D {
		return 0
	}
	switch d := now.Sub(c.last); {
	case d < 20*time.Microsecond && c.batch < 1<<13:
		c.batch *= 2
	case d > 100*time.Microsecond && c.batch > 1:
		c.batch /= 2
	}
	c.last = now
	return c.batch
}

// elapsed returns how long ago the clock was started.
func (c *clock) elapsed() time.Duration { return time.Since(c.start) }
