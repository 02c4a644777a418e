//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"shmconn"
)

const (
	pollAlways = -1 * time.Nanosecond // never parks
	pollNever  = 1 * time.Nanosecond  // parks at once
)

var (
	unixShape = shape{Net: "unix"}

	past = time.Unix(1, 0)
	none time.Time
)

// small are the shapes that quick tests run on.
var small = []shape{
	{},
	{Ring: 4096, Anonymous: true, Swap: true},
	shape{Ring: 4096}.poll(pollAlways),
	shape{Ring: 8192, Anonymous: true}.poll(pollNever),
}

// seeded returns a source of random numbers and logs how to have it again.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func onShapes(t *testing.T, shapes []shape, f func(t *testing.T, s shape)) {
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) { f(t, s) })
	}
}

// TestNettest runs x/net's conformance test on shapes of connection, with both
// ends in this process and with the bytes going through another. The rows with
// net=unix say that the harness is right.
func TestNettest(t *testing.T) {
	base := []shape{
		{},
		{Ring: 4096},
		{Ring: 4 << 20},
		{Swap: true},
		shape{}.poll(pollAlways),
		shape{}.poll(pollNever),
	}
	var all []shape
	for _, s := range base {
		named, anon := s, s
		anon.Anonymous = true
		all = append(all, named, anon)
	}
	// Fewer for the other processors and for two processes, but each property is
	// there, and each with its neighbour.
	some := []shape{
		unixShape,
		{},
		{Ring: 4096, Anonymous: true, Swap: true},
		shape{Ring: 4096}.poll(pollAlways),
		shape{Anonymous: true}.poll(pollNever),
	}
	type run struct {
		process string
		procs   int
		shapes  []shape
	}
	runs := []run{
		{"same", runtime.GOMAXPROCS(0), append([]shape{unixShape}, all...)},
		{"same", 1, some[1:]},
		{"same", 4, some[1:]},
		{"relay", runtime.GOMAXPROCS(0), some},
		{"relay", 1, some[3:]},
		{"relay", 4, some[3:]},
	}
	if *long {
		runs = nil
		for _, procs := range []int{1, 2, 4} {
			runs = append(runs, run{"same", procs, all}, run{"relay", procs, all})
		}
	}
	for _, r := range runs {
		for _, s := range r.shapes {
			t.Run(fmt.Sprintf("process=%s/procs=%d/%s", r.process, r.procs, s), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(r.procs))
				if r.process == "same" {
					nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
						a, b, stop, err := s.connect()
						return a, b, stop, err
					})
					return
				}
				nettest.TestConn(t, relayed(t, s, r.procs))
			})
		}
	}
}

// relayed makes pairs of ends in this process whose bytes go through another.
// The helper dials where s has its ends swapped.
func relayed(t *testing.T, s shape, procs int) nettest.MakePipe {
	h := startHelper(t, "relay", s, fmt.Sprintf("GOMAXPROCS=%d", procs))
	name := newName()
	connect := func() (conn, error) { return s.dial(name) }
	if s.Swap {
		l := s.mustListen(t, name)
		connect = func() (conn, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(conn), nil
		}
		h.do("dial %s", name)
	} else {
		h.do("listen %s", name)
	}
	return func() (net.Conn, net.Conn, func(), error) {
		h.send("pair")
		a, err := connect()
		if err != nil {
			return nil, nil, nil, err
		}
		b, err := connect()
		if err != nil {
			a.Close()
			return nil, nil, nil, err
		}
		stop := func() { a.Close(); b.Close() }
		if got := h.line(); got != "ok" {
			stop()
			return nil, nil, nil, errors.New("relay: " + got)
		}
		return a, b, stop, nil
	}
}

// A twin runs steps on one network and records what comes of them, to be
// compared with what comes of them on another.
type twin struct {
	t     *testing.T
	shape shape
	a, b  conn
	trace strings.Builder
}

func (x *twin) log(format string, args ...any) { fmt.Fprintf(&x.trace, format+"\n", args...) }

func (x *twin) name(c net.Conn) string {
	if c == x.a {
		return "a"
	}
	return "b"
}

func (x *twin) outcome(err error) string { return outcome(x.t, x.shape.net(), err) }

// read records one Read of up to n bytes.
func (x *twin) read(c conn, n int) {
	b := make([]byte, n)
	m, err := c.Read(b)
	x.log("%s.Read(%d) = %d %q, %s", x.name(c), n, m, b[:m], x.outcome(err))
}

func (x *twin) write(c conn, s string) {
	n, err := c.Write([]byte(s))
	x.log("%s.Write(%q) = %d, %s", x.name(c), s, n, x.outcome(err))
}

func (x *twin) close(c conn) { x.log("%s.Close() = %s", x.name(c), x.outcome(c.Close())) }
func (x *twin) closeRead(c conn) {
	x.log("%s.CloseRead() = %s", x.name(c), x.outcome(c.CloseRead()))
}
func (x *twin) closeWrite(c conn) {
	x.log("%s.CloseWrite() = %s", x.name(c), x.outcome(c.CloseWrite()))
}

func (x *twin) deadline(c conn, d time.Time) {
	x.log("%s.SetDeadline() = %s", x.name(c), x.outcome(c.SetDeadline(d)))
}

// idle records that a Read of c would wait.
func (x *twin) idle(c conn) {
	start := time.Now()
	c.SetReadDeadline(start.Add(5 * time.Millisecond))
	x.read(c, 1)
	if d := time.Since(start); d < 5*time.Millisecond {
		x.t.Errorf("Read took %v, before its deadline", d)
	}
	c.SetReadDeadline(none)
}

// huge is more than fits between the ends of any connection here.
func (x *twin) huge() int { return max(8<<20, 4*x.shape.ringSize()) }

// whileReading records what a Read that waits returns when f is called.
func (x *twin) whileReading(c conn, f func()) {
	done := blocked(c, func() { x.read(c, 8) })
	f()
	<-done
}

// whileWriting records what a Write that waits returns when f is called, and
// returns n.
func (x *twin) whileWriting(c conn, f func()) (n int) {
	var err error
	done := blocked(c, func() { n, err = c.Write(pattern(0, x.huge())) })
	f()
	<-done
	x.log("%s.Write(huge): all %t, some %t, %s", x.name(c), n == x.huge(), n > 0, x.outcome(err))
	return n
}

// drain records that what can be read from c is n bytes of the pattern.
func (x *twin) drain(c conn, n int) {
	b, err := io.ReadAll(c)
	checkPattern(x.t, b, 0)
	if len(b) != n {
		x.t.Errorf("read %d bytes, written were %d", len(b), n)
	}
	x.log("%s.ReadAll(): %s", x.name(c), x.outcome(err))
}

