// Package report shows what package bench has measured: as tables on a
// terminal, and as a page with charts.
package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"shmconn/internal/tools/bench"
)

// Header writes where and how a run was made.
func Header(w io.Writer, r *bench.Report) error {
	m := r.Machine
	_, err := fmt.Fprintf(w, "machine  %s, %d cores\nsystem   %s %s, %s/%s, load %s\nshmconn  %s\nrounds   %d, interleaved; both ends: %s\nclock    reading it takes %s, which every latency includes\n",
		m.CPU, m.Cores, m.Kernel, m.Go, m.OS, m.Arch, m.Load, build(m), r.Rounds, ends(r), bench.Nanoseconds(m.ClockNS))
	return err
}

// build says which shmconn was measured.
func build(m bench.Machine) string {
	s := m.Version
	if m.Commit != "" {
		s += ", commit " + m.Commit
	}
	if m.Modified {
		s += ", modified"
	}
	return s
}

// Overview writes in words what came of all workloads, and what a ratio means.
func Overview(w io.Writer, ws []bench.WorkloadResult) {
	lines := overview(ws)
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\nWhat came out\n")
	for _, s := range append(lines, explanations(ws)...) {
		paragraph(w, s)
	}
}

// lineWidth is how wide text is on a terminal of any width.
const lineWidth = 80

// paragraph writes s, indented and wrapped.
func paragraph(w io.Writer, s string) {
	s = ansi.Wordwrap(s, lineWidth-4, "")
	fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(s, "\n", "\n    "))
}

func ends(r *bench.Report) string {
	if r.Peer == "goroutine" {
		return "goroutines of one process"
	}
	return "a process each"
}

// columns lines up what is written to it: cells end in a tab. All are
// right-aligned but the first.
type columns struct {
	tw    *tabwriter.Writer
	first int // the width of the first cell
}

func newColumns(w io.Writer, first int) columns {
	return columns{tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight), first}
}

func (c columns) row(first string, cells ...string) {
	// Widths are counted in characters, as tabwriter does.
	pad := max(c.first-len([]rune(first)), 0)
	fmt.Fprintf(c.tw, "  %s%s\t%s\t\n", first, strings.Repeat(" ", pad), strings.Join(cells, "\t"))
}

// Workload writes what was measured in one workload. A table that is wider than
// width becomes two, one below the other; 0 means that any width will do.
func Workload(w io.Writer, width int, res *bench.WorkloadResult) error {
	if res.Skipped != "" {
		_, err := fmt.Fprintf(w, "\n%s  [%s]\n  left out: %s\n", res.Title, res.Name, res.Skipped)
		return err
	}
	fmt.Fprintf(w, "\n%s  [%s]\n", res.Title, res.Name)
	paragraph(w, about(res))
	if s := disturbed(res); s != "" {
		paragraph(w, s)
	}
	latencies, cpu := false, false
	for _, c := range res.Contenders {
		latencies = latencies || c.Latency != nil
		cpu = cpu || c.CPU.N > 0
	}
	cpu = cpu && res.Unit != "cores" // there it is the figure itself
	head := []string{"", "median", "quartiles", "ratio", "quartiles"}
	if latencies {
		head = append(head, "p50", "p99", "p99.9", "max")
	}
	if cpu {
		head = append(head, "cpu/op")
	}
	rows := [][]string{head}
	for i := range res.Contenders {
		e := &res.Contenders[i]
		if e.Value.N == 0 {
			continue
		}
		star := " " // so that figures stay below each other
		if marked(res, e) {
			star = "*"
		}
		cells := []string{
			label(*e), bench.Quantity(e.Value.Median, res.Unit), span(e.Value, res.Unit),
			ratio(e.Better) + star, span(e.Better, "x"),
		}
		if latencies {
			cells = append(cells, latency(e.Latency)...)
		}
		if cpu {
			cells = append(cells, bench.Nanoseconds(e.CPU.Median))
		}
		rows = append(rows, cells)
	}
	if err := table(w, width, rows, 5); err != nil {
		return err
	}
	for _, s := range notes(res) {
		paragraph(w, s)
	}
	for _, e := range res.Contenders {
		if e.Error != "" {
			fmt.Fprintf(w, "  %s FAILED: %s\n", e.Name, strings.ReplaceAll(strings.TrimSpace(e.Error), "\n", "\n    "))
		}
	}
	return nil
}

