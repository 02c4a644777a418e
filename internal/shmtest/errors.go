//go:build linux

package shmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shmconn"
	"shmconn/internal/segment"
)

// Class names the kind of error that err is.
func Class(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		err  error
		name string
	}{
		{io.EOF, "EOF"},
		{context.Canceled, "canceled"},
		{context.DeadlineExceeded, "context-deadline"},
		{net.ErrClosed, "closed"},
		{os.ErrDeadlineExceeded, "timeout"},
		{syscall.EPIPE, "EPIPE"},
		{syscall.ECONNRESET, "ECONNRESET"},
		{syscall.ECONNREFUSED, "ECONNREFUSED"},
		{syscall.EADDRINUSE, "EADDRINUSE"},
		{syscall.ENOENT, "ENOENT"},
		{syscall.EAGAIN, "EAGAIN"},
		{syscall.ENOSPC, "ENOSPC"},
		{fs.ErrPermission, "permission"},
	} {
		if !errors.Is(err, c.err) {
			continue
		}
		ne, ok := err.(net.Error)
		timeout := c.name == "timeout" || c.name == "context-deadline"
		if timeout && !(ok && ne.Timeout()) {
			return c.name + " whose Timeout() is false"
		}
		if !timeout && ok && ne.Timeout() {
			return c.name + " whose Timeout() is true"
		}
		return c.name
	}
	if ce, ok := errors.AsType[*shmconn.CorruptError](err); ok {
		return "corrupt " + ce.What
	}
	return "another error: " + err.Error()
}

// Outcome is Class with the operation that the error names. It fails the test
// if err is not as the package says that all are: io.EOF bare, the rest a
// *net.OpError, wrapped once.
func Outcome(t testing.TB, network string, err error) string {
	t.Helper()
	if err == nil || err == io.EOF {
		return Class(err)
	}
	oe, ok := err.(*net.OpError)
	if !ok {
		t.Errorf("error is a %T, want a *net.OpError: %v", err, err)
		return Class(err)
	}
	if oe.Net != network || oe.Op == "" {
		t.Errorf("OpError has Op %q, Net %q, want an Op and %q: %v", oe.Op, oe.Net, network, err)
	}
	if network == "shm" && oe.Addr == nil {
		t.Errorf("OpError has no Addr: %v", err)
	}
	if _, twice := errors.AsType[*net.OpError](oe.Err); twice {
		t.Errorf("OpError is wrapped twice: %v", err)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("io.EOF is wrapped: %v", err)
	}
	return oe.Op + " " + Class(err)
}

// WantErr fails unless err is of that Class, at that operation: "read closed".
func WantErr(t testing.TB, what string, err error, want string) {
	t.Helper()
	if got := Outcome(t, Network, err); got != want {
		t.Errorf("%s: got %s (%v), want %s", what, got, err, want)
	}
}

// IsCorrupt reports whether err is a *shmconn.CorruptError.
func IsCorrupt(err error) bool {
	_, ok := errors.AsType[*shmconn.CorruptError](err)
	return ok
}

// WantDead checks what every call on c returns once the peer has died and all
// that it wrote was read.
func WantDead(t testing.TB, c *shmconn.Conn) {
	t.Helper()
	buf := make([]byte, 8)
	for range 2 {
		n, err := c.Read(buf)
		WantErr(t, fmt.Sprintf("Read = %d after the peer's death", n), err, "read ECONNRESET")
		n, err = c.Write(buf)
		WantErr(t, fmt.Sprintf("Write = %d after the peer's death", n), err, "write EPIPE")
	}
	_, err := c.TryRead(buf)
	WantErr(t, "TryRead after the peer's death", err, "read ECONNRESET")
	_, err = c.TryWrite(buf)
	WantErr(t, "TryWrite after the peer's death", err, "write EPIPE")
	_, err = c.Peek(1)
	WantErr(t, "Peek after the peer's death", err, "read ECONNRESET")
	_, err = c.Reserve(1)
	WantErr(t, "Reserve after the peer's death", err, "write EPIPE")
	_, err = c.WriteTo(io.Discard)
	WantErr(t, "WriteTo after the peer's death", err, "writeto ECONNRESET")
	_, err = c.ReadFrom(strings.NewReader("x"))
	WantErr(t, "ReadFrom after the peer's death", err, "readfrom EPIPE")
	if err := c.Close(); err != nil {
		t.Errorf("Close after the peer's death: %v", err)
	}
}

// Reclaim takes over the name that a process which was killed has left, and
// gives it up.
func Reclaim(t testing.TB, name string) {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if left, _ := filepath.Glob(UnixShape.Path("shmconn[.-]" + name + "*")); len(left) != 0 {
		t.Errorf("left after Listen and Close: %q", left)
	}
}

// WantSound fails unless a and b are the two ends of a connection, with nothing
// on the way, that works.
func WantSound(t testing.TB, a, b *shmconn.Conn) {
	t.Helper()
	for _, ends := range [][2]*shmconn.Conn{{a, b}, {b, a}} {
		n := 3 * a.Stats().RingSize
		wrote := make(chan struct{})
		go func() { defer close(wrote); ends[0].Write(Pattern(0, n)) }()
		got := make([]byte, n)
		if m, err := io.ReadFull(ends[1], got); err != nil {
			t.Errorf("another connection: read %d of %d, %v", m, n, err)
			ends[0].Close()
		}
		CheckPattern(t, got, 0)
		<-wrote // as long as a call is under way, Close leaves the segment open
	}
}

// MustWrite writes all of b.
func MustWrite(t testing.TB, c io.Writer, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write of %d = %d, %v", len(b), n, err)
	}
}

// WantCorrupt fails unless err is a *CorruptError, wrapped as all errors are,
// and all later calls on c say the same.
func WantCorrupt(t testing.TB, c *shmconn.Conn, err error) *shmconn.CorruptError {
	t.Helper()
	ce, ok := errors.AsType[*shmconn.CorruptError](err)
	if !ok {
		t.Fatalf("got %v, want a CorruptError", err)
	}
	Outcome(t, Network, err)
	var later [4]error
	_, later[0] = c.Read(make([]byte, 8))
	_, later[1] = c.Write(make([]byte, 8))
	_, later[2] = c.Peek(1)
	_, later[3] = c.Reserve(1)
	for i, err := range later {
		if again, _ := errors.AsType[*shmconn.CorruptError](err); again != ce {
			t.Errorf("call %d after it: %v, want the same", i, err)
		}
	}
	if c.Buffered() != 0 || c.Available() != 0 {
		t.Errorf("after it: Buffered() = %d, Available() = %d", c.Buffered(), c.Available())
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return ce
}

// Refused returns how many dialers the listener on name has dropped.
func Refused(t testing.TB, name string) uint64 {
	t.Helper()
	d, err := segment.OpenDir(os.Getenv("SHMCONN_DIR"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	info, err := segment.Lookup(d, name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Refused
}

// WantServed dials and is served.
func WantServed(t testing.TB, s Shape, l Listener) {
	t.Helper()
	a, err := s.Dial(NameOf(l))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Write([]byte("polite"))
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	buf := make([]byte, 8)
	if n, err := b.Read(buf); string(buf[:n]) != "polite" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// BothSay passes bytes both ways.
func BothSay(t *testing.T, a, b net.Conn) {
	t.Helper()
	for range 2 {
		if _, err := a.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(b, buf); err != nil || string(buf) != "there" {
			t.Fatalf("ReadFull = %q, %v", buf, err)
		}
		a, b = b, a
	}
}
