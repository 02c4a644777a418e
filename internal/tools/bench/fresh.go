//go:build linux

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// The first connections of a process, and the second ones. The client runs this
// program again for each pair of figures.

// freshEnv has what a fresh process is to do, a freshTask as JSON.
const freshEnv = "SHMCONN_BENCH_FRESH"

type freshTask struct {
	Spec Spec
	Addr string // to dial; "": it listens
}

// fresh runs a fresh process. One that dials says how many ns each of two dials
// has taken; one that listens says where, and serves two connections.
func fresh(task string) error {
	var t freshTask
	if err := json.Unmarshal([]byte(task), &t); err != nil {
		return fmt.Errorf("bench: %s: %w", freshEnv, err)
	}
	n, err := network(t.Spec.Net)
	if err != nil {
		return err
	}
	if t.Addr != "" {
		var ns [2]int64
		for i := range ns {
			d, err := timeDial(n, t.Spec, t.Addr)
			if err != nil {
				return err
			}
			ns[i] = int64(d)
		}
		fmt.Println(ns[0], ns[1])
		return nil
	}
	l, err := n.Listen(t.Spec)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	for range 2 {
		c, err := l.Accept()
		if err == nil {
			err = echoByte(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// timeDial returns how long it takes to dial and to get a byte back. The byte
// is part of it so that nothing can be put off until the connection is used.
func timeDial(n Network, s Spec, addr string) (d time.Duration, err error) {
	start := time.Now()
	c, err := n.Dial(s, addr)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	b := []byte{1}
	if _, err = c.(io.Writer).Write(b); err == nil {
		_, err = io.ReadFull(c.(io.Reader), b)
	}
	return time.Since(start), err
}

// echoByte sends back one byte and waits until the peer has closed.
func echoByte(c io.Closer) error {
	defer c.Close()
	var b [1]byte
	if _, err := io.ReadFull(c.(io.Reader), b[:]); err != nil {
		return err
	}
	if _, err := c.(io.Writer).Write(b[:]); err != nil {
		return err
	}
	if n, err := c.(io.Reader).Read(b[:]); n != 0 || err != io.EOF {
		return fmt.Errorf("bench: read after the one byte: %d, %v", n, err)
	}
	return nil
}

// startFresh starts a fresh process. Its lines are to be read before it is
// waited for.
func startFresh(ctx context.Context, t freshTask) (*exec.Cmd, *bufio.Reader, error) {
	task, err := json.Marshal(t)
	if err != nil {
		return nil, nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), freshEnv+"="+string(task))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, bufio.NewReader(out), cmd.Start()
}

// dialFresh returns how long the first dial of a process takes, and the second.
func dialFresh(ctx context.Context, e *end) (d [2]time.Duration, err error) {
	cmd, out, err := startFresh(ctx, freshTask{Spec: e.spec, Addr: e.addr})
	if err != nil {
		return d, err
	}
	_, err = fmt.Fscan(out, &d[0], &d[1])
	return d, errors.Join(err, cmd.Wait())
}

// acceptFresh returns how long a dialer, which is no fresh process, waits for
// the first accept of a process, and for the second.
func acceptFresh(ctx context.Context, e *end) (d [2]time.Duration, err error) {
	cmd, out, err := startFresh(ctx, freshTask{Spec: e.spec})
	if err != nil {
		return d, err
	}
	addr, err := out.ReadString('\n')
	for i := 0; i < len(d) && err == nil; i++ {
		d[i], err = timeDial(e.net, e.spec, strings.TrimSpace(addr))
	}
	return d, errors.Join(err, cmd.Wait())
}

// freshConns is a client that records the i-th figure of each of those
// processes.
func freshConns(of func(context.Context, *end) ([2]time.Duration, error), i int) func(*end, quota) (Result, error) {
	return func(e *end, q quota) (r Result, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		for start := time.Now(); r.Ops == 0 || time.Since(start) < q.D || r.Ops < q.N; {
			d, err := of(ctx, e)
			if err != nil {
				return r, err
			}
			e.record(d[i])
			r.Elapsed += d[i]
			r.Ops++
		}
		r.AllOps = r.Ops
		return r, exchange(e.msgs[0], 8, last(8))
	}
}

// acceptFreshDials serves what fresh processes dial, until the client is done.
func acceptFreshDials(e *end, _ quota) (Result, error) {
	e.serveDials(e.echoDial)
	r, err := echoFreshEnd(e, quota{})
	r.Ops = e.dials.Swap(0)
	if failed := e.failed.Load(); failed != nil {
		err = errors.Join(err, *failed)
	}
	return r, err
}

// echoFreshEnd waits for the client's word that it is done.
func echoFreshEnd(e *end, _ quota) (Result, error) {
	head, err := e.msgs[0].Receive(8)
	if err == nil {
		err = e.msgs[0].Send(8, head)
	}
	return Result{AllOps: 1}, err
}
