package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"shmconn/internal/tools/bench"
)

// errorPoints are points with the way from each to its quartiles.
type errorPoints struct {
	plotter.XYs
	plotter.XErrors
	plotter.YErrors
}

// ratios draws how many times better than its baseline each contender is, a
// line a workload.
func ratios(r *bench.Report) (*chart, error) {
	p := newPlot()
	ch := &chart{Title: "Ratio per workload", Axis: "times better than unix, or than the workload's own baseline", Note: "Right of 1 is better. Each round has its own ratio: a dot is the median of these, a bar reaches from the lower to the upper quartile."}
	by := map[string]*errorPoints{}
	var names []*bench.ContenderResult
	var marks ticks
	var x bounds
	x.put(1)
	row := 0
	for i := len(r.Workloads) - 1; i >= 0; i-- { // the first is to be at the top
		w := &r.Workloads[i]
		if w.Unit == "allocs" {
			continue // that are next to none
		}
		any := false
		for j := range w.Contenders {
			c := &w.Contenders[j]
			if c.Limit || c.Name == w.Baseline || c.Better.N == 0 || c.Better.Q1 <= 0 {
				continue
			}
			e := by[c.Name]
			if e == nil {
				e = new(errorPoints)
				by[c.Name] = e
				names = append(names, c)
			}
			b := c.Better
			e.XYs = append(e.XYs, plotter.XY{X: b.Median, Y: float64(row)})
			e.XErrors = append(e.XErrors, struct{ Low, High float64 }{b.Median - b.Q1, b.Q3 - b.Median})
			x.put(b.Q1)
			x.put(b.Q3)
			any = true
		}
		if any {
			marks = append(marks, plot.Tick{Value: float64(row), Label: w.Name})
			row++
		}
	}
	if row == 0 {
		return nil, nil
	}
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.7}, {X: 1, Y: float64(row) - 0.3}})
	if err != nil {
		return nil, err
	}
	one.Color, one.Width = ink, 1.2
	p.Add(one)
	slices.SortStableFunc(names, func(a, b *bench.ContenderResult) int { return rank(a.Name) - rank(b.Name) })
	for _, c := range slices.Backward(names) { // shm is drawn last, over the others
		e := by[c.Name]
		bars, err := plotter.NewXErrorBars(e)
		if err != nil {
			return nil, err
		}
		bars.Color, bars.Width, bars.CapWidth = colorOf(c.Name), 1.4, 5
		dots, err := plotter.NewScatter(e.XYs)
		if err != nil {
			return nil, err
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: colorOf(c.Name), Radius: 3.4, Shape: draw.CircleGlyph{}}
		p.Add(bars, dots)
	}
	for _, c := range names {
		ch.Legend = append(ch.Legend, keyOf(c))
	}
	logarithmic(&p.X, x.min, x.max, func(v float64) string { return bench.Number(v) })
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = -0.7, float64(row)-0.3, marks
	height := vg.Length(70 + 22*row)
	if ch.SVG, err = svg(p, 2.2*chartWidth, height); err != nil {
		return nil, err
	}
	ch.Narrow, err = svg(p, chartWidth, height)
	return ch, err
}

// rank sorts contenders: shared memory, sockets, the rest.
func rank(name string) int {
	switch {
	case strings.HasPrefix(name, "shm") && !strings.HasPrefix(name, "shmipc"):
		return 0
	case name == "unix":
		return 1
	case name == "tcp":
		return 2
	}
	return 3
}

