//go:build linux && shmconn_sockets

package shmconn_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// These tests are about Unix sockets in the place of shared memory. All others
// of this package run over these, too, but for those that skip and say why.

// socketFile returns the path of the file of name's listener with the suffix.
func socketFile(name, suffix string) string {
	return shmtest.UnixShape.Path("shmconn-" + name + suffix)
}

// TestSocketsNetwork: what a program runs over can be seen from inside and
// outside.
func TestSocketsNetwork(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	for _, c := range []*shmconn.Conn{a, b} {
		for what, got := range map[string]string{
			"LocalAddr": c.LocalAddr().Network(), "RemoteAddr": c.RemoteAddr().Network(), "Stats": c.Stats().Network,
		} {
			if got != "unix" {
				t.Errorf("%s says %q, want unix", what, got)
			}
		}
	}
	a.Close()
	_, err := a.Read(make([]byte, 1))
	if oe, ok := errors.AsType[*net.OpError](err); !ok || oe.Net != "unix" {
		t.Errorf("Read after Close: %#v", err)
	}
}

// TestSocketsLeftover takes over what a listener that was killed has left, and
// only that.
func TestSocketsLeftover(t *testing.T) {
	name := shmtest.NewName()
	h := shmtest.StartHelper(t, "agent", shmtest.Shape{})
	h.Do("listen %s", name)
	_, err := shmconn.Listen(name)
	shmtest.WantErr(t, "Listen beside another process", err, "listen EADDRINUSE")
	if want := socketFile(name, ".sock.lock"); !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%v does not name %s", err, want)
	}
	h.Kill()
	for _, suffix := range []string{".sock", ".sock.lock"} {
		if _, err := os.Lstat(socketFile(name, suffix)); err != nil {
			t.Errorf("the killed process has not left %v", err)
		}
	}
	_, err = shmconn.Dial(name)
	shmtest.WantErr(t, "Dial of a leftover", err, "dial ECONNREFUSED")
	l := shmtest.Shape{}.MustListen(t, name)
	shmtest.WantServed(t, shmtest.Shape{}, l)
	l.Close()
	for _, suffix := range []string{".sock", ".sock.lock"} {
		if _, err := os.Lstat(socketFile(name, suffix)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left after Close: %v", suffix, err)
		}
	}

	// A file that is no socket is no leftover.
	path := socketFile(name, ".sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	if _, err := shmconn.Listen(name); err == nil || !strings.Contains(err.Error(), path+" is not a socket") {
		t.Errorf("Listen over a file: %v", err)
	}
	if _, err := shmconn.Dial(name); err == nil || !strings.Contains(err.Error(), path+" is not a socket") {
		t.Errorf("Dial of a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file is %q now, %v", b, err)
	}
}

// TestSocketsTakeOver has several processes take over one leftover, again and
// again: one of them listens each time, and can be dialed.
func TestSocketsTakeOver(t *testing.T) {
	var helpers []*shmtest.Helper
	for range 3 {
		helpers = append(helpers, shmtest.StartHelper(t, "agent", shmtest.Shape{}))
	}
	for range 10 {
		name := shmtest.NewName()
		dead := shmtest.StartHelper(t, "agent", shmtest.Shape{})
		dead.Do("listen %s", name)
		dead.Kill()
		for _, h := range helpers {
			h.Send("listen %s", name)
		}
		var winner *shmtest.Helper
		for _, h := range helpers {
			switch got := h.Line(); {
			case got == "ok" && winner == nil:
				winner = h
			case got == "ok":
				t.Fatal("two listen on one name")
			case !strings.Contains(got, "EADDRINUSE") && !strings.Contains(got, "in use"):
				t.Errorf("Listen: %s", got)
			}
		}
		if winner == nil {
			t.Fatal("none listens")
		}
		c := shmtest.Shape{}.MustDial(t, name)
		winner.Do("accept")
		c.Close()
		winner.Do("unlisten")
	}
}

// TestSocketsLongName: a name that is too long for a socket's path works, and a
// directory that is says so.
func TestSocketsLongName(t *testing.T) {
	name := strings.Repeat("n", 120) + shmtest.NewName()[:8]
	l := shmtest.Shape{}.MustListen(t, name)
	c, err := shmconn.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := l.Addr().String(); got != name {
		t.Errorf("address is %q", got)
	}
	_, err = shmconn.Dial(name[1:])
	shmtest.WantErr(t, "Dial of a name that differs at its start", err, "dial ECONNREFUSED")
	deep := filepath.Join("/tmp", strings.Repeat("d", 100), "feed")
	if _, err := shmconn.Listen(deep); err == nil || !strings.Contains(err.Error(), "100 bytes at most") {
		t.Errorf("Listen in a directory with a long name: %v", err)
	}
}

