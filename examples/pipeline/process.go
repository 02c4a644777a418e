package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

// The command starts its processes by running itself again with a role as its
// only argument. A process reads its job from stdin, as JSON, and writes
// reports to stdout. It stops when stdin ends, and so does not outlive the
// command, however that ended.

// A job is what a process is to do.
type job struct {
	Role       string
	Transport  transport.Transport
	Name       string // to listen on, for the feed handler and the order gateway
	Strategies int    // how many will dial

	// Feed handler.
	Quotes []market.Quote
	Loops  int
	Rate   int

	// Order gateway.
	Orders string // file to write the orders to, or ""

	// Strategy.
	Strategy int // number, from 0
	Symbols  []market.Symbol
	Feed     string // address to dial
	Gateway  string // address to dial
}

// A report is what a process has to say.
type report struct {
	Address string  // feed handler, order gateway: listens there
	Fed     int64   // feed handler: prices sent so far
	Began   int64   // feed handler, at the end: when it began to send, by market.Now()
	Result  *result // order gateway, at the end
}

const (
	roleFeed     = "feed-handler"
	roleStrategy = "strategy"
	roleGateway  = "order-gateway"
)

var roles = map[string]func(ctx context.Context, j job, tell func(report)) error{
	roleFeed:     runFeed,
	roleStrategy: runStrategy,
	roleGateway:  runGateway,
}

// runRole does the job on stdin. It returns nil when it was told to stop.
func runRole(role string, stdin io.Reader, stdout io.Writer) error {
	// Ctrl-C in a terminal reaches all processes; the command tells the others.
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
	var j job
	if err := json.NewDecoder(stdin).Decode(&j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		io.Copy(io.Discard, stdin)
		cancel()
	}()
	out := json.NewEncoder(stdout)
	err := roles[role](ctx, j, func(r report) { out.Encode(r) }) // if it fails, stdin will end as well
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stopDelay is how long a process may take to stop before it is killed.
const stopDelay = 5 * time.Second

// A crew is the processes of one run. When one of them fails, all are stopped.
type crew struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

func newCrew(ctx context.Context) *crew {
	ctx, cancel := context.WithCancel(ctx)
	return &crew{ctx: ctx, cancel: cancel}
}

// A process is one of a crew.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stdout  io.Reader
	stderr  bytes.Buffer
	address chan string // receives where it listens
}

// start starts a process and gives it its job. Its reports go to handle, which
// may be nil, on a goroutine of the process; the last before wait returns.
func (c *crew) start(name string, j job, handle func(report)) *process {
	p := &process{name: name, address: make(chan string, 1)}
	if err := p.start(c.ctx, j.Role); err != nil {
		c.fail(fmt.Errorf("%s: %w", name, err))
		return p
	}
	c.running.Go(func() {
		// A job that cannot be handed over is a process that has ended; what
		// follows says why.
		json.NewEncoder(p.stdin).Encode(j)
		p.receive(handle)
		if err := p.wait(); err != nil {
			c.fail(err)
		}
	})
	return p
}

func (p *process) start(ctx context.Context, role string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.CommandContext(ctx, exe, role)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return err
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.Cancel = p.stdin.Close // which tells it to stop
	p.cmd.WaitDelay = stopDelay
	return p.cmd.Start()
}

// receive passes on the reports of the process until it has ended.
func (p *process) receive(handle func(report)) {
	for in := json.NewDecoder(p.stdout); ; {
		var r report
		if in.Decode(&r) != nil {
			return
		}
		if r.Address != "" {
			p.address <- r.Address
		} else if handle != nil {
			handle(r)
		}
	}
}

// wait waits for the process to end. Its error has what it wrote to stderr.
func (p *process) wait() error {
	err := p.cmd.Wait()
	switch message := bytes.TrimSpace(p.stderr.Bytes()); {
	case err == nil, errors.Is(err, context.Canceled):
		return nil
	case len(message) > 0:
		return fmt.Errorf("%s: %s (%w)", p.name, message, err)
	default:
		return fmt.Errorf("%s: %w", p.name, err)
	}
}

// listening waits until p listens, and returns its address, or "" if c was
// stopped before that.
func (c *crew) listening(p *process) string {
	select {
	case address := <-p.address:
		return address
	case <-c.ctx.Done():
		return ""
	}
}

// pid returns the process ID of p, or 0 if it could not be started.
func (p *process) pid() int {
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// fail notes that a process has failed, and stops the others. That it was
// stopped is no failure.
func (c *crew) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		c.errs = append(c.errs, err)
	}
	c.cancel()
}

// wait waits for all processes to end, and returns what has failed.
func (c *crew) wait() error {
	c.running.Wait()
	c.cancel()
	return errors.Join(c.errs...)
}