// likeUnix are steps whose outcome is to be that of a Unix socket.
var likeUnix = []struct {
	name  string
	steps func(x *twin)
	// What shm does, where that is not what unix does: a deviation that the
	// package comment lists.
	shm string
}{
	{name: "eof/after Close", steps: func(x *twin) {
		x.close(x.b)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "eof/data before", steps: func(x *twin) {
		x.write(x.b, "hello")
		x.close(x.b)
		x.read(x.a, 3)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "eof/data before, half close", steps: func(x *twin) {
		x.write(x.b, "hello")
		x.closeWrite(x.b)
		x.read(x.a, 3)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "empty/open", steps: func(x *twin) {
		x.read(x.a, 0)
		x.write(x.a, "")
		x.idle(x.b)
		x.write(x.b, "x")
		x.read(x.a, 0)
		x.read(x.a, 1)
	}},
	{name: "empty/nil", steps: func(x *twin) {
		n, err := x.a.Read(nil)
		x.log("Read(nil) = %d, %s", n, x.outcome(err))
		n, err = x.a.Write(nil)
		x.log("Write(nil) = %d, %s", n, x.outcome(err))
	}},
	{name: "empty/after deadline", steps: func(x *twin) {
		x.deadline(x.a, past)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after Close", steps: func(x *twin) {
		x.close(x.a)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after CloseRead and CloseWrite", steps: func(x *twin) {
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after the peer's Close", steps: func(x *twin) {
		x.close(x.b)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after the peer's CloseRead", steps: func(x *twin) {
		x.closeRead(x.b)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "half close/write", steps: func(x *twin) {
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "y")
		x.close(x.a)
		x.write(x.b, "x")
		x.read(x.b, 8)
	}},
	{name: "half close/read", steps: func(x *twin) {
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.write(x.b, "x")
		x.write(x.a, "y")
		x.read(x.b, 8)
		x.idle(x.b)
	}},
	{name: "half close/read with bytes unread", steps: func(x *twin) {
		x.write(x.b, "hello")
		x.read(x.a, 2)
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.read(x.a, 8)
		x.write(x.b, "x")
	}},
	{name: "half close/both ends write", steps: func(x *twin) {
		x.write(x.a, "A")
		x.write(x.b, "B")
		x.closeWrite(x.a)
		x.closeWrite(x.b)
		x.read(x.a, 8)
		x.read(x.b, 8)
		x.read(x.a, 8)
		x.read(x.b, 8)
		x.close(x.a)
		x.close(x.b)
	}},
	{name: "half close/both ends read", steps: func(x *twin) {
		x.closeRead(x.a)
		x.closeRead(x.b)
		x.write(x.a, "A")
		x.write(x.b, "B")
		x.read(x.a, 8)
		x.read(x.b, 8)
	}},
	{name: "half close/both halves of one end", steps: func(x *twin) {
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "y")
		x.close(x.a)
	}},
	{name: "half close/twice", steps: func(x *twin) {
		x.closeWrite(x.a)
		x.closeWrite(x.a)
		x.closeRead(x.a)
		x.closeRead(x.a)
	}},
	{name: "half close/after the peer's", steps: func(x *twin) {
		x.closeWrite(x.a)
		x.closeRead(x.b)
		x.close(x.b)
		x.closeWrite(x.a)
		x.closeRead(x.a)
	}},
	{name: "half close/with deadline passed", steps: func(x *twin) {
		x.deadline(x.a, past)
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.a, "x")
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.write(x.b, "x")
	}},
	{name: "close/twice", steps: func(x *twin) {
		x.close(x.a)
		x.close(x.a)
	}},
	{name: "close/and then everything", steps: func(x *twin) {
		x.write(x.b, "x")
		x.close(x.a)
		x.read(x.a, 8)
		x.write(x.a, "x")
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.deadline(x.a, past)
		x.log("SetReadDeadline() = %s", x.outcome(x.a.SetReadDeadline(past)))
		x.log("SetWriteDeadline() = %s", x.outcome(x.a.SetWriteDeadline(past)))
		x.log("addresses %t %t", x.a.LocalAddr() != nil, x.a.RemoteAddr() != nil)
	}},
	{name: "close/write after the peer's", steps: func(x *twin) {
		x.close(x.b)
		x.write(x.a, "x")
		x.write(x.a, "x")
		x.read(x.a, 8)
	}},
	{name: "close/write after the peer's, deadline passed", steps: func(x *twin) {
		x.close(x.b)
		x.deadline(x.a, past)
		x.write(x.a, "x")
		x.read(x.a, 8)
	}},
	{
		name: "close/peer's with our bytes unread", steps: func(x *twin) {
			x.write(x.a, "hello")
			x.close(x.b)
			x.read(x.a, 8)
			x.read(x.a, 8)
			x.write(x.a, "x")
		},
		shm: "a.Write(\"hello\") = 5, ok\n" +
			"b.Close() = ok\n" +
			"a.Read(8) = 0 \"\", EOF\n" +
			"a.Read(8) = 0 \"\", EOF\n" +
			"a.Write(\"x\") = 0, write EPIPE\n",
	},
	{
		name: "close/peer's with our bytes unread, and its own", steps: func(x *twin) {
			x.write(x.a, "hello")
			x.write(x.b, "bye")
			x.close(x.b)
			x.read(x.a, 8)
			x.read(x.a, 8)
			x.write(x.a, "x")
		},
		shm: "a.Write(\"hello\") = 5, ok\n" +
			"b.Write(\"bye\") = 3, ok\n" +
			"b.Close() = ok\n" +
			"a.Read(8) = 3 \"bye\", ok\n" +
			"a.Read(8) = 0 \"\", EOF\n" +
			"a.Write(\"x\") = 0, write EPIPE\n",
	},
	{name: "deadline/passed, and data there", steps: func(x *twin) {
		x.write(x.b, "hello")
		x.deadline(x.a, past)
		x.read(x.a, 8)
		x.read(x.a, 8)
		x.deadline(x.a, none)
		x.read(x.a, 8)
	}},
	{name: "deadline/passed, and EOF there", steps: func(x *twin) {
		x.close(x.b)
		x.deadline(x.a, past)
		x.read(x.a, 8)
		x.deadline(x.a, none)
		x.read(x.a, 8)
	}},
	{name: "deadline/passed, and room", steps: func(x *twin) {
		x.deadline(x.a, past)
		x.write(x.a, "hello")
		x.deadline(x.a, none)
		x.write(x.a, "HELLO")
		x.read(x.b, 8)
	}},
	{name: "deadline/read alone", steps: func(x *twin) {
		x.a.SetReadDeadline(past)
		x.write(x.a, "x")
		x.read(x.a, 8)
		x.read(x.b, 8)
	}},
	{name: "deadline/write alone", steps: func(x *twin) {
		x.a.SetWriteDeadline(past)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "x")
		x.idle(x.b)
	}},
	{name: "deadline/recovery of Read", steps: func(x *twin) {
		x.idle(x.a)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.idle(x.a)
		x.close(x.b)
		x.read(x.a, 8)
	}},
	{name: "deadline/recovery of Write, n beside the error", steps: func(x *twin) {
		var start time.Time
		n := x.whileWriting(x.a, func() {
			start = time.Now()
			x.a.SetWriteDeadline(start.Add(10 * time.Millisecond))
		})
		if d := time.Since(start); d < 10*time.Millisecond {
			x.t.Errorf("Write returned %v before its deadline", 10*time.Millisecond-d)
		}
		m, err := x.a.Write([]byte("x"))
		x.log("Write(1) = %d, %s", m, x.outcome(err))
		x.a.SetWriteDeadline(none)
		got := make([]byte, n)
		m, err = io.ReadFull(x.b, got) // exactly n bytes
		checkPattern(x.t, got[:m], 0)
		x.log("ReadFull(n): %t, %s", m == n, x.outcome(err))
		x.idle(x.b) // and not one more
		x.write(x.a, "more")
		x.read(x.b, 8)
	}},
	{name: "deadline/cleared while it is awaited", steps: func(x *twin) {
		x.a.SetReadDeadline(time.Now().Add(time.Hour))
		x.whileReading(x.a, func() {
			x.a.SetReadDeadline(none)
			x.b.Write([]byte("x"))
		})
	}},
	{name: "blocked/Read, Close", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.a.Close() })
		x.close(x.a)
	}},
	{name: "blocked/Read, CloseRead", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.a.CloseRead() })
	}},
	{name: "blocked/Read, CloseWrite and then data", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.a.CloseWrite(); x.b.Write([]byte("x")) })
	}},
	{name: "blocked/Read, peer's Close", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.b.Close() })
	}},
	{name: "blocked/Read, peer's CloseWrite", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.b.CloseWrite() })
	}},
	{name: "blocked/Read, peer's data and Close", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.b.Write([]byte("x")); x.b.Close() })
		x.read(x.a, 8)
	}},
	{name: "blocked/Read, deadline", steps: func(x *twin) {
		x.whileReading(x.a, func() { x.a.SetReadDeadline(past) })
		x.a.SetReadDeadline(none)
		x.whileReading(x.a, func() { x.a.SetDeadline(past) })
	}},
	{name: "blocked/Write, Close", steps: func(x *twin) {
		n := x.whileWriting(x.a, func() { x.a.Close() })
		x.drain(x.b, n)
	}},
	{name: "blocked/Write, CloseWrite", steps: func(x *twin) {
		// A Unix socket wakes the writer only when there is room.
		var b []byte
		n := x.whileWriting(x.a, func() { x.a.CloseWrite(); b, _ = io.ReadAll(x.b) })
		if len(b) != n || firstDiff(b, 0) >= 0 {
			x.t.Errorf("Write returned %d, read were %d, differing at %d", n, len(b), firstDiff(b, 0))
		}
	}},
	{name: "blocked/Write, peer's Close", steps: func(x *twin) {
		x.whileWriting(x.a, func() { x.b.Close() })
	}},
	{name: "blocked/Write, peer's CloseRead", steps: func(x *twin) {
		x.whileWriting(x.a, func() { x.b.CloseRead(); io.Copy(io.Discard, x.b) })
	}},
	{name: "blocked/Write, deadline", steps: func(x *twin) {
		n := x.whileWriting(x.a, func() { x.a.SetWriteDeadline(past) })
		x.closeWrite(x.a)
		x.drain(x.b, n)
	}},
	{name: "blocked/two Reads, Close", steps: func(x *twin) {
		done := blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileSecond(func() {
			n, err := x.a.Read(make([]byte, 1))
			x.log("second Read = %d, %s", n, x.outcome(err))
		}, func() { x.a.Close() })
		<-done
	}},
	{name: "blocked/two Reads, deadline", steps: func(x *twin) {
		done := blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileSecond(func() {
			n, err := x.a.Read(make([]byte, 1))
			x.log("second Read = %d, %s", n, x.outcome(err))
		}, func() { x.a.SetReadDeadline(past) })
		<-done
	}},
	{name: "blocked/two Writes, deadline", steps: func(x *twin) {
		b := make([]byte, x.huge())
		done := blocked(x.a, func() { x.a.Write(b) })
		x.whileSecond(func() {
			n, err := x.a.Write(b)
			x.log("second Write = %d, %s", n, x.outcome(err))
		}, func() { x.a.SetWriteDeadline(past) })
		<-done
	}},
	{name: "blocked/Read and Write, Close", steps: func(x *twin) {
		done := blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileWriting(x.a, func() { x.a.Close() })
		<-done
	}},
	{name: "blocked/Read and Write, served", steps: func(x *twin) {
		done := blocked(x.a, func() { x.read(x.a, 8) })
		x.whileWriting(x.a, func() {
			x.b.Write([]byte("x"))
			<-done
			io.CopyN(io.Discard, x.b, int64(x.huge()))
		})
	}},
	{name: "blocked/io.Copy from conn, Close", steps: func(x *twin) {
		var err error
		done := blocked(x.a, func() { _, err = io.Copy(io.Discard, x.a) })
		x.a.Close()
		<-done
		x.log("io.Copy: %s", class(err))
	}},
	{name: "blocked/io.Copy from conn, deadline", steps: func(x *twin) {
		var buf bytes.Buffer
		var n int64
		var err error
		x.write(x.b, "hello")
		done := blocked(x.a, func() { n, err = io.Copy(&buf, x.a) })
		x.a.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		<-done
		x.log("io.Copy = %d %q, %s", n, &buf, class(err))
	}},
	{name: "blocked/io.Copy to conn, Close", steps: func(x *twin) {
		var n int64
		var err error
		done := blocked(x.a, func() { n, err = io.Copy(x.a, bytes.NewReader(pattern(0, x.huge()))) })
		x.a.Close()
		<-done
		x.log("io.Copy: some %t, %s", n > 0, class(err))
		x.drain(x.b, int(n))
	}},
	{name: "blocked/io.Copy to conn in its source, Close", steps: func(x *twin) {
		var n int64
		var err error
		src := newSlowReader("hello")
		done := make(chan bool)
		go func() { defer close(done); n, err = io.Copy(x.a, src) }()
		<-src.entered
		x.close(x.a) // does not wait for the source
		close(src.release)
		<-done
		x.log("io.Copy = %d, %s", n, class(err))
		x.read(x.b, 8)
	}},
	{name: "io.Copy/ends", steps: func(x *twin) {
		n, err := io.Copy(x.b, strings.NewReader("hello"))
		x.log("io.Copy = %d, %s", n, x.outcome(err))
		x.closeWrite(x.b)
		n, err = io.Copy(io.Discard, x.a)
		x.log("io.Copy = %d, %s", n, x.outcome(err))
	}},
	{name: "io.Copy/errors of the other side", steps: func(x *twin) {
		n, err := io.Copy(x.a, io.MultiReader(strings.NewReader("hello"), errReader{errForeign}))
		x.log("io.Copy = %d, %t", n, errors.Is(err, errForeign))
		x.read(x.b, 8)
		x.write(x.b, "hello")
		n, err = io.Copy(failingWriter{}, x.a)
		x.log("io.Copy = %d, %t", n, errors.Is(err, errForeign))
		x.write(x.b, "hello")
		n, err = io.Copy(shortWriter{}, x.a)
		x.log("io.Copy = %d, %t", n, errors.Is(err, io.ErrShortWrite))
	}},
	{name: "large/write of much more than fits", steps: func(x *twin) {
		n := x.huge() + 12345
		done := make(chan bool)
		go func() {
			defer close(done)
			m, err := x.a.Write(pattern(0, n))
			x.log("Write: all %t, %s", m == n, x.outcome(err))
			x.close(x.a)
		}()
		b, err := io.ReadAll(x.b)
		<-done
		checkPattern(x.t, b, 0)
		x.log("ReadAll: all %t, %s", len(b) == n, x.outcome(err))
	}},
	{name: "large/peer closes in the middle", steps: func(x *twin) {
		done := make(chan bool)
		go func() {
			defer close(done)
			n, err := x.a.Write(pattern(0, x.huge()))
			x.log("Write: all %t, some %t, %s", n == x.huge(), n > 0, x.outcome(err))
		}()
		io.ReadFull(x.b, make([]byte, 100_000))
		x.b.Close()
		<-done
		x.write(x.a, "x")
	}},
	{name: "large/Close overtakes no Write", steps: func(x *twin) {
		var n int
		var err error
		done := blocked(x.a, func() { n, err = x.a.Write(pattern(0, x.huge())) })
		go x.a.CloseWrite()
		b, rerr := io.ReadAll(x.b)
		<-done
		checkPattern(x.t, b, 0)
		if n != len(b) {
			x.t.Errorf("Write returned %d, read were %d", n, len(b))
		}
		// Whether all fits before CloseWrite is chance; what may not be is a
		// success that was not read.
		x.log("%t, %s", (n == x.huge()) == (err == nil), class(rerr))
	}},
}

