package report

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"shmconn/internal/tools/bench"
)

// A chart is a drawing with what belongs to it on the page.
type chart struct {
	Title     string
	Axis      string // what the horizontal one shows
	Note      string
	Disturbed []string // what speaks against believing it
	SVG       template.HTML
	Narrow    template.HTML // for narrow windows, instead of SVG; "": SVG is for all
	Legend    []key
}

// doubt adds to a chart that a workload in it was disturbed.
func (ch *chart) doubt(w *bench.WorkloadResult) {
	if s := disturbed(w); s != "" {
		ch.Disturbed = append(ch.Disturbed, w.Name+": "+s)
	}
	for _, o := range overtaken(w) {
		ch.Disturbed = append(ch.Disturbed, w.Name+": "+o.String())
	}
}

// A key explains one colour.
type key struct {
	Name   string
	Color  template.CSS
	Dashed bool
}

// colors are the contenders', the same in all charts.
var colors = map[string]color.RGBA{
	"shm":           {0x1d, 0x4e, 0xd8, 0xff},
	"shm-64KiB":     {0x8b, 0xb8, 0xfb, 0xff},
	"shm-1MiB":      {0x0e, 0x9b, 0xd8, 0xff},
	"shm-4MiB":      {0x22, 0xc7, 0xc9, 0xff},
	"shm-zerocopy":  {0xd6, 0x45, 0xa8, 0xff},
	"shm-inplace":   {0x9c, 0x1f, 0x78, 0xff},
	"shm-exclusive": {0x0b, 0x7a, 0x5f, 0xff},
	"shm-groups":    {0x6c, 0xb5, 0x2d, 0xff},
	"shm-parked":    {0x0b, 0x2a, 0x6b, 0xff},
	"shm-polling":   {0x4f, 0x46, 0xe5, 0xff},
	"new":           {0x1d, 0x4e, 0xd8, 0xff},
	"old":           {0xe0, 0x6c, 0x00, 0xff},
	"unix":          {0xe0, 0x6c, 0x00, 0xff},
	"tcp":           {0x2f, 0x8f, 0x3a, 0xff},
	"pipe":          {0x9a, 0x3f, 0xb5, 0xff},
	"shmipc":        {0xc8, 0x1e, 0x4a, 0xff},
	"shmipc-1p":     {0xe0, 0x6a, 0x8a, 0xff},
	"shmipc-copied": {0x8a, 0x12, 0x35, 0xff},

	"shm-zerocopy-4MiB":      {0xf0, 0x8c, 0xcf, 0xff},
	"shm-exclusive-zerocopy": {0x0f, 0xa3, 0x8f, 0xff},

	"memcpy":          {0x55, 0x5b, 0x66, 0xff},
	"memcpy-1MiB":     {0x82, 0x88, 0x93, 0xff},
	"memcpy-4MiB":     {0xae, 0xb3, 0xbd, 0xff},
	"int-ring":        {0x55, 0x5b, 0x66, 0xff},
	"int-ring-cached": {0x82, 0x88, 0x93, 0xff},
	"ping-pong":       {0x55, 0x5b, 0x66, 0xff},
	"ring-ping-pong":  {0x82, 0x88, 0x93, 0xff},
	"pacing":          {0xae, 0xb3, 0xbd, 0xff},
	"alone":           {0x2f, 0x8f, 0x3a, 0xff},
	"beside":          {0x0f, 0x76, 0x6e, 0xff},
	"beside-both":     {0xc8, 0x1e, 0x4a, 0xff},
}

func colorOf(name string) color.RGBA {
	if c, ok := colors[name]; ok {
		return c
	}
	return color.RGBA{0x33, 0x33, 0x33, 0xff}
}

func keyOf(c *bench.ContenderResult) key {
	rgb := colorOf(c.Name)
	return key{label(*c), template.CSS(fmt.Sprintf("#%02x%02x%02x", rgb.R, rgb.G, rgb.B)), c.Limit}
}

var (
	ink  = color.RGBA{0x3c, 0x42, 0x4d, 0xff}
	grid = color.RGBA{0xe3, 0xe6, 0xeb, 0xff}
)

// The size of charts, in points. The page stretches them to its columns, which
// are of about this width: lettering stays readable on a phone as well as on a
// desk.
const (
	chartWidth  = 400
	chartHeight = 270
)

// newPlot returns an empty plot. Its axes have no titles: plot keeps room for
// them at the end of the axis, and the page has them below the drawing.
func newPlot() *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Tick.Color = ink, ink
		a.Width, a.Tick.Width = 0.6, 0.6
		a.Tick.Label.Color, a.Tick.Label.Font.Size = ink, 10
		a.Padding = 0
	}
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = grid, grid
	g.Horizontal.Width, g.Vertical.Width = 0.7, 0.7
	p.Add(g)
	return p
}

// svg draws p, as an element to be put into a page.
func svg(p *plot.Plot, w, h vg.Length) (template.HTML, error) {
	c := vgsvg.NewWith(vgsvg.UseWH(w, h))
	p.Draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", err
	}
	_, s, ok := strings.Cut(b.String(), "<svg") // without what is for files of their own
	if !ok {
		return "", fmt.Errorf("report: no <svg in what was drawn")
	}
	return template.HTML("<svg" + fitted(s, p.X.Tick.Label)), nil
}

