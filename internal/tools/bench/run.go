package bench

import (
	"context"
	"regexp"
	"runtime"
	"time"
)

// Options say what [Run] measures and how long.
type Options struct {
	Workloads []Workload // nil: all
	Targets   []Target   // that the report judges; nil: none

	Run  *regexp.Regexp // workloads, by name; nil: all of them
	Nets *regexp.Regexp // contenders, by name; nil: all of them

	Rounds    int           // 0: DefaultRounds
	Slice     time.Duration // 0: as long as each workload says; never below its MinSlice
	Goroutine bool          // both ends in one process

	// Reopen is after how many rounds all contenders get new processes, in which
	// luck is new, too: where memory is, on which processors they settle. Every
	// other round then goes backwards through the contenders. 0: never.
	Reopen int

	// Each of these is nil or is called from Run's goroutine.
	Slices   func(n int)                       // how many slices there are, at most
	Progress func(workload, net string, n int) // n slices are done or dropped
	Finished func(*WorkloadResult)             // after each workload
}

// DefaultRounds is how many rounds there are where [Options.Rounds] is 0.
const DefaultRounds = 15

// Selected returns the workloads that [Run] measures with these options, with
// the contenders that take part.
func Selected(o Options) (ws []Workload) {
	all := o.Workloads
	if all == nil {
		all = Workloads()
	}
	for _, w := range all {
		if o.Run != nil && !o.Run.MatchString(w.Name) {
			continue
		}
		var cs []Contender
		for _, c := range w.Contenders {
			if o.Nets == nil || o.Nets.MatchString(c.Name) {
				cs = append(cs, c)
			}
		}
		if w.Contenders = cs; len(cs) == 0 {
			continue
		}
		if o.Slice > 0 {
			w.Slice = max(o.Slice, w.MinSlice)
		}
		ws = append(ws, w)
	}
	return ws
}

// skip says why a workload cannot be run here, or "".
func (w Workload) skip(o *Options) string {
	switch {
	case o.Goroutine && (w.OneCore || w.TwoCores || w.Pinned):
		return "it is about processes, and -peer=goroutine has one"
	case (w.TwoCores || w.Pinned) && runtime.NumCPU() < 2:
		return "it needs two processors"
	}
	return ""
}

// Run measures. When ctx ends it stops after the slice that is being measured
// and returns what there is so far, with the error of ctx. A contender that
// fails is reported as such, and the others go on.
//
// It needs [Main] to be called when this program starts.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Rounds == 0 {
		o.Rounds = DefaultRounds
	}
	r := &Report{Machine: machine(), Started: time.Now().UTC().Truncate(time.Second), Rounds: o.Rounds, Peer: "process"}
	if o.Goroutine {
		r.Peer = "goroutine"
	}
	ws := Selected(o)
	if o.Slices != nil {
		n := 0
		for _, w := range ws {
			if w.skip(&o) == "" {
				n += len(w.Contenders) * (o.Rounds + 1)
			}
		}
		o.Slices(n)
	}
	err := run(ctx, o, ws, r)
	for _, t := range o.Targets {
		if res := t.judge(r); res.Status != "not measured" || o.Run == nil {
			r.Targets = append(r.Targets, res)
		}
	}
	return r, err
}