// TestSocketsRefused: a dialer that is not the library's is dropped, counted
// and logged, and delays nobody. One that only connects is neither.
func TestSocketsRefused(t *testing.T) {
	name := shmtest.NewName()
	got := make(records, 16)
	l, err := (&shmconn.ListenConfig{Logger: slog.New(got)}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", socketFile(name, ".sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	silent := connect()
	connect().Close()
	for i, tt := range []struct{ says, reason string }{
		{"GET / HTTP/1.1\r\n\r\n", `it begins with "GET / HT"`},
		{"shm", "too few"},
	} {
		c := connect()
		io.WriteString(c, tt.says)
		c.(*net.UnixConn).CloseWrite()
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("refusal %d: read %d bytes", i, n)
		}
		m := <-got
		if m["listener"] != name || m["pid"] != fmt.Sprint(os.Getpid()) || !strings.Contains(m["reason"], tt.reason) {
			t.Errorf("refusal %d: %v", i, m)
		}
		shmtest.WantServed(t, shmtest.Shape{}, l)
	}
	if st := l.Stats(); st.Refused != 2 || st.Accepted != 2 {
		t.Errorf("%+v", st)
	}
	start := time.Now()
	l.Close()
	if d := time.Since(start); d > time.Second { // it says nothing for 2 s
		t.Errorf("Close took %v", d)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent dialer was served")
	}
	if len(got) > 0 {
		t.Errorf("logged without a refusal: %v", <-got)
	}
}

// TestSocketsLoggerCloses closes the listener from the handler of its Logger.
func TestSocketsLoggerCloses(t *testing.T) {
	name := shmtest.NewName()
	listening := make(chan *shmconn.Listener, 1)
	closed := make(chan error, 1)
	handler := handlerFunc(func() { closed <- (<-listening).Close() })
	l, err := (&shmconn.ListenConfig{Logger: slog.New(handler)}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	accepted := shmtest.Accepting(func() {
		_, err := l.Accept()
		shmtest.WantErr(t, "Accept", err, "accept closed")
	})
	c, err := net.Dial("unix", socketFile(name, ".sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "nothing of ours")
	listening <- l
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	<-accepted
	shmtest.Shape{}.MustListen(t, name).Close() // the name is free
}

// TestSocketsDeath kills a process that has written: all of it is read, and
// then there is ECONNRESET, where a Unix socket has io.EOF.
func TestSocketsDeath(t *testing.T) {
	for _, end := range []string{"kill", "return", "abort"} {
		t.Run(end, func(t *testing.T) {
			c, h := shmtest.Join(t, shmtest.Shape{})
			ended := c.Done()
			h.Do("write 0 100000")
			switch end {
			case "kill":
				h.Kill()
			case "return":
				h.Send("return")
			case "abort":
				h.Do("abort 0")
			}
			b, err := io.ReadAll(c)
			shmtest.CheckPattern(t, b, 0)
			if len(b) != 100000 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %d bytes, %v", len(b), err)
			}
			<-ended
			shmtest.WantDead(t, c)
		})
	}
}

// TestSocketsStopped has a peer that is stopped: calls return nevertheless,
// within patience and with what they have handed over, and all of it comes
// through later.
func TestSocketsStopped(t *testing.T) {
	c, h := shmtest.Join(t, shmtest.Shape{Ring: 1 << 20})
	h.Stop()
	n := 0
	for n < 1<<20 {
		m, err := c.TryWrite(shmtest.Pattern(n, 64<<10))
		if m == 0 || err != nil {
			t.Fatalf("TryWrite = %d, %v after %d bytes", m, err, n)
		}
		n += m
	}
	if m, err := c.TryWrite([]byte{1}); m != 0 || err != nil {
		t.Errorf("TryWrite to a full ring = %d, %v", m, err)
	}
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	m, err := c.Write([]byte{1})
	if shmtest.WantErr(t, "Write to a full ring", err, "write timeout"); m != 0 {
		t.Errorf("wrote %d bytes", m)
	}
	c.Close()
	h.Cont()
	if got := h.Call("readall 0"); got != fmt.Sprint(n) {
		t.Errorf("the peer, when it went on, read %s bytes, want %d", got, n)
	}
	h.Expect("ok")
}
