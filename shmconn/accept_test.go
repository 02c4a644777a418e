//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"shmconn"
)

// A scriptedListener fails as it is told to.
type scriptedListener struct {
	net.Listener
	errs chan error // nil: a connection
}

func (l scriptedListener) Accept() (net.Conn, error) {
	err, ok := <-l.errs
	if !ok {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: err}
	}
	c, _ := net.Pipe()
	return c, nil
}

// A shortage is reported once, however often it interrupts, and again when it
// has been over for a while.
func TestAcceptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scriptedListener{errs: make(chan error, 100)}
		said := 0
		a := &acceptor{Listener: l, say: func(err error) {
			if !errors.Is(err, syscall.EMFILE) {
				t.Errorf("it reports %v", err)
			}
			said++
		}}
		take := func(failures, want int) {
			t.Helper()
			for range failures {
				l.errs <- syscall.EMFILE
			}
			l.errs <- nil
			c, err := a.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if said != want {
				t.Errorf("%d reports, want %d", said, want)
			}
		}
		take(0, 0)
		take(20, 1)
		take(1, 1)
		time.Sleep(oneShortage / 2)
		take(1, 1)
		time.Sleep(oneShortage + time.Second)
		take(1, 2)

		close(l.errs)
		if _, err := a.next(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("of a closed listener: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.next(ctx); err != context.Canceled {
			t.Errorf("after the end of the context: %v", err)
		}
	})
}

func TestPasses(t *testing.T) {
	shortage := os.NewSyscallError("openat", syscall.EMFILE)
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "accept", Net: "shm", Err: shortage}, true},
		{&net.OpError{Op: "accept", Net: "shm", Err: errors.New("the directory is gone")}, false},
		{&net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.ENOBUFS)}, true},
		{&net.OpError{Op: "accept", Net: "unix", Err: net.ErrClosed}, false},
		{&net.OpError{Op: "accept", Net: "shm", Err: net.ErrClosed}, false},
		{errors.New("something else"), false},
	} {
		if passes(tt.err) != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, !tt.want, tt.want)
		}
	}
}

// pong goes on when a shortage of descriptors is over. Its 32 are enough for
// the listener to finish the three dialers that it takes at a time. With 20
// these can hold what each of them needs, and then none is ever finished.
func TestShortage(t *testing.T) {
	p := startProgram(t, "sh", "-c", `ulimit -n 32; exec shmconn pong scarce`)
	d := &shmconn.Dialer{Wait: time.Minute}
	var all []*shmconn.Conn
	for range 40 { // more than it can have open files
		c, err := d.DialConn(t.Context(), "scarce")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	wantLine(t, p, "too many open files")
	for _, c := range all {
		c.Close()
	}
	c, err := d.DialConn(t.Context(), "scarce")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hang := time.AfterFunc(lineLimit, func() { p.Process.Signal(syscall.SIGQUIT) })
	exchange(t, c)
	if !hang.Stop() {
		p.Wait()
		t.Fatalf("it hung, and says\n%s", p.stderr)
	}
	c.Close()
	p.Process.Signal(syscall.SIGTERM)
	if code := exitStatus(t, p.Wait()); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if n := strings.Count(p.stderr.String(), "too many open files"); n != 1 {
		t.Errorf("it reports the shortage %d times: %q", n, p.stderr)
	}
	if _, err := shmconn.Dial("scarce"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it has ended, and a dial returns %v", err)
	}
}

// lineLimit is how long a process may take to say a line. One that takes longer
// hangs, and is made to say where.
const lineLimit = 2 * time.Minute

// wantLine waits for the next line that p says on stderr.
func wantLine(t *testing.T, p *process, want string) {
	t.Helper()
	select {
	case line := <-p.stderr.lines:
		if !strings.Contains(line, want) {
			t.Errorf("it says %q, want %q", line, want)
		}
	case <-time.After(lineLimit):
		p.Process.Signal(syscall.SIGQUIT)
		p.Wait()
		t.Fatalf("it does not say %q within %v, but\n%s", want, lineLimit, p.stderr)
	}
}

// The name is free as soon as the listener has failed for good, and connections
// that it has go on until they end.
func TestListenerFails(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "pong", dir+"/lost")
	c, err := (&shmconn.Dialer{Wait: time.Minute}).DialConn(t.Context(), dir+"/lost")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c)
	if err := exec.Command("rm", "-r", dir).Run(); err != nil {
		t.Fatal(err)
	}
	wantLine(t, p, "shmconn: accept shm ")
	exchange(t, c)
	c.Close()
	if code := exitStatus(t, p.Wait()); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
}
