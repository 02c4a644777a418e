//go:build linux

package wait

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A probed is a condition that counts who looks at it.
type probed struct {
	near, elsewhere bool
	true            atomic.Bool  // what Ready says
	in              atomic.Int64 // looks until it is true; 0: never by itself
	bang            atomic.Bool  // Ready panics, once
	looks           atomic.Int64
	ticks           atomic.Int64
	crowd           *crowd
}

// A crowd counts the goroutines that look at any condition at the same time.
type crowd struct{ now, most atomic.Int32 }

func (c *probed) Ready() bool {
	if c.crowd != nil {
		n := c.crowd.now.Add(1)
		defer c.crowd.now.Add(-1)
		for m := c.crowd.most.Load(); n > m && !c.crowd.most.CompareAndSwap(m, n); {
			m = c.crowd.most.Load()
		}
	}
	if n := c.looks.Add(1); c.in.Load() > 0 && n >= c.in.Load() {
		return true
	}
	if c.bang.CompareAndSwap(true, false) {
		panic(c)
	}
	return c.true.Load()
}

func (c *probed) Tick() { c.ticks.Add(1) }

func (c *probed) Where() (near, elsewhere bool) { return c.near, c.elsewhere }

// eventually waits until ok says so. A test in which it never does ends by
// -timeout, with stacks.
func eventually(ok func() bool) {
	for !ok() {
		runtime.Gosched()
	}
}

// refreshed returns a room that knows the present GOMAXPROCS. For good there is
// a crowd in it, so that those without a slot follow.
func refreshed() *pollers {
	r := newPollers()
	r.refresh()
	r.crowds(Forever)
	return r
}

// onProcs runs f as a test for each of some values of GOMAXPROCS, with a room
// of its own, which must be empty afterwards.
func onProcs(t *testing.T, procs []int, f func(t *testing.T, r *pollers)) {
	for _, n := range procs {
		t.Run(fmt.Sprintf("procs=%d", n), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
			r := refreshed()
			f(t, r)
			if s, n := r.slots.Load(), r.followers.Load(); s != 0 || n != 0 || r.led.Load() || len(r.list) != 0 || r.arrivals.Load() != nil {
				t.Errorf("%d slots are taken, %d follow, led %v, listed %d", s, n, r.led.Load(), len(r.list))
			}
		})
	}
}

// contended reports whether a rest has begun, because another process has had
// the processor: then polling may have ended early.
func (r *pollers) contended() bool {
	return r.others.until.Load() > r.others.found.Load()
}

// polls is poll, and reports whether it has made polling worth while.
func (r *pollers) polls(w *Waiter, start, budget time.Duration) bool {
	return r.poll(w, start, budget) == Polled
}

// A waiting is a call of poll under way.
type waiting struct {
	*probed
	done     chan struct{}
	ok       bool
	took     time.Duration
	panicked any
}

// start polls for a new condition in a goroutine.
func (r *pollers) start(budget time.Duration) *waiting {
	w := &waiting{probed: new(probed), done: make(chan struct{})}
	go w.poll(r, NewWaiter(w), budget)
	return w
}

func (w *waiting) poll(r *pollers, wr *Waiter, budget time.Duration) {
	defer close(w.done)
	defer func() { w.panicked = recover() }()
	start := time.Now()
	w.ok = r.polls(wr, Now(), budget)
	w.took = time.Since(start)
}

// withSlot starts a wait that has a slot, followed one that has none.
func (r *pollers) withSlot(budget time.Duration) *waiting {
	n := r.slots.Load()
	w := r.start(budget)
	eventually(func() bool { return r.slots.Load() > n && w.looks.Load() > 0 })
	return w
}

func (r *pollers) followed(budget time.Duration) *waiting {
	n := r.followers.Load()
	w := r.start(budget)
	eventually(func() bool {
		select {
		case <-w.done: // another process took the processor, or the budget is over
			return true
		default:
			return r.followers.Load() > n
		}
	})
	return w
}

// end makes the condition true and waits until poll has returned.
func (w *waiting) end(t *testing.T) {
	t.Helper()
	w.true.Store(true)
	<-w.done
	if !w.ok || w.panicked != nil {
		t.Errorf("poll = %v, panic %v, want true", w.ok, w.panicked)
	}
}

// TestSeats counts the slots.
func TestSeats(t *testing.T) {
	for _, tt := range []struct {
		procs, want, more int // more: while there is no crowd
	}{{1, 1, 1}, {2, 1, 2}, {3, 1, 2}, {4, 2, 2}, {7, 3, 3}, {8, 4, 4}} {
		t.Run(fmt.Sprintf("procs=%d", tt.procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(tt.procs))
			for _, x := range []struct {
				crowd  bool
				budget time.Duration
				want   int
			}{{true, ms, tt.want}, {false, ms, tt.more}, {false, Forever, tt.want}} {
				r := newPollers()
				r.refresh()
				if x.crowd {
					r.crowds(0)
				}
				for i := range x.want {
					if !r.acquireSlot(x.budget) {
						t.Errorf("%+v: there are %d slots", x, i)
					}
				}
				for range 2 {
					if r.acquireSlot(x.budget) {
						t.Errorf("%+v: there are more slots", x)
					}
				}
				r.slots.Add(-1)
				if !r.acquireSlot(x.budget) {
					t.Errorf("%+v: a slot that was given back cannot be taken", x)
				}
			}
		})
	}
}

