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

// The command starts its processes by running itself again with a role as its only
// argument. A process reads its job from stdin, as JSON, and writes reports to
// stdout. It stops when stdin ends, and so does not outlive the command, however
// that ended.

// A job is what a process is to do.
type job struct {
	Role       string
	Transport  transport.Transport
	Name       string // to listen on, for the feed handler and the order gateway
	Strategies int    // all
	Away       []int  // those that are away

	// Feed handler.
	Quotes      []market.Quote
	Loops, Rate int
	Subscribers int      // the first price waits for so many
	Holds       []uint64 // before the price after so many it waits for the command

	// Order gateway.
	Orders string // file to write the orders to, or ""

	// Strategy, bridge.
	Strategy int // number, from 0
	Symbols  []market.Symbol
	Feed     string // address to dial
	Gateway  string // address to dial
	NATS     string // URL

	// Server.
	Port  int // 0: any
	Store string
}

// A report is what a process has to say.
type report struct {
	Address string  // feed handler, order gateway, server: listens there
	Session bool    // bridge, strategy that is away: there is a new session
	Prices  uint64  // feed handler: the last price that was due; strategy that is away: that it has seen; bridge, in a new session: that it goes on after
	Bridged uint64  // bridge: prices in their stream
	Orders  uint64  // strategy that is away: orders in their stream; bridge, in a new session: at the gateway
	Result  *result // order gateway, at the end
}

// reportEvery is how often processes say how far they are.
const reportEvery = 20 * time.Millisecond

// A control is what a process has of the command.
type control struct {
	tell func(report)
	goOn <-chan struct{} // receives whenever the command says so
}

// progress tells now and again what report returns, until stop is called, and then
// once more. Those that are at work have no part in it, so that it costs no latency.
func (c control) progress(report func() report) (stop func()) {
	ticker := time.NewTicker(reportEvery)
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-ticker.C:
				c.tell(report())
			case <-done:
				c.tell(report())
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-gone
	}
}

const (
	roleFeed     = "feed-handler"
	roleGateway  = "order-gateway"
	roleStrategy = "strategy-here"
	roleAway     = "strategy-away"
	roleBridge   = "bridge"
	roleServer   = "nats-server"
)

var roles = map[string]func(context.Context, job, control) error{
	roleFeed:     runFeed,
	roleGateway:  runGateway,
	roleStrategy: runStrategy,
	roleAway:     runAway,
	roleBridge:   runBridge,
	roleServer:   runServer,
}

// runRole does the job on stdin. It returns nil when it was told to stop.
func runRole(role string, stdin io.Reader, stdout io.Writer) error {
	// Ctrl-C in a terminal reaches all processes; the command tells the others.
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
	in := json.NewDecoder(stdin)
	var j job
	if err := in.Decode(&j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	goOn := make(chan struct{}, 16)
	go func() {
		defer cancel()
		for {
			var more bool
			if in.Decode(&more) != nil {
				return
			}
			goOn <- struct{}{}
		}
	}()
	var mu sync.Mutex
	out := json.NewEncoder(stdout)
	tell := func(r report) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(r) // if it fails, stdin will end as well
	}
	err := roles[role](ctx, j, control{tell, goOn})
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

	mu      sync.Mutex
	errs    []error
	stopped bool
}

func newCrew(ctx context.Context) *crew {
	ctx, cancel := context.WithCancel(ctx)
	return &crew{ctx: ctx, cancel: cancel}
}

// A member is a process of a crew, or several, one after the other.
type member struct {
	name    string
	job     job
	handle  func(report) // or nil
	again   bool         // it is started again when it was killed
	address chan string  // receives where it listens, once

	mu      sync.Mutex
	process *process
	kills   int // how often it was killed and started again
}

// start starts a process and gives it its job. Its reports go to the member's
// handle, the last before wait returns.
func (c *crew) start(m *member) *member {
	m.address = make(chan string, 1)
	p, err := m.start(c.ctx)
	if err != nil {
		c.fail(err)
		return m
	}
	c.running.Go(func() {
		for {
			p.receive(m)
			killed, err := p.wait(c.ctx)
			if err == nil {
				return
			}
			if !killed || !m.again || c.ctx.Err() != nil {
				c.fail(fmt.Errorf("%s: %w", m.name, err))
				return
			}
			if p, err = m.start(c.ctx); err != nil {
				c.fail(err)
				return
			}
			m.mu.Lock()
			m.kills++
			m.mu.Unlock()
		}
	})
	return m
}

func (m *member) start(ctx context.Context) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := startProcess(ctx, m.job)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	m.process = p
	return p, nil
}

// keepPort makes what is started again listen where the first one did.
func (m *member) keepPort(port int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.job.Port = port
}

// kill kills the member's process, and returns its id.
func (m *member) kill() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process.cmd.Process.Kill() // if it has just ended by itself there is nothing to kill
	return m.process.cmd.Process.Pid
}

// pid returns the id of the member's process, or 0 if it could not be started.
func (m *member) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return 0
	}
	return m.process.cmd.Process.Pid
}

func (m *member) killed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kills
}

// goOn tells the member's process to go on. If it cannot be told it has ended,
// which is noticed elsewhere.
func (m *member) goOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	io.WriteString(m.process.stdin, "true\n")
}

// A process is one that this command has started.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	stderr bytes.Buffer
}

func startProcess(ctx context.Context, j job) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := new(process)
	p.cmd = exec.CommandContext(ctx, exe, j.Role)
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stderr = &p.stderr
	p.cmd.Cancel = p.stdin.Close // which tells it to stop
	p.cmd.WaitDelay = stopDelay
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	// A job that cannot be handed over is a process that has ended; what follows
	// says why.
	json.NewEncoder(p.stdin).Encode(j)
	return p, nil
}

// receive passes on the reports of the process until it has ended.
func (p *process) receive(m *member) {
	for in := json.NewDecoder(p.stdout); ; {
		var r report
		if in.Decode(&r) != nil {
			return
		}
		switch {
		case r.Address != "":
			select {
			case m.address <- r.Address:
			default: // the same, from one that was started again
			}
		case m.handle != nil:
			m.handle(r)
		}
	}
}

// wait waits for the process to end, and reports whether it was killed. Its error
// has what it wrote to stderr.
func (p *process) wait(ctx context.Context) (killed bool, err error) {
	err = p.cmd.Wait()
	if err == nil || errors.Is(err, context.Canceled) {
		return false, nil
	}
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	if message := bytes.TrimSpace(p.stderr.Bytes()); len(message) > 0 {
		err = fmt.Errorf("%s (%w)", message, err)
	}
	return killed, err
}

// listening waits until m listens, and returns its address, or "" if c was stopped
// before that.
func (c *crew) listening(m *member) string {
	select {
	case address := <-m.address:
		return address
	case <-c.ctx.Done():
		return ""
	}
}

// fail notes that a process has failed, and stops the others. That it was stopped
// is no failure.
func (c *crew) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped && !errors.Is(err, context.Canceled) {
		c.errs = append(c.errs, err)
	}
	c.cancel()
}

// stop stops all processes, as what they were for is done.
func (c *crew) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.cancel()
}

// wait waits for all processes to end, and returns what has failed.
func (c *crew) wait() error {
	c.running.Wait()
	c.cancel()
	return errors.Join(c.errs...)
}
