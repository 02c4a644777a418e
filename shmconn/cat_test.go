//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

var (
	long    = flag.Bool("long", false, "run the full numbers")
	catSize = flag.Int64("size", 64e6, "`BYTES` that go through cat")
)

// exitStatus returns the exit status of a command that was waited for, -1 for a
// signal.
func exitStatus(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// A process is the command, run as a user would, with pipes to it.
type process struct {
	*exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	stderr *transcript
}

// A transcript is what a process says, in full, and line by line.
type transcript struct {
	mu    sync.Mutex
	b     bytes.Buffer
	lines chan string // the first 1000
	sent  int         // bytes of b that lines has had
}

func (r *transcript) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b.Write(b)
	for {
		line, _, whole := strings.Cut(r.b.String()[r.sent:], "\n")
		if !whole {
			return len(b), nil
		}
		r.sent += len(line) + 1
		select {
		case r.lines <- line:
		default:
		}
	}
}

func (r *transcript) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startProgram(t, "shmconn", args...)
}

func startProgram(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...), stderr: &transcript{lines: make(chan string, 1000)}}
	p.Stderr = p.stderr
	var err error
	if p.in, err = p.StdinPipe(); err == nil {
		p.out, err = p.StdoutPipe()
	}
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill() })
	return p
}

// end waits for the end of a process and checks its exit status and what it
// says on stderr, "" for nothing.
func (p *process) end(t *testing.T, want int, says string) {
	t.Helper()
	code := exitStatus(t, p.Wait())
	if text := p.stderr.String(); code != want || !strings.Contains(text, says) || says == "" && text != "" {
		t.Errorf("%v: exit status %d, want %d; it says %q, want %q", p.Args[1:], code, want, text, says)
	}
}

// Many bytes arrive as they were sent, through two pipes.
func TestCatManyBytes(t *testing.T) {
	n := *catSize
	if *long {
		n = max(n, 10e9)
	}
	to := start(t, "cat", "-l", "many")
	to.in.Close()
	from := start(t, "cat", "--wait", "1m", "many")
	sent, got := sha256.New(), sha256.New()
	begin := time.Now()
	go func() {
		random := io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), n)
		if _, err := io.CopyBuffer(io.MultiWriter(from.in, sent), random, make([]byte, 1<<20)); err != nil {
			t.Error(err)
		}
		from.in.Close()
	}()
	m, err := io.CopyBuffer(got, struct{ io.Reader }{to.out}, make([]byte, 1<<20))
	took := time.Since(begin)
	if err != nil || m != n {
		t.Fatalf("%d bytes of %d arrived, %v", m, n, err)
	}
	from.end(t, 0, "")
	to.end(t, 0, "")
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("other bytes arrived")
	}
	t.Logf("%d bytes in %v, %.0f MB/s, with what it takes to make and check them", n, took, float64(n)/1e6/took.Seconds())
}

// A cat that dies, is interrupted, or meets a peer that does not read tells so.
func TestCatBadEnd(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			to := start(t, "cat", "-l", "end")
			to.in.Close()
			from := start(t, "cat", "--wait", "1m", "end")
			io.WriteString(from.in, "half a")
			b := make([]byte, 6)
			if _, err := io.ReadFull(to.out, b); err != nil || string(b) != "half a" {
				t.Fatalf("%q, %v", b, err)
			}
			from.Process.Signal(sig)
			if b, err := io.ReadAll(to.out); err != nil || len(b) > 0 {
				t.Errorf("%q, %v", b, err)
			}
			to.end(t, 1, "connection reset by peer\n  the peer died, or cut the connection off")
			if sig == syscall.SIGKILL {
				from.end(t, -1, "")
			} else {
				from.end(t, 1, "shmconn: interrupted\n")
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		l := listen(t, "end")
		from := start(t, "cat", "end")
		c := accept(t, l)
		go io.Copy(from.in, rand.NewChaCha8([32]byte{})) // until it ends
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.Close()
		from.end(t, 1, "broken pipe\n  the peer closed, or died, before it had read everything")
	})
	t.Run("output", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		l := listen(t, "end")
		to := exec.Command("shmconn", "cat", "end")
		var stderr bytes.Buffer
		to.Stdout, to.Stderr = full, &stderr
		if err := to.Start(); err != nil {
			t.Fatal(err)
		}
		c := accept(t, l)
		defer c.Close()
		io.WriteString(c, "too much")
		if code := exitStatus(t, to.Wait()); code != 1 || !strings.Contains(stderr.String(), "standard output") || !strings.Contains(stderr.String(), "no space left on device\n") {
			t.Errorf("exit status %d, it says %q", code, stderr.String())
		}
	})
}

// A peer that has closed altogether ends a cat whose standard input has nothing
// to say.
func TestCatIdleInput(t *testing.T) {
	l := listen(t, "idle")
	p := start(t, "cat", "idle")
	c := accept(t, l)
	io.WriteString(c, "bye")
	c.Close()
	if b, err := io.ReadAll(p.out); err != nil || string(b) != "bye" {
		t.Errorf("%q, %v", b, err)
	}
	p.end(t, 0, "")

	// A peer that has closed its half only is sent what comes.
	p = start(t, "cat", "idle")
	c = accept(t, l)
	c.CloseWrite()
	time.Sleep(200 * time.Millisecond) // in which it looks a few times whether the peer is there
	io.WriteString(p.in, "still here")
	p.in.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "still here" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	p.end(t, 0, "")
}

// With -k, a connection that ends badly does not end the listener.
func TestCatKeepsOn(t *testing.T) {
	p := start(t, "cat", "-l", "-k", "keep")
	p.in.Close()
	first := start(t, "cat", "--wait", "1m", "keep")
	io.WriteString(first.in, "one")
	b := make([]byte, 3)
	if _, err := io.ReadFull(p.out, b); err != nil || string(b) != "one" {
		t.Fatalf("%q, %v", b, err)
	}
	first.Process.Kill()
	first.end(t, -1, "")
	second := start(t, "cat", "keep")
	io.WriteString(second.in, "two")
	second.in.Close()
	second.end(t, 0, "")
	p.Process.Signal(syscall.SIGTERM)
	if b, err := io.ReadAll(p.out); err != nil || string(b) != "two" {
		t.Errorf("%q, %v", b, err)
	}
	p.end(t, 0, "connection reset by peer")
}

func listen(t *testing.T, name string) *shmconn.Listener {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l *shmconn.Listener) *shmconn.Conn {
	t.Helper()
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	return c
}
