package wait

import "time"

// probe is how many waits it is at most to the next that polls, whatever the last
// ones were like.
const probe = 64

// A Pace says how long the next wait should poll, by how long the last one was. Waits
// longer than the budget turn polling off, so that an idle or slow connection costs
// nothing; a shorter one turns it on, also if it was parked.
//
// The budget has to be longer than it takes to wake a process that is parked. Else
// two ends could keep each other parked for ever: each would find that the other one
// takes longer than polling is worth.
type Pace struct {
	slow  bool // waits are too long for polling
	count uint8
}

// Budget returns for how long to poll, 0 meaning not at all. limit is what the user
// allows, less than 0 meaning for ever.
func (p *Pace) Budget(limit time.Duration) time.Duration {
	switch {
	case limit < 0:
		return Forever
	case limit < time.Microsecond:
		return 0
	case p.slow:
		if p.count++; p.count%probe != 0 {
			return 0
		}
	}
	return limit
}

// Polled says that a wait was over before its budget.
func (p *Pace) Polled() { p.slow = false }

// Parked says that a wait was parked, how long it took in all, and how many others of
// the process ended meanwhile. If there were so many that somebody who polls for
// all would have had news within the limit all the time, polling was worth while,
// though this wait was longer: see [Waiter.Poll].
func (p *Pace) Parked(d, limit time.Duration, others uint64) {
	p.slow = d > limit && (d > longest || time.Duration(others)*limit < d)
}
