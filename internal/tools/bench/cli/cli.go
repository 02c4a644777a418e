// Package cli is the command line of package bench.
package cli

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"shmconn/internal/tools/bench"
	"shmconn/internal/tools/bench/report"
	"shmconn/internal/version"
)

// A Command is a bench with workloads of its own. The zero Command has those of
// package bench.
type Command struct {
	Name      string // for messages and help; "": "shmconn bench"
	Workloads []bench.Workload
	Targets   []bench.Target

	own bool // Workloads were given
}

// quickRounds and quickSlice are what -quick stands for.
const (
	quickRounds = 3
	quickSlice  = 20 * time.Millisecond
)

// developer begins the text of a flag that users of shmconn have no need of.
const developer = "for developers of shmconn: "

type flags struct {
	run, nets  string
	rounds     int
	slice      time.Duration
	quick      bool
	list       bool
	targets    bool
	against    string
	floors     bool
	write      bool
	peer       string
	json, html string
}

// Flags returns the flags of the command, for what describes it elsewhere.
func Flags() *flag.FlagSet { return new(Command).flagSet(new(flags)) }

func (c *Command) parse(args []string) (f flags, err error) {
	fs := c.flagSet(&f)
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	return f, f.check(fs.Args())
}

// flagSet returns the flags, which set f.
func (c *Command) flagSet(f *flags) *flag.FlagSet {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // Main says what is wrong
	fs.StringVar(&f.run, "run", "", "measure only workloads whose name matches `REGEXP`")
	fs.StringVar(&f.nets, "nets", "", "measure only contenders whose name matches `REGEXP`; without unix among them there are no ratios")
	fs.IntVar(&f.rounds, "rounds", 0, fmt.Sprintf("do `N` rounds (default %d)", bench.DefaultRounds))
	fs.DurationVar(&f.slice, "slice", 0, "make each slice `D` long, instead of 40ms to 300ms depending on the workload; some workloads need 40ms to 100ms, and never get less")
	fs.BoolVar(&f.quick, "quick", false, fmt.Sprintf("%d rounds of slices of %v: enough to see that the bench works, too few to rely on the figures", quickRounds, quickSlice))
	fs.BoolVar(&f.list, "list", false, "list the workloads and their contenders without measuring")
	fs.BoolVar(&f.targets, "targets", false, developer+"measure what the project's own targets need, and report which are met")
	fs.StringVar(&f.against, "against", "", developer+"measure the working tree and the commit `REF` in the same rounds; fail if a row has fallen by more than a tenth, even at its upper quartile; contenders that differ only in ring size or BusyPoll take part only if --nets names them")
	fs.BoolVar(&f.floors, "floors", false, developer+"compare every row with a Unix socket, in at most 90 s; fail if a row is below its floor three times, unless other processes used more than a tenth of the processors")
	fs.BoolVar(&f.write, "write", false, developer+"with --floors, rewrite the floors, as half of what is measured, but at least 0.7")
	fs.StringVar(&f.peer, "peer", "process", "run the two ends in two processes or in one; `kind` is process or goroutine")
	fs.StringVar(&f.json, "json", "", "write all results, with every round, to `FILE` as JSON")
	fs.StringVar(&f.html, "html", "", "write a web page with charts to `FILE`")
	fs.Usage = func() {} // Main prints the help
	return fs
}

func (f *flags) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q (workloads are chosen by -run)", rest[0])
	case f.peer != "process" && f.peer != "goroutine":
		return fmt.Errorf(`-peer is %q, and must be "process" or "goroutine"`, f.peer)
	case f.rounds < 0:
		return fmt.Errorf("-rounds is %d, and must not be negative", f.rounds)
	case f.slice < 0 || f.slice > time.Minute:
		return fmt.Errorf("-slice is %v, and must be at most a minute", f.slice)
	case f.write && !f.floors:
		return errors.New("-write is for -floors")
	case f.write && f.run != "":
		return errors.New("-write is for all rows, without -run")
	case f.floors && f.nets != "":
		return errors.New("-floors has its own contenders, without -nets")
	case strings.HasPrefix(f.against, "-"):
		return fmt.Errorf("-against is %q, and must name a commit", f.against)
	}
	var modes []string
	for name, set := range map[string]bool{"-against": f.against != "", "-floors": f.floors, "-targets": f.targets} {
		if set {
			modes = append(modes, name)
		}
	}
	if len(modes) > 1 {
		slices.Sort(modes)
		return fmt.Errorf("%s: one at a time", strings.Join(modes, " and "))
	}
	return nil
}

