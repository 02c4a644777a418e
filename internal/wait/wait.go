// Package wait polls: it is what a goroutine does between finding that there is
// nothing to do and going to sleep. It knows nothing of rings or descriptors,
// only of conditions that become true.
//
// A wait first spins, for about a microsecond. Then it polls, yielding to other
// goroutines and processes, as long as its budget lasts. A goroutine that polls
// keeps a P from going idle, and it is the idle Ps that look after the network:
// were there one on every P, the rest of the process would wait for sysmon's 10
// ms. So there are slots, half as many as Ps, and two for two Ps as long as few
// wait: see pollers.free. A wait that finds no slot follows: it sleeps, and one
// of those that have a slot, the leader, looks at the conditions of all
// followers too. A goroutine that leaves its slot promotes one of the
// followers, if none leads them.
package wait

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/sema"
)

// Forever is a budget that is never used up.
const Forever = time.Duration(1<<63 - 1)

// A Condition is waited for.
type Condition interface {
	// Ready reports whether the wait is over. It is called often, by one
	// goroutine at a time, though not always the one that waits. If Ready
	// panics, the goroutine that waits panics.
	Ready() bool

	// Tick is called about once a millisecond, or every n/10 ms with n
	// followers. It makes the checks that cost too much for Ready.
	Tick()

	// Where reports on which processor the end that can make the condition true
	// was last: near is the caller's own, elsewhere is another. Both are false
	// if that is not known or makes no difference. It is called at the start of
	// a wait that may poll.
	Where() (near, elsewhere bool)
}

type signal uint8

const (
	ready   signal = iota // the condition is true, or has panicked
	expired               // the budget is used up
	lead                  // take over the signaller's slot, and lead
)

// A Waiter is what waits for one Condition, one wait at a time.
type Waiter struct {
	cond     Condition
	signals  chan signal // made outside any bubble, so that it may be used inside and outside
	next     *Waiter     // while it is in pollers.arrivals
	panicked any         // what Ready panicked with while it followed

	near, elsewhere bool // what Where has said last

	id            uint64        // no other Waiter of the process has it
	start, budget time.Duration // of the wait under way
	spun          uint          // waits that spinning has ended
}

var ids atomic.Uint64 // of Waiters, so far

// NewWaiter returns a Waiter for cond. In a bubble it waits until the channel
// has been made outside the bubble.
func NewWaiter(cond Condition) *Waiter {
	w := &Waiter{cond: cond, id: ids.Add(1)}
	if !bubble.In(Now()) {
		w.signals = make(chan signal, 1)
		return w
	}
	var made sema.Sema
	bubble.Outside(func() {
		w.signals = make(chan signal, 1)
		made.Notify()
	})
	made.Wait()
	return w
}

// pollers is where the waiters of a process meet. Except in tests there is one.
type pollers struct {
	slots      atomic.Int32           // taken: how many goroutines poll
	followers  atomic.Int32           // waiters in arrivals or list
	arrivals   atomic.Pointer[Waiter] // a stack of those that the leader has not seen yet
	led        atomic.Bool            // there is a leader
	limit      atomic.Int32           // how many slots there are: see free
	more       atomic.Int32           // and while there is no crowd
	crowd      atomic.Bool            // see crowds
	crowded    atomic.Int64           // when crowds was last called
	ended      atomic.Uint64          // see Ended
	endedLast  atomic.Uint64          // whose wait that was
	parallel   atomic.Bool            // another processor can make the condition true while one spins
	refreshed  atomic.Int64           // when refresh was last called
	quota      quota
	visitor    visitor
	queue      queue
	hotYielded atomic.Int64 // when a hot connection last yielded the processor
	gosched    gosched
	party      party
	others     backoff // for processes that are not of the party

	// Owned by the leader.
	list     []*Waiter
	progress time.Duration // when a condition of a follower was last found true
	latest   uint64        // whose that was
	shared   time.Duration // when it was last that of another follower than latest
	ticked   time.Duration // when followers last got a Tick
	turn     int           // who got the last one
}

var process = newPollers()