// TestManyFollow has more and more waits on two Ps: two of them have slots,
// until there is a crowd. Then only one has, until none was there for 10 ms.
func TestManyFollow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	r := newPollers()
	r.refresh()
	for range 2 {
		if !r.acquireSlot(ms) {
			t.Fatal("less than two slots")
		}
	}
	var ws []*waiting
	for i := range few {
		if r.crowd.Load() {
			t.Errorf("a crowd of %d followers", i)
		}
		ws = append(ws, r.followed(Forever))
	}
	if !r.crowd.Load() {
		t.Errorf("%d followers are no crowd", few)
	}
	r.slots.Add(-2)
	r.promote()
	for _, w := range ws {
		w.end(t)
	}
	if !r.acquireSlot(ms) || r.free(ms) {
		t.Error("more or less than one slot in a crowd")
	}
	r.slots.Add(-1)
	c := new(probed)
	c.true.Store(true)
	// The first is to come, however long the test is held up in between.
	for _, ago := range []time.Duration{monitor - 10*time.Second, monitor + 1} {
		r.crowds(Now() - ago)
		r.poll(NewWaiter(c), Now(), ms)
		if got, want := r.crowd.Load(), ago < monitor; got != want {
			t.Errorf("a crowd %v ago: crowd = %v, want %v", ago, got, want)
		}
	}
	if s, n := r.slots.Load(), r.followers.Load(); s != 0 || n != 0 || r.led.Load() {
		t.Errorf("%d slots are taken, %d follow, led %v", s, n, r.led.Load())
	}
}

// TestCrowd counts the goroutines that poll while many wait.
func TestCrowd(t *testing.T) {
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *pollers) {
		limit := int32(max(1, runtime.GOMAXPROCS(0)/2))
		var c crowd
		var wg sync.WaitGroup
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		for i := range uint64(24) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, i))
				cond := &probed{crowd: &c}
				w := NewWaiter(cond)
				for range 20 {
					cond.looks.Store(0)
					cond.in.Store(1 + rnd.Int64N(100))
					if !r.polls(w, Now(), Forever) {
						t.Error("a wait for ever is over")
					}
				}
			})
		}
		wg.Wait()
		if n := c.most.Load(); n > limit || n == 0 {
			t.Errorf("%d polled at a time, want at most %d", n, limit)
		}
	})
}

// TestRandomOrder makes the conditions of many waiters true one by one: the one
// returns, and no other.
func TestRandomOrder(t *testing.T) {
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *pollers) {
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		var ws []*waiting
		for range 48 {
			ws = append(ws, r.start(Forever))
		}
		rnd.Shuffle(len(ws), func(i, j int) { ws[i], ws[j] = ws[j], ws[i] })
		for i, w := range ws {
			w.end(t)
			for _, other := range ws[i+1:] {
				select {
				case <-other.done:
					t.Fatalf("a wait was over without its condition being true")
				default:
				}
			}
		}
	})
}

// TestTrueBefore polls for what is true already, on a slot and without one.
func TestTrueBefore(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
		for _, budget := range []time.Duration{time.Microsecond, time.Hour, Forever} {
			c := new(probed)
			c.true.Store(true)
			if !r.polls(NewWaiter(c), Now(), budget) {
				t.Errorf("budget %v: poll = false", budget)
			}
		}
		var lead []*waiting
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			lead = append(lead, r.withSlot(Forever))
		}
		c := new(probed)
		c.true.Store(true)
		if !r.polls(NewWaiter(c), Now(), Forever) {
			t.Error("poll = false beside others")
		}
		for _, w := range lead {
			w.end(t)
		}
	})
}

// TestBudget lets budgets run out, of those who have a slot and those who have
// none.
func TestBudget(t *testing.T) {
	onProcs(t, []int{2, 4}, func(t *testing.T, r *pollers) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: budgets are of no use there")
		}
		const budget = 5 * time.Millisecond
		var ws []*waiting
		for range 8 {
			ws = append(ws, r.start(budget))
		}
		patient := r.start(Forever)
		for _, w := range ws {
			<-w.done
			if w.ok || w.took < budget && !r.contended() {
				t.Errorf("poll = %v after %v, want false after %v at least", w.ok, w.took, budget)
			}
			if w.looks.Load() == 0 {
				t.Error("nobody has looked")
			}
		}
		select {
		case <-patient.done:
			t.Error("a wait for ever is over")
		default:
		}
		patient.end(t)
	})
}

