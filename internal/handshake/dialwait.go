//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"errors"
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/segment"
	"shmconn/internal/stream"
)

// dialWait dials until somebody listens, again each time that the listener's
// files have changed, as Dialer.Wait says. begin is when the dial began.
func dialWait(ctx context.Context, d *DialOptions, dir, base string, begin time.Duration) (*stream.Stream, error) {
	w, err := segment.NewWatch(dir, base)
	if err != nil {
		return nil, err
	}
	// Closing it can take the kernel 20 ms, because it waits for all that may
	// be reporting to it. The connection need not wait for that.
	defer bubble.Go(w.Close)
	limit, ended := time.Duration(math.MaxInt64), error(nil)
	if d.Wait > 0 {
		limit = d.Wait
	}
	if deadline, ok := ctx.Deadline(); ok {
		// In a bubble of testing/synctest the context's clock stands still
		// while we wait for the kernel. Like all deadlines this one is in real
		// time there.
		if left := uptime() - begin + time.Until(deadline); left < limit {
			limit, ended = left, context.DeadlineExceeded
		}
	}
	for {
		w.Aim()
		s, err := dialNow(ctx, d, dir, base)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return s, err
		}
		waited := uptime() - begin
		if err := ctx.Err(); err != nil {
			ended, limit = err, 0
		}
		if waited >= limit {
			return nil, &WaitError{err, waited, ended}
		}
		w.Wait(ctx, limit-waited)
	}
}

// uptime is a clock of real time that only goes forward, in a bubble, too.
func uptime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // which does not fail
	return time.Duration(ts.Nano())
}