func newPollers() *pollers {
	r := new(pollers)
	r.limit.Store(1)
	r.more.Store(1)
	r.quota.cpus.Store(math.Float64bits(unlimited)) // until it was read
	r.quota.read.Store(int64(quotaFirst - quotaStays))
	r.refreshed.Store(-int64(time.Hour)) // by the first to Poll
	r.party.quota = r.quota.get
	return r
}

// refresh looks up which processors the process may use, which can change.
func (r *pollers) refresh() {
	procs := runtime.GOMAXPROCS(0)
	limit, parallel := max(1, procs/2), procs > 1 && r.quota.get() > 1
	r.parallel.Store(parallel)
	r.limit.Store(int32(limit))
	if parallel {
		limit = max(limit, 2)
	}
	r.more.Store(int32(limit))
	relocate()
}

// A quota is how many processors the control group allows. That can change
// while the process lives. Reading it takes longer than a round trip, so a
// goroutine in the background reads it.
type quota struct {
	cpus atomic.Uint64 // a float64's bits
	read atomic.Int64  // when it was last read
}

func (q *quota) get() float64 {
	if last, now := q.read.Load(), int64(Now()); now-last >= int64(quotaStays) && q.read.CompareAndSwap(last, now) {
		bubble.Go(func() { q.cpus.Store(math.Float64bits(readQuota())) })
	}
	return math.Float64frombits(q.cpus.Load())
}

// Prepare looks up what the first wait needs to know.
func Prepare() {
	process.refresh()
	process.visitor.open()
	process.party.open()
}

// Spin checks w's condition for about a microsecond and reports whether it has
// become true. If only one processor is available, or no slot is free, Spin
// does nothing.
func (w *Waiter) Spin() bool { return process.spin(w) }

func (r *pollers) spin(w *Waiter) bool {
	if w.near || !w.elsewhere && !r.parallel.Load() || !r.free(0) {
		return false
	}
	for range spins {
		if w.cond.Ready() {
			if w.spun++; w.spun%looksBlind == 0 {
				r.yieldHot(Now())
			}
			return true
		}
		pause(1)
	}
	return false
}

// yieldHot yields the processor for a moment, once every hotYieldEvery.
// Otherwise a connection that is always hot would keep the processor until the
// kernel takes it away, and a thread that has just been woken up would wait for
// that, even one of this process.
func (r *pollers) yieldHot(now time.Duration) {
	last := r.hotYielded.Load()
	if now-time.Duration(last) < hotYieldEvery || !r.hotYielded.CompareAndSwap(last, int64(now)) {
		return
	}
	r.visitor.visit(now)
	r.gosched.polls(now)
	if r.queue.waiting() {
		runtime.Gosched()
	}
	r.party.keepLooking(now)
	wanted := Now()
	Yield()
	r.lost(wanted, Now())
}

// Ended returns how many waits of the process have ended, where several of one
// Waiter in a row count as one.
func Ended() uint64 { return process.ended.Load() }

// End says that a wait of w has ended: see [Ended].
func (w *Waiter) End() {
	if process.endedLast.Load() != w.id {
		process.endedLast.Store(w.id)
		process.ended.Add(1)
	}
}

// Sleeps says that at the time now a wait goes to sleep, or has been woken: see
// gosched.
func Sleeps(now time.Duration) { process.gosched.sleeps(now) }

// Visit makes the runtime check the network, if that is due: see visitor. It is
// for goroutines that go on without waiting.
func Visit() { process.visitor.visit(Now()) }

// Parallel reports whether another processor can make a condition true while
// one polls.
func Parallel() bool { return process.parallel.Load() }

// Pause lets about half a microsecond pass.
func Pause() {
	if Parallel() {
		pause(pauses)
	}
}

// Poll waits until w's condition is true, or until polling no longer helps, and
// returns which. The budget counts from start. The condition can be true even
// if Poll does not return Polled. A budget of Forever never runs out.
//
// Checking one more condition is cheap while those of several others keep
// turning out true. So with many busy waiters the budget counts from the last
// progress of another one than before, up to a limit. One that is busy alone
// does better without a leader: it spins.
func (w *Waiter) Poll(start, budget time.Duration) Cause { return process.poll(w, start, budget) }