// whileSecond runs f, a second call that waits behind another, and end, which
// ends both.
func (x *twin) whileSecond(f, end func()) {
	done := make(chan bool)
	go func() { defer close(done); f() }()
	// Nothing tells that f waits for its turn, and it makes no difference to what
	// has to come of it: so it is only given a chance.
	for range 100 {
		runtime.Gosched()
	}
	end()
	<-done
}

// TestLikeUnix does the same to a Unix socket and to a shared memory
// connection, and compares.
func TestLikeUnix(t *testing.T) {
	shapes := []shape{
		{},
		{Ring: 4096, Anonymous: true},
		{Swap: true, Anonymous: true},
		shape{Ring: 4096}.poll(pollAlways),
		shape{Ring: 4096}.poll(pollNever),
	}
	for _, tt := range likeUnix {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			run := func(t *testing.T, s shape) string {
				x := &twin{t: t, shape: s}
				x.a, x.b = s.pair(t)
				tt.steps(x)
				return x.trace.String()
			}
			var unix string
			t.Run(unixShape.String(), func(t *testing.T) {
				unix = run(t, unixShape)
				t.Logf("unix:\n%s", unix)
			})
			for _, s := range shapes {
				t.Run(s.String(), func(t *testing.T) {
					want := unix
					if tt.shm != "" {
						want = tt.shm
					}
					if got := run(t, s); got != want {
						t.Errorf("got:\n%swant:\n%sunix does:\n%s", got, want, unix)
					}
				})
			}
		})
	}
}

var errForeign = errors.New("error of the other side")

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errForeign }

type shortWriter struct{}

func (shortWriter) Write(b []byte) (int, error) { return len(b) - 1, nil }

// A slowReader says when it is read from, and waits to be released.
type slowReader struct {
	r       io.Reader
	entered chan bool
	release chan bool
	once    sync.Once
}

func newSlowReader(s string) *slowReader {
	return &slowReader{r: strings.NewReader(s), entered: make(chan bool), release: make(chan bool)}
}

func (r *slowReader) Read(b []byte) (int, error) {
	r.once.Do(func() { close(r.entered) })
	<-r.release
	return r.r.Read(b)
}

// A slowWriter says when it is written to, and waits to be released.
type slowWriter struct {
	w       io.Writer
	entered chan bool
	release chan bool
	once    sync.Once
}

func newSlowWriter(w io.Writer) *slowWriter {
	return &slowWriter{w: w, entered: make(chan bool), release: make(chan bool)}
}

func (w *slowWriter) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.entered) })
	<-w.release
	return w.w.Write(b)
}

// TestSweep writes every length around the ring's size, from every place
// around its end, in one piece and joined from many.
func TestSweep(t *testing.T) {
	const size = 4096
	for _, n := range []int{1, 2, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3073, 4095, 4096, 4097, 8191, 8192, 8193, 65537} {
		t.Run(fmt.Sprintf("len=%d,cap=%d", n, size), func(t *testing.T) {
			for _, start := range []int{0, 1, size/2 - 1, size - 1, size, size + 1} {
				for _, step := range []int{1000, 4095, 4096, 4097, 1 << 20} {
					a, b := shape{Ring: size}.shmPair(t)
					if _, err := io.Copy(a, bytes.NewReader(make([]byte, start/2))); err != nil {
						t.Fatal(err)
					}
					io.ReadFull(b, make([]byte, start/2))
					a.Write(make([]byte, start-start/2))
					io.ReadFull(b, make([]byte, start-start/2))
					done := make(chan bool)
					go func() {
						defer close(done)
						if m, err := a.Write(pattern(0, n)); m != n || err != nil {
							t.Errorf("start=%d: Write = %d, %v", start, m, err)
						}
						a.CloseWrite()
					}()
					var got []byte
					buf := make([]byte, step)
					for {
						m, err := b.Read(buf)
						got = append(got, buf[:m]...)
						if err == io.EOF {
							break
						}
						if err != nil || m == 0 {
							t.Fatalf("start=%d,step=%d: Read = %d, %v", start, step, m, err)
						}
					}
					<-done
					if len(got) != n || firstDiff(got, 0) >= 0 {
						t.Errorf("start=%d,step=%d: read %d bytes, differing at %d", start, step, len(got), firstDiff(got, 0))
					}
					a.Close()
					b.Close()
				}
			}
		})
	}
}

// TestBothWays streams random pieces in both directions at once.
func TestBothWays(t *testing.T) {
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		a, b := s.pair(t)
		const total = 2 << 20
		var wg sync.WaitGroup
		for _, c := range []conn{a, b} {
			r := seeded(t)
			wg.Go(func() {
				want := pattern(0, total)
				for off := 0; off < total; {
					n := min(total-off, 1+r.IntN(1<<r.IntN(15)))
					m, err := c.Write(want[off : off+n])
					if m != n || err != nil {
						t.Errorf("Write(%d) = %d, %v", n, m, err)
						break
					}
					off += n
				}
				if err := c.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, 2))
				buf := make([]byte, 1<<15)
				for off := 0; ; {
					n, err := c.Read(buf[:1+r.IntN(1<<r.IntN(15))])
					if i := firstDiff(buf[:n], off); i >= 0 {
						t.Errorf("byte %d differs", off+i)
						c.Close()
						return
					}
					off += n
					if err != nil {
						if err != io.EOF || off != total {
							t.Errorf("after %d bytes: %v", off, err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestManyWriters checks that no Write, and no WriteBuffers, comes between the
// bytes of another.
func TestManyWriters(t *testing.T) {
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		a, b := s.pair(t)
		const writers, messages = 8, 50
		var wg sync.WaitGroup
		for w := range writers {
			r := seeded(t)
			wg.Go(func() {
				for i := range messages {
					// A message: writer, number, length, and then the writer's byte.
					msg := make([]byte, 12+r.IntN(1<<r.IntN(15)))
					binary.LittleEndian.PutUint32(msg[0:], uint32(w))
					binary.LittleEndian.PutUint32(msg[4:], uint32(i))
					binary.LittleEndian.PutUint32(msg[8:], uint32(len(msg)-12))
					for i := range msg[12:] {
						msg[12+i] = byte(w)
					}
					var n int64
					var err error
					if sc, ok := a.(*shmconn.Conn); ok && i%2 == 1 {
						cut := r.IntN(len(msg))
						n, err = sc.WriteBuffers(&net.Buffers{msg[:cut], msg[cut:]})
					} else {
						var m int
						m, err = a.Write(msg)
						n = int64(m)
					}
					if n != int64(len(msg)) || err != nil {
						t.Errorf("write of %d: %d, %v", len(msg), n, err)
						return
					}
				}
			})
		}
		go func() { wg.Wait(); a.CloseWrite() }()
		var next [writers]uint32
		br := bufio.NewReaderSize(b, 100)
		for {
			var head [12]byte
			if _, err := io.ReadFull(br, head[:]); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			w := binary.LittleEndian.Uint32(head[0:])
			if w >= writers {
				t.Fatalf("message of writer %d: interleaved", w)
			}
			if i := binary.LittleEndian.Uint32(head[4:]); i != next[w] {
				t.Fatalf("message %d of writer %d, want %d", i, w, next[w])
			}
			next[w]++
			body := make([]byte, binary.LittleEndian.Uint32(head[8:]))
			if _, err := io.ReadFull(br, body); err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(body, func(c byte) bool { return c != byte(w) }); i >= 0 {
				t.Fatalf("byte %d of a message of writer %d is of writer %d", i, w, body[i])
			}
		}
		for w, n := range next {
			if n != messages {
				t.Errorf("%d messages of writer %d, want %d", n, w, messages)
			}
		}
	})
}

// TestManyReaders checks that each byte goes to exactly one of many readers,
// and that the end goes to all.
func TestManyReaders(t *testing.T) {
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		a, b := s.pair(t)
		const readers, total = 8, 300_000
		var counts [256]atomic.Int64
		var wg sync.WaitGroup
		for i := range readers {
			wg.Go(func() {
				buf := make([]byte, 1+i*500)
				for {
					n, err := b.Read(buf)
					for _, c := range buf[:n] {
						counts[c].Add(1)
					}
					if err == io.EOF {
						return
					}
					if err != nil || n == 0 {
						t.Errorf("Read = %d, %v", n, err)
						return
					}
				}
			})
		}
		want := pattern(0, total)
		if n, err := a.Write(want); n != total || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		a.Close()
		wg.Wait()
		for c := range counts {
			if got, want := counts[c].Load(), int64(bytes.Count(want, []byte{byte(c)})); got != want {
				t.Errorf("byte %#x was read %d times, written %d times", c, got, want)
			}
		}
	})
}

// TestOrderlyEnd closes right after a write, many times: the tail is never
// lost, whatever the reader is doing.
func TestOrderlyEnd(t *testing.T) {
	rounds := 300
	if *long {
		rounds = 5000
	}
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		l := s.mustListen(t, newName())
		for i := range rounds {
			a := s.mustDial(t, nameOf(l))
			b := mustAccept(t, l)
			go func() {
				a.Write([]byte("tail"))
				a.Close()
			}()
			got, err := io.ReadAll(b)
			if string(got) != "tail" || err != nil {
				t.Fatalf("round %d: read %q, %v", i, got, err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRacingClose closes both ends while both are in use.
func TestRacingClose(t *testing.T) {
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		for range 30 {
			a, b := s.pair(t)
			var wg sync.WaitGroup
			for _, c := range []conn{a, b} {
				for range 2 {
					wg.Go(func() {
						for buf := make([]byte, 10000); ; {
							if _, err := c.Read(buf); err != nil {
								return
							}
						}
					})
					wg.Go(func() {
						for buf := make([]byte, 10000); ; {
							if _, err := c.Write(buf); err != nil {
								return
							}
						}
					})
				}
			}
			wg.Go(func() { a.Close() })
			wg.Go(func() { b.Close() })
			wg.Wait()
		}
	})
}

func TestTryRead(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		buf := make([]byte, 8)
		try := func(want string, wantErr_ string) {
			t.Helper()
			n, err := a.TryRead(buf)
			if string(buf[:n]) != want {
				t.Errorf("TryRead: got %q, want %q", buf[:n], want)
			}
			wantErr(t, "TryRead", err, wantErr_)
		}
		try("", "ok")
		b.Write([]byte("hello, world"))
		try("hello, w", "ok")
		try("orld", "ok")
		try("", "ok")
		b.Write([]byte("bye"))
		b.Close()
		try("bye", "ok")
		try("", "EOF")
		a.Close()
		try("", "read closed")

		a, _ = s.shmPair(t)
		a.CloseRead()
		try("", "EOF")

		// While another Read waits there is nothing for TryRead.
		a, b = s.shmPair(t)
		done := blocked(a, func() { a.Read(make([]byte, 8)) })
		try("", "ok")
		b.Write([]byte("x"))
		<-done
	})
}

func TestTryWrite(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		size := s.ringSize()
		if n, err := a.TryWrite(nil); n != 0 || err != nil {
			t.Errorf("TryWrite(nil) = %d, %v", n, err)
		}
		if n, err := a.TryWrite(pattern(0, 100)); n != 100 || err != nil {
			t.Fatalf("TryWrite(100) = %d, %v", n, err)
		}
		if n, err := a.TryWrite(pattern(100, size)); n != size-100 || err != nil {
			t.Fatalf("TryWrite(%d) = %d, %v, want %d", size, n, err, size-100)
		}
		if n, err := a.TryWrite([]byte("x")); n != 0 || err != nil {
			t.Fatalf("TryWrite in a full ring = %d, %v", n, err)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatal(err)
		}
		checkPattern(t, got, 0)
		if n, err := a.TryWrite(pattern(size, size)); n < size/4*3 || n > size || err != nil {
			t.Errorf("TryWrite(%d) in an emptied ring = %d, %v, want at least %d", size, n, err, size/4*3)
		}
		b.Close()
		n, err := a.TryWrite([]byte("x"))
		if n != 0 {
			t.Errorf("TryWrite after the peer's Close = %d", n)
		}
		wantErr(t, "TryWrite after the peer's Close", err, "write EPIPE")
		a.Close()
		_, err = a.TryWrite([]byte("x"))
		wantErr(t, "TryWrite after Close", err, "write closed")

		a, _ = s.shmPair(t)
		a.CloseWrite()
		_, err = a.TryWrite([]byte("x"))
		wantErr(t, "TryWrite after CloseWrite", err, "write EPIPE")
	})
}

