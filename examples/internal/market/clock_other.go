//go:build !linux

package market

import (
	"context"
	"time"
)

// Now returns the time of the wall clock in nanoseconds, for want of a
// monotonic clock that processes share. A latency is wrong if the clock is set
// meanwhile.
func Now() int64 { return time.Now().UnixNano() }

func PreciseSleep() {}

// SleepUntil sleeps until about due, and returns early rather than late.
func SleepUntil(ctx context.Context, due int64) {
	const coarse = 2 * time.Millisecond // how late time.After may be
	if d := time.Duration(due-Now()) - coarse; d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
}