// TestBudgetBesideForever lets the budget of one run out that has a leader
// who never goes.
func TestBudgetBesideForever(t *testing.T) {
	onProcs(t, []int{2}, func(t *testing.T, r *pollers) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: budgets are of no use there")
		}
		lead := r.withSlot(Forever)
		const budget = 5 * time.Millisecond
		w := r.followed(budget)
		<-w.done
		if w.ok || w.took < budget && !r.contended() {
			t.Errorf("poll = %v after %v, want false after %v at least", w.ok, w.took, budget)
		}
		lead.end(t)
	})
}

// TestSuccession ends the wait of the leader again and again: somebody takes
// over.
func TestSuccession(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
		var ws []*waiting
		for range 16 {
			ws = append(ws, r.start(Forever))
		}
		for len(ws) > 0 {
			// Who is looked at has not been forgotten.
			for _, w := range ws {
				n := w.looks.Load()
				eventually(func() bool { return w.looks.Load() > n })
			}
			ws[0].end(t) // of the eldest, who are those with slots
			ws = ws[1:]
		}
	})
}

// TestFollowAlone lets one follow who found no slot, while those who had one
// left before it could follow: it takes care of itself.
func TestFollowAlone(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
		c := new(probed)
		c.in.Store(2)
		w := NewWaiter(c)
		r.polls(w, Now(), Forever) // for the budget
		c.looks.Store(0)
		if r.follow(w) != Polled {
			t.Error("a wait for ever is over")
		}
	})
}

// TestStress has thousands of short waits in 64 goroutines. A condition is true
// after it was looked at so many times: if it is not looked at, the test hangs.
func TestStress(t *testing.T) {
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *pollers) {
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		var over, expired atomic.Int64
		var wg sync.WaitGroup
		for i := range uint64(64) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, i))
				c := new(probed)
				w := NewWaiter(c)
				for range 60 {
					budget := Forever
					if rnd.IntN(2) == 0 {
						budget = time.Duration(rnd.IntN(int(200 * time.Microsecond)))
					}
					c.looks.Store(0)
					c.in.Store(1 + rnd.Int64N(1<<rnd.IntN(10)))
					if r.polls(w, Now(), budget) {
						over.Add(1)
					} else if budget == Forever {
						t.Error("a wait for ever is over")
					} else {
						expired.Add(1)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d came true, %d ran out", over.Load(), expired.Load())
	})
}

// TestPingPong has pairs of goroutines that wait for each other.
func TestPingPong(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
		var wg sync.WaitGroup
		for range 16 {
			a, b := new(probed), new(probed)
			play := func(mine, other *probed) {
				w := NewWaiter(mine)
				for range 100 {
					if !r.polls(w, Now(), Forever) {
						t.Error("a wait for ever is over")
					}
					mine.true.Store(false)
					other.true.Store(true)
				}
			}
			wg.Go(func() { play(a, b) })
			wg.Go(func() { play(b, a) })
			a.true.Store(true)
		}
		wg.Wait()
	})
}

// TestPanic has Ready panic, for one with a slot and for one without.
func TestPanic(t *testing.T) {
	check := func(t *testing.T, w *waiting) {
		t.Helper()
		<-w.done
		if w.panicked != w.probed {
			t.Errorf("poll = %v, panic %v, want its own condition's", w.ok, w.panicked)
		}
	}
	onProcs(t, []int{2}, func(t *testing.T, r *pollers) {
		lead := r.withSlot(Forever)
		other := r.followed(Forever)
		w := &waiting{probed: new(probed), done: make(chan struct{})}
		waiter := NewWaiter(w)
		for range 3 { // the Waiter is good for another wait
			n := r.followers.Load()
			w.done = make(chan struct{})
			go w.poll(r, waiter, Forever)
			eventually(func() bool { return r.followers.Load() > n })
			w.bang.Store(true)
			check(t, w)
		}
		w.done = make(chan struct{})
		go w.poll(r, waiter, Forever)
		w.end(t)

		// And now the one with the slot: another takes over.
		lead.bang.Store(true)
		check(t, lead)
		n := other.looks.Load()
		eventually(func() bool { return other.looks.Load() > n })
		if s := r.slots.Load(); s != 1 {
			t.Errorf("%d slots are taken, want 1", s)
		}
		other.end(t)
	})
}

// TestTick checks that all who wait get their Ticks.
func TestTick(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
		var ws []*waiting
		for range 24 {
			ws = append(ws, r.start(Forever))
		}
		for _, w := range ws {
			eventually(func() bool { return w.ticks.Load() > 1 })
		}
		for _, w := range ws {
			w.end(t)
		}
	})
}

// enlist has w follow from the time now on, with a budget of 1 ms, as if the
// leader had admitted it.
func (r *pollers) enlist(w *Waiter, now time.Duration) {
	w.start, w.budget = now, ms
	r.list = append(r.list, w)
	r.followers.Add(1)
}

