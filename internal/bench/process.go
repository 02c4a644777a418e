//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An environment is what the processes of a contender run in.
type environment struct {
	dir        string // for names of listeners
	cpus       []int  // nil: those of this process
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
	exe, err := os.Executable()
	if err != nil {
		return nil, err
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
	// Under the race detector every exit takes a second otherwise.
	p.cmd.Env = append(p.cmd.Env, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	if env.gomaxprocs > 0 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS="+strconv.Itoa(env.gomaxprocs))
	}
	if env.cpus != nil {
		p.cmd.Env = append(p.cmd.Env, cpusEnv+"="+strings.Trim(strings.ReplaceAll(fmt.Sprint(env.cpus), " ", ","), "[]"))
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, p.closeFiles())
	}
	return p, nil
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
	procs          []*process
}

const setupTimeout = 20 * time.Second

// open starts the processes of a contender and connects them. With one process,
// both ends are goroutines of it.
func (env environment) open(s Spec, oneProcess bool) (*pair, error) {
	s.Dir = env.dir
	p := &pair{spec: s}
	workers := []int{1, 1}
	if oneProcess {
		workers = []int{2}
	}
	var ws []*worker
	for _, n := range workers {
		proc, err := env.start(n)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.procs = append(p.procs, proc)
		ws = append(ws, proc.workers...)
	}
	p.server, p.client = ws[0], ws[1]
	a, err := p.server.call(request{Do: "listen", Spec: s}, setupTimeout)
	if err == nil {
		_, err = p.client.call(request{Do: "dial", Spec: s, Addr: a.Addr, PollAddr: a.PollAddr}, setupTimeout)
	}
	if err == nil {
		_, err = p.server.call(request{Do: "ready"}, setupTimeout)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// slice lets both ends work for that long.
func (p *pair) slice(q quota) (client, server Result, err error) {
	timeout := setupTimeout + 5*q.D
	// The server says at once that it has begun.
	if _, err := p.server.call(request{Do: "server", Spec: p.spec, Quota: q}, timeout); err != nil {
		return client, server, fmt.Errorf("server: %w", err)
	}
	if err := p.client.tell(request{Do: "client", Spec: p.spec, Quota: q}); err != nil {
		return client, server, fmt.Errorf("client: %w", err)
	}
	// When one end fails the other can be waiting for it for ever.
	errs := make(chan error, 2)
	for _, end := range []struct {
		name string
		w    *worker
		r    *Result
	}{{"client", p.client, &client}, {"server", p.server, &server}} {
		go func() {
			a, err := end.w.hear(timeout)
			if err != nil {
				err = fmt.Errorf("%s: %w", end.name, err)
			} else {
				*end.r = a.Result
			}
			errs <- err
		}()
	}
	if err := <-errs; err != nil {
		return Result{}, Result{}, err
	}
	if err := <-errs; err != nil {
		return Result{}, Result{}, err
	}
	return client, server, nil
}

// kill ends the processes without asking them.
func (p *pair) kill() {
	for _, proc := range p.procs {
		proc.cmd.Process.Kill()
		proc.cmd.Wait()
		proc.closeFiles()
	}
}

func (p *pair) close() (err error) {
	for _, proc := range p.procs {
		err = errors.Join(err, proc.stop())
	}
	return err
}