var textElement = regexp.MustCompile(`<text ([^>]*)>([^<]*)</text>`)

// fitted makes each text of a drawing as wide as the plot took it to be. The
// browser may not have the plot's font, and letters of another would run into
// the axis, or over the edge.
func fitted(svg string, style text.Style) string {
	return textElement.ReplaceAllStringFunc(svg, func(s string) string {
		m := textElement.FindStringSubmatch(s)
		width := style.Width(html.UnescapeString(m[2])).Points()
		return fmt.Sprintf(`<text textLength="%.4g" lengthAdjust="spacingAndGlyphs" %s>%s</text>`, width, m[1], m[2])
	})
}

// ticks are labels at given places.
type ticks []plot.Tick

func (t ticks) Ticks(min, max float64) []plot.Tick { return t }

// decades are ticks at powers of ten, and small ones in between.
func decades(format func(float64) string) plot.Ticker {
	return plot.TickerFunc(func(min, max float64) (ts []plot.Tick) {
		wide := math.Log10(max/min) > 8
		for e := math.Floor(math.Log10(min)); e <= math.Ceil(math.Log10(max)); e++ {
			for m := 1.0; m < 10; m++ {
				v := m * math.Pow(10, e)
				if v < min*0.999 || v > max*1.001 {
					continue
				}
				t := plot.Tick{Value: v}
				if m == 1 && (!wide || int(e)%2 == 0) {
					t.Label = round(format(v))
				}
				ts = append(ts, t)
			}
		}
		return ts
	})
}

// round takes zeros after the point off a figure that may have a unit.
func round(s string) string {
	n, unit, _ := strings.Cut(s, " ")
	if strings.Contains(n, ".") {
		n = strings.TrimRight(strings.TrimRight(n, "0"), ".")
	}
	return strings.TrimSpace(n + " " + unit)
}

// logarithmic makes a an axis of powers of ten that covers min to max.
func logarithmic(a *plot.Axis, min, max float64, format func(float64) string) {
	a.Scale = plot.LogScale{}
	a.Min = math.Pow(10, math.Floor(math.Log10(min*0.9)))
	a.Max = math.Pow(10, math.Ceil(math.Log10(max*1.1)))
	a.Tick.Marker = decades(format)
}

// A bounds is the range of what has been put into it.
type bounds struct{ min, max float64 }

func (b *bounds) put(v float64) {
	if v <= 0 {
		return
	}
	if b.min == 0 || v < b.min {
		b.min = v
	}
	b.max = max(b.max, v)
}

func addLine(p *plot.Plot, xy plotter.XYs, c *bench.ContenderResult, points bool) error {
	l, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	l.Color, l.Width = colorOf(c.Name), 1.8
	if c.Limit {
		l.Width, l.Dashes = 1.3, []vg.Length{5, 3}
	}
	p.Add(l)
	if points {
		s, err := plotter.NewScatter(xy)
		if err != nil {
			return err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: l.Color, Radius: 2.6, Shape: draw.CircleGlyph{}}
		p.Add(s)
	}
	return nil
}

// latencies draws which part of the messages took how long at most.
func latencies(w *bench.WorkloadResult) (*chart, error) {
	p := newPlot()
	ch := &chart{Title: w.Title, Axis: "percentile", Note: w.Name}
	var x, y bounds
	for i := range w.Contenders {
		c := &w.Contenders[i]
		if c.Latency == nil {
			continue
		}
		var xy plotter.XYs
		for _, pt := range c.Latency.Curve {
			// The largest is at 100 %, which a scale of nines does not have:
			// it is where the next message would be.
			nines := 1 / (1 - pt.Percent/100)
			if pt.Percent >= 100 {
				nines = float64(c.Latency.Count)
			}
			nines = min(nines, float64(c.Latency.Count))
			if pt.NS <= 0 || nines < 1 {
				continue
			}
			xy = append(xy, plotter.XY{X: nines, Y: float64(pt.NS)})
			x.put(nines)
			y.put(float64(pt.NS))
		}
		if len(xy) < 2 {
			continue
		}
		if err := addLine(p, xy, c, false); err != nil {
			return nil, err
		}
		ch.Legend = append(ch.Legend, keyOf(c))
	}
	if len(ch.Legend) == 0 {
		return nil, nil
	}
	logarithmic(&p.Y, y.min, y.max, bench.Nanoseconds)
	p.X.Scale, p.X.Min, p.X.Max = plot.LogScale{}, 1, max(x.max*1.2, 20)
	var marks ticks
	for i, s := range []string{"0", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"} {
		v := map[int]float64{0: 1, 1: 2}[i]
		if i > 1 {
			v = math.Pow(10, float64(i-1))
		}
		if v <= p.X.Max {
			marks = append(marks, plot.Tick{Value: v, Label: s})
		}
	}
	p.X.Tick.Marker = marks
	var err error
	ch.doubt(w)
	ch.SVG, err = svg(p, chartWidth, chartHeight)
	return ch, err
}
