package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	neighbourEnv = "SHMCONN_BENCH_NEIGHBOUR" // kind and number of a neighbour
	burstEnv     = "SHMCONN_BENCH_BURST"     // how long a compiling neighbour's child computes
)

// A crowd is the neighbours that run.
type crowd struct {
	cmds  []*exec.Cmd
	ins   []io.Closer
	pairs []*pair
}

// start starts neighbours, which work when it returns.
func (n Neighbours) start(env environment) (c *crowd, err error) {
	c = new(crowd)
	if err := n.check(); err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	env.pinned, env.gomaxprocs, env.program = n.Pinned, 0, ""
	if env.pinned && env.cpus == nil {
		if env.cpus, err = allowed(); err != nil {
			return c, err
		}
	}
	for i := range n.N {
		if n.Kind == Polling {
			err = c.addPair(env)
		} else {
			err = c.add(env.on(i), n.Kind, i)
		}
		if err != nil {
			return c, fmt.Errorf("bench: a neighbour: %w", err)
		}
	}
	return c, nil
}

func (c *crowd) add(env environment, kind string, i int) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	env.gomaxprocs = 1
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", neighbourEnv, kind, i), dirEnv+"="+env.dir, quickExit())
	cmd.Env = append(cmd.Env, env.limits()...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmds, c.ins = append(c.cmds, cmd), append(c.ins, in)
	_, err = out.Read(make([]byte, 1)) // it is up
	return err
}

// addPair adds two processes with a connection that is always hot.
func (c *crowd) addPair(env environment) error {
	p, err := env.open(Spec{Net: "shm", Loop: "roundtrip", Size: 64}, false)
	if err != nil {
		return err
	}
	c.pairs = append(c.pairs, p)
	go p.slice(quota{D: 24 * time.Hour}) // until it is killed
	return nil
}

// stop ends the neighbours, and returns what processor time they have used,
// their children included.
func (c *crowd) stop() (used time.Duration, err error) {
	for i, cmd := range c.cmds {
		c.ins[i].Close()
		kill := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		if e := cmd.Wait(); e != nil {
			err = errors.Join(err, fmt.Errorf("bench: a neighbour: %w", e))
		}
		kill.Stop()
		used += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	for _, p := range c.pairs {
		p.kill()
		used += p.used()
	}
	return used, err
}

// neighbour is the neighbour's process. It ends when its input does.
func neighbour(value string) error {
	kind, number, _ := strings.Cut(value, " ")
	i, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("bench: %s=%s: %w", neighbourEnv, value, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		if kind != Compiling {
			os.Exit(0)
		}
		cancel() // its child has to be waited for, so that its time is counted
	}()
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return err
	}
	switch kind {
	case Computing:
		for n := 0; ; n++ {
		}
	case Yielding:
		runtime.LockOSThread()
		for {
			for start := time.Now(); time.Since(start) < 10*time.Microsecond; {
			}
			unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	case Compiling:
		return compile(ctx, uint64(i))
	}
	return fmt.Errorf("bench: no neighbour of kind %q", kind)
}

// compile runs processes of 5 to 40 ms, one after the other, always the same.
func compile(ctx context.Context, seed uint64) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for ctx.Err() == nil {
		d := 5*time.Millisecond + time.Duration(random.Int64N(int64(35*time.Millisecond)))
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), burstEnv+"="+d.String())
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// burst is a process that computes for so long, and writes to memory of its
// own.
func burst(value string) error {
	d, err := time.ParseDuration(value)
	if err != nil {
		return fmt.Errorf("bench: %s: %w", burstEnv, err)
	}
	b := make([]byte, 4*mib)
	for start, i := time.Now(), 0; time.Since(start) < d; i++ {
		for range 1 << 10 {
			i += 64
			b[i%len(b)]++
		}
	}
	return nil
}