func TestBufferedAvailable(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		size := s.ringSize()
		check := func(when string, available, buffered int) {
			t.Helper()
			if got := a.Available(); got < available-size/4 || got > available {
				t.Errorf("%s: Available() = %d, want %d, or up to %d less", when, got, available, size/4)
			}
			if got := b.Buffered(); got != buffered {
				t.Errorf("%s: Buffered() = %d, want %d", when, got, buffered)
			}
		}
		if got := a.Available(); got != size {
			t.Errorf("Available() of a new connection = %d, want %d", got, size)
		}
		check("new", size, 0)
		a.Write(make([]byte, 1000))
		check("after 1000", size-1000, 1000)
		if a.Buffered() != 0 || b.Available() != size {
			t.Error("the other direction has changed")
		}
		io.ReadFull(b, make([]byte, 999))
		check("after 999 were read", size-1, 1)
		io.ReadFull(b, make([]byte, 1))
		check("after all were read", size, 0)
		for off := 0; off < 3*size; off += 1000 {
			a.Write(make([]byte, 1000))
			check("in the sweep", size-1000, 1000)
			io.ReadFull(b, make([]byte, 1000))
		}
		a.Write(make([]byte, 10))
		a.CloseWrite()
		if got := b.Buffered(); got != 10 {
			t.Errorf("Buffered() after the peer's CloseWrite = %d, want 10", got)
		}
		a.Close()
		b.Close()
		check("closed", 0, 0)
	})
}

func TestWriteBuffers(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		size := s.ringSize()
		r := seeded(t)
		for _, n := range []int{0, 1, 100, size - 1, size, size + 1, 3*size + 7} {
			a, b := s.shmPair(t)
			want := pattern(0, n)
			bufs := net.Buffers{nil, {}}
			for rest := want; len(rest) > 0; {
				k := min(len(rest), 1+r.IntN(1+n/5))
				bufs = append(bufs, rest[:k], nil)
				rest = rest[k:]
			}
			go func() {
				m, err := a.WriteBuffers(&bufs)
				if m != int64(n) || err != nil {
					t.Errorf("WriteBuffers(%d) = %d, %v", n, m, err)
				}
				if len(bufs) != 0 {
					t.Errorf("WriteBuffers(%d) left %d buffers", n, len(bufs))
				}
				a.Close()
			}()
			got, err := io.ReadAll(b)
			if !bytes.Equal(got, want) || err != nil {
				t.Errorf("WriteBuffers(%d): read %d, %v", n, len(got), err)
			}
		}

		// With a deadline, what was not written is left in the buffers.
		a, b := s.shmPair(t)
		total := 3*size + 5
		bufs := net.Buffers{pattern(0, size-3), pattern(size-3, size), pattern(2*size-3, size+8)}
		var n int64
		var err error
		done := blocked(a, func() { n, err = a.WriteBuffers(&bufs) })
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		<-done
		wantErr(t, "WriteBuffers", err, "write timeout")
		if n <= 0 || n >= int64(total) {
			t.Errorf("WriteBuffers = %d, want some of %d", n, total)
		}
		left := slices.Concat(bufs...)
		if len(left) != total-int(n) {
			t.Errorf("WriteBuffers wrote %d of %d and left %d", n, total, len(left))
		}
		checkPattern(t, left, int(n))
		a.Close()
		got, err := io.ReadAll(b)
		if len(got) != int(n) || err != nil {
			t.Errorf("WriteBuffers = %d, but read were %d, %v", n, len(got), err)
		}
		checkPattern(t, got, 0)

		a, b = s.shmPair(t)
		b.Close()
		bufs = net.Buffers{[]byte("left"), []byte("over")}
		n, err = a.WriteBuffers(&bufs)
		wantErr(t, "WriteBuffers after the peer's Close", err, "write EPIPE")
		if n != 0 || len(bufs) != 2 || string(slices.Concat(bufs...)) != "leftover" {
			t.Errorf("WriteBuffers after the peer's Close = %d, and left %q", n, bufs)
		}
		a.Close()
		_, err = a.WriteBuffers(&bufs)
		wantErr(t, "WriteBuffers after Close", err, "write closed")
	})
}

// TestPeekAgainstWrite has a reader that waits for more than there is, in Peek or by
// asking Buffered, while a writer waits for room: neither may wait for the other.
func TestPeekAgainstWrite(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		size := s.ringSize()
		for _, r := range []int{8, size/4 - 1, size / 4, size/4 + 1, size/2 - 1} {
			for _, n := range []int{r + 1, size/2 - 1, size / 2} {
				for _, w := range []int{n - r, size / 2, size/4*3 - 1, size / 4 * 3, size, 2 * size} {
					for _, owed := range []int{0, size/4 - 1} {
						if n <= r || w < n-r {
							continue
						}
						a, b := s.shmPair(t)
						a.Write(pattern(0, owed))
						io.ReadFull(b, make([]byte, owed))
						a.Write(pattern(0, r))
						written := make(chan error, 1)
						go func() {
							_, err := a.Write(pattern(r, w))
							written <- err
						}()
						if owed > 0 {
							for b.Buffered() < n {
								runtime.Gosched()
							}
						}
						got, err := b.Peek(n)
						if err != nil || !bytes.Equal(got, pattern(0, n)) {
							t.Fatalf("ring %d, owed %d, unread %d, Write(%d): Peek(%d) = %d bytes, %v", size, owed, r, w, n, len(got), err)
						}
						if _, err := b.Discard(r + w); err != nil {
							t.Fatal(err)
						}
						if err := <-written; err != nil {
							t.Fatal(err)
						}
						a.Close()
						b.Close()
					}
				}
			}
		}
	})
}

// TestOnePublish checks that what fits into the ring is there as a whole or not at
// all, for a reader that looks all the time.
func TestOnePublish(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		n := min(s.ringSize()/2, 48<<10) // as Write's comment says
		for _, w := range []struct {
			name  string
			n     int
			write func(c *shmconn.Conn, b []byte) error
		}{
			{"Write", n, func(c *shmconn.Conn, b []byte) error { _, err := c.Write(b); return err }},
			{"WriteBuffers", n, func(c *shmconn.Conn, b []byte) error {
				_, err := c.WriteBuffers(&net.Buffers{b[:1], b[1:500], nil, b[500 : len(b)-1], b[len(b)-1:]})
				return err
			}},
			{"Commit", s.ringSize() / 2, func(c *shmconn.Conn, b []byte) error {
				p, err := c.Reserve(len(b))
				copy(p, b)
				return errors.Join(err, c.Commit(len(p)))
			}},
		} {
			t.Run(fmt.Sprintf("%s/len=%d,cap=%d", w.name, w.n, s.ringSize()), func(t *testing.T) {
				a, b := s.shmPair(t)
				msg := pattern(0, w.n)
				buf := make([]byte, s.ringSize())
				parts := 0
				for range 500 {
					go func() {
						if err := w.write(a, msg); err != nil {
							t.Error(err)
						}
					}()
					n, err := b.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					if n != len(msg) {
						parts++
						if _, err := io.ReadFull(b, buf[n:len(msg)]); err != nil {
							t.Fatal(err)
						}
					}
				}
				if parts > 0 {
					t.Errorf("%d of 500 came in parts", parts)
				}
			})
		}
	})
}

// An onlyReader hides all methods but Read, and so on.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// A scribbler uses all of the slice it is given as scratch space, and returns
// little.
type scribbler struct{ r io.Reader }

func (s scribbler) Read(b []byte) (int, error) {
	n, err := s.r.Read(b[:min(len(b), 333)])
	for i := range b[n:] {
		b[n+i] = 0xEE
	}
	return n, err
}

// A lastReader returns its last bytes together with io.EOF.
type lastReader struct{ b []byte }

