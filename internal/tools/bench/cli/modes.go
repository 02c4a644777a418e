package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"shmconn/internal/tools/bench"
	"shmconn/internal/tools/bench/report"
)

// reopen is how many rounds -against has with the same processes. One pair can
// be faster than another of the same program all its life.
const reopen = 3

// against measures the working tree's library and that of a commit in the same
// rounds. Its error says that a row has fallen.
func against(ctx context.Context, f flags, o bench.Options, stdout, stderr io.Writer) (*bench.Report, error) {
	p, err := bench.Build(ctx, f.against)
	if err != nil {
		return nil, fmt.Errorf("-against: %w", err)
	}
	defer p.Remove()
	o.Workloads = bench.Against(bench.Without(bench.Selected(o), p.Lacks), p.New, p.Old, f.nets != "")
	o.Run, o.Nets, o.Reopen = nil, nil, reopen // the first two have been heeded
	if len(o.Workloads) == 0 {
		return nil, errors.New("-against: none of the workloads that -run and -nets leave has a shmconn connection")
	}
	fmt.Fprintf(stdout, "old is commit %s, new is the working tree\n", p.Commit)
	if len(p.Lacks) > 0 {
		fmt.Fprintf(stdout, "left out, because old does not have them: %s\n", strings.Join(p.Lacks, ", "))
	}
	var rows []bench.Comparison
	r, failed, err := measure(ctx, o, stderr, func(w *bench.WorkloadResult) {
		report.Workload(stdout, width(stdout), w)
		rows = append(rows, bench.Compare(w))
	})
	report.Comparisons(stdout, rows)
	var fallen []string
	for _, c := range rows {
		if c.Fell {
			fallen = append(fallen, c.Row)
		}
	}
	err = errors.Join(err, failures(failed))
	if len(fallen) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d rows have fallen: %s", len(fallen), len(rows), strings.Join(fallen, ", ")))
	}
	return r, err
}

// How -floors measures, where the flags do not say it.
const (
	floorRounds = 7
	floorSlice  = 20 * time.Millisecond
	floorLimit  = 85 * time.Second // for everything
)

// floors measures every row against a Unix socket. Its error says that some are
// below their floor.
func floors(ctx context.Context, o bench.Options, stdout, stderr io.Writer) (*bench.Report, error) {
	want, err := bench.Floors()
	if err != nil {
		return nil, err
	}
	floor := map[string]bench.Floor{}
	for _, x := range want {
		floor[x.Row] = x
	}
	var rows []*bench.FloorResult
	of := map[string]*bench.FloorResult{}
	o.Workloads, o.Run = bench.FloorRows(bench.Selected(o)), nil
	if len(o.Workloads) == 0 {
		return nil, errors.New("-floors: none of the workloads that -run leaves has a Unix socket to compare with")
	}
	for _, w := range o.Workloads {
		row := &bench.FloorResult{Floor: floor[w.Name]}
		row.Row = w.Name
		rows, of[w.Name] = append(rows, row), row
	}
	limited, cancel := context.WithTimeout(ctx, floorLimit)
	defer cancel()
	var last *bench.Report
	for try := 0; try < bench.MaxTries && len(o.Workloads) > 0; try++ {
		r, _, err := measure(limited, o, stderr, func(w *bench.WorkloadResult) {
			if limited.Err() == nil { // else its rounds are not complete
				of[w.Name].Add(w, runtime.NumCPU())
			}
		})
		if last == nil {
			last = r
		} else if r != nil {
			last.Workloads = append(last.Workloads, r.Workloads...)
		}
		if ctx.Err() != nil || err != nil && limited.Err() == nil {
			return last, err
		}
		var again []bench.Workload
		for _, w := range o.Workloads {
			if s := of[w.Name].Status(); s == bench.Below || s == bench.Disturbed {
				again = append(again, w)
			}
		}
		o.Workloads = again
	}
	report.Floors(stdout, rows)
	return last, judgeFloors(rows)
}

// judgeFloors returns an error if rows are below their floors, though nobody
// disturbed them, or have failed, or if time was too short to measure them.
func judgeFloors(rows []*bench.FloorResult) error {
	by := map[string][]string{}
	disturbed := 0
	for _, row := range rows {
		by[row.Status()] = append(by[row.Status()], row.Row)
		if row.Disturbed > 0 {
			disturbed++
		}
	}
	var errs []error
	for _, s := range []struct{ status, text string }{
		{bench.Failed, "failed"}, {bench.Below, "below their floors"}, {bench.Unmeasured, fmt.Sprintf("not measured within %v", floorLimit)},
	} {
		names := by[s.status]
		if s.status == bench.Unmeasured && 2*disturbed > len(rows)-len(names) {
			continue // others had taken the time
		}
		if len(names) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", s.text, strings.Join(names, ", ")))
		}
	}
	return errors.Join(errs...)
}

// writeFloors measures every row once, thoroughly, and writes the floors anew.
func writeFloors(ctx context.Context, o bench.Options, stdout, stderr io.Writer) (*bench.Report, error) {
	root, err := bench.Checkout(ctx)
	if err != nil {
		return nil, fmt.Errorf("-floors -write: %w", err)
	}
	o.Workloads = bench.FloorRows(bench.Selected(o))
	var fs []bench.Floor
	r, failed, err := measure(ctx, o, stderr, func(w *bench.WorkloadResult) {
		report.Workload(stdout, width(stdout), w)
		fs = append(fs, bench.NewFloor(w.Name, w.Contenders[0].Better.Q1))
	})
	if err = errors.Join(err, failures(failed)); err != nil {
		return r, err
	}
	commit, err := bench.HeadOf(ctx, root)
	if err != nil {
		return r, err
	}
	name := filepath.Join(root, filepath.FromSlash(bench.FloorsFile))
	file, err := os.Create(name)
	if err != nil {
		return r, err
	}
	head := fmt.Sprintf("Commit %s, %s, %s.", commit, r.Started.Format(time.DateOnly), r.Machine.CPU)
	if err := errors.Join(bench.WriteFloors(file, head, fs), file.Close()); err != nil {
		return r, err
	}
	fmt.Fprintf(stdout, "\nwrote %s\n", name)
	return r, nil
}
