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
	spins     = 48                    // looks of the first spin
	burst     = 24                    // looks between two yields of a seated goroutine
	gap       = 1                     // PAUSE instructions between two looks
	pauses    = 24                    // PAUSE instructions of a Pause
	heartbeat = time.Millisecond      // from one Tick to the next
	maxTicks  = 16                    // followers that get a Tick in one sweep
	yields    = 8                     // of a wait where spinning makes no sense
	longest   = 10 * time.Millisecond // that a wait can go beyond its budget while others have news

	// patience is how long a goroutine polls before it takes into account that it
	// may have the very processor that the peer waits for. It then yields that, too.
	// Sooner it does harm: two ends that happen to be on one processor would
	// keep to it, handing it to each other.
	patience = 5 * time.Microsecond

	// Each Gosched wakes a thread for the Ps that are idle, to look for work. That is good for
	// the goroutines to which what was read last has been passed on, so it is done all the time
	// until there has been no news for the time of bustle; and then, as mostly there
	// is no work, and the peer is on the processor that the thread takes, as often as courtesy says.
	bustle   = 100 * time.Microsecond
	courtesy = 50 * time.Microsecond
)

// Forever is a budget that is never used up.
const Forever = time.Duration(1<<63 - 1)

// A Condition is waited for.
type Condition interface {
	// Ready reports whether the wait is over. It is called often, by one
	// goroutine at a time, though not always the one that waits. A panic of
	// Ready comes up in the goroutine that waits.
	Ready() bool

	// Tick is called about once a millisecond, or every n/16 ms with n followers, to
	// look at what is too dear for Ready.
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
	next     *Waiter // while it is in room.arrivals
	panicked any     // what Ready panicked with while it followed

	start, budget time.Duration // of the wait under way
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
	limit     atomic.Int32           // how many seats there are
	ended     atomic.Uint64          // waits of the process
	parallel  atomic.Bool            // another processor can make the condition true while one spins
	refreshed atomic.Int64           // when the two were last looked up
	others    contention             // with other processes

	// Owned by who has the sweep.
	list   []*Waiter
	news   time.Duration // when a condition of a follower was last found true
	ticked time.Duration // when followers last got a Tick
	turn   int           // who got the last one
}

var process = newRoom()

func newRoom() *room {
	r := new(room)
	r.limit.Store(1)
	r.refreshed.Store(-int64(time.Hour)) // by the first to Poll
	return r
}

// refresh looks what the process may use, which can change.
func (r *room) refresh() {
	procs := runtime.GOMAXPROCS(0)
	r.limit.Store(int32(max(1, procs/2)))
	r.parallel.Store(procs > 1 && quota() > 1)
}

// Spin looks at w's condition for about a microsecond and reports whether it has
// become true. Where only one processor is to be had, or somebody polls already, it
// does nothing.
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

// Ended returns how many waits of the process have ended, and End counts one.
func Ended() uint64 { return process.ended.Load() }

// End counts a wait that has ended, and returns how many that makes.
func End() uint64 { return process.ended.Add(1) }

// Pause lets about half a microsecond pass.
func Pause() {
	if process.parallel.Load() {
		pause(pauses)
	}
}

// Poll waits until w's condition is true, or the budget is used up, which counts from
// start, and reports which. The condition can be true when Poll says that the budget is used up. While
// others want the processors there is none, unless it is Forever: see contention.
//
// Looking at one more condition is cheap while others turn out true all the time.
// So with many busy waiters the budget counts from the last good news for any of
// them, up to a limit.
func (w *Waiter) Poll(start, budget time.Duration) bool { return process.poll(w, start, budget) }

