// Package cli is the command line of package bench.
package cli

import (
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

	"shmconn/internal/bench"
	"shmconn/internal/bench/report"
)

// A Command is a bench with workloads of its own. The zero Command has those of
// package bench.
type Command struct {
	Name      string // for messages and help; "": "shmconn bench"
	Workloads []bench.Workload
	Targets   []bench.Target
}

// quickRounds and quickSlice are what -quick stands for.
const (
	quickRounds = 3
	quickSlice  = 20 * time.Millisecond
)

type flags struct {
	run, nets  string
	rounds     int
	slice      time.Duration
	quick      bool
	list       bool
	targets    bool
	peer       string
	json, html string
}

// Flags returns the flags of the command, for what describes it elsewhere.
func Flags() *flag.FlagSet { return new(Command).flagSet(new(flags), io.Discard) }

func (c *Command) parse(args []string, out io.Writer) (f flags, err error) {
	fs := c.flagSet(&f, out)
	if err := fs.Parse(args); err != nil {
		return f, err
	}
	return f, f.check(fs.Args())
}

// flagSet returns the flags, which set f.
func (c *Command) flagSet(f *flags, out io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&f.run, "run", "", "measure only workloads whose name matches `REGEXP`")
	fs.StringVar(&f.nets, "nets", "", "measure only contenders whose name matches `REGEXP`; unix is what ratios go by")
	fs.IntVar(&f.rounds, "rounds", 0, fmt.Sprintf("do `N` rounds (default %d)", bench.DefaultRounds))
	fs.DurationVar(&f.slice, "slice", 0, "let each slice be `D` long, instead of 40ms to 200ms by workload (some need at least 50ms or 100ms, and have that)")
	fs.BoolVar(&f.quick, "quick", false, fmt.Sprintf("%d rounds of slices of %v: to see that it works, not to believe", quickRounds, quickSlice))
	fs.BoolVar(&f.list, "list", false, "list workloads and their contenders, and measure nothing")
	fs.BoolVar(&f.targets, "targets", false, "measure only what the project's targets need")
	fs.StringVar(&f.peer, "peer", "process", "where the two ends are, a `kind`: process or goroutine")
	fs.StringVar(&f.json, "json", "", "write everything, every round too, to `FILE`")
	fs.StringVar(&f.html, "html", "", "write a page with charts to `FILE`")
	fs.Usage = func() {
		fmt.Fprintf(out, "usage: %s [flags]\n\nMeasures connections over shared memory beside their rivals and the limits of\nthe machine, in interleaved rounds.\n\n", c.Name)
		fs.PrintDefaults()
		fmt.Fprintf(out, "\nExample: the round trips alone, with charts.\n\n  %s -run roundtrip -html roundtrip.html\n", c.Name)
	}
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
	}
	return nil
}

func (c *Command) options(f flags) (o bench.Options, err error) {
	o = bench.Options{
		Workloads: c.Workloads, Targets: c.Targets,
		Rounds: f.rounds, Slice: f.slice, Goroutine: f.peer == "goroutine",
	}
	if f.quick {
		if o.Rounds == 0 {
			o.Rounds = quickRounds
		}
		if o.Slice == 0 {
			o.Slice = quickSlice
		}
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
		o.Workloads = targeted(o.Workloads, o.Targets)
	}
	if len(bench.Selected(o)) == 0 {
		return o, errors.New("no workload is left by -run and -nets (-list shows what there is)")
	}
	return o, nil
}

// targeted returns the workloads that targets are about, and of their contenders
// those.
func targeted(ws []bench.Workload, ts []bench.Target) (out []bench.Workload) {
	for _, w := range ws {
		need := map[string]bool{}
		for _, t := range ts {
			if t.Workload == w.Name {
				need[t.Num], need[t.Den], need[t.Less] = true, true, true
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

// Main runs the command and returns the exit status: 0, 1 if something failed, 2
// if it was told something that makes no sense.
func (c *Command) Main(args []string, stdout, stderr io.Writer) int {
	if c.Name == "" {
		c.Name = "shmconn bench"
	}
	if c.Workloads == nil {
		c.Workloads = bench.Workloads()
	}
	if c.Targets == nil {
		c.Targets = bench.Targets()
	}
	f, err := c.parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	var o bench.Options
	if err == nil {
		o, err = c.options(f)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", c.Name, err)
		return 2
	}
	if f.list {
		list(stdout, o)
		return 0
	}
	if err := c.measure(args, f, o, stdout, stderr); err != nil {
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
		fmt.Fprintf(w, "%-20s %s\n", wl.Name, strings.Join(names, " "))
	}
}

// measure runs the bench and writes what it says.
func (c *Command) measure(args []string, f flags, o bench.Options, stdout, stderr io.Writer) error {
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
	bar := newBar(stderr)
	o.Slices, o.Progress = bar.start, bar.step
	failed := 0
	o.Finished = func(w *bench.WorkloadResult) {
		bar.clear()
		report.Workload(stdout, w)
		for _, c := range w.Contenders {
			if c.Error != "" {
				failed++
			}
		}
	}
	r, err := bench.Run(ctx, o)
	bar.finish()
	if r == nil || len(r.Workloads) == 0 {
		return err
	}
	r.Command = append([]string{c.Name}, args...)
	report.Targets(stdout, r.Targets)
	fmt.Fprintln(stdout)
	report.Header(stdout, r)
	if f.json != "" {
		err = errors.Join(err, r.WriteJSON(files[f.json]), files[f.json].Close())
	}
	if f.html != "" {
		err = errors.Join(err, report.HTML(files[f.html], r), files[f.html].Close())
	}
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d measurements failed, see above", failed))
	}
	return err
}
