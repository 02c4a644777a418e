package report

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"shmconn/internal/tools/bench"
)

// made is a report with made-up figures, of some workloads that are really
// there.
func made() *bench.Report {
	r := &bench.Report{
		Machine: bench.Machine{CPU: "Made <up> & Sons", Cores: 2, Kernel: "6.1", Go: "go1", OS: "linux", Arch: "amd64", ClockNS: 20},
		Started: time.Unix(1.7e9, 0).UTC(), Rounds: 3, Peer: "process", Command: []string{"shmconn", "bench"},
		Targets: []bench.TargetResult{
			{Text: "met", Want: ">= 2", Status: "pass", Got: bench.Summarize([]float64{2, 3, 4})},
			{Text: "missed", Want: ">= 9", Status: "miss", Got: bench.Summarize([]float64{2, 3, 4})},
			{Text: "unknown", Want: ">= 9", Status: "not measured"},
		},
	}
	for i, w := range bench.Workloads() {
		res := bench.WorkloadResult{
			Name: w.Name, Title: w.Title, Metric: w.Metric.Name, Unit: w.Metric.Unit, Higher: w.Metric.Higher, Baseline: w.Baseline, SliceNS: 1e6,
		}
		for j, c := range w.Contenders {
			v := 1000 * float64(i+1) * math.Pow(1.7, float64(j))
			if res.Unit == "cores" || res.Unit == "allocs" {
				v /= 1e7
			}
			e := bench.ContenderResult{
				Name: c.Name, Limit: c.Limit, Spec: c.Spec,
				Value: bench.Summarize([]float64{v * 0.9, v, v * 1.2}), Better: bench.Summarize([]float64{1.5 / float64(j+1), 2 / float64(j+1)}),
			}
			if strings.HasPrefix(w.Name, "roundtrip/") {
				e.Latency = &bench.Latency{Count: 1000, P50: int64(v), P99: int64(2 * v), P999: int64(3 * v), Max: int64(9 * v)}
				for k := range 10 {
					e.Latency.Curve = append(e.Latency.Curve, bench.Point{Percent: 100 - 100/math.Pow(2, float64(k)), NS: int64(v * float64(k+1))})
				}
				e.Latency.Curve = append(e.Latency.Curve, bench.Point{Percent: 100, NS: int64(12 * v)})
			}
			res.Contenders = append(res.Contenders, e)
		}
		r.Workloads = append(r.Workloads, res)
	}
	regret := bench.Summarize([]float64{1, 1.5, 2.5})
	r.Workloads[0].Regret = &regret
	r.Workloads[0].Contenders[1].Error = "it <broke>"
	r.Workloads[len(r.Workloads)-1].Skipped = "no reason"
	return r
}

