package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"shmconn/internal/tools/bench"
)

// explanations say what ratios and rows are, wherever there are some.
func explanations(ws []bench.WorkloadResult) []string {
	out := []string{"A ratio of 2 x means half the time, half the processor time, or twice the throughput; below 1 x, it is worse. Each round has its own ratio; shown are the median and the quartiles of these."}
	for i := range ws {
		if slices.ContainsFunc(ws[i].Contenders, func(c bench.ContenderResult) bool { return c.Limit }) {
			return append(out, "Rows marked (limit) or (bare) are not connections. A limit is the best that two processes can do with their memory on this machine. A bare ring is the simplest way to hand over one number or message at a time; a connection can equal it, and beat it where it hands over several at once.")
		}
	}
	return out
}

// subject returns the connection of this library whose ratio words are about:
// the first of the workload, which is the default one where there is such. It
// returns nil if there is none, or nothing to compare it with.
func subject(w *bench.WorkloadResult) *bench.ContenderResult {
	if w.Unit == "allocs" {
		return nil // next to none by next to none
	}
	for i := range w.Contenders {
		c := &w.Contenders[i]
		if rank(c.Name) == 0 && !c.Limit && c.Name != w.Baseline && c.Better.N > 0 && c.Better.Median > 0 {
			return c
		}
	}
	return nil
}

// sign returns whether s, of ratios, is clearly better than 1 (1), clearly
// worse (-1), or neither: then 1 lies between the quartiles.
func sign(s bench.Summary) int {
	switch {
	case s.Q1 > 1:
		return 1
	case s.Q3 < 1:
		return -1
	}
	return 0
}

// words says in a sentence what came of a workload, "" if there is nothing to
// say.
func words(w *bench.WorkloadResult) string {
	c := subject(w)
	if c == nil {
		return ""
	}
	by := bench.Number(max(c.Better.Median, 1/c.Better.Median))
	of := " with " + c.Name
	than := of + " than with " + w.Baseline
	as := of + " as with " + w.Baseline
	better := sign(c.Better)
	if better == 0 {
		return fmt.Sprintf("No clear difference between %s and %s: the quartiles of the ratio are on both sides of 1.", c.Name, w.Baseline)
	}
	var what string
	switch {
	case w.Higher && better > 0:
		what = "The throughput is " + by + " times as high" + as
	case w.Higher:
		what = "The throughput is " + by + " times lower" + than
	case w.Unit == "cores" || strings.HasPrefix(w.Metric, "CPU"):
		if what = "It takes " + by + " times as much processor time" + as; better > 0 {
			what = "It takes " + by + " times less processor time" + than
		}
	case better > 0:
		what = "The time is " + by + " times shorter" + than
	default:
		what = "The time is " + by + " times as long" + as
	}
	return what + "."
}

// limits returns whether l limits c: whether c cannot be better than
// l on a machine that has time for both.
//
// Bare rings limit nobody: a connection can do as well, and better where it
// hands over several messages at once. A copy by way of a large ring has other
// caches than by way of a small one.
func limits(l, c *bench.ContenderResult) bool {
	if !l.Limit || c.Limit || bare(*l) {
		return false
	}
	return l.Spec.Loop != "memory-copy" || l.Spec.RingSize == c.Spec.RingSize
}

// slower is from which factor on a limit counts as worse than what it limits.
const slower = 1.05

// inMedian is where a limit did worse, if it did so in the workload's own
// figure.
const inMedian = "in the median"

// An overtaking is a limit that did worse than what it limits: something else
// had the processors while it was measured.
type overtaking struct{ limit, by, where string }

func (o overtaking) String() string {
	return fmt.Sprintf("DISTURBED: %s the limit %s came out worse than %s. Do not compare these two.", o.where, o.limit, o.by)
}

// overtaken returns the limits of a workload that did worse than what they
// limit, each once.
func overtaken(w *bench.WorkloadResult) (out []overtaking) {
	for i := range w.Contenders {
		l := &w.Contenders[i]
		for j := range w.Contenders {
			c := &w.Contenders[j]
			if !limits(l, c) {
				continue
			}
			if where := worse(w, l, c); where != "" {
				out = append(out, overtaking{l.Name, c.Name, where})
				break
			}
		}
	}
	return out
}