func (r *lastReader) Read(b []byte) (int, error) {
	n := copy(b, r.b)
	r.b = r.b[n:]
	if len(r.b) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

func pipePair(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func tempFile(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.Write(b)
	f.Seek(0, io.SeekStart)
	return f
}

// fed returns r, into which w gets b in the background.
func fed(w io.WriteCloser, r io.Reader, b []byte) io.Reader {
	go func() { w.Write(b); w.Close() }()
	return r
}

// sources are the kinds of Reader for ReadFrom.
var sources = []struct {
	name string
	make func(t testing.TB, b []byte) io.Reader
}{
	{"file", func(t testing.TB, b []byte) io.Reader { return tempFile(t, b) }},
	{"file,limited", func(t testing.TB, b []byte) io.Reader {
		return io.LimitReader(tempFile(t, append(bytes.Clone(b), "not this"...)), int64(len(b)))
	}},
	{"file,offset", func(t testing.TB, b []byte) io.Reader {
		f := tempFile(t, append([]byte("not this"), b...))
		f.Seek(8, io.SeekStart)
		return f
	}},
	{"pipe", func(t testing.TB, b []byte) io.Reader { r, w := pipePair(t); return fed(w, r, b) }},
	{"tcp", func(t testing.TB, b []byte) io.Reader { x, y := tcpPair(t); return fed(x, y, b) }},
	{"unix", func(t testing.TB, b []byte) io.Reader { x, y := unixShape.pair(t); return fed(x, y, b) }},
	{"shm", func(t testing.TB, b []byte) io.Reader { x, y := shape{Ring: 4096}.pair(t); return fed(x, y, b) }},
	{"bytes.Reader", func(t testing.TB, b []byte) io.Reader { return bytes.NewReader(b) }},
	{"io.Pipe", func(t testing.TB, b []byte) io.Reader { r, w := io.Pipe(); return fed(w, r, b) }},
	{"scribbler", func(t testing.TB, b []byte) io.Reader { return scribbler{bytes.NewReader(b)} }},
	{"data with EOF", func(t testing.TB, b []byte) io.Reader { return &lastReader{b} }},
	{"onlyReader", func(t testing.TB, b []byte) io.Reader { return onlyReader{bytes.NewReader(b)} }},
}

func TestReadFrom(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		for _, src := range sources {
			t.Run("from="+src.name, func(t *testing.T) {
				for _, n := range []int{0, 1, 4095, 4096, 4097, s.ringSize() + 1, 1<<20 + 3} {
					a, b := s.shmPair(t)
					r := src.make(t, pattern(0, n))
					a.Write([]byte("before"))
					var m int64
					var err error
					done := make(chan bool)
					go func() {
						defer close(done)
						m, err = a.ReadFrom(r)
						a.Write([]byte("after"))
						a.Close()
					}()
					got, rerr := io.ReadAll(b)
					<-done
					if m != int64(n) || err != nil {
						t.Errorf("ReadFrom(%d) = %d, %v", n, m, err)
					}
					head, mid, tail := cutEnds(got, len("before"), len("after"))
					if string(head) != "before" || string(tail) != "after" || len(mid) != n || rerr != nil {
						t.Errorf("ReadFrom(%d): read %d between %q and %q, %v", n, len(mid), head, tail, rerr)
					}
					checkPattern(t, mid, 0)
					b.Close()
				}
			})
		}

		t.Run("deadline", func(t *testing.T) {
			for _, src := range sources[:1] {
				a, b := s.shmPair(t)
				r := src.make(t, pattern(0, 2*s.ringSize()))
				var n int64
				var err error
				done := blocked(a, func() { n, err = a.ReadFrom(r) })
				a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
				<-done
				wantErr(t, "ReadFrom", err, "readfrom timeout")
				if n <= 0 || n >= int64(2*s.ringSize()) {
					t.Errorf("ReadFrom = %d", n)
				}
				if off, _ := r.(*os.File).Seek(0, io.SeekCurrent); off != n {
					t.Errorf("ReadFrom = %d, and left the file's offset at %d", n, off)
				}
				a.Close()
				got, err := io.ReadAll(b)
				if int64(len(got)) != n || err != nil {
					t.Errorf("ReadFrom = %d, but read were %d, %v", n, len(got), err)
				}
				checkPattern(t, got, 0)
			}
		})
		t.Run("errors", func(t *testing.T) {
			a, b := s.shmPair(t)
			n, err := a.ReadFrom(io.MultiReader(strings.NewReader("hello"), errReader{errForeign}))
			if n != 5 || !errors.Is(err, errForeign) {
				t.Errorf("ReadFrom = %d, %v", n, err)
			}
			outcome(t, "shm", err)
			if got := make([]byte, 8); true {
				if n, _ := b.Read(got); string(got[:n]) != "hello" {
					t.Errorf("Read = %q", got[:n])
				}
			}
			for _, src := range sources {
				a, b := s.shmPair(t)
				b.Close()
				n, err := a.ReadFrom(src.make(t, []byte("hello")))
				if n != 0 {
					t.Errorf("%s: ReadFrom after the peer's Close = %d", src.name, n)
				}
				wantErr(t, src.name+": ReadFrom after the peer's Close", err, "readfrom EPIPE")
				a.Close()
				_, err = a.ReadFrom(src.make(t, []byte("hello")))
				wantErr(t, src.name+": ReadFrom after Close", err, "readfrom closed")
			}
		})
	})
}

func cutEnds(b []byte, head, tail int) (h, m, t []byte) {
	if len(b) < head+tail {
		return b, nil, nil
	}
	return b[:head], b[head : len(b)-tail], b[len(b)-tail:]
}

// A sink is a Writer, and what it has got once it is closed.
type sink struct {
	w     io.Writer
	close func()
	got   func() []byte
}

// collected reads r in the background.
func collected(w io.WriteCloser, r io.Reader) sink {
	ch := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(r); ch <- b }()
	return sink{w, func() { w.Close() }, func() []byte { return <-ch }}
}

var sinks = []struct {
	name string
	make func(t testing.TB) sink
}{
	{"file", func(t testing.TB) sink {
		f := tempFile(t, nil)
		return sink{f, func() {}, func() []byte { b, _ := os.ReadFile(f.Name()); return b }}
	}},
	{"file,append", func(t testing.TB) sink {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return sink{f, func() { f.Close() }, func() []byte { b, _ := os.ReadFile(f.Name()); return b }}
	}},
	{"pipe", func(t testing.TB) sink { r, w := pipePair(t); return collected(w, r) }},
	{"tcp", func(t testing.TB) sink { x, y := tcpPair(t); return collected(x, y) }},
	{"unix", func(t testing.TB) sink { x, y := unixShape.pair(t); return collected(x, y) }},
	{"shm", func(t testing.TB) sink { x, y := shape{Ring: 4096}.pair(t); return collected(x, y) }},
	{"bytes.Buffer", func(t testing.TB) sink { b := new(bytes.Buffer); return sink{b, func() {}, b.Bytes} }},
	{"io.Pipe", func(t testing.TB) sink { r, w := io.Pipe(); return collected(w, r) }},
	{"io.MultiWriter", func(t testing.TB) sink {
		var x, y bytes.Buffer
		return sink{io.MultiWriter(&x, &y), func() {}, func() []byte {
			if !bytes.Equal(x.Bytes(), y.Bytes()) {
				t.Error("a MultiWriter's two got different bytes")
			}
			return x.Bytes()
		}}
	}},
	{"onlyWriter", func(t testing.TB) sink {
		b := new(bytes.Buffer)
		return sink{onlyWriter{b}, func() {}, b.Bytes}
	}},
}

func TestWriteTo(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		for _, dst := range sinks {
			t.Run("to="+dst.name, func(t *testing.T) {
				for _, n := range []int{0, 1, 4095, 4096, 4097, s.ringSize() + 1, 1<<20 + 3} {
					a, b := s.shmPair(t)
					go func() {
						for off := 0; off < n; off += 10_000 {
							a.Write(pattern(off, min(10_000, n-off)))
						}
						a.Close()
					}()
					k := dst.make(t)
					m, err := b.WriteTo(k.w)
					if m != int64(n) || err != nil {
						t.Errorf("WriteTo(%d) = %d, %v", n, m, err)
					}
					k.close()
					got := k.got()
					if len(got) != n {
						t.Errorf("WriteTo(%d): written were %d", n, len(got))
					}
					checkPattern(t, got, 0)
					b.Close()
				}
			})
		}

		t.Run("deadline", func(t *testing.T) {
			for _, dst := range sinks {
				a, b := s.shmPair(t)
				a.Write(pattern(0, 1000))
				k := dst.make(t)
				var n int64
				var err error
				done := blocked(b, func() { n, err = b.WriteTo(k.w) })
				b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				<-done
				wantErr(t, dst.name+": WriteTo", err, "writeto timeout")
				k.close()
				if got := k.got(); n != 1000 || len(got) != 1000 {
					t.Errorf("%s: WriteTo = %d, and wrote %d, want 1000", dst.name, n, len(got))
				}
			}
		})
		t.Run("errors", func(t *testing.T) {
			a, b := s.shmPair(t)
			a.Write([]byte("hello"))
			n, err := b.WriteTo(failingWriter{})
			if n != 0 || !errors.Is(err, errForeign) {
				t.Errorf("WriteTo = %d, %v", n, err)
			}
			outcome(t, "shm", err)
			a.Write([]byte("hello"))
			n, err = b.WriteTo(shortWriter{})
			if !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("WriteTo = %d, %v", n, err)
			}
			// What the kernel did not take is still there.
			f := tempFile(t, nil)
			f.Close()
			r, w := pipePair(t)
			r.Close()
			x, _ := tcpPair(t)
			x.Close()
			for _, dst := range []struct {
				name string
				w    io.Writer
				err  error
			}{
				{"a closed file", f, os.ErrClosed},
				{"a broken pipe", w, syscall.EPIPE},
				{"a closed TCP connection", x, net.ErrClosed},
			} {
				a, b := s.shmPair(t)
				a.Write([]byte("hello"))
				n, err := b.WriteTo(dst.w)
				if n != 0 || !errors.Is(err, dst.err) {
					t.Errorf("WriteTo %s = %d, %v", dst.name, n, err)
				}
				got := make([]byte, 8)
				if n, err := b.TryRead(got); string(got[:n]) != "hello" {
					t.Errorf("after WriteTo %s failed, read %q, %v", dst.name, got[:n], err)
				}
			}
			for _, dst := range sinks {
				_, b := s.shmPair(t)
				b.Close()
				k := dst.make(t)
				_, err := b.WriteTo(k.w)
				wantErr(t, dst.name+": WriteTo after Close", err, "writeto closed")
				k.close()
				k.got()
			}
		})
	})
}

