//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An environment is what the processes of a contender run in.
type environment struct {
	dir        string // for names of listeners
	program    string // that the processes run; "": this one
	cpus       []int  // nil: those of this process
	pinned     bool   // the server has the first of cpus, the client the second
	gomaxprocs int    // 0: the runtime's choice
}

// A process is a peer process, seen from the one that has started it.
type process struct {
	cmd     *exec.Cmd
	out     said
	workers []*worker
}

// A worker is one end of a contender, seen from the process that gives orders.
type worker struct {
	in, out *os.File
	enc     *json.Encoder
	dec     *json.Decoder
	proc    *process // nil if it is a goroutine of this process
}

// start runs this program again, as a peer with n workers.
func (env environment) start(n int) (*process, error) {
	exe := env.program
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	p := &process{cmd: exec.Command(exe)}
	// An interrupt from the terminal is for this process to deal with. When it
	// ends, the peer's control pipe does too, and that ends the peer.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var fds []string
	for i := range n {
		w, in, out, err := newWorker()
		if err != nil {
			return nil, err
		}
		defer in.Close()
		defer out.Close()
		w.proc = p
		p.workers = append(p.workers, w)
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, in, out)
		fds = append(fds, strconv.Itoa(3+2*i), strconv.Itoa(4+2*i))
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = append(os.Environ(), peerEnv+"="+strings.Join(fds, ","), dirEnv+"="+env.dir)
	p.cmd.Env = append(p.cmd.Env, quickExit())
	p.cmd.Env = append(p.cmd.Env, env.limits()...)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, p.closeFiles())
	}
	return p, nil
}

// quickExit returns an environment variable without which, under the race
// detector, every exit takes a second.
func quickExit() string { return "GORACE=" + os.Getenv("GORACE") + " atexit_sleep_ms=0" }

// limits returns the environment variables for processors and GOMAXPROCS.
func (env environment) limits() (vars []string) {
	if env.gomaxprocs > 0 {
		vars = append(vars, "GOMAXPROCS="+strconv.Itoa(env.gomaxprocs))
	}
	if env.cpus != nil {
		vars = append(vars, cpusEnv+"="+strings.Trim(strings.ReplaceAll(fmt.Sprint(env.cpus), " ", ","), "[]"))
	}
	return vars
}

// on returns env with the i-th of its processors alone, if it is pinned.
func (env environment) on(i int) environment {
	if env.pinned {
		env.cpus = env.cpus[i%len(env.cpus):][:1]
	}
	return env
}

// newWorker returns a worker and the files that it is to read and write.
func newWorker() (w *worker, in, out *os.File, err error) {
	in, win, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	wout, out, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, errors.Join(err, in.Close(), win.Close())
	}
	return &worker{in: win, out: wout, enc: json.NewEncoder(win), dec: json.NewDecoder(wout)}, in, out, nil
}

func (p *process) closeFiles() (err error) {
	for _, w := range p.workers {
		err = errors.Join(err, w.in.Close(), w.out.Close())
	}
	return err
}

// stop ends the process, by asking if that helps.
func (p *process) stop() error {
	for _, w := range p.workers {
		w.tell(request{Do: "quit"})
	}
	for _, w := range p.workers {
		if _, err := w.hear(5 * time.Second); err != nil {
			p.cmd.Process.Kill()
		}
	}
	p.closeFiles()
	return p.cmd.Wait()
}

func (w *worker) tell(r request) error { return w.explain(w.enc.Encode(r)) }

func (w *worker) hear(timeout time.Duration) (a answer, err error) {
	w.out.SetReadDeadline(time.Now().Add(timeout))
	if err := w.dec.Decode(&a); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return a, fmt.Errorf("bench: stuck: no answer within %v", timeout)
		}
		return a, w.explain(err)
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

func (w *worker) call(r request, timeout time.Duration) (answer, error) {
	if err := w.tell(r); err != nil {
		return answer{}, err
	}
	return w.hear(timeout)
}

// explain adds what a process has said before it died to the error from that.
func (w *worker) explain(err error) error {
	if err == nil || w.proc == nil {
		return err
	}
	return fmt.Errorf("bench: the peer process is gone (%w)%s", err, w.proc.out.text())
}

// said keeps the beginning of what is written to it.
type said struct {
	mu sync.Mutex
	b  []byte
}

