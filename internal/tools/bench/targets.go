package bench

import "strconv"

// A Target is a figure that the project has set itself.
type Target struct {
	Text     string
	Workload string
	// The figure of a round is Num's by Den's, or Num's alone if Den is "".
	Num, Den string
	Less     string  // a contender whose figure is taken off both before
	Figure   string  // "": the workload's metric; FigureP99, FigureP999, FigureRegret
	Best     bool    // of the best quarter of the rounds
	Scale    float64 // what the figure is multiplied by, 0: 1
	AtLeast  float64 // 0: no such bound
	AtMost   float64 // 0: no such bound, unless Zero
	Zero     bool    // none, but for what the runtime does in the background
	Note     bool    // for information, without a bound
}

// Figures of a workload, besides its metric.
const (
	FigureP99    = "p99"    // of all rounds together: stalls are too rare for one round
	FigureP999   = "p99.9"  // likewise
	FigureRegret = "regret" // of the default; Num and Den have no part in it
)

// background is how many allocations a call are the runtime's own.
const background = 0.01

// faster is a target for a time: net's is to be so many times shorter than
// den's.
func faster(text, workload, net, than string, by float64) Target {
	return Target{Text: text, Workload: workload, Num: than, Den: net, AtLeast: by}
}

// Targets returns the targets, in the order of the project's plan.
func Targets() []Target {
	ts := []Target{
		faster("round trip 64 B, times faster than unix", "roundtrip/size=64", "shm", "unix", 45),
		{Text: "round trip 64 B / bare atomic ping-pong", Workload: "roundtrip/size=64", Num: "shm", Den: "ping-pong", AtMost: 2.5},
		{Text: "4-byte unbuffered writes / unix", Workload: "write/size=4", Num: "shm", Den: "unix", AtLeast: 70},
		{Text: "4-byte unbuffered writes, best rounds, per second", Workload: "write/size=4", Num: "shm", Best: true, AtLeast: 40e6},
		{Text: "4-byte writes by a Producer, read by a Consumer, best rounds, per second", Workload: "write/size=4", Num: "shm-exclusive", Best: true, AtLeast: 50e6},
		{Text: "  the same / bare cached int ring", Workload: "write/size=4", Num: "shm-exclusive", Den: "int-ring-cached", AtLeast: 0.45},
		{Text: "4-byte writes by a Producer in groups of 8 / bare cached int ring", Workload: "write/size=4", Num: "shm-groups", Den: "int-ring-cached", AtLeast: 0.9},
		{Text: "round trip 64 B by a Producer and a Consumer / bare ping-pong", Workload: "roundtrip/size=64", Num: "shm-exclusive", Den: "ping-pong", AtMost: 1.3},
		{Text: "  the same / bare ring of messages", Workload: "roundtrip/size=64", Num: "shm-exclusive", Den: "ring-ping-pong", Note: true},
		faster("round trip 16 KiB, times faster than unix", "roundtrip/size=16384", "shm", "unix", 2),
		faster("round trip 64 KiB, times faster than unix", "roundtrip/size=65536", "shm", "unix", 1.5),
		{Text: "4-byte writes through bufio / bare uncached int ring", Workload: "bufio/size=4", Num: "shm", Den: "int-ring", AtLeast: 1.2},
	}
	for _, t := range []struct {
		ring string
		min  float64
	}{{"", 2}, {"-1MiB", 3}, {"-4MiB", 6}} {
		name := map[string]string{"": "256 KiB", "-1MiB": "1 MiB", "-4MiB": "4 MiB"}[t.ring]
		ts = append(ts,
			Target{Text: "64 KiB stream / unix, ring " + name, Workload: "stream/size=65536", Num: "shm" + t.ring, Den: "unix", AtLeast: t.min},
			Target{Text: "64 KiB stream / bare memcpy, ring " + name, Workload: "stream/size=65536", Num: "shm" + t.ring, Den: "memcpy" + t.ring, AtLeast: 0.8})
	}
	ts = append(ts,
		Target{Text: "64-byte messages in place, by CommitReserve and PeekAtLeast / by Write and Read", Workload: "zerocopy/size=64", Num: "shm-inplace", Den: "shm", AtLeast: 1},
		Target{Text: "  the same by Reserve, Commit, Peek and Discard", Workload: "zerocopy/size=64", Num: "shm-zerocopy", Den: "shm", Note: true},
		Target{Text: "  the same by a Producer and a Consumer", Workload: "zerocopy/size=64", Num: "shm-exclusive-zerocopy", Den: "shm", AtLeast: 1.5},
		Target{Text: "round trip after 5 ms idle, p50 / unix", Workload: "pause/ms=5", Num: "shm", Den: "unix", AtMost: 1},
		Target{Text: "CPU per message at 1,000/s / unix", Workload: "rate/hz=1000", Num: "shm", Den: "unix", AtMost: 1.2},
		Target{Text: "  the same without what pacing costs", Workload: "rate/hz=1000", Num: "shm", Den: "unix", Less: "pacing", Note: true},
		Target{Text: "500 idle connections, cores", Workload: "idle/conns=500", Num: "shm", AtMost: 0.02},
		Target{Text: "1 echo connection, msg/s / unix", Workload: "echo/conns=1", Num: "shm", Den: "unix", AtLeast: 3},
		Target{Text: "8 echo connections, msg/s / unix", Workload: "echo/conns=8", Num: "shm", Den: "unix", AtLeast: 3},
		Target{Text: "64 echo connections, msg/s / unix", Workload: "echo/conns=64", Num: "shm", Den: "unix", AtLeast: 3},
		Target{Text: "512 echo connections, msg/s / unix", Workload: "echo/conns=512", Num: "shm", Den: "unix", AtLeast: 3},
		faster("both processes on one core, times faster than unix", "onecore", "shm", "unix", 1),
		Target{Text: "dial, accept, a byte each way, close / unix", Workload: "dial-byte", Num: "shm", Den: "unix", AtMost: 1},
		Target{Text: "dial, accept, close / unix, ring 256 KiB", Workload: "dial", Num: "shm", Den: "unix", AtMost: 1},
		faster("HTTP, a connection a request, times faster than unix", "http", "shm", "unix", 1),
		Target{Text: "dial, accept, close / unix, ring 64 KiB", Workload: "dial", Num: "shm-64KiB", Den: "unix", AtMost: 1},
		Target{Text: "round trip, parked on both ends / unix", Workload: "parked", Num: "shm-parked", Den: "unix", AtMost: 0.7},
		Target{Text: "TCP p50 next to 4 polling connections / alone", Workload: "beside", Num: "beside", Den: "alone", AtMost: 3},
		Target{Text: "  the same, polling in both processes", Workload: "beside", Num: "beside-both", Den: "alone", Note: true},
		Target{Text: "allocations per Read or Write", Workload: "allocs", Num: "shm", Zero: true},
		Target{Text: "allocations per Read or Write, parked", Workload: "allocs", Num: "shm-parked", Zero: true},
	)
	return append(ts, sceneTargets()...)
}

