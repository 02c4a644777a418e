//go:build !linux

package main

import (
	"context"
	"time"
)

// now returns the time of the wall clock in nanoseconds, for want of a monotonic
// clock that processes share. A latency is wrong if the clock is set meanwhile.
func now() int64 { return time.Now().UnixNano() }

func preciseSleep() {}

// sleepUntil sleeps until about due, and returns early rather than late.
func sleepUntil(ctx context.Context, due int64) {
	const coarse = 2 * time.Millisecond // how late time.After may be
	if d := time.Duration(due-now()) - coarse; d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
}
