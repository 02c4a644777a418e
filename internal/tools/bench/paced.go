//go:build linux

package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Messages that go one way, each at its time. A message carries the time at
// which it was due, and its receiver records how long ago that is: a sender
// that is held up is late for all messages that were due meanwhile, and that
// counts.

// clockBase returns a time and what CLOCK_MONOTONIC was then. Go's clock is the
// same one, but counts from the start of each process.
var clockBase = sync.OnceValues(func() (time.Time, int64) {
	var start time.Time
	var base int64
	best := time.Duration(1<<63 - 1)
	for range 100 {
		var ts unix.Timespec
		from := time.Now()
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // does not fail for this clock
		if d := time.Since(from); d < best {
			best, start, base = d, from, ts.Nano()-int64(d/2)
		}
	}
	return start, base
})

// monotonic returns the time in ns, by a clock that all processes share.
func monotonic() int64 {
	start, base := clockBase()
	return base + int64(time.Since(start))
}

// stampAt is where in a message the time at which it was due is.
const stampAt = 8

func stamp(b []byte, due int64) { binary.LittleEndian.PutUint64(b[stampAt:], uint64(due)) }
func stamped(b []byte) int64    { return int64(binary.LittleEndian.Uint64(b[stampAt:])) }

// waitUntil spins until due, as those do who care for latency. With sleep it
// sleeps before that: the calling goroutine has a thread of its own.
func waitUntil(due int64, sleep bool) {
	const late = 50 * time.Microsecond // that the kernel may wake us
	if until := due - int64(late); sleep && monotonic() < until {
		ts := unix.NsecToTimespec(until)
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) // EINTR: early
	}
	for monotonic() < due {
	}
}

// sendPaced sends Spec.Rate messages a second, in bursts if there are any.
func sendPaced(e *end, q quota) (r Result, err error) {
	w, err := e.stream()
	if err != nil {
		return r, err
	}
	if e.spec.Sleeps {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; if it fails, it spins less
	}
	interval, burst := int64(time.Second)/int64(e.spec.Rate), uint64(max(e.spec.Burst, 1))
	b := make([]byte, e.spec.Size)
	n := max(uint64(int64(q.D)/interval), 1)
	if q.D == 0 {
		n = q.N
	}
	start := monotonic()
	for r.Ops < n {
		due := start + int64(r.Ops/burst*burst)*interval
		waitUntil(due, e.spec.Sleeps)
		head := r.Ops
		if r.Ops == n-1 {
			head |= last(e.spec.Size)
		}
		PutHead(b, head)
		stamp(b, due)
		if _, err := w.Write(b); err != nil {
			return r, err
		}
		r.Ops++
	}
	r.Elapsed, r.AllOps = time.Duration(monotonic()-start), r.Ops
	return r, nil
}

// receivePaced records how late each message is, and is done after the last.
func receivePaced(e *end, _ quota) (r Result, err error) {
	err = e.takePaced(func(b []byte) error {
		e.record(time.Duration(monotonic() - stamped(b)))
		r.Ops++
		return nil
	})
	r.AllOps = r.Ops
	return r, err
}

// relay sends on what it receives.
func relay(e *end, _ quota) (r Result, err error) {
	if e.out == nil {
		return r, fmt.Errorf("bench: a relay with nobody to send to")
	}
	err = e.takePaced(func(b []byte) error {
		r.Ops++
		_, err := e.out.Write(b)
		return err
	})
	r.AllOps = r.Ops
	return r, err
}

// takePaced calls f with each message until the last of the slice, and checks
// that all have come, in order.
func (e *end) takePaced(f func(b []byte) error) error {
	rd, err := e.stream()
	if err != nil {
		return err
	}
	b, k := make([]byte, e.spec.Size), newChecker(e.spec.Size)
	for !k.done() {
		if _, err := io.ReadFull(rd, b); err != nil {
			return err
		}
		if err := k.check(Head(b)); err != nil {
			return err
		}
		if err := f(b); err != nil {
			return err
		}
	}
	return nil
}
