//go:build linux

package wait

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A probed is a condition that counts who looks at it.
type probed struct {
	true  atomic.Bool  // what Ready says
	in    atomic.Int64 // looks until it is true; 0: never by itself
	bang  atomic.Bool  // Ready panics, once
	looks atomic.Int64
	ticks atomic.Int64
	crowd *crowd
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

// eventually waits until ok says so. A test in which it never does ends by
// -timeout, with stacks.
func eventually(ok func() bool) {
	for !ok() {
		runtime.Gosched()
	}
}

// refreshed returns a room that knows the present GOMAXPROCS.
func refreshed() *room {
	r := newRoom()
	r.refresh()
	return r
}

// onProcs runs f as a test for each of some values of GOMAXPROCS, with a room of
// its own, which must be empty afterwards.
func onProcs(t *testing.T, procs []int, f func(t *testing.T, r *room)) {
	for _, n := range procs {
		t.Run(fmt.Sprintf("procs=%d", n), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
			r := refreshed()
			f(t, r)
			if s, n := r.seats.Load(), r.followers.Load(); s != 0 || n != 0 || r.sweeping.Load() || len(r.list) != 0 || r.arrivals.Load() != nil {
				t.Errorf("%d seats are taken, %d follow, sweeping %v, listed %d", s, n, r.sweeping.Load(), len(r.list))
			}
		})
	}
}

// contended reports whether another process has had the processor, so that polling may have
// ended early.
func (r *room) contended() bool { return r.others.last.Load() != 0 }

// A waiting is a call of poll under way.
type waiting struct {
	*probed
	done     chan struct{}
	ok       bool
	took     time.Duration
	panicked any
}

// start polls for a new condition in a goroutine.
func (r *room) start(budget time.Duration) *waiting {
	w := &waiting{probed: new(probed), done: make(chan struct{})}
	go w.poll(r, NewWaiter(w), budget)
	return w
}

func (w *waiting) poll(r *room, wr *Waiter, budget time.Duration) {
	defer close(w.done)
	defer func() { w.panicked = recover() }()
	start := time.Now()
	w.ok = r.poll(wr, Now(), budget)
	w.took = time.Since(start)
}

// seated starts a wait that has a seat, followed one that has none.
func (r *room) seated(budget time.Duration) *waiting {
	n := r.seats.Load()
	w := r.start(budget)
	eventually(func() bool { return r.seats.Load() > n && w.looks.Load() > 0 })
	return w
}

func (r *room) followed(budget time.Duration) *waiting {
	n := r.followers.Load()
	w := r.start(budget)
	eventually(func() bool { return r.followers.Load() > n })
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

// TestSeats counts the seats.
func TestSeats(t *testing.T) {
	for procs, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 7: 3, 8: 4} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			r := refreshed()
			for i := range want {
				if !r.sit() {
					t.Errorf("there are %d seats, want %d", i, want)
				}
			}
			for range 2 {
				if r.sit() {
					t.Errorf("there are more than %d seats", want)
				}
			}
			r.seats.Add(-1)
			if !r.sit() {
				t.Error("a seat that was given back cannot be taken")
			}
		})
	}
}

// TestCrowd counts the goroutines that poll while many wait.
func TestCrowd(t *testing.T) {
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *room) {
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
					if !r.poll(w, Now(), Forever) {
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
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *room) {
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

// TestTrueBefore polls for what is true already, on a seat and without one.
func TestTrueBefore(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *room) {
		for _, budget := range []time.Duration{time.Microsecond, time.Hour, Forever} {
			c := new(probed)
			c.true.Store(true)
			if !r.poll(NewWaiter(c), Now(), budget) {
				t.Errorf("budget %v: poll = false", budget)
			}
		}
		var lead []*waiting
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			lead = append(lead, r.seated(Forever))
		}
		c := new(probed)
		c.true.Store(true)
		if !r.poll(NewWaiter(c), Now(), Forever) {
			t.Error("poll = false beside others")
		}
		for _, w := range lead {
			w.end(t)
		}
	})
}

