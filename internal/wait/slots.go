package wait

import "time"

// free reports whether there is a slot for a wait of that budget.
//
// With two Ps there are two slots, unless there is a crowd. If there were one,
// the other P would be idle, and the scheduler would wake a thread for it with
// each goroutine that a leader wakes, on the processor that the peer needs. The
// network is looked after by visits then. In a crowd a leader finds news for
// several at a time, and they need the other P. A wait without an end takes
// only the first slot.
func (r *pollers) free(budget time.Duration) bool {
	n := r.slots.Load()
	return n < r.limit.Load() || n < r.more.Load() && budget != Forever && !r.crowd.Load()
}

// crowds says that at the time now there is a crowd: few followers or more.
func (r *pollers) crowds(now time.Duration) {
	r.crowded.Store(int64(now))
	if !r.crowd.Load() {
		r.crowd.Store(true)
	}
}

// acquireSlot takes a slot, if one is free.
func (r *pollers) acquireSlot(budget time.Duration) bool {
	for {
		n := r.slots.Load()
		if !r.free(budget) {
			return false
		}
		if r.slots.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
