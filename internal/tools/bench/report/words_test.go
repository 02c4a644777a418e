package report

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"shmconn/internal/tools/bench"
)

// result returns a workload of shm, unix and a limit, with these figures of
// each round.
func result(unit, metric string, higher bool, shm, unix, limit []float64) *bench.WorkloadResult {
	w := &bench.WorkloadResult{Name: "name", Title: "Title", Metric: metric, Unit: unit, Higher: higher, Baseline: "unix", SliceNS: 1e6}
	for _, c := range []struct {
		name string
		v    []float64
	}{{"shm", shm}, {"unix", unix}, {"ping-pong", limit}} {
		better := bench.Ratios(unix, c.v)
		if higher {
			better = bench.Ratios(c.v, unix)
		}
		w.Contenders = append(w.Contenders, bench.ContenderResult{
			Name: c.name, Limit: c.name == "ping-pong", Value: bench.Summarize(c.v), Better: bench.Summarize(better),
		})
	}
	return w
}

func TestWords(t *testing.T) {
	one, two := []float64{10, 10, 10}, []float64{20, 20, 20}
	for _, tt := range []struct {
		unit, metric string
		higher       bool
		shm, unix    []float64
		want         string
	}{
		{"ns", "time per round trip", false, one, two, "The time is 2.00 times shorter with shm than with unix."},
		{"ns", "time per round trip", false, two, one, "The time is 2.00 times as long with shm as with unix."},
		{"msg/s", "messages", true, two, one, "The throughput is 2.00 times as high with shm as with unix."},
		{"msg/s", "messages", true, one, two, "The throughput is 2.00 times lower with shm than with unix."},
		{"ns", "CPU per message", false, one, two, "It takes 2.00 times less processor time with shm than with unix."},
		{"cores", "cores used", false, two, one, "It takes 2.00 times as much processor time with shm as with unix."},
		{"ns", "time", false, []float64{8, 10, 12}, []float64{10, 10, 10}, "No clear difference between shm and unix: the quartiles of the ratio are on both sides of 1."},
		{"allocs", "allocations", false, one, two, ""},
	} {
		if got := words(result(tt.unit, tt.metric, tt.higher, tt.shm, tt.unix, nil)); got != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.unit, tt.metric, got, tt.want)
		}
	}
}

func TestOverview(t *testing.T) {
	one, two := []float64{10, 10, 10}, []float64{20, 20, 20}
	better, worse := result("ns", "time", false, one, two, one), result("ns", "time", false, two, one, []float64{40})
	better.Name, worse.Name = "good", "bad"
	level := result("ns", "time", false, []float64{8, 10, 12}, []float64{10, 10, 10}, nil)
	got := strings.ReplaceAll(strings.Join(overview([]bench.WorkloadResult{*better, *worse, *level}), "\n"), "\u00a0", " ")
	want := `Compared with a Unix socket, shared memory is better in 1 of 3 workloads, worse in 1, and there is no clear difference in 1.
It gains most in good (2.00 x).
It is worse in bad (0.50 x).
Disturbed, so measure again before you believe them: bad.`
	if got != want {
		t.Errorf("%s\n\nwant\n%s", got, want)
	}
}

// A limit that is worse than what it limits was disturbed, and both the
// terminal and the page say so. What only looks like a limit is none.
func TestDisturbed(t *testing.T) {
	one, two := []float64{10, 10, 10}, []float64{20, 20, 20}
	const said = "DISTURBED: in the median the limit ping-pong came out worse than shm."
	for name, tt := range map[string]struct {
		limit []float64
		edit  func(w *bench.WorkloadResult)
		want  string // "": nothing
	}{
		"slower":         {two, nil, said},
		"as fast":        {one, nil, ""},
		"a ring of ints": {two, func(w *bench.WorkloadResult) { w.Contenders[2].Spec.Loop = "ints-cached" }, ""},
		"another ring": {[]float64{15}, func(w *bench.WorkloadResult) {
			w.Contenders[2].Spec.Loop, w.Contenders[0].Spec.RingSize = "memory-copy", 1<<20
		}, ""},
		"the same ring":    {two, func(w *bench.WorkloadResult) { w.Contenders[2].Spec.Loop = "memory-copy" }, said},
		"its tail":         {one, func(w *bench.WorkloadResult) { tails(w, 100, 1000) }, "DISTURBED: at p99 the limit ping-pong"},
		"a good tail":      {one, func(w *bench.WorkloadResult) { tails(w, 1000, 100) }, ""},
		"others were busy": {one, func(w *bench.WorkloadResult) { w.Others = 0.5 }, "DISTURBED: other processes used 0.5 cores meanwhile."},
	} {
		w := result("ns", "time", false, one, []float64{30, 30, 30}, tt.limit)
		if tt.edit != nil {
			tt.edit(w)
		}
		var terminal, page bytes.Buffer
		if err := Workload(&terminal, 80, w); err != nil {
			t.Fatal(err)
		}
		if err := HTML(&page, &bench.Report{Workloads: []bench.WorkloadResult{*w}}); err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"terminal": unwrapped(terminal.String()), "page": page.String()} {
			if got := strings.Contains(text, "DISTURBED"); got != (tt.want != "") || !strings.Contains(text, tt.want) {
				t.Errorf("%s: the %s does not say %q, and nothing else:\n%s", name, where, tt.want, text)
			}
		}
		if tt.want == said && !strings.Contains(page.String(), "Disturbed, so measure again before you believe them: name.") {
			t.Errorf("%s: the page does not begin with a warning", name)
		}
	}
}

