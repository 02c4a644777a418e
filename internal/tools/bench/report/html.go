package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"shmconn/internal/tools/bench"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"ns":         func(v int64) string { return bench.Nanoseconds(float64(v)) },
	"nsf":        bench.Nanoseconds,
	"quantity":   bench.Quantity,
	"number":     bench.Number,
	"ratio":      ratio,
	"span":       span,
	"label":      label,
	"about":      func(w bench.WorkloadResult) string { return about(&w) },
	"disturbed":  func(w bench.WorkloadResult) string { return disturbed(&w) },
	"notes":      func(w bench.WorkloadResult) []string { return notes(&w) },
	"marked":     func(w bench.WorkloadResult, c bench.ContenderResult) bool { return marked(&w, &c) },
	"disturbing": func(s string) bool { return strings.HasPrefix(s, "DISTURBED") },
	"verdict":    verdict,
	"trim":       strings.TrimSpace,
	"keyof":      func(c bench.ContenderResult) key { return keyOf(&c) },
	"latency": func(w bench.WorkloadResult) bool {
		return has(w, func(c bench.ContenderResult) bool { return c.Latency != nil })
	},
	"cpu": func(w bench.WorkloadResult) bool {
		return w.Unit != "cores" && has(w, func(c bench.ContenderResult) bool { return c.CPU.N > 0 })
	},
}).Parse(pageText))

func has(w bench.WorkloadResult, f func(bench.ContenderResult) bool) bool {
	for _, c := range w.Contenders {
		if f(c) {
			return true
		}
	}
	return false
}

// HTML writes the report as one page that needs nothing else, not even a
// network.
func HTML(w io.Writer, r *bench.Report) error {
	data := struct {
		*bench.Report
		Build, Ends  string
		Pass, Miss   int
		Overview     []string
		Explanations []string
		Ratios       *chart
		Throughputs  []*chart
		Latencies    []*chart
		CommandLine  string
	}{Report: r, Build: build(r.Machine), Ends: ends(r), Overview: overview(r.Workloads), Explanations: explanations(r.Workloads), CommandLine: strings.Join(r.Command, " ")}
	for _, t := range r.Targets {
		switch t.Status {
		case "pass":
			data.Pass++
		case "miss":
			data.Miss++
		}
	}
	var err error
	if data.Ratios, err = ratios(r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if data.Throughputs, err = throughputs(r); err != nil {
		return err
	}
	for i := range r.Workloads {
		c, err := latencies(&r.Workloads[i])
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		if c != nil {
			data.Latencies = append(data.Latencies, c)
		}
	}
	return page.Execute(w, data)
}