// TestBudget lets budgets run out, of those who have a seat and those who have
// none.
func TestBudget(t *testing.T) {
	onProcs(t, []int{2, 4}, func(t *testing.T, r *room) {
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

// TestBudgetBesideForever lets the budget of one run out whom somebody sweeps for
// who never goes.
func TestBudgetBesideForever(t *testing.T) {
	onProcs(t, []int{2}, func(t *testing.T, r *room) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: budgets are of no use there")
		}
		lead := r.seated(Forever)
		const budget = 5 * time.Millisecond
		w := r.followed(budget)
		<-w.done
		if w.ok || w.took < budget {
			t.Errorf("poll = %v after %v, want false after %v at least", w.ok, w.took, budget)
		}
		lead.end(t)
	})
}

// TestSuccession ends the wait of the sweeper again and again: somebody takes over.
func TestSuccession(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *room) {
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
			ws[0].end(t) // of the eldest, who are those with seats
			ws = ws[1:]
		}
	})
}

// TestFollowAlone lets one follow who found no seat, while those who had one left
// before it could follow: it takes care of itself.
func TestFollowAlone(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *room) {
		c := new(probed)
		c.in.Store(2)
		w := NewWaiter(c)
		r.poll(w, Now(), Forever) // for the budget
		c.looks.Store(0)
		if !r.follow(w) {
			t.Error("a wait for ever is over")
		}
	})
}