// TestSlowCopy checks that a Read or Write beside an io.Copy whose other side
// blocks goes on and keeps its deadline.
func TestSlowCopy(t *testing.T) {
	blockedPipe := func(t *testing.T) (f *os.File, free func()) {
		r, w := pipePair(t)
		for w.SetWriteDeadline(time.Now().Add(time.Millisecond)); ; {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		w.SetWriteDeadline(none)
		return w, func() { r.Close() }
	}
	onShapes(t, small, func(t *testing.T, s shape) {
		t.Run("ReadFrom", func(t *testing.T) {
			a, b := s.shmPair(t)
			src := newSlowReader("slow")
			done := make(chan bool)
			go func() {
				defer close(done)
				if n, err := a.ReadFrom(src); n != 4 || err != nil {
					t.Errorf("ReadFrom = %d, %v", n, err)
				}
			}()
			<-src.entered
			buf := make([]byte, 8)
			if n, err := a.Write([]byte("fast")); n != 4 || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			if n, _ := b.Read(buf); string(buf[:n]) != "fast" {
				t.Errorf("read %q", buf[:n])
			}
			for {
				if n, err := a.TryWrite(make([]byte, 1<<16)); n == 0 {
					if err != nil {
						t.Error(err)
					}
					break
				}
			}
			a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
			_, err := a.Write([]byte("x"))
			wantErr(t, "Write", err, "write timeout")
			a.SetWriteDeadline(none)
			go io.Copy(io.Discard, b)
			close(src.release)
			<-done
			a.Close()
		})
		t.Run("WriteTo", func(t *testing.T) {
			a, b := s.shmPair(t)
			dst := newSlowWriter(io.Discard)
			done := make(chan bool)
			go func() {
				defer close(done)
				if n, err := b.WriteTo(dst); n != 4 || err != nil {
					t.Errorf("WriteTo = %d, %v", n, err)
				}
			}()
			a.Write([]byte("slow"))
			<-dst.entered
			b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			buf := make([]byte, 8)
			_, err := b.Read(buf)
			wantErr(t, "Read", err, "read timeout")
			b.SetReadDeadline(none)
			a.Write([]byte("fast"))
			if n, err := b.Read(buf); string(buf[:n]) != "fast" || err != nil {
				t.Errorf("Read = %q, %v", buf[:n], err)
			}
			a.Close()
			close(dst.release)
			<-done
		})
		t.Run("WriteTo a pipe that is full", func(t *testing.T) {
			a, b := s.shmPair(t)
			w, free := blockedPipe(t)
			done := make(chan bool)
			go func() { defer close(done); b.WriteTo(w) }()
			a.Write([]byte("x"))
			// Whether WriteTo has the byte already or Read gets it: neither may wait
			// beyond the deadline.
			b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			n, err := b.Read(make([]byte, 1))
			if n == 0 {
				wantErr(t, "Read", err, "read timeout")
			}
			// Nor may Close wait.
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			free()
			<-done
		})
		t.Run("WriteTo a TCP connection that is full", func(t *testing.T) {
			a, b := s.shmPair(t)
			x, y := tcpPair(t)
			for x.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); ; {
				if _, err := x.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			x.SetWriteDeadline(none)
			done := make(chan bool)
			go func() { defer close(done); b.WriteTo(x) }()
			a.Write([]byte("x"))
			b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			n, err := b.Read(make([]byte, 1))
			if n == 0 {
				wantErr(t, "Read", err, "read timeout")
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			y.Close()
			x.Close()
			<-done
		})
	})
}

func TestPeekDiscard(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		size := s.ringSize()
		a, b := s.shmPair(t)
		a.Write([]byte("hello, world"))
		for range 2 { // Peek takes nothing off
			if got, err := b.Peek(5); string(got) != "hello" || err != nil {
				t.Errorf("Peek(5) = %q, %v", got, err)
			}
		}
		if n, err := b.Discard(7); n != 7 || err != nil {
			t.Errorf("Discard(7) = %d, %v", n, err)
		}
		if got, err := b.Peek(0); len(got) != 0 || err != nil {
			t.Errorf("Peek(0) = %q, %v", got, err)
		}
		if n, err := b.Discard(0); n != 0 || err != nil {
			t.Errorf("Discard(0) = %d, %v", n, err)
		}
		if got := b.Buffered(); got != 5 {
			t.Errorf("Buffered() = %d, want 5", got)
		}
		b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		got, err := b.Peek(6)
		wantErr(t, "Peek(6) of 5 with a deadline", err, "read timeout")
		if string(got) != "world" {
			t.Errorf("Peek(6) of 5 with a deadline = %q", got)
		}
		got, err = b.Peek(2)
		wantErr(t, "Peek(2) of 5 with a deadline passed", err, "read timeout")
		if len(got) > 2 || !strings.HasPrefix("wo", string(got)) {
			t.Errorf("Peek(2) of 5 with a deadline passed = %q", got)
		}
		n, err := b.Discard(6)
		wantErr(t, "Discard(6) of 5 with a deadline", err, "read timeout")
		if n != 0 && n != 5 {
			t.Errorf("Discard(6) of 5 with a deadline = %d", n)
		}
		t.Logf("Discard(6) of 5, deadline passed = %d", n)
		b.SetReadDeadline(none)
		b.Discard(b.Buffered())

		// Out of range.
		for _, n := range []int{-1, math.MinInt, size/2 + 1, size, math.MaxInt} {
			if got, err := b.Peek(n); len(got) != 0 || err == nil {
				t.Errorf("Peek(%d) = %d bytes, %v, want an error", n, len(got), err)
			} else {
				outcome(t, "shm", err)
			}
		}
		if n, err := b.Discard(-1); n != 0 || err == nil {
			t.Errorf("Discard(-1) = %d, %v, want an error", n, err)
		} else {
			outcome(t, "shm", err)
		}

		// They wait; half the ring is not too much; Discard of more is neither.
		go a.Write(pattern(0, size/2))
		got, err = b.Peek(size / 2)
		if len(got) != size/2 || err != nil {
			t.Errorf("Peek(%d) = %d bytes, %v", size/2, len(got), err)
		}
		checkPattern(t, got, 0)
		b.Discard(size / 2)
		go a.Write(append(make([]byte, 3*size), "tail"...))
		if n, err := b.Discard(3 * size); n != 3*size || err != nil {
			t.Errorf("Discard(%d) = %d, %v", 3*size, n, err)
		}
		if got, err := b.Peek(4); string(got) != "tail" || err != nil {
			t.Errorf("Peek(4) = %q, %v", got, err)
		}

		// The end.
		a.Close()
		got, err = b.Peek(5)
		if string(got) != "tail" || err != io.EOF {
			t.Errorf("Peek(5) of 4 at the end = %q, %v", got, err)
		}
		if got, err := b.Peek(4); string(got) != "tail" || err != nil {
			t.Errorf("Peek(4) of 4 at the end = %q, %v", got, err)
		}
		if n, err := b.Discard(5); n != 4 || err != io.EOF {
			t.Errorf("Discard(5) of 4 at the end = %d, %v", n, err)
		}
		if got, err := b.Peek(1); len(got) != 0 || err != io.EOF {
			t.Errorf("Peek(1) after the end = %q, %v", got, err)
		}
		b.Close()
		_, err = b.Peek(1)
		wantErr(t, "Peek after Close", err, "read closed")
		_, err = b.Discard(1)
		wantErr(t, "Discard after Close", err, "read closed")
	})
}

// TestSpansAreContiguous moves spans over the end of the ring.
func TestSpansAreContiguous(t *testing.T) {
	for _, n := range []int{1, 7, 1000, 1023, 2047, 2048} {
		t.Run(fmt.Sprintf("len=%d,cap=4096", n), func(t *testing.T) {
			a, b := shape{Ring: 4096}.shmPair(t)
			for off := 0; off < 5*4096; off += n {
				w, err := a.Reserve(n)
				if len(w) != n || err != nil {
					t.Fatalf("Reserve(%d) = %d bytes, %v", n, len(w), err)
				}
				copy(w, pattern(off, n))
				if b.Buffered() != 0 {
					t.Fatal("bytes are there before Commit")
				}
				if err := a.Commit(n); err != nil {
					t.Fatal(err)
				}
				r, err := b.Peek(n)
				if len(r) != n || err != nil {
					t.Fatalf("Peek(%d) = %d bytes, %v", n, len(r), err)
				}
				if i := firstDiff(r, off); i >= 0 {
					t.Fatalf("byte %d differs", off+i)
				}
				if m, err := b.Discard(n); m != n || err != nil {
					t.Fatalf("Discard(%d) = %d, %v", n, m, err)
				}
			}
		})
	}
}

func TestReserveCommit(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		size := s.ringSize()
		a, b := s.shmPair(t)
		bad := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s succeeded, want an error", what)
				return
			}
			outcome(t, "shm", err)
			if b.Buffered() != 0 {
				t.Errorf("%s published %d bytes", what, b.Buffered())
				b.Discard(b.Buffered())
			}
		}
		read := func(want string) {
			t.Helper()
			got := make([]byte, 64)
			if n, err := b.TryRead(got); string(got[:n]) != want || err != nil {
				t.Errorf("read %q, %v, want %q", got[:n], err, want)
			}
		}
		bad("Commit(1) of nothing", a.Commit(1))
		for _, n := range []int{-1, math.MinInt, size/2 + 1, size, math.MaxInt} {
			_, err := a.Reserve(n)
			bad(fmt.Sprintf("Reserve(%d)", n), err)
			bad("Commit(1) after it", a.Commit(1))
		}
		reserve := func(str string) {
			t.Helper()
			w, err := a.Reserve(len(str))
			if len(w) != len(str) || err != nil {
				t.Fatalf("Reserve(%d) = %d bytes, %v", len(str), len(w), err)
			}
			copy(w, str)
		}
		reserve("hello")
		if err := a.Commit(5); err != nil {
			t.Error(err)
		}
		read("hello")
		bad("a second Commit", a.Commit(1))
		reserve("hello")
		if err := a.Commit(3); err != nil {
			t.Error(err)
		}
		read("hel")
		bad("Commit of the rest", a.Commit(2))
		reserve("hello")
		bad("Commit of more than reserved", a.Commit(6))
		reserve("hello")
		bad("Commit(-1)", a.Commit(-1))
		reserve("hello")
		reserve("HEY") // takes the place of the first
		bad("Commit of more than reserved", a.Commit(5))
		reserve("hello")
		if n, err := a.Write([]byte("written")); n != 7 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		read("written")
		bad("Commit after Write", a.Commit(5))

		// It waits for room.
		w, err := a.Reserve(size / 2)
		if len(w) != size/2 || err != nil {
			t.Errorf("Reserve(%d) = %d bytes, %v", size/2, len(w), err)
		}
		a.Write(make([]byte, size/2+1))
		a.TryWrite(make([]byte, size/4))
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, err = a.Reserve(size / 2)
		wantErr(t, "Reserve without room", err, "write timeout")
		a.SetWriteDeadline(none)
		done := blocked(a, func() {
			if w, err := a.Reserve(size / 2); len(w) != size/2 || err != nil {
				t.Errorf("Reserve(%d) = %d bytes, %v", size/2, len(w), err)
			}
		})
		b.Discard(b.Buffered())
		<-done

		// The ends.
		b.Close()
		_, err = a.Reserve(1)
		wantErr(t, "Reserve after the peer's Close", err, "write EPIPE")
		a.Close()
		_, err = a.Reserve(1)
		wantErr(t, "Reserve after Close", err, "write closed")
		wantErr(t, "Commit after Close", a.Commit(1), "write closed")
	})
}

