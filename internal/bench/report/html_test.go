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

	"shmconn/internal/bench"
)

// made is a report with made-up figures, of some workloads that are really there.
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
	for _, want := range []string{"Made <up> & Sons", "it <broke>", "Targets: 1 met, 1 missed", "not measured", "left out: no reason"} {
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

// TestRender has a real browser draw the page, and looks at what came of it.
func TestRender(t *testing.T) {
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
	file, shot := filepath.Join(dir, "b.html"), filepath.Join(dir, "b.png")
	var b bytes.Buffer
	if err := HTML(&b, made()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--window-size=1180,3000", "--screenshot="+shot, "file://"+file).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", browser, err, out)
	}
	f, err := os.Open(shot)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Bounds().Size(); got.X != 1180 || got.Y != 3000 {
		t.Errorf("the picture is %v", got)
	}
	// The lines are there in the contenders' colours, and the verdicts in theirs.
	seen := map[string]int{}
	for y := range 3000 {
		for x := range 1180 {
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