// TestStress has thousands of short waits in 64 goroutines. A condition is true
// after it was looked at so many times: if it is not looked at, the test hangs.
func TestStress(t *testing.T) {
	onProcs(t, []int{1, 2, 4, 8}, func(t *testing.T, r *room) {
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
					if r.poll(w, Now(), budget) {
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
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *room) {
		var wg sync.WaitGroup
		for range 16 {
			a, b := new(probed), new(probed)
			play := func(mine, other *probed) {
				w := NewWaiter(mine)
				for range 100 {
					if !r.poll(w, Now(), Forever) {
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

// TestPanic has Ready panic, for one with a seat and for one without.
func TestPanic(t *testing.T) {
	check := func(t *testing.T, w *waiting) {
		t.Helper()
		<-w.done
		if w.panicked != w.probed {
			t.Errorf("poll = %v, panic %v, want its own condition's", w.ok, w.panicked)
		}
	}
	onProcs(t, []int{2}, func(t *testing.T, r *room) {
		lead := r.seated(Forever)
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

		// And now the one with the seat: another takes over.
		lead.bang.Store(true)
		check(t, lead)
		n := other.looks.Load()
		eventually(func() bool { return other.looks.Load() > n })
		if s := r.seats.Load(); s != 1 {
			t.Errorf("%d seats are taken, want 1", s)
		}
		other.end(t)
	})
}

// TestTick checks that all who wait get their Ticks.
func TestTick(t *testing.T) {
	onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *room) {
		var ws []*waiting
		for range maxTicks + 8 {
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

// TestSpin checks when spinning is done, and when not.
func TestSpin(t *testing.T) {
	look := func(t *testing.T, r *room, truth bool) (ok bool, looks int64) {
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
	onProcs(t, []int{2}, func(t *testing.T, r *room) {
		if !r.parallel.Load() {
			t.Skip("the process has one processor: nobody spins")
		}
		if ok, n := look(t, r, true); !ok || n != 1 {
			t.Errorf("spin = %v after %d looks, want true after 1", ok, n)
		}
		if ok, n := look(t, r, false); ok || n != spins {
			t.Errorf("spin = %v after %d looks, want false after %d", ok, n, spins)
		}
		w := r.seated(Forever)
		if ok, n := look(t, r, true); ok || n != 0 {
			t.Errorf("beside one who polls: spin = %v after %d looks, want none", ok, n)
		}
		w.end(t)
	})
}

// TestOneProcessor checks that polling there gives way to the other goroutines,
// and soon ends.
func TestOneProcessor(t *testing.T) {
	onProcs(t, []int{1}, func(t *testing.T, r *room) {
		c := new(probed)
		if r.poll(NewWaiter(c), Now(), time.Hour) {
			t.Error("poll = true")
		}
		if n := c.looks.Load(); n != yields && !(0 < n && n < yields && r.contended()) {
			t.Errorf("%d looks, want %d", n, yields)
		}
		c = new(probed)
		go c.true.Store(true)
		if !r.poll(NewWaiter(c), Now(), Forever) {
			t.Error("poll for ever = false")
		}
	})
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
		if got := new(Pace).Budget(tt.limit); got != tt.want {
			t.Errorf("Budget(%v) = %v, want %v", tt.limit, got, tt.want)
		}
	}

	check := func(t *testing.T, p *Pace, want time.Duration) {
		t.Helper()
		if got := p.Budget(limit); got != want {
			t.Errorf("Budget = %v, want %v", got, want)
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
	t.Run("a probe now and then", func(t *testing.T) {
		p := new(Pace)
		p.Parked(time.Second, limit, 0)
		polled, last := 0, 0
		for i := 1; i <= 20*probe; i++ {
			switch p.Budget(limit) {
			case limit:
				if i-last > probe {
					t.Errorf("%d waits without one that polls, want at most %d", i-last, probe)
				}
				polled, last = polled+1, i
			case 0:
			default:
				t.Fatal("another budget")
			}
			p.Parked(time.Second, limit, 0)
		}
		if polled != 20 {
			t.Errorf("%d of %d waits polled, want every %dth", polled, 20*probe, probe)
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
		if got := p.Budget(-1); got != Forever {
			t.Errorf("Budget(-1) = %v", got)
		}
	})
}

func TestCPUMax(t *testing.T) {
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
		{"", unlimited},
		{"\n", unlimited},
		{"50000", unlimited},
		{"50000 100000 7", unlimited},
		{"50000 0", unlimited},
		{"50000 -1", unlimited},
		{"50000 max", unlimited},
		{"x y", unlimited},
	} {
		if got := cpuMax([]byte(tt.in)); got != tt.want {
			t.Errorf("cpuMax(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// TestQuota reads quotas from a tree of control groups.
func TestQuota(t *testing.T) {
	root := t.TempDir()
	for dir, quota := range map[string]string{
		"":          "", // the root has none
		"a":         "200000 100000",
		"a/b":       "max 100000",
		"a/b/c":     "300000 100000",
		"a/b/c/d":   "50000 100000",
		"a/b/c/d/e": "400000 100000",
		"free":      "max 100000",
		"free/x":    "garbage",
		"bare/x":    "", // and none above it
	} {
		path := filepath.Join(root, dir)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if quota == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(path, "cpu.max"), []byte(quota+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
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
		if got := quotaOf(root, dir); got != want {
			t.Errorf("quotaOf(%q) = %v, want %v", dir, got, want)
		}
	}
	// The root's own counts as well: in a container it is the container's.
	if err := os.WriteFile(filepath.Join(root, "cpu.max"), []byte("150000 100000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]float64{"/": 1.5, "/a": 1.5, "/a/b/c/d": 0.5, "/absent": 1.5} {
		if got := quotaOf(root, dir); got != want {
			t.Errorf("with a quota of the root: quotaOf(%q) = %v, want %v", dir, got, want)
		}
	}
	if got := quotaOf(filepath.Join(root, "absent"), "/a"); got != unlimited {
		t.Errorf("without a tree: quotaOf = %v", got)
	}
}

// TestCourtesy has a goroutine wait again and again, a few microseconds each time, on the only P:
// others have to get it long before the 10 ms after which it would be taken away.
func TestCourtesy(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r := newRoom()
	r.refreshed.Store(int64(time.Hour)) // as if there were other Ps, which are busy
	r.parallel.Store(true)
	var ran atomic.Int64
	go func() {
		for range 3 {
			ran.Add(1)
			runtime.Gosched()
		}
	}()
	w := NewWaiter(soon{new(time.Duration)})
	for waits := 0; ran.Load() < 3; waits++ {
		*w.cond.(soon).when = Now() + 2*time.Microsecond
		if !r.poll(w, Now(), Forever) {
			t.Fatal("a wait for ever has ended without news")
		}
		if waits == 500 {
			t.Fatalf("the other goroutine ran %d times in %d waits", ran.Load(), waits)
		}
	}
}

// A soon is true at some time.
type soon struct{ when *time.Duration }

func (s soon) Ready() bool { return Now() >= *s.when }
func (s soon) Tick()       {}
