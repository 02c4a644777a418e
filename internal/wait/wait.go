// Package wait polls: it is what a goroutine does between finding that there is
// nothing to do and going to sleep. It knows nothing of rings or descriptors,
// only of conditions that become true.
//
// A wait first spins, for about a microsecond. Then it polls, yielding to other
// goroutines and processes, as long as its budget lasts. A goroutine that polls
// keeps a P from going idle, and it is the idle Ps that look after the network:
// were there one on every P, the rest of the process would wait for sysmon's 10
// ms. So there are slots, half as many as Ps. A wait that finds no slot
// follows: it sleeps, and one of those that have a slot, the leader, looks at
// the conditions of all followers too. A goroutine that leaves its slot
// promotes one of the followers, if none leads them.
package wait

import (
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/sema"
)

const (
	spins     = 48                     // looks of the first spin
	burst     = 24                     // looks between two yields of a goroutine with a slot
	gap       = 1                      // PAUSE instructions between two looks
	pauses    = 24                     // PAUSE instructions of a Pause
	heartbeat = time.Millisecond       // from one Tick to the next
	maxTicks  = 16                     // followers that get a Tick in one scan
	yields    = 8                      // of a wait where spinning makes no sense
	blindTick = 256                    // looks from one Tick to the next without a clock
	spunLooks = 64                     // waits that spinning has ended between two looks at the clock
	breath    = 200 * time.Microsecond // from one breath to the next, which keeps both ends a microsecond or two
	longest   = 10 * time.Millisecond  // that a wait can go beyond its budget while others make progress

	// patience is how long a goroutine polls before it takes into account that
	// it may have the very processor that the peer waits for. It then yields
	// that, too. Sooner it does harm: two ends that happen to be on one
	// processor would keep to it, handing it to each other.
	patience = 5 * time.Microsecond

	// Each Gosched wakes a thread for the Ps that are idle, to look for work.
	// That is good for the goroutines to which what was read last has been
	// passed on, so it is done all the time until there has been no progress
	// for the time of bustle; and then, as mostly there is no work, and the peer is
	// on the processor that the thread takes, as often as courtesy says.
	bustle   = 100 * time.Microsecond
	courtesy = 50 * time.Microsecond

	// patient is how long ago a leader's last progress may be for a slice that
	// it loses not to count: with 512 connections 1.0-2.3 of a Unix socket's rate
	// instead of 0.7-0.9.
	patient = 200 * time.Microsecond
)

// Forever is a budget that is never used up.
const Forever = time.Duration(1<<63 - 1)

// A Condition is waited for.
type Condition interface {
	// Ready reports whether the wait is over. It is called often, by one
	// goroutine at a time, though not always the one that waits. A panic of
	// Ready comes up in the goroutine that waits.
	Ready() bool

	// Tick is called about once a millisecond, or every n/16 ms with n
	// followers, to look at what is too dear for Ready.
	Tick()

	// Where reports where the one that can make the condition true was last: on
	// the processor that the caller is on, or on another one; neither, if that
	// is not known or makes no difference. It is called at the start of a wait
	// that may poll.
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

	start, budget time.Duration // of the wait under way
	spun          uint          // waits that spinning has ended
}

// NewWaiter returns a Waiter for cond. In a bubble it waits for its channel to
// be made outside.
func NewWaiter(cond Condition) *Waiter {
	w := &Waiter{cond: cond}
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
	slots     atomic.Int32           // taken: how many goroutines poll
	followers atomic.Int32           // waiters in arrivals or list
	arrivals  atomic.Pointer[Waiter] // a stack of those that the leader has not seen yet
	led       atomic.Bool            // there is a leader
	limit     atomic.Int32           // how many slots there are
	ended     atomic.Uint64          // waits of the process
	parallel  atomic.Bool            // another processor can make the condition true while one spins
	refreshed atomic.Int64           // when the two were last looked up
	quota     quota
	visitor   visitor
	demand    demand
	breathed  atomic.Int64 // when one that is hot last let others have the processor
	others    contention   // with other processes

	// Owned by the leader.
	list     []*Waiter
	progress time.Duration // when a condition of a follower was last found true
	ticked   time.Duration // when followers last got a Tick
	turn     int           // who got the last one
}

var process = newPollers()

func newPollers() *pollers {
	r := new(pollers)
	r.limit.Store(1)
	r.quota.cpus.Store(math.Float64bits(unlimited)) // until it was read
	r.refreshed.Store(-int64(time.Hour))            // by the first to Poll
	return r
}

// refresh looks what the process may use, which can change.
func (r *pollers) refresh() {
	procs := runtime.GOMAXPROCS(0)
	r.limit.Store(int32(max(1, procs/2)))
	r.parallel.Store(procs > 1 && r.quota.get() > 1)
	relocate()
}

// A quota is how many processors the control group allows. That can change
// while the process lives, and to read it takes longer than a round trip: it is
// read in the background.
type quota struct {
	cpus atomic.Uint64 // a float64's bits
	read atomic.Int64  // when it was last read
}

// quotaStays is how long a quota is taken for granted.
const quotaStays = time.Second

func (q *quota) get() float64 {
	if last, now := q.read.Load(), int64(Now()); now-last >= int64(quotaStays) && q.read.CompareAndSwap(last, now) {
		bubble.Go(func() { q.cpus.Store(math.Float64bits(readQuota())) })
	}
	return math.Float64frombits(q.cpus.Load())
}