func (c *Command) options(f flags) (o bench.Options, err error) {
	o = bench.Options{
		Workloads: c.Workloads,
		Rounds:    f.rounds, Slice: f.slice, Goroutine: f.peer == "goroutine",
	}
	switch {
	case f.quick:
		o.Rounds, o.Slice = cmp.Or(o.Rounds, quickRounds), cmp.Or(o.Slice, quickSlice)
	case f.floors && !f.write:
		o.Rounds, o.Slice = cmp.Or(o.Rounds, floorRounds), cmp.Or(o.Slice, floorSlice)
	}
	if f.run != "" {
		if o.Run, err = regexp.Compile(f.run); err != nil {
			return o, fmt.Errorf("-run: %w", err)
		}
	}
	if f.nets != "" {
		if o.Nets, err = regexp.Compile(f.nets); err != nil {
			return o, fmt.Errorf("-nets: %w", err)
		}
	}
	if f.targets {
		o.Workloads, o.Targets = targeted(o.Workloads, c.Targets), c.Targets
	}
	if c.own && (f.against != "" || f.floors) {
		return o, errors.New("-against and -floors work in shmconn bench only")
	}
	if len(bench.Selected(o)) == 0 {
		return o, errors.New("no workload is left by -run and -nets (-list shows all of them)")
	}
	return o, nil
}

// targeted returns the workloads that targets are about, and of their
// contenders those.
func targeted(ws []bench.Workload, ts []bench.Target) (out []bench.Workload) {
	for _, w := range ws {
		need := map[string]bool{}
		for _, t := range ts {
			if t.Workload == w.Name {
				need[t.Num], need[t.Den], need[t.Less] = true, true, true
				if t.Figure == bench.FigureRegret {
					need["shm-parked"], need["shm-polling"] = true, true
				}
			}
		}
		if len(need) == 0 {
			continue
		}
		need[w.Baseline] = true
		w.Contenders = slices.DeleteFunc(slices.Clone(w.Contenders), func(c bench.Contender) bool { return !need[c.Name] })
		out = append(out, w)
	}
	return out
}

// Main runs the command and returns the exit status: 0, 1 if something failed,
// 2 if it was told something that makes no sense.
func (c *Command) Main(args []string, stdout, stderr io.Writer) int {
	if c.Name == "" {
		c.Name = "shmconn bench"
	}
	if c.own = c.Workloads != nil; !c.own {
		c.Workloads = bench.Workloads()
	}
	if c.Targets == nil {
		c.Targets = bench.Targets()
	}
	f, err := c.parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, c.help())
		return 0
	}
	var o bench.Options
	if err == nil {
		o, err = c.options(f)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n  \"%s --help\" says more\n", c.Name, err, c.Name)
		return 2
	}
	if f.list {
		list(stdout, o)
		return 0
	}
	if err := c.run(args, f, o, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", c.Name, err)
		return 1
	}
	return 0
}

func list(w io.Writer, o bench.Options) {
	for _, wl := range bench.Selected(o) {
		var names []string
		for _, c := range wl.Contenders {
			names = append(names, c.Name)
		}
		fmt.Fprintf(w, "%-30s %s\n", wl.Name, strings.Join(names, " "))
	}
}

// run measures, in the way that the flags say, and writes what came of it.
func (c *Command) run(args []string, f flags, o bench.Options, stdout, stderr io.Writer) error {
	// Files are made first: it would be a pity to find out later.
	files := map[string]*os.File{}
	for _, name := range []string{f.json, f.html} {
		if name == "" {
			continue
		}
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		defer file.Close()
		files[name] = file
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var r *bench.Report
	var err error
	switch {
	case f.against != "":
		r, err = against(ctx, f, o, stdout, stderr)
	case f.write:
		r, err = writeFloors(ctx, o, stdout, stderr)
	case f.floors:
		r, err = floors(ctx, o, stdout, stderr)
	default:
		r, err = plain(ctx, o, stdout, stderr)
	}
	if r == nil || len(r.Workloads) == 0 {
		return err
	}
	r.Command = append([]string{c.Name}, args...)
	r.Machine.Version = version.Version
	r.Machine.Commit, r.Machine.Modified = version.Commit()
	fmt.Fprintln(stdout)
	report.Header(stdout, r)
	if f.json != "" {
		err = errors.Join(err, r.WriteJSON(files[f.json]), files[f.json].Close())
	}
	if f.html != "" {
		err = errors.Join(err, report.HTML(files[f.html], r), files[f.html].Close())
	}
	return err
}

// plain measures contenders against each other, and targets if there are any.
func plain(ctx context.Context, o bench.Options, stdout, stderr io.Writer) (*bench.Report, error) {
	r, failed, err := measure(ctx, o, stderr, func(w *bench.WorkloadResult) { report.Workload(stdout, width(stdout), w) })
	if r != nil {
		report.Overview(stdout, r.Workloads)
		report.Targets(stdout, r.Targets)
	}
	return r, errors.Join(err, failures(failed))
}

// measure runs the bench, with a bar that shows how far it is, and calls
// finished after each workload. It returns how many contenders have failed.
func measure(ctx context.Context, o bench.Options, stderr io.Writer, finished func(*bench.WorkloadResult)) (r *bench.Report, failed int, err error) {
	bar := newBar(stderr)
	o.Slices, o.Progress = bar.start, bar.step
	o.Finished = func(w *bench.WorkloadResult) {
		bar.clear()
		for _, c := range w.Contenders {
			if c.Error != "" {
				failed++
			}
		}
		finished(w)
	}
	r, err = bench.Run(ctx, o)
	bar.finish()
	return r, failed, err
}

// failures returns an error if there are any.
func failures(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d measurements failed, see above", n)
}
