// Package report shows what package bench has measured: as tables on a terminal,
// and as a page with charts.
package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"shmconn/internal/bench"
)

// Header writes where and how a run was made.
func Header(w io.Writer, r *bench.Report) error {
	m := r.Machine
	commit := m.Commit
	if commit == "" {
		commit = "unknown"
	} else if m.Modified {
		commit += ", modified"
	}
	_, err := fmt.Fprintf(w, "machine  %s, %d cores\nsystem   %s %s, %s/%s, load %s\ncommit   %s\nrounds   %d, interleaved; both ends: %s; reading the clock: %s\n",
		m.CPU, m.Cores, m.Kernel, m.Go, m.OS, m.Arch, m.Load, commit, r.Rounds, ends(r), bench.Nanoseconds(m.ClockNS))
	return err
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

// Workload writes what was measured in one workload.
func Workload(w io.Writer, res *bench.WorkloadResult) error {
	if res.Skipped != "" {
		_, err := fmt.Fprintf(w, "\n%s  [%s]\n  left out: %s\n", res.Title, res.Name, res.Skipped)
		return err
	}
	direction := "less is better"
	if res.Higher {
		direction = "more is better"
	}
	fmt.Fprintf(w, "\n%s  [%s]\n  %s, %s; slices of %v%s\n", res.Title, res.Name, res.Metric, direction, time.Duration(res.SliceNS), disturbed(res))
	width, latencies, cpu := 0, false, false
	for _, c := range res.Contenders {
		width = max(width, len([]rune(label(c))))
		latencies = latencies || c.Latency != nil
		cpu = cpu || c.CPU.N > 0
	}
	cpu = cpu && res.Unit != "cores" // there it is the figure itself
	c := newColumns(w, width)
	head := []string{"median", "quartiles", "better than " + res.Baseline, "quartiles"}
	if latencies {
		head = append(head, "p50", "p99", "p99.9", "max")
	}
	if cpu {
		head = append(head, "cpu/op")
	}
	c.row("", head...)
	for _, e := range res.Contenders {
		if e.Value.N == 0 {
			continue
		}
		cells := []string{
			bench.Quantity(e.Value.Median, res.Unit), span(e.Value, res.Unit),
			ratio(e.Better), span(e.Better, "x"),
		}
		if latencies {
			cells = append(cells, latency(e.Latency)...)
		}
		if cpu {
			cells = append(cells, bench.Nanoseconds(e.CPU.Median))
		}
		c.row(label(e), cells...)
	}
	if err := c.tw.Flush(); err != nil {
		return err
	}
	for _, e := range res.Contenders {
		if e.Error != "" {
			fmt.Fprintf(w, "  %s FAILED: %s\n", e.Name, strings.ReplaceAll(strings.TrimSpace(e.Error), "\n", "\n    "))
		}
	}
	return nil
}

// disturbance is how many cores others may use before it is worth a word.
const disturbance = 0.1

// disturbed says how busy other processes were while a workload was measured.
func disturbed(w *bench.WorkloadResult) string {
	if w.Others < disturbance {
		return ""
	}
	return fmt.Sprintf("; DISTURBED: others used %.1f cores", w.Others)
}

func label(c bench.ContenderResult) string {
	if c.Limit {
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

// span writes quartiles, the unit once.
func span(s bench.Summary, unit string) string {
	if s.N == 0 {
		return "-"
	}
	if unit == "x" {
		return bench.Number(s.Q1) + " .. " + bench.Number(s.Q3)
	}
	lo, hi := bench.Quantity(s.Q1, unit), bench.Quantity(s.Q3, unit)
	if i := strings.LastIndex(lo, " "); i >= 0 && strings.HasSuffix(hi, lo[i:]) {
		lo = lo[:i]
	}
	return lo + " .. " + hi
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

// Targets writes the targets and what came of them.
func Targets(w io.Writer, ts []bench.TargetResult) error {
	if len(ts) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nTargets\n")
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
		c.row(t.Text, t.Want, got, quartiles, t.Status)
	}
	return c.tw.Flush()
}
