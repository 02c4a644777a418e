package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Report is everything that a run has measured. It is what -json writes.
type Report struct {
	Machine   Machine          `json:"machine"`
	Started   time.Time        `json:"started"`
	Command   []string         `json:"command"`
	Rounds    int              `json:"rounds"`
	Peer      string           `json:"peer"` // "process" or "goroutine"
	Workloads []WorkloadResult `json:"workloads"`
	Targets   []TargetResult   `json:"targets"`
}

// A Machine says where a report comes from.
type Machine struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"` // that this process may use
	Kernel   string  `json:"kernel"`
	OS       string  `json:"os"`
	Arch     string  `json:"arch"`
	Go       string  `json:"go"`
	Version  string  `json:"version"`  // of shmconn
	Commit   string  `json:"commit"`   // "" if the go command has noted none
	Modified bool    `json:"modified"` // the working tree was not the commit's
	ClockNS  float64 `json:"clock_ns"` // what timing costs: inside of every latency
	Load     string  `json:"load"`     // the load averages when it began
}

// A WorkloadResult is what came of a [Workload].
type WorkloadResult struct {
	Name     string `json:"name"`
	Title    string `json:"title"`
	Metric   string `json:"metric"`
	Unit     string `json:"unit"`
	Higher   bool   `json:"higher_is_better"`
	Baseline string `json:"baseline"`
	SliceNS  int64  `json:"slice_ns"`
	Skipped  string `json:"skipped,omitempty"` // why
	// Others is how many cores were used meanwhile by processes that have
	// nothing to do with this, other guests of the machine included.
	Others float64 `json:"others_cores"`
	// Regret is how much the default costs: its time by that of the better of
	// the contenders that never poll and that poll only, by rounds. Absent
	// where these do not take part.
	Regret     *Summary          `json:"regret,omitempty"`
	Contenders []ContenderResult `json:"contenders"`
}

// A ContenderResult is what came of a [Contender] in a workload.
type ContenderResult struct {
	Name  string `json:"name"`
	Limit bool   `json:"limit,omitempty"`
	Spec  Spec   `json:"spec"`
	// Error ended the contender's part in the workload. The rounds before it
	// are kept.
	Error  string  `json:"error,omitempty"`
	Value  Summary `json:"value"`  // in the workload's unit
	Better Summary `json:"better"` // times better than the baseline, by rounds
	// CPU is the processor time of all processes by message, in ns.
	CPU     Summary  `json:"cpu_ns"`
	Latency *Latency `json:"latency,omitempty"` // of all rounds together
	Rounds  []Round  `json:"rounds"`
}

// A Round is one slice of a contender.
type Round struct {
	Value     float64  `json:"value"`
	Ops       uint64   `json:"ops"`        // messages, or round trips, in elapsed_ns
	ElapsedNS int64    `json:"elapsed_ns"` // summed up over pairs of processes
	AllOps    uint64   `json:"all_ops"`    // those that were timed one by one included
	WallNS    int64    `json:"wall_ns"`    // the time of these
	ClientCPU int64    `json:"client_cpu_ns"`
	ServerCPU int64    `json:"server_cpu_ns"`
	HelperCPU int64    `json:"helper_cpu_ns,omitempty"` // of the processes besides these two
	Latency   *Latency `json:"latency,omitempty"`
}

// A Latency is a distribution of times, in ns.
type Latency struct {
	Count int64   `json:"count"`
	P50   int64   `json:"p50_ns"`
	P99   int64   `json:"p99_ns"`
	P999  int64   `json:"p99_9_ns"`
	Max   int64   `json:"max_ns"`
	Curve []Point `json:"curve,omitempty"`
}

// A Point says that the given percentage of times were up to NS.
type Point struct {
	Percent float64 `json:"percent"`
	NS      int64   `json:"ns"`
}

// latency returns the distribution in h, nil if there is nothing in it.
func latency(h *hdrhistogram.Histogram, curve bool) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	l := &Latency{
		Count: h.TotalCount(),
		P50:   h.ValueAtQuantile(50), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9), Max: h.Max(),
	}
	if curve {
		for _, b := range h.CumulativeDistributionWithTicks(5) {
			l.Curve = append(l.Curve, Point{b.Quantile, b.ValueAt})
		}
	}
	return l
}

// mergeHists returns the latencies of all pairs of a slice.
func mergeHists(v []sample) *hdrhistogram.Histogram {
	all := newHist()
	for _, s := range v {
		for _, b := range [][]byte{s.client.Hist, s.server.Hist} { // of which one has something
			if len(b) == 0 {
				continue
			}
			if h, err := hdrhistogram.Decode(b); err == nil {
				all.Merge(h)
			}
		}
	}
	return all
}

// newHist returns a histogram of nanoseconds, up to a minute, to three digits.
func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(time.Minute), 3) }

