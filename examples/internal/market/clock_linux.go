package market

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time of the monotonic clock in nanoseconds. It is the same
// clock in all processes of the machine, so that one can subtract what another
// has read.
func Now() int64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // does not fail for this clock
	return t.Nano()
}

// PreciseSleep gives the calling goroutine a thread of its own, that the kernel
// wakes without the 50 µs of slack that it has by default.
func PreciseSleep() {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; if it fails, waits spin for longer
}

// SleepUntil sleeps until about due, and returns early rather than late. It
// does not use time.Sleep for the last part, since that is up to 1 ms late in a
// process that has nothing else to do.
func SleepUntil(ctx context.Context, due int64) {
	const (
		coarse = 2 * time.Millisecond  // how late time.After may be
		fine   = 50 * time.Microsecond // how late the kernel may be, after PreciseSleep
	)
	if d := time.Duration(due-Now()) - coarse; d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return
		}
	}
	if due-Now() > int64(fine) {
		t := unix.NsecToTimespec(due - int64(fine))
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &t, nil) // EINTR: early
	}
}