// bySize draws a figure of all workloads PREFIX=N over N.
func bySize(r *bench.Report, title, axis string, prefixes []string, label func(int) string, value func(w *bench.WorkloadResult, n int, v float64) float64, unit string) (*chart, error) {
	type line struct {
		c *bench.ContenderResult
		errorPoints
	}
	p := newPlot()
	ch := &chart{Title: title, Axis: axis, Note: strings.Join(prefixes, ", ") + "; medians and quartiles of the rounds"}
	var lines []*line
	var y bounds
	sizes := map[int]bool{}
	for i := range r.Workloads {
		w := &r.Workloads[i]
		name, num, _ := strings.Cut(w.Name, "=")
		n, err := strconv.Atoi(num)
		if err != nil || !slices.Contains(prefixes, name) {
			continue
		}
		ch.doubt(w)
		for j := range w.Contenders {
			c := &w.Contenders[j]
			if c.Value.N == 0 || c.Value.Q1 <= 0 {
				continue
			}
			k := slices.IndexFunc(lines, func(l *line) bool { return l.c.Name == c.Name })
			if k < 0 {
				k = len(lines)
				lines = append(lines, &line{c: c})
			}
			l, v := lines[k], c.Value
			mid, lo, hi := value(w, n, v.Median), value(w, n, v.Q1), value(w, n, v.Q3)
			l.XYs = append(l.XYs, plotter.XY{X: float64(n), Y: mid})
			l.YErrors = append(l.YErrors, struct{ Low, High float64 }{mid - lo, hi - mid})
			y.put(lo)
			y.put(hi)
			sizes[n] = true
		}
	}
	if len(sizes) < 2 {
		return nil, nil
	}
	var x bounds
	var marks ticks
	for n := range sizes {
		x.put(float64(n))
		marks = append(marks, plot.Tick{Value: float64(n), Label: label(n)})
	}
	for _, l := range slices.Backward(lines) {
		if err := addLine(p, l.XYs, l.c, true); err != nil {
			return nil, err
		}
		bars, err := plotter.NewYErrorBars(l)
		if err != nil {
			return nil, err
		}
		bars.Color, bars.Width, bars.CapWidth = colorOf(l.c.Name), 1, 4
		p.Add(bars)
	}
	for _, l := range lines {
		ch.Legend = append(ch.Legend, keyOf(l.c))
	}
	logarithmic(&p.Y, y.min, y.max, func(v float64) string { return bench.Quantity(v, unit) })
	p.X.Scale, p.X.Min, p.X.Max, p.X.Tick.Marker = plot.LogScale{}, x.min*0.8, x.max*1.25, marks
	var err error
	ch.SVG, err = svg(p, chartWidth, chartHeight)
	return ch, err
}

// throughputs are the charts with a size or a number of connections below them.
func throughputs(r *bench.Report) ([]*chart, error) {
	bytesPerSecond := func(w *bench.WorkloadResult, n int, v float64) float64 {
		if w.Unit == "msg/s" {
			return v * float64(n)
		}
		return v
	}
	as := func(_ *bench.WorkloadResult, _ int, v float64) float64 { return v }
	size := func(n int) string { return strings.Replace(bench.Bytes(n), " ", "\u00a0", 1) }
	var cs []*chart
	for _, f := range []func() (*chart, error){
		func() (*chart, error) {
			return bySize(r, "Throughput by size of a Write", "bytes in a Write", []string{"write/size", "stream/size"}, spaced(size), bytesPerSecond, "B/s")
		},
		func() (*chart, error) {
			return bySize(r, "Throughput by size of a Write, through bufio", "bytes in a Write", []string{"bufio/size"}, size, bytesPerSecond, "B/s")
		},
		func() (*chart, error) {
			return bySize(r, "Round trip by size of a message", "bytes in a message", []string{"roundtrip/size"}, size, as, "ns")
		},
		func() (*chart, error) {
			return bySize(r, "Messages per second by echo connections", "connections", []string{"echo/conns"}, strconv.Itoa, as, "msg/s")
		},
		func() (*chart, error) {
			return bySize(r, "Processor time of idle connections", "connections", []string{"idle/conns"}, strconv.Itoa, as, "cores")
		},
	} {
		c, err := f()
		if err != nil {
			return nil, fmt.Errorf("report: %w", err)
		}
		if c != nil {
			cs = append(cs, c)
		}
	}
	return cs, nil
}

// spaced leaves out labels of a scale from a few bytes to a megabyte that would
// touch each other.
func spaced(label func(int) string) func(int) string {
	return func(n int) string {
		if e := int(math.Log2(float64(n))); e < 12 && e%2 == 1 {
			return ""
		}
		return label(n)
	}
}