// newRound returns the round that the slices of v, one of each pair, make; h
// has their latencies.
func newRound(w Workload, v []sample, h *hdrhistogram.Histogram) Round {
	r := Round{Value: w.Metric.of(v), Latency: latency(h, false)}
	for _, s := range v {
		r.Ops += s.client.Ops
		r.AllOps += s.client.AllOps
		r.ElapsedNS += int64(s.client.Elapsed)
		r.WallNS += int64(s.client.Wall)
		r.ClientCPU += int64(s.client.CPU)
		r.ServerCPU += int64(s.server.CPU)
		r.HelperCPU += int64(s.helperCPU())
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		r.Value = 0 // JSON has no word for it
	}
	return r
}

// Workload returns the result of that workload, or nil.
func (r *Report) Workload(name string) *WorkloadResult {
	i := slices.IndexFunc(r.Workloads, func(w WorkloadResult) bool { return w.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Workloads[i]
}

// Contender returns the result of that contender, or nil.
func (w *WorkloadResult) Contender(name string) *ContenderResult {
	i := slices.IndexFunc(w.Contenders, func(c ContenderResult) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &w.Contenders[i]
}

// values returns a contender's figures by rounds.
func (w *WorkloadResult) values(name string) (v []float64) {
	if c := w.Contender(name); c != nil {
		for _, r := range c.Rounds {
			v = append(v, r.Value)
		}
	}
	return v
}

// figures returns one of a contender's figures by rounds, or one for all of
// them.
func (w *WorkloadResult) figures(name, figure string) []float64 {
	c := w.Contender(name)
	switch {
	case figure == "":
		return w.values(name)
	case figure == FigureRegret:
		return w.regrets()
	case c == nil || c.Latency == nil:
		return nil
	case figure == FigureP99:
		return []float64{float64(c.Latency.P99)}
	case figure == FigureP999:
		return []float64{float64(c.Latency.P999)}
	}
	return nil
}

// cpuPerOp returns the processor time by message, in ns.
func (r Round) cpuPerOp() float64 {
	return float64(r.ClientCPU+r.ServerCPU+r.HelperCPU) / float64(r.AllOps)
}

// regrets returns, for each round that all three have finished, how many times
// the default is worse than the better of its extremes.
func (w *WorkloadResult) regrets() []float64 {
	shm, parked, polling := w.values("shm"), w.values("shm-parked"), w.values("shm-polling")
	best := make([]float64, min(len(parked), len(polling)))
	for i := range best {
		if best[i] = min(parked[i], polling[i]); w.Higher {
			best[i] = max(parked[i], polling[i])
		}
	}
	if w.Higher {
		return Ratios(best, shm)
	}
	return Ratios(shm, best)
}

// summarize fills in what follows from the rounds.
func (w *WorkloadResult) summarize() {
	base := w.values(w.Baseline)
	for i := range w.Contenders {
		c := &w.Contenders[i]
		v := w.values(c.Name)
		c.Value = Summarize(v)
		if w.Higher {
			c.Better = Summarize(Ratios(v, base))
		} else {
			c.Better = Summarize(Ratios(base, v))
		}
		var cpu []float64
		for _, r := range c.Rounds {
			if r.AllOps > 0 {
				cpu = append(cpu, r.cpuPerOp())
			}
		}
		c.CPU = Summarize(cpu)
	}
	if regrets := w.regrets(); len(regrets) > 0 {
		s := Summarize(regrets)
		w.Regret = &s
	}
}

// WriteJSON writes the report.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "\t")
	return enc.Encode(r)
}

// Number writes a figure to three digits.
func Number(v float64) string {
	a := math.Abs(v)
	for _, u := range []struct {
		by   float64
		unit string
	}{{1e9, " G"}, {1e6, " M"}, {1e4, " k"}} {
		if a >= u.by {
			if u.by == 1e4 {
				u.by = 1e3
			}
			return digits(v/u.by) + u.unit
		}
	}
	return digits(v)
}

// digits writes v with three digits, or with all before the point.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// Quantity writes a figure with its unit.
func Quantity(v float64, unit string) string {
	switch unit {
	case "ns":
		return Nanoseconds(v)
	case "allocs":
		return fmt.Sprintf("%.4f", v)
	case "cores":
		return fmt.Sprintf("%.4f cores", v)
	}
	n := Number(v)
	if last := n[len(n)-1]; last >= '0' && last <= '9' {
		n += " "
	}
	return n + unit
}

// Nanoseconds writes a time.
func Nanoseconds(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e9:
		return digits(v/1e9) + " s"
	case a >= 1e6:
		return digits(v/1e6) + " ms"
	case a >= 1e3:
		return digits(v/1e3) + " µs"
	}
	return digits(v) + " ns"
}
