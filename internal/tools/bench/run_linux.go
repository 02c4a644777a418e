package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// run measures the workloads into r.
func run(ctx context.Context, o Options, ws []Workload, r *Report) (err error) {
	// Names in a directory of this run's own are gone with it, whatever happens.
	dir, err := makeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, w := range ws {
		if err := ctx.Err(); err != nil {
			return err
		}
		res, err := o.workload(ctx, dir, w)
		if err != nil {
			return err
		}
		r.Workloads = append(r.Workloads, *res)
		if o.Finished != nil {
			o.Finished(&r.Workloads[len(r.Workloads)-1])
		}
	}
	return ctx.Err()
}

// entry is a contender with its processes.
type entry struct {
	*ContenderResult
	env   environment
	pairs []*pair
	hist  *hdrhistogram.Histogram // of all rounds
	used  time.Duration           // processor time of those that are gone
}

// fail drops a contender from the rounds to come.
func (e *entry) fail(err error) {
	e.Error = err.Error()
	for _, p := range e.pairs {
		p.kill()
		e.used += p.used()
	}
	e.pairs = nil
}

// workload measures one workload. Its error is not a contender's.
func (o *Options) workload(ctx context.Context, dir string, w Workload) (*WorkloadResult, error) {
	res := &WorkloadResult{
		Name: w.Name, Title: w.Title, Metric: w.Metric.Name, Unit: w.Metric.Unit, Higher: w.Metric.Higher,
		Baseline: w.Baseline, SliceNS: int64(w.Slice), Skipped: w.skip(o),
	}
	if res.Skipped != "" {
		return res, nil
	}
	env := environment{dir: dir, gomaxprocs: w.MaxProcs, pinned: w.Pinned}
	if n := w.processors(); n > 0 {
		cpus, err := allowed()
		if err != nil {
			return nil, err
		}
		env.cpus = cpus[:min(n, len(cpus))]
	}
	before := readBusy()
	res.Contenders = make([]ContenderResult, len(w.Contenders))
	entries := make([]*entry, len(w.Contenders))
	defer func() {
		for _, e := range entries {
			e.close()
		}
	}()
	for i, c := range w.Contenders {
		res.Contenders[i] = ContenderResult{Name: c.Name, Limit: c.Limit, Spec: c.Spec, Rounds: []Round{}}
		env.program = c.Program
		entries[i] = &entry{ContenderResult: &res.Contenders[i], env: env, hist: newHist()}
		entries[i].open(w, o.Goroutine)
	}
	neighbours, err := w.Neighbours.start(env)
	if err != nil {
		return nil, err
	}
	// The first round is to get warm and is not counted.
	for round := -1; round < o.Rounds && ctx.Err() == nil; round++ {
		if o.Reopen > 0 && round > 0 && round%o.Reopen == 0 {
			for _, e := range entries {
				e.reopen(w, o.Goroutine)
			}
			warm := *o
			warm.Progress = nil
			warm.round(ctx, w, entries, -1)
		}
		o.round(ctx, w, entries, round)
	}
	used, err := neighbours.stop()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		e.close()
		used += e.used
	}
	res.Others = before.others(used)
	for _, e := range entries {
		e.Latency = latency(e.hist, true)
	}
	res.summarize()
	return res, nil
}

// round measures a slice of each contender. Round -1 is not counted.
func (o *Options) round(ctx context.Context, w Workload, entries []*entry, round int) {
	q := quota{D: w.Slice}
	if round < 0 {
		q.D /= 2
	}
	if o.Reopen > 0 && round%2 == 1 {
		entries = slices.Clone(entries)
		slices.Reverse(entries)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		if e.Error == "" {
			v, err := e.slice(q, o.Goroutine)
			if err != nil {
				e.fail(fmt.Errorf("round %d: %w", round+1, err))
			} else if round >= 0 {
				h := mergeHists(v)
				e.hist.Merge(h)
				e.Rounds = append(e.Rounds, newRound(w, v, h))
			}
		}
		if o.Progress != nil {
			o.Progress(w.Name, e.Name, 1)
		}
	}
}

// processors returns how many processors all processes share, 0 for those there
// are.
func (w Workload) processors() int {
	switch {
	case w.OneCore:
		return 1
	case w.TwoCores, w.Pinned:
		return 2
	}
	return 0
}

// allowed returns the processors that this process may use.
func allowed() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for i := range 8 * 1024 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// open starts the processes of e.
func (e *entry) open(w Workload, oneProcess bool) {
	for range w.pairs() {
		p, err := e.env.open(e.Spec, oneProcess)
		if err != nil {
			e.fail(err)
			return
		}
		e.pairs = append(e.pairs, p)
	}
}

// reopen gives e new processes.
func (e *entry) reopen(w Workload, oneProcess bool) {
	if e.close(); e.Error == "" {
		e.open(w, oneProcess)
	}
}

// close ends the processes of e, and has an error of theirs reported.
func (e *entry) close() {
	if e == nil {
		return
	}
	for _, p := range e.pairs {
		if err := p.close(); err != nil && e.Error == "" {
			e.Error = fmt.Sprintf("at the end: %v", err)
		}
		e.used += p.used()
	}
	e.pairs = nil
}

// slice runs all pairs at once.
func (e *entry) slice(q quota, oneProcess bool) ([]sample, error) {
	v, errs := make([]sample, len(e.pairs)), make([]error, len(e.pairs))
	var wg sync.WaitGroup
	for i, p := range e.pairs {
		wg.Go(func() {
			v[i], errs[i] = p.slice(q)
			if oneProcess {
				v[i].server.CPU, v[i].server.Mallocs, v[i].helpers = 0, 0, nil // in the client's already
			}
		})
	}
	wg.Wait()
	return v, errors.Join(errs...)
}