// TestSpansAfterClose touches spans of connections that were closed.
func TestSpansAfterClose(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		for _, end := range []string{"own", "both", "own first"} {
			a, b := s.shmPair(t)
			a.Write([]byte("hello"))
			r, err := b.Peek(5)
			if err != nil {
				t.Fatal(err)
			}
			w, err := b.Reserve(s.ringSize() / 2)
			if err != nil {
				t.Fatal(err)
			}
			switch end {
			case "own":
				b.Close()
			case "both":
				a.Close()
				b.Close()
			case "own first":
				b.Close()
				a.Close()
			}
			runtime.GC()
			for i := range w {
				w[i] = r[i%len(r)]
			}
			// The addresses are not given to another connection while the span is out.
			c, d := s.shmPair(t)
			for i := range w {
				w[i] = 0xEE
			}
			c.Write([]byte("other"))
			got := make([]byte, 5)
			if io.ReadFull(d, got); string(got) != "other" {
				t.Errorf("%s: another connection reads %q", end, got)
			}
			runtime.KeepAlive(b)
		}
	})
}

func TestGuard(t *testing.T) {
	a, _ := shape{}.shmPair(t)
	ran := false
	if err := a.Guard(func() { ran = true }); err != nil || !ran {
		t.Errorf("Guard = %v, ran %t", err, ran)
	}
	if err := a.Guard(func() { a.Guard(func() { ran = false }) }); err != nil || ran {
		t.Errorf("Guard in Guard = %v, ran %t", err, !ran)
	}
	panics := func(name string, f func()) (v any) {
		defer func() {
			v = recover()
			if v == nil {
				t.Errorf("%s: no panic", name)
			}
		}()
		err := a.Guard(f)
		t.Errorf("%s: Guard returned %v", name, err)
		return nil
	}
	if v := panics("own", func() { panic(errForeign) }); v != errForeign {
		t.Errorf("panic is %v", v)
	}
	var nilMap map[int]int
	panics("map", func() { nilMap[1] = 1 })
	var p *[8]byte
	panics("nil", func() { p[3]++ })
	if v, ok := panics("index", func() { _ = make([]int, 1)[len(os.Args)+5] }).(runtime.Error); !ok {
		t.Errorf("panic is %v", v)
	}
	// Goexit, as of t.FailNow, goes through too.
	done := make(chan bool)
	go func() {
		defer close(done)
		a.Guard(runtime.Goexit)
		t.Error("Guard returned after Goexit")
	}()
	<-done
	// None of it has done the connection harm.
	if err := a.Guard(func() {}); err != nil {
		t.Error(err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	a.Close()
	if err := a.Guard(func() {}); err != nil {
		wantErr(t, "Guard after Close", err, "guard closed")
	}
}

// segmentPair returns a connection and its segment's file, which an end, as
// everybody who was given the segment, can open again and write to or truncate.
func segmentPair(t testing.TB, s shape) (a, b *shmconn.Conn, seg *os.File) {
	t.Helper()
	name := newName()
	l := s.mustListen(t, name)
	defer l.Close()
	x := s.mustDial(t, name)
	y := mustAccept(t, l)
	// Its name is gone, but /proc has the descriptors, and for root the mappings.
	for _, dir := range []string{"/proc/self/fd/", "/proc/self/map_files/"} {
		for _, link := range listDir(dir) {
			target, _ := os.Readlink(dir + link)
			if !strings.HasPrefix(target, s.path("shmconn."+name+"@")) || strings.HasSuffix(target, "@sock") {
				continue
			}
			seg, err := os.OpenFile(dir+link, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { seg.Close() })
			return x.(*shmconn.Conn), y.(*shmconn.Conn), seg
		}
	}
	t.Fatal("no way to the segment")
	return nil, nil, nil
}

// TestTruncated truncates the segment under both ends. Each call is the first
// that finds out.
func TestTruncated(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(a *shmconn.Conn, span []byte) error
	}{
		{"Read", func(a *shmconn.Conn, _ []byte) error { _, err := a.Read(make([]byte, 8)); return err }},
		{"Write", func(a *shmconn.Conn, _ []byte) error { _, err := a.Write(make([]byte, 8)); return err }},
		{"TryRead", func(a *shmconn.Conn, _ []byte) error { _, err := a.TryRead(make([]byte, 8)); return err }},
		{"TryWrite", func(a *shmconn.Conn, _ []byte) error { _, err := a.TryWrite(make([]byte, 8)); return err }},
		{"WriteBuffers", func(a *shmconn.Conn, _ []byte) error {
			_, err := a.WriteBuffers(&net.Buffers{make([]byte, 8)})
			return err
		}},
		{"Peek and look", func(a *shmconn.Conn, _ []byte) error {
			p, err := a.Peek(8)
			if err == nil {
				err = a.Guard(func() { _ = string(p) })
			}
			return err
		}},
		{"Reserve and fill", func(a *shmconn.Conn, _ []byte) error {
			p, err := a.Reserve(8)
			if err == nil {
				err = a.Guard(func() { clear(p) })
			}
			return err
		}},
		{"Guard", func(a *shmconn.Conn, span []byte) error { return a.Guard(func() { _ = string(span) }) }},
		{"ReadFrom", func(a *shmconn.Conn, _ []byte) error {
			_, err := a.ReadFrom(strings.NewReader("hello"))
			return err
		}},
		{"ReadFrom file", func(a *shmconn.Conn, _ []byte) error {
			f, err := os.Open("/proc/self/exe")
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = a.ReadFrom(f)
			return err
		}},
		{"WriteTo", func(a *shmconn.Conn, _ []byte) error { _, err := a.WriteTo(io.Discard); return err }},
		{"WriteTo pipe", func(a *shmconn.Conn, _ []byte) error {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer r.Close()
			defer w.Close()
			_, err = a.WriteTo(w)
			return err
		}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			for _, size := range []int64{0, 4096} { // all, and the rings alone
				for _, s := range []shape{{}, {Swap: true}} {
					a, b, seg := segmentPair(t, s)
					if s.Swap {
						a, b = b, a
					}
					b.Write(pattern(0, 1000))
					span, err := a.Peek(8)
					if err != nil {
						t.Fatal(err)
					}
					if err := seg.Truncate(size); err != nil {
						t.Fatal(err)
					}
					err = tt.call(a, span)
					if _, ok := errors.AsType[*shmconn.CorruptError](err); !ok {
						t.Errorf("size=%d: got %v, want a CorruptError", size, err)
						continue
					}
					outcome(t, "shm", err)
					_, err2 := a.Read(make([]byte, 8))
					if _, ok := errors.AsType[*shmconn.CorruptError](err2); !ok {
						t.Errorf("size=%d: and then Read: %v, want a CorruptError", size, err2)
					}
					_, err2 = a.Write(make([]byte, 8))
					if _, ok := errors.AsType[*shmconn.CorruptError](err2); !ok {
						t.Errorf("size=%d: and then Write: %v, want a CorruptError", size, err2)
					}
					if a.Buffered() != 0 || a.Available() != 0 {
						t.Errorf("size=%d: Buffered() = %d, Available() = %d", size, a.Buffered(), a.Available())
					}
					if err := a.Close(); err != nil {
						t.Errorf("size=%d: Close: %v", size, err)
					}
					b.Close() // which may find out itself
				}
			}
		})
	}
}

// TestTruncatedStats asks for what never waits nor fails, of a damaged connection.
func TestTruncatedStats(t *testing.T) {
	a, b, seg := segmentPair(t, shape{})
	b.Write(pattern(0, 1000))
	io.ReadFull(a, make([]byte, 10))
	if err := seg.Truncate(0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before it was found out, and after
		if a.Buffered() != 0 || a.Available() != 0 {
			t.Errorf("Buffered() = %d, Available() = %d", a.Buffered(), a.Available())
		}
		if st := a.Stats(); st.BytesRead != 10 {
			t.Errorf("Stats() = %+v", st)
		}
		a.Read(make([]byte, 8))
		a.Write(make([]byte, 8))
	}
}

// TestTruncatedWhileBlocked truncates the segment under calls that wait: they
// return when they look again, at their deadline at the latest.
func TestTruncatedWhileBlocked(t *testing.T) {
	for _, poll := range []time.Duration{0, pollAlways, pollNever} {
		t.Run("poll="+pollName(poll), func(t *testing.T) {
			if poll != pollNever {
				skipRaced(t)
			}
			a, b, seg := segmentPair(t, shape{Ring: 4096}.poll(poll))
			var rerr, werr error
			r := blocked(a, func() { _, rerr = a.Read(make([]byte, 8)) })
			w := blocked(a, func() { _, werr = a.Write(make([]byte, 1<<20)) })
			a.SetDeadline(time.Now().Add(20 * time.Millisecond))
			if err := seg.Truncate(0); err != nil {
				t.Fatal(err)
			}
			<-r
			<-w
			for _, err := range []error{rerr, werr} {
				if _, ok := errors.AsType[*shmconn.CorruptError](err); !ok && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want a CorruptError or a timeout", err)
				}
			}
			a.Close()
			b.Close()
		})
	}
}

