package market

import (
	"context"
	"time"
)

// A Pacer says when prices are due: so many a second, evenly spread, whatever
// the links make of it. That a price is sent late because an earlier one was
// held up is latency of the pipeline, and counts: the times that are due do not
// move.
type Pacer struct {
	Start int64
	Rate  int
}

// NewPacer returns a pacer whose first price is due now: rate prices a second,
// or as many as there are for 0. The calling goroutine has to be the one that
// waits.
func NewPacer(rate int) *Pacer {
	if rate > 0 {
		PreciseSleep()
	}
	return &Pacer{Start: Now(), Rate: rate}
}

// At returns when the price after the first n is due.
func (p *Pacer) At(n uint64) int64 {
	second, rest := n/uint64(p.Rate), n%uint64(p.Rate)
	return p.Start + int64(second)*int64(time.Second) + int64(rest)*int64(time.Second)/int64(p.Rate)
}

// Due reports whether the price after the first n is due.
func (p *Pacer) Due(n uint64) bool { return p.Rate == 0 || Now() >= p.At(n) }

// Wait waits until the price after the first n is due, and returns when that
// was. It sleeps most of the time, and spins for the rest, to be on time.
func (p *Pacer) Wait(ctx context.Context, n uint64) int64 {
	if p.Rate == 0 {
		return Now()
	}
	due := p.At(n)
	SleepUntil(ctx, due)
	for Now() < due && ctx.Err() == nil {
	}
	return due
}