// tails gives shm and the limit a p99.
func tails(w *bench.WorkloadResult, shm, limit int64) {
	w.Contenders[0].Latency = &bench.Latency{P50: 10, P99: shm, P999: shm}
	w.Contenders[2].Latency = &bench.Latency{P50: 10, P99: limit, P999: limit}
}

// unwrapped joins the lines of paragraphs.
func unwrapped(s string) string { return strings.Join(strings.Fields(s), " ") }

// A chart with a limit in it says that it was disturbed.
func TestDisturbedChart(t *testing.T) {
	r := made()
	w := r.Workload("roundtrip/size=64")
	w.Contender("ping-pong").Latency.P999 = 1e9
	ch, err := latencies(w)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ch.Disturbed, "\n"); !strings.Contains(got, "roundtrip/size=64: DISTURBED: ") {
		t.Errorf("the chart says %q", got)
	}
}

// A ratio that is not one median divided by the other has a mark, and a note
// that says why.
func TestMarkedRatio(t *testing.T) {
	// The medians are 15 and 12, and in two rounds of three shm is twice as good.
	odd := result("ns", "time", false, []float64{15, 6, 20}, []float64{30, 12, 10}, nil)
	plain := result("ns", "time", false, []float64{10, 11, 12}, []float64{20, 22, 24}, nil)
	for _, tt := range []struct {
		w    *bench.WorkloadResult
		want bool
	}{{odd, true}, {plain, false}} {
		var terminal, page bytes.Buffer
		if err := Workload(&terminal, 80, tt.w); err != nil {
			t.Fatal(err)
		}
		if err := HTML(&page, &bench.Report{Workloads: []bench.WorkloadResult{*tt.w}}); err != nil {
			t.Fatal(err)
		}
		const note = "* Not one median divided by the other"
		if got := strings.Contains(terminal.String(), "2.00 x*") && strings.Contains(terminal.String(), note); got != tt.want {
			t.Errorf("marked: %v, want %v:\n%s", got, tt.want, terminal.String())
		}
		if got := strings.Contains(page.String(), `2.00 x<span class="star">*`) && strings.Contains(page.String(), note); got != tt.want {
			t.Errorf("marked on the page: %v, want %v", got, tt.want)
		}
	}
}

// On a terminal of 80 columns no line is longer, and nothing is lost.
func TestEightyColumns(t *testing.T) {
	r := made()
	r.Workloads[0].Others = 1.5
	var wide, narrow bytes.Buffer
	for i := range r.Workloads {
		w := &r.Workloads[i]
		for j := range w.Contenders {
			w.Contenders[j].Error = "" // it is of any length
			w.Contenders[j].CPU = bench.Summarize([]float64{float64(1000 + j)})
		}
		if err := Workload(&wide, 0, w); err != nil {
			t.Fatal(err)
		}
		if err := Workload(&narrow, 80, w); err != nil {
			t.Fatal(err)
		}
	}
	Overview(&narrow, r.Workloads)
	longest := func(s string) (n int) {
		for line := range strings.Lines(s) {
			if !strings.HasSuffix(line, "]\n") { // titles are of any length, too
				n = max(n, utf8.RuneCountInString(strings.TrimRight(line, " \n")))
			}
		}
		return n
	}
	if n := longest(narrow.String()); n > 80 {
		t.Errorf("a line has %d columns:\n%s", n, narrow.String())
	}
	if n := longest(wide.String()); n <= 100 {
		t.Errorf("without a width, the longest line has %d columns: tables are split", n)
	}
	for _, cell := range strings.Fields(wide.String()) {
		if !strings.Contains(narrow.String(), cell) {
			t.Errorf("at 80 columns %q is missing", cell)
		}
	}
	if strings.Contains(narrow.String(), "\x1b") {
		t.Error("there are colours, whatever NO_COLOR says")
	}
}

// Quartiles are in the unit of the median, also where they would have another.
func TestSpan(t *testing.T) {
	for _, tt := range []struct {
		unit         string
		q1, mid, q3  float64
		median, want string
	}{
		{"ns", 957, 1090, 7280, "1.09 µs", "0.96 .. 7.28"},
		{"msg/s", 862e3, 943e3, 1.06e6, "943 kmsg/s", "862 .. 1060"},
		{"B/s", 5e9, 6e9, 7e9, "6.00 GB/s", "5.00 .. 7.00"},
		{"cores", 0.001, 0.002, 0.003, "0.0020 cores", "0.0010 .. 0.0030"},
		{"ns", 0, 0, 0, "0 ns", "0 .. 0"},
	} {
		s := bench.Summary{N: 3, Q1: tt.q1, Median: tt.mid, Q3: tt.q3}
		if got := bench.Quantity(s.Median, tt.unit); got != tt.median {
			t.Errorf("median %q, want %q", got, tt.median)
		}
		if got := span(s, tt.unit); got != tt.want {
			t.Errorf("beside %s: %q, want %q", tt.median, got, tt.want)
		}
	}
}

// The project's own targets are no matter of a user's.
func TestNoTargets(t *testing.T) {
	r := made()
	r.Targets = nil
	var page, terminal bytes.Buffer
	if err := HTML(&page, r); err != nil {
		t.Fatal(err)
	}
	Overview(&terminal, r.Workloads)
	if err := Targets(&terminal, r.Targets); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(page.String(), "</style>")
	for where, text := range map[string]string{"page": body, "terminal": terminal.String()} {
		for _, not := range []string{" met", "missed", "arget", "badge"} {
			if strings.Contains(text, not) {
				t.Errorf("the %s says %q", where, not)
			}
		}
		if !strings.Contains(text, "What came out") || !strings.Contains(text, "shared memory is better in ") {
			t.Errorf("the %s does not say what came out", where)
		}
	}
}