// TestScribbled overwrites words of the header while both ends are in use:
// calls may fail and the stream may be garbage, but nothing crashes, hangs, or
// counts more than it was given.
func TestScribbled(t *testing.T) {
	rounds := 200
	if *long {
		rounds = 5000
	}
	for _, poll := range []time.Duration{0, pollAlways, pollNever} {
		t.Run("poll="+pollName(poll), func(t *testing.T) {
			r := seeded(t)
			corrupt := 0
			for range rounds {
				a, b, seg := segmentPair(t, shape{Ring: 4096}.poll(poll))
				a.SetDeadline(time.Now().Add(3 * time.Millisecond))
				b.SetDeadline(time.Now().Add(3 * time.Millisecond))
				a.Write(make([]byte, r.IntN(4096)))
				b.Write(make([]byte, r.IntN(4096)))
				var wg sync.WaitGroup
				check := func(what string, n, most int, err error) {
					if n < 0 || n > most {
						t.Errorf("%s of %d = %d, %v", what, most, n, err)
					}
					if err != nil {
						outcome(t, "shm", err)
					}
				}
				var found atomic.Int64
				use := func(c *shmconn.Conn, seed uint64) {
					r := rand.New(rand.NewPCG(seed, 0))
					for range 20 {
						k := 1 + r.IntN(2048)
						var err error
						var n int
						switch r.IntN(6) {
						case 0, 1:
							n, err = c.Read(make([]byte, k))
							check("Read", n, k, err)
						case 2, 3:
							n, err = c.Write(make([]byte, k))
							check("Write", n, k, err)
						case 4:
							var p []byte
							p, err = c.Peek(k)
							check("Peek", len(p), k, err)
							for i := range p {
								p[i]++
							}
							c.Discard(len(p))
						case 5:
							var p []byte
							if p, err = c.Reserve(k); err == nil {
								check("Reserve", len(p), k, err)
								clear(p)
								c.Commit(len(p))
							}
						}
						if n := c.Buffered(); n < 0 || n > 4096 {
							t.Errorf("Buffered() = %d", n)
						}
						if n := c.Available(); n < 0 || n > 4096 {
							t.Errorf("Available() = %d", n)
						}
						if _, ok := errors.AsType[*shmconn.CorruptError](err); ok {
							found.Add(1)
							return
						}
					}
				}
				seed := r.Uint64()
				wg.Go(func() { use(a, seed) })
				wg.Go(func() { use(b, seed+1) })
				for range 8 {
					var word [8]byte
					v := r.Uint64()
					switch r.IntN(3) {
					case 0:
						v >>= r.IntN(64)
					case 1:
						v = -(v >> r.IntN(64))
					}
					binary.NativeEndian.PutUint64(word[:], v)
					at := r.IntN(4096 / 8)
					if r.IntN(2) == 0 {
						at &^= 7 // words with a line of their own are at its beginning
					}
					if _, err := seg.WriteAt(word[:], int64(at*8)); err != nil {
						t.Error(err)
					}
				}
				wg.Wait()
				if found.Load() > 0 {
					corrupt++
				}
				a.Close()
				b.Close()
				seg.Close()
			}
			t.Logf("%d of %d rounds found out", corrupt, rounds)
			if corrupt == 0 {
				t.Error("no round had a CorruptError: the scribbling misses")
			}
		})
	}
}

func TestStats(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		if got, want := a.Stats(), (shmconn.Stats{RingSize: s.ringSize()}); got != want {
			t.Errorf("Stats() of a new connection = %+v, want %+v", got, want)
		}
		a.Write(make([]byte, 100))
		a.WriteBuffers(&net.Buffers{make([]byte, 10), make([]byte, 20)})
		a.Reserve(10)
		a.Commit(7)
		io.ReadFull(b, make([]byte, 30))
		b.Peek(10)
		b.Discard(12)
		if st := a.Stats(); st.BytesWritten != 137 || st.BytesRead != 0 {
			t.Errorf("Stats() of the writer = %+v", st)
		}
		if st := b.Stats(); st.BytesRead != 42 || st.BytesWritten != 0 {
			t.Errorf("Stats() of the reader = %+v", st)
		}
		io.ReadFull(b, make([]byte, b.Buffered()))

		done := blocked(b, func() { b.Read(make([]byte, 1)) })
		if s.DialPoll == pollAlways {
			a.Write([]byte("x"))
			<-done
			if st := b.Stats(); st.Parks != 0 {
				t.Errorf("BusyPoll < 0 has parked: %+v", st)
			}
			if st := a.Stats(); st.Rings != 0 {
				t.Errorf("BusyPoll < 0 was rung for: %+v", st)
			}
		} else {
			eventually(func() bool { return b.Stats().Parks > 0 })
			eventually(func() bool { a.Write([]byte("x")); return a.Stats().Rings > 0 })
			<-done
		}
		if st := b.Stats(); st.Waits == 0 {
			t.Errorf("Stats() after a wait = %+v", st)
		}
		a.Close()
		b.Close()
		if st := a.Stats(); st.RingSize != s.ringSize() || st.BytesWritten < 138 {
			t.Errorf("Stats() after Close = %+v", st)
		}
		if st := b.Stats(); st.BytesRead < 138 {
			t.Errorf("Stats() after Close = %+v", st)
		}
	})
}

func TestPeerCred(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		for _, c := range []*shmconn.Conn{a, b} {
			pid, uid, gid := c.PeerCred()
			if pid != os.Getpid() || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
				t.Errorf("PeerCred() = %d, %d, %d, want %d, %d, %d", pid, uid, gid, os.Getpid(), os.Getuid(), os.Getgid())
			}
		}
	})
}

func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		buf := make([]byte, 1000)
		zero := func(name string, f func()) {
			t.Helper()
			if n := testing.AllocsPerRun(200, f); n != 0 {
				t.Errorf("%s: %v allocations, want 0", name, n)
			}
		}
		zero("Write and Read", func() { a.Write(buf); io.ReadFull(b, buf) })
		zero("TryWrite and TryRead", func() { a.TryWrite(buf); b.TryRead(buf) })
		zero("Reserve, Commit, Peek, Discard", func() {
			a.Reserve(100)
			a.Commit(100)
			b.Peek(100)
			b.Discard(100)
		})
		zero("Buffered", func() { a.Buffered() })
		zero("Available", func() { a.Available() })
		go func() {
			echo := make([]byte, len(buf))
			for {
				if _, err := io.ReadFull(b, echo); err != nil {
					return
				}
				b.Write(echo)
			}
		}()
		zero("round trip", func() { a.Write(buf); io.ReadFull(a, buf) })
		a.SetDeadline(time.Now().Add(time.Hour))
		zero("round trip with a deadline", func() { a.Write(buf); io.ReadFull(a, buf) })
	})
}

// TestDropped drops one end without closing it: the collector does.
func TestDropped(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b, _, err := s.connect()
		if err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("last words"))
		a.SetDeadline(time.Now().Add(time.Hour)) // a timer does not hold it
		a = nil
		var got []byte
		done := blocked(b, func() { got, err = io.ReadAll(b) })
		for dropped := false; !dropped; {
			runtime.GC()
			select {
			case <-done:
				dropped = true
			default:
			}
		}
		if string(got) != "last words" || err != nil {
			t.Errorf("peer read %q, %v", got, err)
		}
		b.Close()
	})
}

func TestAddr(t *testing.T) {
	name := newName()
	dir := t.TempDir()
	for _, name := range []string{name, filepath.Join(dir, name)} {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		check := func(closed string) {
			t.Helper()
			for _, addr := range []net.Addr{l.Addr(), a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr()} {
				if addr.Network() != "shm" || addr.String() != name {
					t.Errorf("%s: address is %q %q, want %q %q", closed, addr.Network(), addr, "shm", name)
				}
				if addr != (shmconn.Addr{Name: name}) {
					t.Errorf("%s: address is a %T, want an Addr", closed, addr)
				}
			}
		}
		check("open")
		a.Close()
		b.Close()
		l.Close()
		check("closed")
	}
}

func TestBufio(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.pair(t)
		const lines = 5000
		go func() {
			w := bufio.NewWriter(a)
			for i := range lines {
				fmt.Fprintf(w, "line %d\n", i)
			}
			w.Flush()
			a.Close()
		}()
		sc := bufio.NewScanner(b)
		n := 0
		for ; sc.Scan(); n++ {
			if want := fmt.Sprintf("line %d", n); sc.Text() != want {
				t.Fatalf("got %q, want %q", sc.Text(), want)
			}
		}
		if n != lines || sc.Err() != nil {
			t.Errorf("%d lines, %v", n, sc.Err())
		}
	})
}

// serveHTTP serves echoes over l, and returns a client of it. The handler of /wait
// says when it is called, and when its client is gone.
func serveHTTP(t *testing.T, s shape, l net.Listener) (client *http.Client, waiting chan bool) {
	waiting = make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Remote", r.RemoteAddr)
		// All of it first: HTTP/1 does not answer and listen at once.
		body, err := io.ReadAll(r.Body)
		if err == nil {
			w.Write(body)
		}
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		waiting <- true
		<-r.Context().Done()
		waiting <- true
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	d := &shmconn.Dialer{BusyPoll: s.DialPoll}
	tr := &http.Transport{DialContext: d.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, waiting
}

func TestHTTP(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		name := newName()
		client, waiting := serveHTTP(t, s, s.mustListen(t, name))
		for _, url := range []string{"http://" + name + "/echo", "http://" + name + ":80/echo"} {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for _, n := range []int{0, 1, 100_000 * (i % 2), 1 << 19} {
						resp, err := client.Post(url, "application/octet-stream", onlyReader{bytes.NewReader(pattern(0, n))})
						if err != nil {
							t.Error(err)
							return
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if len(got) != n || err != nil || resp.StatusCode != 200 {
							t.Errorf("POST of %d: %d, %d bytes, %v", n, resp.StatusCode, len(got), err)
						}
						checkPattern(t, got, 0)
						if got := resp.Header.Get("Remote"); got != name {
							t.Errorf("RemoteAddr = %q, want %q", got, name)
						}
					}
				})
			}
			wg.Wait()
		}

		// A request that is cancelled: the connection is closed, and the handler
		// hears of it.
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+name+"/wait", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() { <-waiting; cancel() }()
		_, err = client.Do(req)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled request: %v", err)
		}
		<-waiting
	})
}

func TestTLS(t *testing.T) {
	cert, pool := newCert(t)
	onShapes(t, append([]shape{unixShape}, small...), func(t *testing.T, s shape) {
		x, y := s.pair(t)
		client := tls.Client(x, &tls.Config{RootCAs: pool, ServerName: "feed"})
		server := tls.Server(y, &tls.Config{Certificates: []tls.Certificate{cert}})
		const n = 1 << 20
		go func() {
			io.Copy(server, server)
			server.CloseWrite()
		}()
		go func() {
			if _, err := client.Write(pattern(0, n)); err != nil {
				t.Error(err)
			}
			if err := client.CloseWrite(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(client)
		if len(got) != n || err != nil {
			t.Errorf("read %d, %v", len(got), err)
		}
		checkPattern(t, got, 0)
		client.Close()
		server.Close()
	})
}

// newCert returns a certificate for "feed", and the pool that trusts it.
func newCert(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"feed"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
