//go:build linux

// Command compare calls the services of package services, each in another
// process, over shared memory and over a Unix socket, in rounds that alternate
// between the two, and prints requests per second and p99 of both, and the
// ratio that each round has of the requests per second.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"shmconn/interop/services"
)

func main() {
	services.Main() // does not return in the processes that are started
	work()          // likewise
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	rounds  int
	time    time.Duration
	size    int
	clients int
	poll    time.Duration
	beside  int
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	only := flags.String("run", "", "only the services that this `regexp` matches")
	flags.IntVar(&o.rounds, "rounds", 15, "how many `rounds`")
	flags.DurationVar(&o.time, "time", 200*time.Millisecond, "how long each network is measured in a round")
	flags.IntVar(&o.size, "size", 128, "`bytes` in a request and in its reply")
	flags.IntVar(&o.clients, "clients", 1, "how many call at the same time, each over a connection of its own")
	flags.DurationVar(&o.poll, "poll", 0, "BusyPoll of shm, at both ends; 0 is the default")
	flags.IntVar(&o.beside, "beside", 0, "how many other `processes` work all the time meanwhile")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if flags.NArg() > 0 || o.rounds < 1 || o.time <= 0 || o.size < 1 || o.clients < 1 || o.beside < 0 {
		return errors.New("no arguments are taken, and every number has to be positive")
	}
	for range o.beside {
		stop, err := startWork()
		if err != nil {
			return err
		}
		defer stop()
	}
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(stdout, "%d rounds of %v, %d bytes each way, clients: %d, beside: %d\n", o.rounds, o.time, o.size, o.clients, o.beside)
	fmt.Fprintf(stdout, "%-10s %10s %10s %10s %10s   %s\n", "", "shm req/s", "unix req/s", "shm p99", "unix p99", "ratio: median [quartiles]  of each round")
	for _, s := range services.All {
		if !match.MatchString(s.Name) {
			continue
		}
		row, err := compare(ctx, s, dir, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		fmt.Fprintln(stdout, row)
	}
	return nil
}

const workEnv = "SHMCONN_COMPARE_WORK"

// work keeps a processor busy until standard input ends, in a process that
// startWork has started.
func work() {
	if os.Getenv(workEnv) == "" {
		return
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for n := 0; ; n++ {
	}
}

// startWork starts a process that works until stop.
func startWork() (stop func(), err error) {
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), workEnv+"=1", "GOMAXPROCS=1")
	input, err := worker.StdinPipe() // which ends with this process, whatever ends that
	if err != nil {
		return nil, err
	}
	if err := worker.Start(); err != nil {
		return nil, err
	}
	return func() { input.Close(); worker.Wait() }, nil
}

// A side is a service over one network.
type side struct {
	clients []services.Client
	stop    func() error

	rates []float64       // of each round
	took  []time.Duration // of all calls
}

// open starts the service and its clients.
func open(ctx context.Context, s services.Service, network, dir string, o options) (*side, error) {
	net := services.Network{Name: network, BusyPoll: o.poll}
	stop, err := s.Start(ctx, net, dir, network)
	if err != nil {
		return nil, err
	}
	d := &side{stop: stop}
	for range o.clients {
		c, err := s.NewClient(net.Dial(dir, network))
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.clients = append(d.clients, c)
	}
	return d, nil
}

func (d *side) close() (err error) {
	for _, c := range d.clients {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, d.stop())
}

// round has all clients call until the time has passed, and returns how often
// they did.
func (d *side) round(limit time.Duration, request []byte) (took []time.Duration, elapsed time.Duration, err error) {
	var mu sync.Mutex // guards took and err
	var wg sync.WaitGroup
	start := time.Now()
	for _, c := range d.clients {
		wg.Go(func() {
			var mine []time.Duration
			var failed error
			for begin := start; begin.Sub(start) < limit && failed == nil; {
				reply, err := c.Call(request)
				end := time.Now()
				if failed = err; err == nil && !bytes.Equal(reply, request) {
					failed = errors.New("the reply is not the request")
				}
				mine = append(mine, end.Sub(begin))
				begin = end
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			err = errors.Join(err, failed)
		})
	}
	wg.Wait()
	return took, time.Since(start), err
}

// compare measures s over both networks and returns its row of the table.
func compare(ctx context.Context, s services.Service, dir string, o options) (row string, err error) {
	var sides [2]*side
	for i, network := range []string{"shm", "unix"} {
		d, err := open(ctx, s, network, dir, o)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, d.close()) }()
		sides[i] = d
	}
	request := bytes.Repeat([]byte("shm "), o.size/4+1)[:o.size]
	var ratios []float64
	for round := range o.rounds + 1 { // the first is to warm up
		for i := range sides {
			d := sides[(i+round)%2] // neither is always the first
			took, elapsed, err := d.round(o.time, request)
			if err != nil {
				return "", err
			}
			if err := ctx.Err(); err != nil {
				return "", err
			}
			if round > 0 {
				d.took = append(d.took, took...)
				d.rates = append(d.rates, float64(len(took))/elapsed.Seconds())
			}
		}
		if round > 0 {
			ratios = append(ratios, sides[0].rates[round-1]/sides[1].rates[round-1])
		}
	}
	var each []string
	for _, r := range ratios {
		each = append(each, fmt.Sprintf("%.2f", r))
	}
	return fmt.Sprintf("%-10s %10.0f %10.0f %10v %10v   %.2f [%.2f %.2f]  %s", s.Name,
		quantile(sides[0].rates, 0.5), quantile(sides[1].rates, 0.5),
		quantile(sides[0].took, 0.99).Round(time.Microsecond), quantile(sides[1].took, 0.99).Round(time.Microsecond),
		quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75), strings.Join(each, " ")), nil
}

// quantile returns the value that a part q of v is not above.
func quantile[T float64 | time.Duration](v []T, q float64) T {
	v = slices.Sorted(slices.Values(v))
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