func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, made()); err != nil {
		t.Fatal(err)
	}
	doc, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	charts, text := map[string]int{}, new(strings.Builder)
	for n := range doc.Descendants() {
		if n.Type == html.TextNode {
			text.WriteString(n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "script" || n.Data == "iframe" {
			t.Errorf("a page that needs nothing has a <%s>", n.Data)
		}
		if n.Data == "svg" {
			lines := 0
			for d := range n.Descendants() {
				if d.Data == "path" || d.Data == "circle" {
					lines++
				}
			}
			charts[attr(n.Parent, "aria-label")] = lines
		}
		for _, a := range n.Attr {
			if a.Key != "src" && a.Key != "href" {
				continue
			}
			if u, err := url.Parse(a.Val); err != nil || u.Scheme != "data" {
				t.Errorf("<%s %s=%q> reaches outside the page", n.Data, a.Key, a.Val)
			}
		}
	}
	if s := b.String(); strings.Contains(s, "url(") || strings.Contains(s, "@import") {
		t.Error("the style reaches outside the page")
	}
	for _, want := range []string{
		"Ratio per workload", "Throughput by size of a Write", "Throughput by size of a Write, through bufio",
		"Messages per second by echo connections", "Round trip by size of a message", "Round trip, 64 B", "Round trip, 64 KiB",
	} {
		if charts[want] < 10 {
			t.Errorf("chart %q has %d lines and points", want, charts[want])
		}
	}
	for _, want := range []string{"Made <up> & Sons", "it <broke>", "Targets of the project: 1 met, 1 missed", "not measured", "left out: no reason", "Regret of the default: 1.50, 1.25 .. 2.00"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// Nothing measured, or only failures, is a page too.
func TestEmptyPage(t *testing.T) {
	r := made()
	for i := range r.Workloads {
		for j := range r.Workloads[i].Contenders {
			c := &r.Workloads[i].Contenders[j]
			c.Value, c.Better, c.Latency, c.Error = bench.Summary{}, bench.Summary{}, nil, "no"
		}
	}
	for _, r := range []*bench.Report{r, {Peer: "process"}} {
		var b bytes.Buffer
		if err := HTML(&b, r); err != nil || !strings.Contains(b.String(), "</html>") {
			t.Errorf("HTML: %v, %d bytes", err, b.Len())
		}
	}
}

// browse has a real browser open the page text, and returns what it writes.
func browse(t *testing.T, page []byte, flags ...string) string {
	t.Helper()
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no chromium here (on Debian: apt-get install chromium)")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "b.html")
	if err := os.WriteFile(file, page, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir=" + filepath.Join(dir, "profile")}, flags...)
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, browser, append(args, "file://"+file)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", browser, err, errs.Bytes())
	}
	return string(out)
}

// measuring is a page that shows another one in a frame of a given width, and
// writes what it has measured there. Windows cannot be as narrow as a phone.
const measuring = `<!DOCTYPE html><pre id="out"></pre>
<iframe style="width: %dpx; height: 3000px; border: 0" srcdoc="%s" onload="measure(this.contentDocument)"></iframe>
<script>
function measure(doc) {
	const width = doc.documentElement.clientWidth, lines = [];
	const shown = e => e.getClientRects().length > 0;
	lines.push("width " + width + " " + doc.documentElement.scrollWidth);
	let cells = 0, charts = 0, texts = 0;
	for (const td of doc.querySelectorAll("td")) {
		const r = td.getBoundingClientRect();
		if (!shown(td) || r.left < 0 || r.right > width || td.scrollWidth > td.clientWidth + 12)
			lines.push("cell " + td.textContent);
		const figure = document.createRange();
		figure.selectNodeContents(td.firstChild);
		if (td.dataset.label && figure.getClientRects().length !== 1)
			lines.push("broken " + td.textContent);
		cells++;
	}
	for (const svg of doc.querySelectorAll("svg")) {
		if (!shown(svg))
			continue;
		charts++;
		const edge = svg.getBoundingClientRect();
		for (const text of svg.querySelectorAll("text")) {
			const r = text.getBoundingClientRect(), size = r.height;
			if (r.left < edge.left - 1 || r.right > edge.right + 1 || size < 8)
				lines.push("text " + text.textContent);
			const want = parseFloat(text.getAttribute("textLength"));
			// From the start of the first letter to the end of the last; the box of the
			// text also has what a letter puts outside of its own width, as a w does.
			const got = text.getEndPositionOfChar(text.getNumberOfChars() - 1).x - text.getStartPositionOfChar(0).x;
			if (!(Math.abs(got - want) < 1))
				lines.push("fit " + text.textContent);
			texts++;
		}
	}
	lines.push("seen " + cells + " " + charts + " " + texts);
	document.getElementById("out").textContent = lines.join("\n") + "\n";
}
</script>`

// What is on the page can be seen at the width of a desk and of a phone: no
// cell is outside or has its figure broken, no lettering is cut, or wider than
// the plot has left room for.
func TestWidths(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, made()); err != nil {
		t.Fatal(err)
	}
	cells, charts := bytes.Count(b.Bytes(), []byte("<td")), bytes.Count(b.Bytes(), []byte("<figure"))
	for _, width := range []int{1400, 420} {
		page := fmt.Sprintf(measuring, width, html.EscapeString(b.String()))
		_, out, ok := strings.Cut(browse(t, []byte(page), "--window-size=1500,3000", "--dump-dom"), `<pre id="out">`)
		out, _, _ = strings.Cut(out, "</pre>")
		var seenCells, seenCharts, texts int
		i := strings.Index(out, "seen ")
		if !ok || i < 0 {
			t.Fatalf("at %d: nothing measured: %q", width, out)
		}
		fmt.Sscanf(out[i:], "seen %d %d %d", &seenCells, &seenCharts, &texts)
		if seenCells != cells || seenCharts != charts || texts < 10*charts {
			t.Errorf("at %d: %d cells, %d charts with %d texts, want %d, %d", width, seenCells, seenCharts, texts, cells, charts)
		}
		if want := fmt.Sprintf("width %d %[1]d\n", width); !strings.HasPrefix(out, want) {
			t.Errorf("at %d: the page is as wide as %.20q", width, out)
		}
		if bad := strings.Count(out[:i], "\n") - 1; bad > 0 {
			t.Errorf("at %d: %d cells or texts are cut, or not as wide as they should be:\n%.600s", width, bad, out)
		}
	}
}

// Where a row is a block, each of its cells says what it is.
func TestCellsHaveLabels(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, made()); err != nil {
		t.Fatal(err)
	}
	doc, err := html.Parse(&b)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for tr := range doc.Descendants() {
		if tr.Data != "tr" || attr(tr, "class") == "head" {
			continue
		}
		rows++
		i := 0
		for td := range tr.ChildNodes() {
			badge := td.FirstChild != nil && strings.HasPrefix(attr(td.FirstChild, "class"), "badge")
			if td.Data == "td" && i > 0 && attr(td, "data-label") == "" && !badge {
				t.Errorf("row %d, cell %d is not labelled", rows, i)
			}
			i++
		}
	}
	if rows < 50 {
		t.Errorf("%d rows", rows)
	}
}

// TestRender has a real browser draw the page, and looks at what came of it.
func TestRender(t *testing.T) {
	shot := filepath.Join(t.TempDir(), "b.png")
	var b bytes.Buffer
	if err := HTML(&b, made()); err != nil {
		t.Fatal(err)
	}
	const width, height = 1180, 4500
	browse(t, b.Bytes(), fmt.Sprintf("--window-size=%d,%d", width, height), "--screenshot="+shot)
	f, err := os.Open(shot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Bounds().Size(); got.X != width || got.Y != height {
		t.Errorf("the picture is %v", got)
	}
	// The lines are there in the contenders' colours, and the verdicts in theirs.
	seen := map[string]int{}
	for y := range height {
		for x := range width {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[fmt.Sprintf("%02x%02x%02x", r>>8, g>>8, b>>8)]++
		}
	}
	for _, name := range []string{"shm", "unix", "tcp", "pipe", "memcpy"} {
		c := colorOf(name)
		if n := seen[fmt.Sprintf("%02x%02x%02x", c.R, c.G, c.B)]; n < 50 {
			t.Errorf("%d pixels in the colour of %s", n, name)
		}
	}
	for _, c := range []string{"e2f3e7", "fbe5e3"} {
		if seen[c] < 50 {
			t.Errorf("%d pixels in the colour %s of a verdict", seen[c], c)
		}
	}
}
