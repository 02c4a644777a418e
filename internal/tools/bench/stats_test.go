package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		in             []float64
		q1, median, q3 float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{3, 1}, 1.5, 2, 2.5},
		{[]float64{5, 1, 3, 2, 4}, 2, 3, 4},
		{[]float64{4, 1, 3, 2}, 1.75, 2.5, 3.25},
		{[]float64{1, 1, 1, 1, 1000}, 1, 1, 1},
	} {
		in := slices.Clone(tt.in)
		s := Summarize(in)
		if s.Q1 != tt.q1 || s.Median != tt.median || s.Q3 != tt.q3 || s.N != len(tt.in) {
			t.Errorf("Summarize(%v) = %+v, want quartiles %v, %v, %v", tt.in, s, tt.q1, tt.median, tt.q3)
		}
		if s.Min != slices.Min(tt.in) || s.Max != slices.Max(tt.in) {
			t.Errorf("Summarize(%v) = %+v, want from %v to %v", tt.in, s, slices.Min(tt.in), slices.Max(tt.in))
		}
		if !slices.Equal(in, tt.in) {
			t.Errorf("Summarize(%v) has changed its argument to %v", tt.in, in)
		}
	}
	if s := Summarize(nil); s != (Summary{}) {
		t.Errorf("Summarize(nil) = %+v, want nothing", s)
	}
}

// The machine gets slower by a factor of six in the middle: the ratios do not.
func TestRatiosWithinRounds(t *testing.T) {
	a := []float64{30, 30, 30, 30, 180, 180, 180}
	b := []float64{10, 10, 10, 10, 60, 60, 60}
	if got := Summarize(Ratios(a, b)); got.Median != 3 || got.Q1 != 3 || got.Q3 != 3 {
		t.Errorf("ratios are %+v, want 3 all the same", got)
	}
	if got := Ratios([]float64{1, 2, 3}, []float64{2, 0}); !slices.Equal(got, []float64{0.5}) {
		t.Errorf("ratios of rounds that are missing, or 0: %v, want one of 0.5", got)
	}
}

func TestBest(t *testing.T) {
	v := []float64{1, 9, 3, 7, 5, 8, 2, 4}
	if got := best(v); !slices.Equal(got, []float64{8, 9}) {
		t.Errorf("best of %v is %v, want the upper quarter", v, got)
	}
	if got := best([]float64{4}); !slices.Equal(got, []float64{4}) {
		t.Errorf("best of one round is %v", got)
	}
}

func result(name string, higher bool, rounds map[string][]float64) WorkloadResult {
	w := WorkloadResult{Name: name, Baseline: "unix", Higher: higher}
	for _, n := range []string{"shm", "unix", "pacing"} {
		c := ContenderResult{Name: n}
		for _, v := range rounds[n] {
			c.Rounds = append(c.Rounds, Round{Value: v, AllOps: 1})
		}
		w.Contenders = append(w.Contenders, c)
	}
	w.summarize()
	return w
}

func TestJudge(t *testing.T) {
	r := &Report{Workloads: []WorkloadResult{
		result("time", false, map[string][]float64{"shm": {2, 4, 4}, "unix": {100, 160, 240}, "pacing": {1, 1, 1}}),
		result("rate", true, map[string][]float64{"shm": {10, 40, 20, 30}, "unix": {1, 1, 1, 1}}),
	}}
	for _, tt := range []struct {
		Target
		want string
		got  float64
	}{
		{faster("", "time", "shm", "unix", 50), "pass", 50},
		{faster("", "time", "shm", "unix", 51), "miss", 50},
		{Target{Workload: "time", Num: "shm", Den: "unix", AtMost: 0.02}, "pass", 0.02},
		{Target{Workload: "time", Num: "shm", Den: "unix", AtMost: 0.019}, "miss", 0.02},
		{Target{Workload: "time", Num: "unix", Den: "shm", Less: "pacing", AtLeast: 50}, "pass", 79.66666666666667},
		{Target{Workload: "rate", Num: "shm", AtLeast: 25}, "pass", 25},
		{Target{Workload: "rate", Num: "shm", Best: true, AtLeast: 40}, "pass", 40},
		{Target{Workload: "rate", Num: "shm", Zero: true}, "miss", 25},
		{Target{Workload: "rate", Num: "shm", Den: "unix", Note: true}, "info", 25},
		{Target{Workload: "rate", Num: "tcp", Den: "unix", AtLeast: 1}, "not measured", 0},
		{Target{Workload: "other", Num: "shm", Den: "unix", AtLeast: 1}, "not measured", 0},
	} {
		res := tt.judge(r)
		if res.Status != tt.want || res.Got.Median != tt.got {
			t.Errorf("%+v: %s with %v, want %s with %v", tt.Target, res.Status, res.Got.Median, tt.want, tt.got)
		}
	}
	better := func(w *WorkloadResult) float64 { return w.Contender("shm").Better.Median }
	if got := better(&r.Workloads[0]); got != 50 {
		t.Errorf("of times, shm is %v times better than unix, want 50", got)
	}
	if got := better(&r.Workloads[1]); got != 25 {
		t.Errorf("of rates, shm is %v times better than unix, want 25", got)
	}
}