// TestTickBesideBusy has a follower that is quiet beside one that finds news at
// each scan: it gets a Tick at each chore all the same, and not more often, and
// its time runs out.
func TestTickBesideBusy(t *testing.T) {
	r := newPollers()
	now := 1000 * ms
	follow := func(c *probed) *Waiter {
		w := NewWaiter(c)
		r.enlist(w, now)
		return w
	}
	quiet := new(probed)
	out := follow(quiet).signals
	busy := new(probed)
	busy.true.Store(true)
	for i := range 30 {
		news := follow(busy).signals
		r.scanFollowers(now)
		if s := <-news; s != ready {
			t.Fatalf("signal %v, want %v", s, ready)
		}
		if got, want := quiet.ticks.Load(), int64(i/10+1); got != want {
			t.Fatalf("%d Ticks after %d scans in %v, want %d", got, i+1, now-1000*ms, want)
		}
		now += choreEvery / 10
	}
	for r.scanFollowers(now); len(out) == 0 && now < 2000*ms; r.scanFollowers(now) {
		r.shared = now
		now += choreEvery
	}
	if took := now - 1000*ms; took <= longest || took > longest+2*choreEvery {
		t.Errorf("the quiet one goes after %v, want a little more than %v", took, longest)
	}
}

// TestBusyOnes has a quiet follower beside busy ones, which find news in turns.
// Beside one of them it goes when its own budget is used up; the one would not
// need a leader. Beside two it stays.
func TestBusyOnes(t *testing.T) {
	for busy := 1; busy <= 2; busy++ {
		r := newPollers()
		now := 1000 * ms
		quiet := NewWaiter(new(probed))
		r.enlist(quiet, now)
		var ws []*Waiter
		for range busy {
			c := new(probed)
			c.true.Store(true)
			ws = append(ws, NewWaiter(c))
		}
		for i := 0; len(quiet.signals) == 0 && now < 2000*ms; i++ {
			w := ws[i%busy]
			r.enlist(w, now)
			if r.scanFollowers(now); len(w.signals) == 0 {
				t.Fatal("news are not found")
			}
			<-w.signals
			now += choreEvery
		}
		want := ms // its budget
		if busy > 1 {
			want = longest
		}
		if took := now - 1000*ms; took <= want || took > want+3*choreEvery {
			t.Errorf("beside %d: the quiet one goes after %v, want a little more than %v", busy, took, want)
		}
	}
}

// TestSpin checks when spinning is done, and when not.
func TestSpin(t *testing.T) {
	look := func(t *testing.T, r *pollers, truth bool) (ok bool, looks int64) {
		c := new(probed)
		c.true.Store(truth)
		ok = r.spin(NewWaiter(c))
		return ok, c.looks.Load()
	}
	t.Run("procs=1", func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		if ok, n := look(t, refreshed(), true); ok || n != 0 {
			t.Errorf("spin = %v after %d looks, want none", ok, n)
		}
	})
	onProcs(t, []int{2}, func(t *testing.T, r *pollers) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: nobody spins")
		}
		if ok, n := look(t, r, true); !ok || n != 1 {
			t.Errorf("spin = %v after %d looks, want true after 1", ok, n)
		}
		if ok, n := look(t, r, false); ok || n != spins {
			t.Errorf("spin = %v after %d looks, want false after %d", ok, n, spins)
		}
		w := r.withSlot(Forever)
		if ok, n := look(t, r, true); ok || n != 0 {
			t.Errorf("in a crowd, beside one who polls: spin = %v after %d looks, want none", ok, n)
		}
		r.crowd.Store(false)
		if ok, n := look(t, r, true); !ok || n != 1 {
			t.Errorf("beside one who polls: spin = %v after %d looks, want true after 1", ok, n)
		}
		r.slots.Add(1)
		if ok, n := look(t, r, true); ok || n != 0 {
			t.Errorf("beside two who poll: spin = %v after %d looks, want none", ok, n)
		}
		r.slots.Add(-1)
		w.end(t)
	})
}

// TestOneProcessor checks that polling there gives way to the other goroutines,
// and soon ends.
func TestOneProcessor(t *testing.T) {
	onProcs(t, []int{1}, func(t *testing.T, r *pollers) {
		c := new(probed)
		if r.polls(NewWaiter(c), Now(), time.Hour) {
			t.Error("poll = true")
		}
		if n := c.looks.Load(); n != yields && !(0 < n && n < yields && r.contended()) {
			t.Errorf("%d looks, want %d", n, yields)
		}
		c = new(probed)
		go c.true.Store(true)
		if !r.polls(NewWaiter(c), Now(), Forever) {
			t.Error("poll for ever = false")
		}
	})
}

