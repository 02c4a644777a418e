package wait

import "time"

// follow waits without a slot.
func (r *pollers) follow(w *Waiter) Cause {
	for {
		w.next = r.arrivals.Load()
		if r.arrivals.CompareAndSwap(w.next, w) {
			break
		}
	}
	if n := r.followers.Add(1); n >= few { // sync: slot
		r.crowds(w.start)
	}
	r.promote()
	switch <-w.signals {
	case lead:
		return r.lead(w, true)
	case expired:
		return Spent
	}
	if p := w.panicked; p != nil {
		w.panicked = nil
		panic(p)
	}
	return Polled
}

// promote makes sure that there is a leader if there are followers. A wait
// calls it after it has become a follower, or has left its slot. Each first
// stores what it has become and then checks for the other, so they cannot miss
// each other.
func (r *pollers) promote() {
	for r.followers.Load() > 0 && !r.led.Load() { // sync: slot
		if !r.acquireSlot(Forever) {
			return // waits with a slot find the followers, or come here when they leave
		}
		if !r.led.CompareAndSwap(false, true) {
			// The leader will come here. But another wait may have found no
			// slot because of us: check again.
			r.slots.Add(-1)
			continue
		}
		r.admit()
		if n := len(r.list) - 1; n >= 0 {
			w := r.list[n]
			r.drop(n)
			w.signals <- lead // with our slot, and as the leader
			return
		}
		r.led.Store(false)
		r.slots.Add(-1)
	}
}

// admit moves the newcomers to the list.
func (r *pollers) admit() {
	for w := r.arrivals.Swap(nil); w != nil; {
		next := w.next
		w.next = nil
		r.list = append(r.list, w)
		w = next
	}
}

// drop takes the i-th follower off the list.
func (r *pollers) drop(i int) {
	last := len(r.list) - 1
	r.list[i] = r.list[last]
	r.list[last] = nil
	r.list = r.list[:last]
	r.followers.Add(-1)
}

// scanFollowers looks once at the conditions of all followers.
func (r *pollers) scanFollowers(now time.Duration) {
	r.admit()
	progress := false
	for i := r.look(0); i < len(r.list); i = r.look(i) {
		if id := r.list[i].id; id != r.latest {
			r.latest, r.shared = id, now
		}
		r.signal(i, ready)
		progress = true
	}
	if progress {
		r.progress = now
	}
	// After progress the last scan may be long ago, because other goroutines
	// worked in between. So budgets are looked at only now and then, and count
	// from r.shared, if the news was not always the same follower's.
	if due := now-r.ticked >= choreEvery; due || !progress {
		r.expire(now)
		if due {
			r.ticked = now
			r.tick()
		}
	}
}

// signal takes the i-th follower off the list and sends it the reason.
func (r *pollers) signal(i int, s signal) {
	w := r.list[i]
	r.drop(i)
	w.signals <- s
}

// look returns the first follower, from the given one on, whose condition is
// true. One that panics counts as true, and the panic is kept for its owner.
func (r *pollers) look(from int) (i int) {
	defer func() {
		if p := recover(); p != nil {
			r.list[i].panicked = p
		}
	}()
	for i = from; i < len(r.list); i++ {
		if r.list[i].cond.Ready() {
			break
		}
	}
	return i
}

// expire removes the followers whose budgets are used up.
func (r *pollers) expire(now time.Duration) {
	for i := 0; i < len(r.list); {
		if r.list[i].expired(now, r.shared) {
			r.signal(i, expired)
		} else {
			i++
		}
	}
}

// tick gives the next follower its Tick.
func (r *pollers) tick() {
	if n := len(r.list); n > 0 {
		r.turn = (r.turn + 1) % n
		r.list[r.turn].cond.Tick()
	}
}