func (r *pollers) poll(w *Waiter, start, budget time.Duration) Cause {
	if bubble.In(start) {
		if budget == Forever {
			w.pollBlind()
			return Polled
		}
		return Always
	}
	w.start, w.budget = start, budget
	if last := r.refreshed.Load(); w.start-time.Duration(last) > heartbeat && r.refreshed.CompareAndSwap(last, int64(w.start)) {
		r.refresh()
		r.party.keepLooking(w.start)
	}
	if budget != Forever && r.others.rests(w.start) {
		return Contended
	}
	if r.crowd.Load() && w.start-time.Duration(r.crowded.Load()) > monitor {
		r.crowd.Store(false)
	}
	if r.free(budget) {
		w.near, w.elsewhere = w.cond.Where()
	}
	if !w.elsewhere && !r.parallel.Load() && budget != Forever {
		return r.giveWay(w)
	}
	if r.acquireSlot(budget) {
		return r.lead(w, false)
	}
	return r.follow(w)
}

// giveWay yields the only processor a few times, because whatever could make
// the condition true needs it.
func (r *pollers) giveWay(w *Waiter) Cause {
	for range yields {
		if w.cond.Ready() {
			return Polled
		}
		runtime.Gosched()
		r.visitor.visit(Now())
		wanted := Now()
		Yield()
		if r.lost(wanted, Now()) {
			return Contended
		}
	}
	return Near
}

// pollBlind polls without a clock, and so without end, for a caller in a
// bubble.
func (w *Waiter) pollBlind() {
	for n := 1; !w.cond.Ready(); n++ {
		if n%looksBlind == 0 {
			w.cond.Tick()
		}
		runtime.Gosched()
		Yield()
	}
}

// expired reports whether w has used its budget up, which begins at the time
// shared if that is after w's start.
func (w *Waiter) expired(now, shared time.Duration) bool {
	return now-max(w.start, shared) > w.budget || now-w.start > max(w.budget, longest)
}

// lead polls with a slot, which it gives back. leader says that the caller is
// the leader already; otherwise it becomes the leader if there are followers
// without one.
func (r *pollers) lead(w *Waiter, leader bool) Cause {
	defer func() {
		if leader {
			r.led.Store(false) // sync: slot
		}
		r.slots.Add(-1) // sync: slot
		r.promote()
	}()
	now := Now()
	progress, tick := now, now // when a condition was last true, and the last Tick
	shared := w.start          // when the budget begins
	turn := now                // when to look for other goroutines that want to run
	wanted := now              // since when this goroutine has wanted the processor; excludes other goroutines' time
	for {
		looks := burst
		if leader && len(r.list) > 0 || w.near {
			looks = 1
		}
		// A leader that keeps finding conditions true, for many waiters, is worth
		// the slices that it loses.
		worthy := leader && wanted-progress < leaderGrace
		for range looks {
			if w.cond.Ready() {
				if !worthy {
					r.lost(wanted, Now())
				}
				if leader {
					r.latest = w.id
				}
				return Polled
			}
			pause(1)
		}
		now = Now()
		if !worthy && r.lost(wanted, now) && w.budget != Forever {
			return Contended
		}
		if !leader && r.followers.Load() > 0 {
			leader = r.led.CompareAndSwap(false, true)
		}
		followed := leader && r.followers.Load() > 0
		if leader {
			r.scanFollowers(now)
			progress = max(progress, r.progress)
			shared = r.shared
		}
		if w.expired(now, shared) {
			if w.near {
				return Near
			}
			return Spent
		}
		if now-tick >= heartbeat {
			tick = now
			w.cond.Tick()
			r.party.keepLooking(now)
		}
		r.visitor.visit(now)
		alone := !w.elsewhere && !r.parallel.Load()
		switch {
		case followed:
			runtime.Gosched()
		case r.gosched.polls(now):
		case now >= turn || alone:
			if r.queue.waiting() {
				runtime.Gosched()
			} else {
				turn = now + choreEvery
			}
		}
		wanted = Now()
		if now-progress > processorYieldAfter || alone || w.near && !followed {
			Yield()
		}
	}
}

// Now returns the time, for differences only.
func Now() time.Duration { return bubble.Now() }