// TestElsewhere checks that with one P a wait whose peer is on another
// processor spins, and polls for its budget.
func TestElsewhere(t *testing.T) {
	onProcs(t, []int{1}, func(t *testing.T, r *pollers) {
		c := &probed{elsewhere: true}
		w := NewWaiter(c)
		const budget = 2 * time.Millisecond
		for start := Now(); ; start = Now() {
			c.looks.Store(0)
			if r.polls(w, start, budget) {
				t.Fatal("poll = true")
			}
			if took := Now() - start; took >= budget && c.looks.Load() > yields {
				break
			}
			if !r.contended() {
				t.Fatalf("%d looks in %v, want more than %d in %v", c.looks.Load(), Now()-start, yields, budget)
			}
			r.others = backoff{} // another process took the processor: once more
		}
		c.looks.Store(0)
		if r.spin(w); c.looks.Load() != spins {
			t.Errorf("spin: %d looks, want %d", c.looks.Load(), spins)
		}
	})
}

// TestNear checks that a wait whose peer was last on the same processor does
// not spin, and yields after each look.
func TestNear(t *testing.T) {
	onProcs(t, []int{2}, func(t *testing.T, r *pollers) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: nobody spins")
		}
		for _, near := range []bool{true, false} {
			c := &probed{near: near}
			c.in.Store(3)
			w := NewWaiter(c)
			if !r.polls(w, Now(), Forever) {
				t.Error("a wait for ever is over")
			}
			c.in.Store(0)
			c.looks.Store(0)
			r.spin(w)
			if n, want := c.looks.Load(), map[bool]int64{true: 0, false: spins}[near]; n != want {
				t.Errorf("near %v: spin looked %d times, want %d", near, n, want)
			}
		}
	})
}

// TestQueue checks that queue.waiting finds out whether a goroutine waits to
// run.
func TestQueue(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var q queue
	for range 100 {
		var ran atomic.Bool
		go ran.Store(true)
		if !q.waiting() && !ran.Load() {
			t.Fatal("waiting = false, and a goroutine waits to run")
		}
		for !ran.Load() {
			runtime.Gosched()
		}
	}
	quiet := false // others can want to run now and then: those of the test's package
	for start := time.Now(); !quiet && time.Since(start) < 10*time.Second; {
		quiet = !q.waiting()
	}
	if !quiet {
		t.Error("waiting = true, and nobody waits")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.waiting() {
		t.Error("waiting = false, and another goroutine is looking")
	}
}

// TestYieldsBack has a goroutine that yields again and again next to one that
// polls on the only P: it gets its turn after each look of that, and not after
// choreEvery.
func TestYieldsBack(t *testing.T) {
	onProcs(t, []int{1}, func(t *testing.T, r *pollers) {
		const times = 20
		c := &probed{elsewhere: true}
		w := NewWaiter(c)
		go func() {
			for range times {
				runtime.Gosched()
			}
			c.true.Store(true)
		}()
		r.polls(w, Now(), Forever)
		if n := c.looks.Load(); n > 2*times*burst {
			t.Errorf("%d looks while another goroutine yielded %d times, want at most %d each", n, times, 2*burst)
		}
	})
}

// TestGosched goes through the times at which a goroutine that polls calls
// Gosched.
func TestGosched(t *testing.T) {
	var g gosched
	now := time.Hour
	// every 10 us, for d
	polls := func(d time.Duration) (n int) {
		for end := now + d; now < end; now += 10 * time.Microsecond {
			if g.polls(now) {
				n++
			}
		}
		return n
	}
	check := func(when string, d time.Duration, want int) {
		t.Helper()
		if n := polls(d); n != want {
			t.Errorf("%s: called Gosched %d times in %v, want %d", when, n, d, want)
		}
	}
	check("at first", lookoutAfter, 0)
	check("after that", 20*time.Microsecond, 1)
	check("later", schedAtLeast-100*time.Microsecond, 0)
	check("after 5 ms", 10*schedAtLeast, 10)
	for range 10 {
		now += 2 * heartbeat // in which nobody polls
		check("in a short episode", lookoutAfter, 0)
	}
	check("when it goes on", 20*time.Microsecond, 1)
	g.woken(now)
	check("after a wait that slept", lookoutAfter, 0)
	check("when that goes on", schedAtLeast-100*time.Microsecond, 1)
	g.sleeps(now)
	check("when one goes to sleep", lookoutAfter/2, 0)
	for range 3 { // more of them do not put it off
		g.sleeps(now)
		now += lookoutAfter / 5
	}
	check("when more have", lookoutAfter/10, 1)
	g.due.Store(int64(now - 1))
	g.sleeps(now)
	check("when one sleeps that was overdue", lookoutAfter, 0)
}

// TestEnded counts waits that have ended.
func TestEnded(t *testing.T) {
	a, b := NewWaiter(new(probed)), NewWaiter(new(probed))
	before := Ended()
	for i, w := range []*Waiter{a, a, b, b, b, a} {
		w.End()
		if got, want := Ended()-before, []uint64{1, 1, 2, 2, 2, 3}[i]; got != want {
			t.Errorf("%d after %d waits, want %d", got, i+1, want)
		}
	}
}

// TestProcessor pins a thread to each processor that there is, one after the
// other.
func TestProcessor(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	for cpu := range len(all) * 64 {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		if got := processor(); got != uint32(cpu)+1 {
			t.Errorf("on processor %d: Processor = %d, want %d", cpu, got, cpu+1)
		}
	}
}

// newVisitor returns a visitor that is ready, until the test is over.
func newVisitor(t *testing.T) *visitor {
	v := new(visitor)
	v.open()
	if v.raw == nil {
		t.Fatal("no descriptor for visits")
	}
	t.Cleanup(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.file.Close()
	})
	return v
}