// doubtful returns whether the main figures of a workload are worth little.
func doubtful(w *bench.WorkloadResult) bool {
	return disturbed(w) != "" || slices.ContainsFunc(overtaken(w), func(o overtaking) bool { return o.where == inMedian })
}

// worse says where l did worse than c; "" means nowhere.
func worse(w *bench.WorkloadResult, l, c *bench.ContenderResult) string {
	if l.Value.N == 0 || c.Value.N == 0 {
		return ""
	}
	a, b := l.Value.Median, c.Value.Median
	if w.Higher {
		a, b = b, a
	}
	if a > b*slower {
		return inMedian
	}
	if l.Latency == nil || c.Latency == nil {
		return ""
	}
	for _, x := range []struct {
		where string
		l, c  int64
	}{{"at p50", l.Latency.P50, c.Latency.P50}, {"at p99", l.Latency.P99, c.Latency.P99}, {"at p99.9", l.Latency.P999, c.Latency.P999}} {
		if float64(x.l) > float64(x.c)*slower {
			return x.where
		}
	}
	return ""
}

// A gap is how far a ratio may be from the quotient of the medians in its row
// before a reader has to be told why.
const gap = 1.1

// marked says whether the ratio of c is not what the medians in the table
// suggest: it is the median of the rounds' ratios, and the machine's speed
// changed from round to round.
func marked(w *bench.WorkloadResult, c *bench.ContenderResult) bool {
	base := w.Contender(w.Baseline)
	if base == nil || c.Better.N == 0 || c.Value.Median <= 0 || base.Value.Median <= 0 || c.Better.Median <= 0 || w.Unit == "allocs" {
		return false
	}
	q := base.Value.Median / c.Value.Median
	if w.Higher {
		q = 1 / q
	}
	return math.Abs(math.Log(q/c.Better.Median)) > math.Log(gap)
}

// anyMarked returns the footnote for a table with marked ratios, or "".
func anyMarked(w *bench.WorkloadResult) string {
	for i := range w.Contenders {
		if marked(w, &w.Contenders[i]) {
			return "* Not one median divided by the other: the machine's speed changed between rounds, and the ratio is the median of the ratios within each round."
		}
	}
	return ""
}

// overview says in a few sentences what came of everything: where connections
// of this library are better than a Unix socket, and where they are not.
func overview(ws []bench.WorkloadResult) (out []string) {
	type row struct {
		name string
		s    bench.Summary
	}
	rows := map[int][]row{}
	n := 0
	var doubts []string
	for i := range ws {
		w := &ws[i]
		if doubtful(w) {
			doubts = append(doubts, w.Name)
		}
		c := subject(w)
		if c == nil || w.Baseline != "unix" {
			continue
		}
		rows[sign(c.Better)] = append(rows[sign(c.Better)], row{w.Name, c.Better})
		n++
	}
	list := func(sign, most int) string {
		v := slices.Clone(rows[sign])
		slices.SortStableFunc(v, func(a, b row) int { return sign * cmp.Compare(b.s.Median, a.s.Median) })
		var names []string
		for _, r := range v[:min(len(v), most)] {
			names = append(names, fmt.Sprintf("%s (%s\u00a0x)", r.name, bench.Number(r.s.Median)))
		}
		return strings.Join(names, ", ")
	}
	if n > 0 {
		workloads := "workloads"
		if n == 1 {
			workloads = "workload"
		}
		out = append(out, fmt.Sprintf("Compared with a Unix socket, shared memory is better in %d of %d %s, worse in %d, and there is no clear difference in %d.",
			len(rows[1]), n, workloads, len(rows[-1]), len(rows[0])))
	}
	if s := list(1, 3); s != "" {
		out = append(out, "It gains most in "+s+".")
	}
	if s := list(-1, len(rows[-1])); s != "" {
		out = append(out, "It is worse in "+s+".")
	}
	if len(doubts) > 0 {
		out = append(out, "Disturbed, so measure again before you believe them: "+strings.Join(doubts, ", ")+".")
	}
	return out
}