// table writes rows. If they are wider than width, the cells from split on
// follow in a table of their own, with the first cell of each row repeated.
func table(w io.Writer, width int, rows [][]string, split int) error {
	first, total := 0, 2
	for i := range rows[0] {
		widest := 0
		for _, r := range rows {
			widest = max(widest, utf8.RuneCountInString(r[i]))
		}
		if total += widest + 2; i == 0 {
			first = widest
		}
	}
	parts := [][]int{{1, len(rows[0])}}
	if width > 0 && total > width && split < len(rows[0]) {
		parts = [][]int{{1, split}, {split, len(rows[0])}}
	}
	for _, p := range parts {
		c := newColumns(w, first)
		for _, r := range rows {
			c.row(r[0], r[p[0]:p[1]]...)
		}
		if err := c.tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// about says what the figures of a workload are.
func about(w *bench.WorkloadResult) string {
	direction := "less is better"
	if w.Higher {
		direction = "more is better"
	}
	return fmt.Sprintf("%s, %s; ratio: times better than %s; slices of %v", w.Metric, direction, w.Baseline, time.Duration(w.SliceNS))
}

// notes are what is to be said below the figures of a workload.
func notes(w *bench.WorkloadResult) (out []string) {
	for _, s := range []string{anyMarked(w), words(w)} {
		if s != "" {
			out = append(out, s)
		}
	}
	for _, o := range overtaken(w) {
		out = append(out, o.String())
	}
	if r := w.Regret; r != nil {
		out = append(out, fmt.Sprintf("Regret of the default: %s, %s. That is how many times worse shm did than the better of shm-parked, which never polls, and shm-polling, which never parks.", bench.Number(r.Median), span(*r, "x")))
	}
	return out
}

// disturbance is how many cores others may use before it is worth a word.
const disturbance = 0.1

// disturbed says how busy other processes were while a workload was measured.
func disturbed(w *bench.WorkloadResult) string {
	if w.Others < disturbance {
		return ""
	}
	return fmt.Sprintf("DISTURBED: other processes used %.1f cores meanwhile.", w.Others)
}

// label names a contender, and says whether it is no connection.
func label(c bench.ContenderResult) string {
	switch {
	case bare(c):
		return c.Name + " (bare)"
	case c.Limit:
		return c.Name + " (limit)"
	}
	return c.Name
}

func ratio(s bench.Summary) string {
	if s.N == 0 {
		return "-"
	}
	return bench.Number(s.Median) + " x"
}

// span writes quartiles, in the unit that the median has beside them.
func span(s bench.Summary, unit string) string {
	if s.N == 0 {
		return "-"
	}
	of := func(v float64) string { return bench.Number(v) }
	switch unit {
	case "x":
	case "cores", "allocs":
		of = func(v float64) string { return fmt.Sprintf("%.4f", v) }
	default:
		if by := scale(s.Median, bench.Quantity(s.Median, unit)); by > 0 {
			of = func(v float64) string { return bench.Number(v / by) }
		}
	}
	return of(s.Q1) + " .. " + of(s.Q3)
}

// scale returns what v was divided by to be written as text, a power of ten,
// and 0 if that cannot be seen.
func scale(v float64, text string) float64 {
	number, _, _ := strings.Cut(text, " ")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n <= 0 || v <= 0 {
		return 0
	}
	return math.Pow10(int(math.Round(math.Log10(v / n))))
}

func latency(l *bench.Latency) []string {
	if l == nil {
		return []string{"-", "-", "-", "-"}
	}
	var cells []string
	for _, v := range []int64{l.P50, l.P99, l.P999, l.Max} {
		cells = append(cells, bench.Nanoseconds(float64(v)))
	}
	return cells
}

// verdict says what a target's status means.
func verdict(status string) string {
	switch status {
	case "pass":
		return "met"
	case "miss":
		return "missed"
	}
	return status
}

// Targets writes the targets and what came of them.
func Targets(w io.Writer, ts []bench.TargetResult) error {
	if len(ts) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nTargets of the project\n")
	width := 0
	for _, t := range ts {
		width = max(width, len([]rune(t.Text)))
	}
	c := newColumns(w, width)
	c.row("", "want", "median", "quartiles", "")
	for _, t := range ts {
		got, quartiles := "-", "-"
		if t.Got.N > 0 {
			got, quartiles = bench.Number(t.Got.Median), span(t.Got, "x")
		}
		c.row(t.Text, t.Want, got, quartiles, verdict(t.Status))
	}
	return c.tw.Flush()
}

// bare reports whether c is a ring without a connection, which a connection can
// equal or beat.
func bare(c bench.ContenderResult) bool {
	return strings.HasPrefix(c.Spec.Loop, "ints") || c.Spec.Loop == "pingpong-ring"
}
