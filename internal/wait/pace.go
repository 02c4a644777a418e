package wait

import "time"

const (
	// parked is about twice what a round trip takes where both ends park. A wait
	// that was over sooner is one that polling would have shortened, even if it
	// took longer than the budget: else two ends that park would keep each other
	// parked.
	parked = 50 * time.Microsecond

	probe = 16 // waits to the next that polls regardless
)

// A Pace says how long the next wait should poll, by how long the last one was.
// Waits far longer than the budget turn polling off, so that an idle or slow
// connection costs nothing; a short one turns it on.
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

// Waited tells how long a wait took in all.
func (p *Pace) Waited(d, limit time.Duration) {
	switch limit = max(limit, parked); {
	case d > 2*limit:
		p.slow = true
	case d <= limit:
		p.slow = false
	}
}