// due visits, and reports whether a visit was due.
func (v *visitor) due() bool {
	last := v.last.Load()
	v.visit(Now())
	return v.last.Load() != last
}

// TestVisit has a goroutine wait for a pipe while another one keeps the only P.
// Without visits the runtime's monitor is the first to look, after some 10 ms.
func TestVisit(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	v := newVisitor(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var got, want atomic.Int64
	go func() {
		for b := make([]byte, 1); ; got.Add(1) {
			if _, err := r.Read(b); err != nil {
				return
			}
		}
	}()
	time.Sleep(time.Millisecond) // it waits
	const rounds = 50
	visits := 0
	for range rounds {
		want.Add(1)
		w.Write([]byte{1})
		for got.Load() < want.Load() {
			if v.due() {
				visits++
			}
		}
	}
	if visits > 5*rounds { // 100 in 10 ms
		t.Errorf("%d visits until %d bytes were read", visits, rounds)
	}
}

// TestVisitsBeside has two goroutines make visits with one P. A visit ends when
// the scheduler has nothing to run, so one that is due while another is under
// way has to leave it the P.
func TestVisitsBeside(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	v := newVisitor(t)
	const rounds = 50
	var done atomic.Bool
	go func() {
		for made := 0; made < rounds; {
			now := Now()
			v.last.Store(0)
			v.visit(now)
			v.mu.Lock()
			if v.visited == now { // not one of the other goroutine's
				made++
			}
			v.mu.Unlock()
		}
		done.Store(true)
	}()
	due := 0
	for !done.Load() {
		if v.due() {
			due++
		}
	}
	if due > 10*rounds { // 100 in the 10 ms until the monitor looks
		t.Errorf("%d visits were due until %d have ended", due, rounds)
	}
}

// TestTaken checks when goroutines in system calls count.
func TestTaken(t *testing.T) {
	now := time.Hour
	for _, tt := range []struct {
		name           string
		running, calls uint64
		after, visited time.Duration // since they have entered, the last visit was
		want           bool
	}{
		{"one P is idle", 1, 0, 0, time.Hour, false},
		{"all run", 2, 0, time.Hour, 0, true},
		{"one has entered", 1, 1, 0, heartbeat, true},
		{"soon after a visit", 1, 1, heartbeat, heartbeat - 1, false},
		{"later", 1, 1, 2*monitor - 1, heartbeat, true},
		{"it has no P any more", 1, 1, 2 * monitor, monitor - 1, false},
		{"but may have entered another one", 1, 1, 2 * monitor, monitor, true},
		{"others may be back", 1, 3, 2*monitor - 1, heartbeat, true},
	} {
		v := visitor{calls: tt.calls, entered: now - tt.after, visited: now - tt.visited}
		if got := v.taken(tt.running, tt.calls, 2, now); got != tt.want {
			t.Errorf("%s: taken = %v, want %v", tt.name, got, tt.want)
		}
		v.watched = true
		if got := v.taken(tt.running, tt.calls, 2, now); got != (tt.running == 2 || tt.calls > 0 && tt.visited >= monitor) {
			t.Errorf("%s: while a thread waits for the network: taken = %v", tt.name, got)
		}
		v = visitor{calls: 7, visited: now - tt.visited, watched: true}
		if v.taken(tt.running, tt.calls, 2, now); v.entered != now || v.calls != tt.calls || v.watched {
			t.Errorf("%s: that the number has changed goes unnoticed", tt.name)
		}
	}
}

// TestCounts has a goroutine enter a system call that does not end.
func TestCounts(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	v := newVisitor(t)
	if !v.busy(0) {
		t.Error("not busy, and the only P runs this")
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	done := make(chan struct{})
	go func() {
		defer close(done)
		unix.Read(fds[0], make([]byte, 1))
	}()
	eventually(func() bool { v.busy(0); return v.calls > 0 })
	unix.Close(fds[1])
	<-done
}

// TestPace checks for how long the next wait polls, by what the last ones were
// like.
func TestPace(t *testing.T) {
	const limit = 300 * time.Microsecond
	for _, tt := range []struct {
		limit, want time.Duration
	}{
		{-1, Forever}, {-time.Hour, Forever}, {0, 0}, {1, 0}, {time.Microsecond - 1, 0},
		{time.Microsecond, time.Microsecond}, {limit, limit}, {time.Hour, time.Hour},
	} {
		if got, _ := new(Pace).Budget(tt.limit); got != tt.want {
			t.Errorf("Budget(%v) = %v, want %v", tt.limit, got, tt.want)
		}
	}

	check := func(t *testing.T, p *Pace, want time.Duration) {
		t.Helper()
		got, cause := p.Budget(limit)
		if got != want || (cause == Gap) != (want == 0) {
			t.Errorf("Budget = %v, %v, want %v", got, cause, want)
		}
	}
	t.Run("long waits turn polling off", func(t *testing.T) {
		p := new(Pace)
		p.Parked(limit, limit, 0)
		check(t, p, limit)
		p.Parked(limit+1, limit, 0)
		check(t, p, 0)
	})
	t.Run("a short one turns it on", func(t *testing.T) {
		for _, parked := range []bool{false, true} {
			p := new(Pace)
			p.Parked(time.Second, limit, 0)
			check(t, p, 0)
			if parked {
				p.Parked(limit, limit, 0)
			} else {
				p.Polled()
			}
			check(t, p, limit)
		}
	})
	t.Run("a long one among many short ones", func(t *testing.T) {
		for _, tt := range []struct {
			d      time.Duration
			others uint64
			want   time.Duration
		}{
			{10 * limit, 9, 0},
			{10 * limit, 10, limit},
			{longest, uint64(longest/limit) + 1, limit},
			{longest + 1, 1 << 20, 0},
		} {
			p := new(Pace)
			p.Parked(tt.d, limit, tt.others)
			check(t, p, tt.want)
		}
	})
	t.Run("for ever is for ever", func(t *testing.T) {
		p := new(Pace)
		p.Parked(time.Hour, -1, 0)
		if got, _ := p.Budget(-1); got != Forever {
			t.Errorf("Budget(-1) = %v", got)
		}
	})
}

func TestRatio(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want float64
	}{
		{"max 100000\n", unlimited},
		{"50000 100000\n", 0.5},
		{"100000 100000\n", 1},
		{"100000 100000", 1},
		{"250000 100000\n", 2.5},
		{"1000 1000000\n", 0.001},
		{"  50000\t100000 \n", 0.5},
		{"50000\n 100000\n", 0.5},
		{"-1\n 100000\n", unlimited},
		{"", unlimited},
		{"\n", unlimited},
		{"50000", unlimited},
		{"50000 100000 7", unlimited},
		{"50000 0", unlimited},
		{"50000 -1", unlimited},
		{"50000 max", unlimited},
		{"x y", unlimited},
	} {
		if got := ratio([]byte(tt.in)); got != tt.want {
			t.Errorf("ratio(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// writeFiles writes files below root, and makes their directories.
func writeFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQuota reads quotas from a tree of control groups.
func TestQuota(t *testing.T) {
	root := t.TempDir()
	writeFiles(t, root, map[string]string{
		"a/cpu.max":         "200000 100000",
		"a/b/cpu.max":       "max 100000",
		"a/b/c/cpu.max":     "300000 100000",
		"a/b/c/d/cpu.max":   "50000 100000",
		"a/b/c/d/e/cpu.max": "400000 100000",
		"free/cpu.max":      "max 100000",
		"free/x/cpu.max":    "garbage",
		"bare/x/other":      "", // and no quota, nor above it
	})
	for dir, want := range map[string]float64{
		"/":               unlimited,
		"":                unlimited,
		"/a":              2,
		"/a/b":            2,
		"/a/b/c":          2,
		"/a/b/c/d":        0.5,
		"/a/b/c/d/e":      0.5,
		"/a/b/c/d/absent": 0.5,
		"/a/b/../b/c/":    2,
		"/../../a":        2, // as it is seen from within another namespace
		"a/b":             2,
		"/free":           unlimited,
		"/free/x":         unlimited,
		"/bare/x":         unlimited,
		"/absent/x/y/z":   unlimited,
	} {
		if got := quotaOf(root, dir, cpuMax); got != want {
			t.Errorf("quotaOf(%q) = %v, want %v", dir, got, want)
		}
	}
	// The root's own counts as well: in a container it is the container's.
	writeFiles(t, root, map[string]string{"cpu.max": "150000 100000"})
	for dir, want := range map[string]float64{"/": 1.5, "/a": 1.5, "/a/b/c/d": 0.5, "/absent": 1.5} {
		if got := quotaOf(root, dir, cpuMax); got != want {
			t.Errorf("with a quota of the root: quotaOf(%q) = %v, want %v", dir, got, want)
		}
	}
	if got := quotaOf(filepath.Join(root, "absent"), "/a", cpuMax); got != unlimited {
		t.Errorf("without a tree: quotaOf = %v", got)
	}
}

// TestQuotaIn finds the quota by what /proc/self/cgroup says, of either version
// and of both at once.
func TestQuotaIn(t *testing.T) {
	root := t.TempDir()
	writeFiles(t, root, map[string]string{
		"two/cpu.max":                         "300000 100000",
		"cpu/one/cpu.cfs_quota_us":            "250000",
		"cpu/one/cpu.cfs_period_us":           "100000",
		"cpu/one/free/cpu.cfs_quota_us":       "-1",
		"cpu/one/free/cpu.cfs_period_us":      "100000",
		"cpu,cpuacct/other/cpu.cfs_quota_us":  "50000",
		"cpu,cpuacct/other/cpu.cfs_period_us": "100000",
		"cpuset/decoy/cpu.cfs_quota_us":       "1",
		"cpuset/decoy/cpu.cfs_period_us":      "100000",
	})
	for groups, want := range map[string]float64{
		"0::/two\n":                        3,
		"":                                 unlimited,
		"garbage\n0::\n":                   unlimited,
		"4:cpu:/one\n":                     2.5,
		"4:cpu,cpuacct:/one/free\n":        2.5,
		"4:cpuacct,cpu:/one\n":             2.5,
		"4:cpu,cpuacct:/other\n":           0.5,
		"4:cpuset:/decoy\n3:memory:/one\n": unlimited,
		"4:cpu:/one\n1:name=systemd:/x\n0::/two\n": 2.5,
	} {
		if got := quotaIn(root, []byte(groups)); got != want {
			t.Errorf("quotaIn(%q) = %v, want %v", groups, got, want)
		}
	}
}

// TestQuotaChanges checks that a quota is read again, and never by the caller.
func TestQuotaChanges(t *testing.T) {
	r := newPollers()
	const other = 0.5
	r.quota.read.Store(int64(Now()))
	r.quota.cpus.Store(math.Float64bits(other))
	if got := r.quota.get(); got != other {
		t.Errorf("read again at once: %v", got)
	}
	r.quota.read.Store(int64(Now() - quotaStays))
	r.quota.get()
	for r.quota.get() == other {
		time.Sleep(time.Millisecond)
	}
	if got, want := r.quota.get(), readQuota(); got != want {
		t.Errorf("quota is %v, want %v", got, want)
	}
}

// TestQuotaAtStart checks that a process reads its quota when it is 100 ms old:
// the clock begins with the process.
func TestQuotaAtStart(t *testing.T) {
	const young = 100 * time.Millisecond
	if last := time.Duration(newPollers().quota.read.Load()); young-last < quotaStays {
		t.Errorf("at an age of %v the quota counts as read %v ago, which holds for %v", young, young-last, quotaStays)
	}
}

// TestGoschedRareEvery has a goroutine wait again and again, some looks each
// time, on the only P: others have to get it long before the 10 ms after which
// it would be taken away.
func TestGoschedRareEvery(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r := newPollers()
	r.refreshed.Store(int64(time.Hour)) // as if there were other Ps, which are busy
	r.parallel.Store(true)
	var ran atomic.Int64
	go func() {
		for range 3 {
			ran.Add(1)
			runtime.Gosched()
		}
	}()
	w := NewWaiter(soon{new(int)})
	for waits := 0; ran.Load() < 3; waits++ {
		*w.cond.(soon).looks = 2 * burst
		if !r.polls(w, Now(), Forever) {
			t.Fatal("a wait for ever has ended without progress")
		}
		if waits == 500 {
			t.Fatalf("the other goroutine ran %d times in %d waits", ran.Load(), waits)
		}
	}
}

// A soon is true after some looks. After some time it would be, on a slow
// processor, at the first look.
type soon struct{ looks *int }

func (s soon) Ready() bool { *s.looks--; return *s.looks < 0 }
func (s soon) Tick()       {}

func (s soon) Where() (near, elsewhere bool) { return false, false }

// TestCauses has each cause of going to sleep come about, but for those that a
// Pace has.
func TestCauses(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	fresh := func() *pollers {
		r := newPollers()
		r.refreshed.Store(int64(time.Hour)) // it knows all it has to
		r.parallel.Store(true)
		return r
	}
	for _, tt := range []struct {
		want    Cause
		prepare func(r *pollers, c *probed)
	}{
		{Polled, func(_ *pollers, c *probed) { c.true.Store(true) }},
		{Contended, func(r *pollers, _ *probed) { r.others.until.Store(int64(Now() + time.Hour)) }},
		{Near, func(r *pollers, _ *probed) { r.parallel.Store(false) }},
		{Near, func(_ *pollers, c *probed) { c.near = true }},
		{Spent, func(_ *pollers, c *probed) { c.elsewhere = true }},
	} {
		for { // another process can take the processor from a test, too
			r, c := fresh(), new(probed)
			tt.prepare(r, c)
			rests := r.others.until.Load()
			got := r.poll(NewWaiter(c), Now(), 50*time.Microsecond)
			if got == Contended && tt.want != Contended && r.others.until.Load() != rests {
				continue
			}
			if got != tt.want {
				t.Errorf("poll = %v, want %v", got, tt.want)
			}
			break
		}
	}
}