func (t *said) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[:min(len(b), 4096-len(t.b))]...)
	return len(b), nil
}

func (t *said) text() string {
	// Output and the end of a pipe come by different ways.
	time.Sleep(50 * time.Millisecond)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return ", having said:\n" + string(t.b)
}

var _ io.Writer = (*said)(nil)

// A pair is two ends, connected.
type pair struct {
	spec           Spec
	server, client *worker
	helpers        []*worker
	procs          []*process
}

const setupTimeout = 20 * time.Second

// open starts the processes of a contender and connects them. With one process,
// all ends are goroutines of it.
func (env environment) open(s Spec, oneProcess bool) (*pair, error) {
	s.Dir = env.dir
	p := &pair{spec: s}
	workers := slices.Repeat([]int{1}, 2+s.helpers())
	if oneProcess {
		workers = []int{len(workers)}
	}
	var ws []*worker
	for i, n := range workers {
		proc, err := env.on(i).start(n)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.procs = append(p.procs, proc)
		ws = append(ws, proc.workers...)
	}
	p.server, p.client, p.helpers = ws[0], ws[1], ws[2:]
	if err := p.connect(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// connect connects the ends: the client with the server, through the relays if
// there are any, and with the process that beats on a victim.
func (p *pair) connect() error {
	s := p.spec
	a, err := p.server.call(request{Do: "listen", Spec: s}, setupTimeout)
	if err != nil {
		return err
	}
	dial := request{Do: "dial", Spec: s, Addr: a.Addr, PollAddr: a.PollAddr}
	for _, h := range p.helpers {
		if s.Victim != "" {
			a, err = h.call(request{Do: "listen", Spec: victimSpec(s)}, setupTimeout)
			dial.PollAddr = a.Addr
		} else {
			a, err = h.call(request{Do: "listen", Spec: s, Addr: dial.Addr}, setupTimeout)
			dial.Addr = a.Addr
		}
		if err != nil {
			return err
		}
	}
	if _, err := p.client.call(dial, setupTimeout); err != nil {
		return err
	}
	for _, w := range append([]*worker{p.server}, p.helpers...) {
		if _, err := w.call(request{Do: "ready"}, setupTimeout); err != nil {
			return err
		}
	}
	return nil
}

// slice lets all ends work for that long.
func (p *pair) slice(q quota) (sample, error) {
	v := sample{spec: p.spec, helpers: make([]Result, len(p.helpers))}
	timeout := setupTimeout + 5*q.D
	type half struct {
		do string
		w  *worker
		r  *Result
	}
	halves := []half{{"server", p.server, &v.server}}
	for i, h := range p.helpers {
		halves = append(halves, half{"helper", h, &v.helpers[i]})
	}
	for _, h := range halves {
		// It says at once that it has begun.
		if _, err := h.w.call(request{Do: h.do, Spec: p.spec, Quota: q}, timeout); err != nil {
			return v, fmt.Errorf("%s: %w", h.do, err)
		}
	}
	if err := p.client.tell(request{Do: "client", Spec: p.spec, Quota: q}); err != nil {
		return v, fmt.Errorf("client: %w", err)
	}
	halves = append(halves, half{"client", p.client, &v.client})
	// When one end fails the others can be waiting for it for ever.
	errs := make(chan error, len(halves))
	for _, h := range halves {
		go func() {
			a, err := h.w.hear(timeout)
			if err != nil {
				err = fmt.Errorf("%s: %w", h.do, err)
			} else {
				*h.r = a.Result
			}
			errs <- err
		}()
	}
	for range halves {
		if err := <-errs; err != nil {
			return sample{}, err
		}
	}
	return v, nil
}

// kill ends the processes without asking them.
func (p *pair) kill() {
	for _, proc := range p.procs {
		proc.cmd.Process.Kill()
		proc.cmd.Wait()
		proc.closeFiles()
	}
}

// used returns the processor time of those of its processes that are gone, with
// their children.
func (p *pair) used() (d time.Duration) {
	for _, proc := range p.procs {
		if s := proc.cmd.ProcessState; s != nil {
			d += s.UserTime() + s.SystemTime()
		}
	}
	return d
}

func (p *pair) close() (err error) {
	for _, proc := range p.procs {
		err = errors.Join(err, proc.stop())
	}
	return err
}
