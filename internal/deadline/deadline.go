// Package deadline has the deadlines of calls that wait for something other
// than a clock.
package deadline

import (
	"sync"
	"time"

	"shmconn/internal/bubble"
)

// A Deadline calls a function when its time has come. Waiting calls check what
// that function stores; they never read the clock.
type Deadline struct {
	mu         sync.Mutex // guards the others, and is held while the function runs
	timer      *time.Timer
	generation int // so that a timer that fires late says nothing
	stopped    bool
}

// Set makes t the time, the zero time meaning never. It calls change(true) once
// t has come, which can be at once, and before that change(false).
func (d *Deadline) Set(t time.Time, change func(expired bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	d.generation++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	var left time.Duration
	if !t.IsZero() {
		if left = time.Until(t); left <= 0 {
			change(true)
			return
		}
	}
	change(false)
	if t.IsZero() {
		return
	}
	mine := d.generation
	expire := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.generation == mine {
			change(true)
		}
	}
	if !bubble.In(bubble.Now()) {
		d.timer = time.AfterFunc(left, expire)
		return
	}
	// A bubble's timer keeps the bubble's time. A socket's deadline is in real
	// time.
	bubble.Outside(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.generation == mine {
			d.timer = time.AfterFunc(left, expire)
		}
	})
}

// Stop ends the deadline for good.
func (d *Deadline) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	d.generation++
	if d.timer != nil {
		d.timer.Stop()
	}
}