func (r *room) poll(w *Waiter, start, budget time.Duration) bool {
	w.start, w.budget = start, budget
	if budget != Forever && r.others.rests(w.start) {
		return false
	}
	if last := r.refreshed.Load(); w.start-time.Duration(last) > heartbeat && r.refreshed.CompareAndSwap(last, int64(w.start)) {
		r.refresh()
	}
	if !r.parallel.Load() && budget != Forever {
		// Whoever could make the condition true, a goroutine or a process, needs
		// this processor.
		for range yields {
			if w.cond.Ready() {
				return true
			}
			runtime.Gosched()
			wanted := Now()
			Yield()
			if r.others.lost(wanted, Now()) {
				break
			}
		}
		return false
	}
	if r.sit() {
		return r.lead(w, false)
	}
	return r.follow(w)
}

// expired reports whether w has used its budget up, when there was news for somebody
// at the time news.
func (w *Waiter) expired(now, news time.Duration) bool {
	return now-max(w.start, news) > w.budget || now-w.start > max(w.budget, longest)
}

// sit takes a seat, if there is one.
func (r *room) sit() bool {
	for {
		n := r.seats.Load()
		if n >= r.limit.Load() {
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
	now := Now()
	news, tick := now, now // when there was the last news, and the last Tick
	turn := now            // of other goroutines
	wanted := now          // since when it has wanted the processor, but for what other goroutines took
	for {
		looks := burst
		if sweep && len(r.list) > 0 {
			looks = 1
		}
		for range looks {
			if w.cond.Ready() {
				r.others.lost(wanted, Now())
				return true
			}
			pause(gap)
		}
		now = Now()
		if r.others.lost(wanted, now) && w.budget != Forever {
			return false
		}
		if !sweep && r.followers.Load() > 0 {
			sweep = r.sweeping.CompareAndSwap(false, true)
		}
		followed := sweep && r.followers.Load() > 0
		if sweep {
			r.sweep(now)
			news = max(news, r.news)
		}
		if w.expired(now, news) {
			return false
		}
		if now-tick >= heartbeat {
			tick = now
			w.cond.Tick()
		}
		alone := !r.parallel.Load()
		if now >= turn || alone || followed {
			if now-news > bustle {
				turn = now + courtesy
			}
			runtime.Gosched()
		}
		wanted = Now()
		if now-news > patience || alone {
			Yield()
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
	for r.followers.Load() > 0 && !r.sweeping.Load() { // sync: seat
		if !r.sit() {
			return // the seated find the followers, or come here when they leave
		}
		if !r.sweeping.CompareAndSwap(false, true) {
			// Who sweeps will come here. But somebody may have found no seat
			// because of us: look again.
			r.seats.Add(-1)
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
func (r *room) sweep(now time.Duration) {
	r.arrive()
	news := false
	for i := r.look(0); i < len(r.list); i = r.look(i) {
		r.signal(i, ready)
		news = true
	}
	if news {
		r.news = now
	}
	// With news it may have been long since the last sweep, as others had work to do
	// in between. So the budgets do not count then, only now and then the limit.
	if beat := now-r.ticked >= heartbeat; beat || !news {
		r.expire(now)
		if beat {
			r.ticked = now
			r.tick()
		}
	}
}

// signal takes the i-th follower off the list and tells it why.
func (r *room) signal(i int, s signal) {
	w := r.list[i]
	r.drop(i)
	w.signals <- s
}

// look returns the first follower, from the given one on, whose condition is true. One
// that panics counts as true, and the panic is kept for its owner.
func (r *room) look(from int) (i int) {
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

// expire sends away the followers that have used their budgets up.
func (r *room) expire(now time.Duration) {
	for i := 0; i < len(r.list); {
		if r.list[i].expired(now, r.news) {
			r.signal(i, expired)
		} else {
			i++
		}
	}
}

// tick gives some followers their Tick.
func (r *room) tick() {
	for range min(maxTicks, len(r.list)) {
		r.turn = (r.turn + 1) % len(r.list)
		r.list[r.turn].cond.Tick()
	}
}

var epoch = time.Now()

// Now returns the time, for differences only. It is cheaper than time.Now.
func Now() time.Duration { return time.Since(epoch) }
