// Package wait polls: it is what a goroutine does between finding that there is
// nothing to do and going to sleep. It knows nothing of rings or descriptors, only
// of conditions that become true.
//
// A wait first spins, for about a microsecond. Then it polls, yielding to other
// goroutines and processes, as long as its budget lasts. A goroutine that polls keeps a P from
// going idle, and it is the idle Ps that look after the network: were there one
// on every P, the rest of the process would wait for sysmon's 10 ms. So there are
// seats, half as many as Ps. Who finds no seat follows: it sleeps on a channel, and
// one of the seated, the sweeper, looks at the conditions of all followers too.
// When a seated goroutine leaves and nobody sweeps for those who are left, it
// appoints one of them.
package wait

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	spins     = 48               // looks of the first spin
	burst     = 24               // looks between two yields of a seated goroutine
	gap       = 1                // PAUSE instructions between two looks
	heartbeat = time.Millisecond // from one Tick to the next
	maxTicks  = 16               // followers that get a Tick in one sweep
	yields    = 8                // of a wait where spinning makes no sense

	// patience is how long a goroutine polls before it takes into account that it
	// may have the very processor that the peer waits for. It then yields that, too.
	// Sooner it does harm: two ends that happen to be on one processor would
	// keep to it, handing it to each other.
	patience = 20 * time.Microsecond
)

// Forever is a budget that is never used up.
const Forever = time.Duration(1<<63 - 1)

// A Condition is waited for.
type Condition interface {
	// Ready reports whether the wait is over. It is called often, by one
	// goroutine at a time, though not always the one that waits. A panic of
	// Ready comes up in the goroutine that waits.
	Ready() bool

	// Tick is called about once a millisecond, to look at what is too dear for
	// Ready.
	Tick()
}

type signal uint8

const (
	ready   signal = iota // the condition is true, or has panicked
	expired               // the budget is used up
	lead                  // take over the signaller's seat and its sweep
)

// A Waiter is what waits for one Condition, one wait at a time.
type Waiter struct {
	cond     Condition
	signals  chan signal
	expires  time.Time // while it follows: the end of its budget
	next     *Waiter   // while it is in room.arrivals
	panicked any       // what Ready panicked with while it followed
}

// NewWaiter returns a Waiter for cond.
func NewWaiter(cond Condition) *Waiter {
	return &Waiter{cond: cond, signals: make(chan signal, 1)}
}

// A room is where the waiters of a process meet. Except in tests there is one.
type room struct {
	seats     atomic.Int32           // taken: how many goroutines poll
	followers atomic.Int32           // waiters in arrivals or list
	arrivals  atomic.Pointer[Waiter] // a stack of those that the sweeper has not seen yet
	sweeping  atomic.Bool            // somebody has the sweep
	parallel  atomic.Bool            // another processor can make the condition true while one spins

	// Owned by who has the sweep.
	list   []*Waiter
	ticked time.Time // when the last follower got a Tick
	turn   int       // who gets the next one
}

var process = newRoom()

func newRoom() *room {
	r := new(room)
	r.parallel.Store(spinnable())
	return r
}

// spinnable reports whether spinning can be of use.
func spinnable() bool { return runtime.GOMAXPROCS(0) > 1 && quota() > 1 }

// Spin looks at w's condition for about a microsecond and reports whether it has
// become true. Where only one processor is to be had it does nothing.
func (w *Waiter) Spin() bool { return process.spin(w) }

func (r *room) spin(w *Waiter) bool {
	if !r.parallel.Load() || r.seats.Load() != 0 {
		return false
	}
	for range spins {
		if w.cond.Ready() {
			return true
		}
		pause(gap)
	}
	return false
}

// Poll waits until w's condition is true, or the budget is used up, and reports
// which. The condition can be true when Poll says that the budget is used up.
func (w *Waiter) Poll(budget time.Duration) bool { return process.poll(w, budget) }

func (r *room) poll(w *Waiter, budget time.Duration) bool {
	parallel := spinnable()
	if parallel != r.parallel.Load() {
		r.parallel.Store(parallel) // GOMAXPROCS has changed
	}
	if !parallel && budget != Forever {
		// Whoever could make the condition true needs this processor. If it is
		// a goroutine it gets it now, if a process when w parks.
		for range yields {
			if w.cond.Ready() {
				return true
			}
			runtime.Gosched()
		}
		return false
	}
	w.expires = time.Time{}
	if budget != Forever {
		w.expires = time.Now().Add(budget)
	}
	if r.sit() {
		return r.lead(w, false)
	}
	return r.follow(w)
}

