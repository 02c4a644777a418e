package bench

import (
	"reflect"
	"slices"
	"testing"
)

// Without leaves out what the old library does not have, and touches no
// workload of the caller's.
func TestWithout(t *testing.T) {
	ws := []Workload{{Name: "w", Contenders: With(Spec{Loop: "write"}, "shm", "shm-groups", "unix")}}
	out := Against(Without(ws, []string{"shm-groups"}), "new", "old", false)
	if len(out) != 1 || out[0].Name != "w" || len(ws[0].Contenders) != 3 {
		t.Errorf("%d rows, the first is %q, and %d contenders are left of 3", len(out), out[0].Name, len(ws[0].Contenders))
	}
}

func TestAgainst(t *testing.T) {
	rows := func(all bool) (names []string) {
		for _, w := range Against(Workloads(), "/new", "/old", all) {
			names = append(names, w.Name)
			n, o := w.Contender(newState), w.Contender(oldState)
			if len(w.Contenders) != 2 || n == nil || o == nil || n.Program != "/new" || o.Program != "/old" || w.Baseline != oldState || n.Spec != o.Spec {
				t.Errorf("%s: %+v", w.Name, w)
			}
		}
		return names
	}
	few, all := rows(false), rows(true)
	for _, want := range []string{"roundtrip/size=64", "zerocopy/size=64", "zerocopy/size=64 shm-zerocopy", "parked shm-parked", "beside beside", "dial", "scenes/free", "scenes/victim=pipe,compute=1"} {
		if !slices.Contains(few, want) {
			t.Errorf("no row %s in %v", want, few)
		}
	}
	for _, bad := range []string{"beside alone", "scenes/free unix", "scenes/free shm-parked"} {
		if slices.Contains(few, bad) {
			t.Errorf("a row %s", bad)
		}
	}
	if !slices.Contains(all, "scenes/free shm-parked") || slices.Contains(all, "scenes/free unix") || !slices.Contains(all, "scenes/free") {
		t.Errorf("all rows: %v", all)
	}
}

func TestCompare(t *testing.T) {
	row := func(higher bool, new, old []float64) *WorkloadResult {
		w := &WorkloadResult{Name: "row", Baseline: oldState, Higher: higher}
		for _, c := range []struct {
			name string
			v    []float64
		}{{newState, new}, {oldState, old}} {
			r := ContenderResult{Name: c.name, Latency: &Latency{P99: int64(c.v[0] * 100)}}
			for _, v := range c.v {
				r.Rounds = append(r.Rounds, Round{Value: v, AllOps: 1})
			}
			w.Contenders = append(w.Contenders, r)
		}
		w.summarize()
		return w
	}
	for _, tt := range []struct {
		what   string
		w      *WorkloadResult
		median float64
		fell   bool
	}{
		{"as before", row(false, []float64{10, 10, 10}, []float64{10, 10, 10}), 1, false},
		{"times twice as long", row(false, []float64{20, 20, 20}, []float64{10, 10, 10}), 0.5, true},
		{"half the rate", row(true, []float64{5, 5, 5}, []float64{10, 10, 10}), 0.5, true},
		{"twice the rate", row(true, []float64{20, 20, 20}, []float64{10, 10, 10}), 2, false},
		{"a tenth less", row(true, []float64{9, 9, 9}, []float64{10, 10, 10}), 0.9, false},
		{"less, but not beyond the quartiles", row(true, []float64{8, 8, 8, 10, 10}, []float64{10, 10, 10, 10, 10}), 0.8, false},
		{"less beyond the quartiles", row(true, []float64{8, 8, 8, 8, 10}, []float64{10, 10, 10, 10, 10}), 0.8, true},
	} {
		if c := Compare(tt.w); c.Got.Median != tt.median || c.Fell != tt.fell || c.Note != "" {
			t.Errorf("%s: %+v, want %v, fell: %v", tt.what, c, tt.median, tt.fell)
		}
	}
	if c := Compare(row(false, []float64{20}, []float64{10})); c.Tail != 0.5 {
		t.Errorf("p99 twice as long: %v", c.Tail)
	}
	none := row(false, []float64{0.0002}, []float64{0.0001})
	if none.Unit = "allocs"; Compare(none).Fell || Compare(none).Note == "" {
		t.Errorf("next to no allocations, but twice as many: %+v", Compare(none))
	}
	w := row(false, []float64{20}, []float64{10})
	w.Contenders[1].Error = "gone"
	if c := Compare(w); c.Note != "old: gone" {
		t.Errorf("an error: %+v", c)
	}
}

// The constants by which the sources are found.
func TestBenchPath(t *testing.T) {
	if got := reflect.TypeFor[Spec]().PkgPath(); got != modulePath+"/"+benchPath {
		t.Errorf("this package is %s, not %s/%s", got, modulePath, benchPath)
	}
}