// Targets that name what there is not would never be measured.
func TestTargetsAreOfWorkloads(t *testing.T) {
	ws, seen := map[string]Workload{}, map[string]bool{}
	for _, w := range Workloads() {
		if seen[w.Name] {
			t.Errorf("two workloads named %s", w.Name)
		}
		seen[w.Name], ws[w.Name] = true, w
		if w.Contender(w.Baseline) == nil {
			t.Errorf("%s has no contender %s to compare with", w.Name, w.Baseline)
		}
	}
	for _, target := range Targets() {
		w, ok := ws[target.Workload]
		if !ok {
			t.Errorf("target %q is about a workload %s", target.Text, target.Workload)
		}
		for _, name := range []string{target.Num, target.Den, target.Less} {
			if name != "" && w.Contender(name) == nil {
				t.Errorf("target %q is about %s in %s", target.Text, name, w.Name)
			}
		}
	}
}

func TestChecker(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, size := range []int{1, 4, 8, 16, 64, 1000} {
		t.Run(fmt.Sprintf("size=%d", size), func(t *testing.T) {
			const n = 300 // more than the numbers that fit into one byte
			stream := make([]byte, n*size)
			for i := range n {
				head := uint64(i) & (last(size) - 1)
				if i == n-1 {
					head |= last(size)
				}
				PutHead(stream[i*size:(i+1)*size], head)
			}
			// feed feeds b in pieces of any length, and returns the first error.
			feed := func(b []byte) (*checker, error) {
				k := newChecker(size)
				for len(b) > 0 {
					p := b[:min(len(b), 1+rnd.IntN(3*size))]
					if err := k.feed(p); err != nil {
						return k, err
					}
					b = b[len(p):]
				}
				return k, nil
			}
			if k, err := feed(stream); err != nil || !k.done() || k.seen != n {
				t.Errorf("a good stream: %v, done %v, seen %d", err, k.done(), k.seen)
			}
			if k, err := feed(stream[:len(stream)-1]); err != nil || k.done() {
				t.Errorf("without its last byte: %v, done %v", err, k.done())
			}
			bad := map[string][]byte{
				"a message lost":      slices.Concat(stream[:5*size], stream[6*size:]),
				"a message repeated":  slices.Concat(stream[:5*size], stream[4*size:]),
				"bytes after the end": slices.Concat(stream, stream[:size]),
			}
			for name, b := range bad {
				if _, err := feed(b); err == nil {
					t.Errorf("%s: no error", name)
				}
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"340 ns":       Nanoseconds(340.2),
		"17.2 µs":      Nanoseconds(17_200),
		"1.50 ms":      Nanoseconds(1.5e6),
		"40.0 Mmsg/s":  Quantity(40e6, "msg/s"),
		"8.60 GB/s":    Quantity(8.6e9, "B/s"),
		"12.0 kmsg/s":  Quantity(12e3, "msg/s"),
		"812 msg/s":    Quantity(812, "msg/s"),
		"0.0123 cores": Quantity(0.0123, "cores"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