// sit takes a seat, if there is one.
func (r *room) sit() bool {
	limit := int32(max(1, runtime.GOMAXPROCS(0)/2))
	for {
		n := r.seats.Load()
		if n >= limit {
			return false
		}
		if r.seats.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// lead polls with a seat, which it gives back. sweep says that it has the sweep.
func (r *room) lead(w *Waiter, sweep bool) (ok bool) {
	defer func() {
		if sweep {
			r.sweeping.Store(false) // sync: seat
		}
		r.seats.Add(-1) // sync: seat
		r.appoint()
	}()
	start := time.Now()
	tick := start
	for {
		for range burst {
			if w.cond.Ready() {
				return true
			}
			pause(gap)
		}
		now := time.Now()
		if !sweep && r.followers.Load() > 0 {
			sweep = r.sweeping.CompareAndSwap(false, true)
		}
		if sweep {
			r.sweep(now)
		}
		if !w.expires.IsZero() && now.After(w.expires) {
			return false
		}
		if now.Sub(tick) >= heartbeat {
			tick = now
			w.cond.Tick()
		}
		runtime.Gosched()
		if now.Sub(start) > patience || !r.parallel.Load() {
			osYield()
		}
	}
}

// follow waits without a seat.
func (r *room) follow(w *Waiter) bool {
	for {
		w.next = r.arrivals.Load()
		if r.arrivals.CompareAndSwap(w.next, w) {
			break
		}
	}
	r.followers.Add(1) // sync: seat
	r.appoint()
	switch <-w.signals {
	case lead:
		return r.lead(w, true)
	case expired:
		return false
	}
	if p := w.panicked; p != nil {
		w.panicked = nil
		panic(p)
	}
	return true
}

// appoint sees to it that somebody sweeps for the followers, if there are any.
// It is called by who has just become one, and by who has just left a seat: each
// first stores its own news and then looks for the other's, so that they cannot
// miss each other.
func (r *room) appoint() {
	for r.followers.Load() > 0 { // sync: seat
		if !r.sit() {
			return // the seated find the followers, or come here when they leave
		}
		if !r.sweeping.CompareAndSwap(false, true) {
			// Who sweeps will come here. But somebody may have found no seat
			// because of us, while it was over with the sweep: look again.
			r.seats.Add(-1)
			if r.sweeping.Load() {
				return
			}
			continue
		}
		r.arrive()
		if n := len(r.list) - 1; n >= 0 {
			w := r.list[n]
			r.drop(n)
			w.signals <- lead // with our seat and our sweep
			return
		}
		r.sweeping.Store(false)
		r.seats.Add(-1)
	}
}

// arrive moves the newcomers to the list.
func (r *room) arrive() {
	for w := r.arrivals.Swap(nil); w != nil; {
		next := w.next
		w.next = nil
		r.list = append(r.list, w)
		w = next
	}
}

// drop takes the i-th follower off the list.
func (r *room) drop(i int) {
	last := len(r.list) - 1
	r.list[i] = r.list[last]
	r.list[last] = nil
	r.list = r.list[:last]
	r.followers.Add(-1)
}

// sweep looks once at the conditions of all followers.
func (r *room) sweep(now time.Time) {
	r.arrive()
	if now.Sub(r.ticked) >= heartbeat {
		r.ticked = now
		for range min(maxTicks, len(r.list)) {
			r.turn = (r.turn + 1) % len(r.list)
			r.list[r.turn].cond.Tick()
		}
	}
	for i := 0; i < len(r.list); {
		w := r.list[i]
		switch {
		case w.ready():
			r.drop(i)
			w.signals <- ready
		case !w.expires.IsZero() && now.After(w.expires):
			r.drop(i)
			w.signals <- expired
		default:
			i++
		}
	}
}

// ready is Ready for somebody else's condition: a panic is kept for its owner.
func (w *Waiter) ready() (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			w.panicked, ok = p, true
		}
	}()
	return w.cond.Ready()
}
