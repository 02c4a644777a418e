package wait

import "time"

// A Pace says how long the next wait should poll, by how long the last one was.
// A wait longer than the budget turns polling off, so that an idle or slow
// connection costs nothing. A shorter wait turns it on, even one that was
// parked.
//
// The budget has to be longer than it takes to wake a process that is parked.
// Otherwise two ends could keep each other parked for ever: each would find
// that the other takes longer than polling is worth.
type Pace struct {
	slow bool // waits are too long for polling
}

// Budget returns for how long to poll, and if that is 0, why not. limit is what
// the user allows; less than 0 means for ever.
func (p *Pace) Budget(limit time.Duration) (time.Duration, Cause) {
	switch {
	case limit < 0:
		return Forever, Polled
	case limit < time.Microsecond:
		return 0, Always
	case p.slow:
		return 0, Gap
	}
	return limit, Polled
}

// Polled records that a wait ended within its budget.
func (p *Pace) Polled() { p.slow = false }

// Parked records that a wait was parked, how long it took in all, and how many
// others of the process ended during it (see [Ended]). If a leader would have
// made progress for several waiters within the limit all the time, polling was
// worth it, although this wait was longer: see [Waiter.Poll].
func (p *Pace) Parked(d, limit time.Duration, others uint64) {
	p.slow = d > limit && (d > longest || time.Duration(others)*limit < d)
}

// A Cause is why a wait goes to sleep instead of polling.
type Cause uint32

const (
	Polled    Cause = iota // it does not: its condition is true
	Always                 // its limit is below a microsecond, see [Pace]
	Gap                    // the wait before it was longer than the limit, see [Pace]
	Contended              // other processes want the processors, see backoff
	Near                   // the peer, or whatever else could make it true, needs this processor
	Spent                  // the budget is used up
	Causes                 // how many there are
)