// Prepare looks up what the first wait has to know.
func Prepare() {
	process.refresh()
	process.visitor.open()
	process.demand.open()
}

// Spin looks at w's condition for about a microsecond and reports whether it
// has become true. Where only one processor is to be had, or somebody polls
// already, it does nothing.
func (w *Waiter) Spin() bool { return process.spin(w) }

func (r *pollers) spin(w *Waiter) bool {
	if w.near || !w.elsewhere && !r.parallel.Load() || r.slots.Load() != 0 {
		return false
	}
	for range spins {
		if w.cond.Ready() {
			if w.spun++; w.spun%spunLooks == 0 {
				r.breathe(Now())
			}
			return true
		}
		pause(gap)
	}
	return false
}

// breathe lets others have the processor for a moment, if it is time to: a
// connection that is hot all the time would have it until the kernel takes it
// away, and a thread that has just been woken up, of this process too, waits
// for that.
func (r *pollers) breathe(now time.Duration) {
	last := r.breathed.Load()
	if now-time.Duration(last) < breath || !r.breathed.CompareAndSwap(last, int64(now)) {
		return
	}
	r.visitor.visit(now)
	wanted := Now()
	Yield()
	r.others.lost(wanted, Now())
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

// Poll waits until w's condition is true, or polling is of no more use, and
// returns which. The budget counts from start. The condition can be true, too,
// when Poll does not return Polled. A budget of Forever is used up never, and
// only by that.
//
// Looking at one more condition is cheap while others turn out true all the
// time. So with many busy waiters the budget counts from the last progress of
// any of them, up to a limit.
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
	if budget != Forever && r.others.rests(w.start) {
		return Contended
	}
	if last := r.refreshed.Load(); w.start-time.Duration(last) > heartbeat && r.refreshed.CompareAndSwap(last, int64(w.start)) {
		r.refresh()
	}
	if r.slots.Load() < r.limit.Load() {
		w.near, w.elsewhere = w.cond.Where()
		// Two that share a processor while another one is idle poll as ever: so
		// the kernel finds both running, and moves one of them.
		w.near = w.near && r.demand.look(start)
	}
	if !w.elsewhere && !r.parallel.Load() && budget != Forever {
		return r.giveWay(w)
	}
	if r.acquireSlot() {
		return r.lead(w, false)
	}
	return r.follow(w)
}

// giveWay lets others have the only processor some times, as whatever could
// make the condition true needs it.
func (r *pollers) giveWay(w *Waiter) Cause {
	for range yields {
		if w.cond.Ready() {
			return Polled
		}
		runtime.Gosched()
		wanted := Now()
		r.visitor.visit(wanted)
		Yield()
		if r.others.lost(wanted, Now()) {
			return Contended
		}
	}
	return Near
}

// pollBlind polls without a clock, and so without end, for a caller in a
// bubble.
func (w *Waiter) pollBlind() {
	for n := 1; !w.cond.Ready(); n++ {
		if n%blindTick == 0 {
			w.cond.Tick()
		}
		runtime.Gosched()
		Yield()
	}
}

// expired reports whether w has used its budget up, when a condition was last
// found true at the time progress.
func (w *Waiter) expired(now, progress time.Duration) bool {
	return now-max(w.start, progress) > w.budget || now-w.start > max(w.budget, longest)
}

// acquireSlot takes a slot, if there is one.
func (r *pollers) acquireSlot() bool {
	for {
		n := r.slots.Load()
		if n >= r.limit.Load() {
			return false
		}
		if r.slots.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// lead polls with a slot, which it gives back. leader says that it is the
// leader already; it becomes that where there are followers that have none.
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
	turn := now                // of other goroutines
	wanted := now              // since when it has wanted the processor, but for what other goroutines took
	for {
		looks := burst
		if leader && len(r.list) > 0 || w.near {
			looks = 1
		}
		// One that looks for many, and finds conditions true all the time, is
		// worth what it loses.
		worthy := leader && wanted-progress < patient
		for range looks {
			if w.cond.Ready() {
				if !worthy {
					r.others.lost(wanted, Now())
				}
				return Polled
			}
			pause(gap)
		}
		now = Now()
		if !worthy && r.others.lost(wanted, now) && w.budget != Forever {
			return Contended
		}
		if !leader && r.followers.Load() > 0 {
			leader = r.led.CompareAndSwap(false, true)
		}
		followed := leader && r.followers.Load() > 0
		if leader {
			r.scanFollowers(now)
			progress = max(progress, r.progress)
		}
		if w.expired(now, progress) {
			if w.near {
				return Near
			}
			return Spent
		}
		if now-tick >= heartbeat {
			tick = now
			w.cond.Tick()
		}
		r.visitor.visit(now)
		alone := !w.elsewhere && !r.parallel.Load()
		if (now >= turn || alone || followed) && !w.near {
			if now-progress > bustle {
				turn = now + courtesy
			}
			runtime.Gosched()
		}
		wanted = Now()
		if now-progress > patience || alone || w.near {
			Yield()
		}
	}
}

// Now returns the time, for differences only.
func Now() time.Duration { return bubble.Now() }