// A TargetResult is what came of a Target.
type TargetResult struct {
	Text     string    `json:"text"`
	Workload string    `json:"workload"`
	Want     string    `json:"want"`   // "", where it is for information
	Status   string    `json:"status"` // "pass", "miss", "info", "not measured"
	Got      Summary   `json:"got"`
	Rounds   []float64 `json:"rounds,omitempty"`
}

// judge compares what was measured with a target.
func (t Target) judge(r *Report) TargetResult {
	res := TargetResult{Text: t.Text, Workload: t.Workload, Want: t.want(), Status: "not measured"}
	w := r.Workload(t.Workload)
	if w == nil {
		return res
	}
	num, den := w.figures(t.Num, t.Figure), w.figures(t.Den, t.Figure)
	if t.Less != "" {
		less := w.figures(t.Less, t.Figure)
		num, den = minus(num, less), minus(den, less)
	}
	res.Rounds = num
	if t.Den != "" {
		res.Rounds = Ratios(num, den)
	}
	if len(res.Rounds) == 0 {
		return res
	}
	if t.Best {
		res.Rounds = best(res.Rounds)
	}
	if t.Scale != 0 {
		for i := range res.Rounds {
			res.Rounds[i] *= t.Scale
		}
	}
	res.Got = Summarize(res.Rounds)
	switch got := res.Got.Median; {
	case t.Note:
		res.Status = "info"
	case t.AtLeast != 0 && got < t.AtLeast, t.AtMost != 0 && got > t.AtMost, t.Zero && got > background:
		res.Status = "miss"
	default:
		res.Status = "pass"
	}
	return res
}

func (t Target) want() string {
	switch {
	case t.Note:
		return ""
	case t.Zero:
		return "0"
	case t.AtLeast != 0:
		return ">= " + bound(t.AtLeast)
	}
	return "<= " + bound(t.AtMost)
}

// bound writes a bound as a human has: 45 and not 45.0.
func bound(v float64) string {
	if v >= 1e6 {
		return Number(v)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// minus returns a[i]-b[i] for each round i that both have finished.
func minus(a, b []float64) []float64 {
	d := make([]float64, min(len(a), len(b)))
	for i := range d {
		d[i] = a[i] - b[i]
	}
	return d
}
