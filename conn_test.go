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
	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A helper process is this binary, which plays one of the roles.
func TestMain(m *testing.M) { shmtest.Main(m, roles) }

// roles are what a second process of these tests can be.
var roles = shmtest.Roles{"waiter": waiter}

// TestNettest runs x/net's conformance test on shapes of connection, with both
// ends in this process and with the bytes going through another. The rows with
// net=unix say that the harness is right.
func TestNettest(t *testing.T) {
	base := []shmtest.Shape{
		{},
		{Ring: 4096},
		{Ring: 4 << 20},
		{Swap: true},
		shmtest.Shape{}.Poll(shmtest.PollAlways),
		shmtest.Shape{}.Poll(shmtest.PollNever),
	}
	if shmtest.Sockets { // which do not poll
		base = base[:4]
	}
	var all []shmtest.Shape
	for _, s := range base {
		named, anon := s, s
		anon.Anonymous = true
		all = append(all, named, anon)
	}
	// Fewer for the other processors and for two processes, but each property is
	// there, and each with its neighbour.
	some := []shmtest.Shape{
		shmtest.UnixShape,
		{},
		{Ring: 4096, Anonymous: true, Swap: true},
		shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways),
		shmtest.Shape{Anonymous: true}.Poll(shmtest.PollNever),
	}
	type run struct {
		process string
		procs   int
		shapes  []shmtest.Shape
	}
	runs := []run{
		{"same", runtime.GOMAXPROCS(0), append([]shmtest.Shape{shmtest.UnixShape}, all...)},
		{"same", 1, some[1:]},
		{"same", 4, some[1:]},
		{"relay", runtime.GOMAXPROCS(0), some},
		{"relay", 1, some[3:]},
		{"relay", 4, some[3:]},
	}
	if *shmtest.Long {
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
						a, b, stop, err := s.Connect()
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
func relayed(t *testing.T, s shmtest.Shape, procs int) nettest.MakePipe {
	h := shmtest.StartHelper(t, "relay", s, fmt.Sprintf("GOMAXPROCS=%d", procs))
	name := shmtest.NewName()
	connect := func() (shmtest.Conn, error) { return s.Dial(name) }
	if s.Swap {
		l := s.MustListen(t, name)
		connect = func() (shmtest.Conn, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(shmtest.Conn), nil
		}
		h.Do("dial %s", name)
	} else {
		h.Do("listen %s", name)
	}
	return func() (net.Conn, net.Conn, func(), error) {
		h.Send("pair")
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
		if got := h.Line(); got != "ok" {
			stop()
			return nil, nil, nil, errors.New("relay: " + got)
		}
		return a, b, stop, nil
	}
}

// A parity runs steps on one network and records what comes of them, to be
// compared with what comes of them on another.
type parity struct {
	t     *testing.T
	shape shmtest.Shape
	a, b  shmtest.Conn
	trace strings.Builder
}

func (x *parity) log(format string, args ...any) { fmt.Fprintf(&x.trace, format+"\n", args...) }

func (x *parity) name(c net.Conn) string {
	if c == x.a {
		return "a"
	}
	return "b"
}

func (x *parity) outcome(err error) string { return shmtest.Outcome(x.t, x.shape.Network(), err) }

// read records one Read of up to n bytes.
func (x *parity) read(c shmtest.Conn, n int) {
	b := make([]byte, n)
	m, err := c.Read(b)
	x.log("%s.Read(%d) = %d %q, %s", x.name(c), n, m, b[:m], x.outcome(err))
}

func (x *parity) write(c shmtest.Conn, s string) {
	n, err := c.Write([]byte(s))
	x.log("%s.Write(%q) = %d, %s", x.name(c), s, n, x.outcome(err))
}

func (x *parity) close(c shmtest.Conn) { x.log("%s.Close() = %s", x.name(c), x.outcome(c.Close())) }

func (x *parity) closeRead(c shmtest.Conn) {
	x.log("%s.CloseRead() = %s", x.name(c), x.outcome(c.CloseRead()))
}

func (x *parity) closeWrite(c shmtest.Conn) {
	x.log("%s.CloseWrite() = %s", x.name(c), x.outcome(c.CloseWrite()))
}

func (x *parity) deadline(c shmtest.Conn, d time.Time) {
	x.log("%s.SetDeadline() = %s", x.name(c), x.outcome(c.SetDeadline(d)))
}

// idle records that a Read of c would wait.
func (x *parity) idle(c shmtest.Conn) {
	start := time.Now()
	c.SetReadDeadline(start.Add(5 * time.Millisecond))
	x.read(c, 1)
	if d := time.Since(start); d < 5*time.Millisecond {
		x.t.Errorf("Read took %v, before its deadline", d)
	}
	c.SetReadDeadline(shmtest.NoDeadline)
}

// huge is more than fits between the ends of any connection here.
func (x *parity) huge() int { return max(8<<20, 4*x.shape.RingSize()) }

// whileReading records what a Read that waits returns when f is called.
func (x *parity) whileReading(c shmtest.Conn, f func()) {
	done := shmtest.Blocked(c, func() { x.read(c, 8) })
	f()
	<-done
}

// whileWriting records what a Write that waits returns when f is called, and
// returns n.
func (x *parity) whileWriting(c shmtest.Conn, f func()) (n int) {
	var err error
	done := shmtest.Blocked(c, func() { n, err = c.Write(shmtest.Pattern(0, x.huge())) })
	f()
	<-done
	x.log("%s.Write(huge): all %t, some %t, %s", x.name(c), n == x.huge(), n > 0, x.outcome(err))
	return n
}

// drain records that what can be read from c is n bytes of the pattern.
func (x *parity) drain(c shmtest.Conn, n int) {
	b, err := io.ReadAll(c)
	shmtest.CheckPattern(x.t, b, 0)
	if len(b) != n {
		x.t.Errorf("read %d bytes, written were %d", len(b), n)
	}
	x.log("%s.ReadAll(): %s", x.name(c), x.outcome(err))
}

// likeUnix are steps whose outcome is to be that of a Unix socket.
var likeUnix = []struct {
	name  string
	steps func(x *parity)
	// What shm does, where that is not what unix does: a deviation that the
	// package comment lists.
	shm string
}{
	{name: "eof/after Close", steps: func(x *parity) {
		x.close(x.b)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "eof/data before", steps: func(x *parity) {
		x.write(x.b, "hello")
		x.close(x.b)
		x.read(x.a, 3)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "eof/data before, half close", steps: func(x *parity) {
		x.write(x.b, "hello")
		x.closeWrite(x.b)
		x.read(x.a, 3)
		x.read(x.a, 8)
		x.read(x.a, 8)
	}},
	{name: "empty/open", steps: func(x *parity) {
		x.read(x.a, 0)
		x.write(x.a, "")
		x.idle(x.b)
		x.write(x.b, "x")
		x.read(x.a, 0)
		x.read(x.a, 1)
	}},
	{name: "empty/nil", steps: func(x *parity) {
		n, err := x.a.Read(nil)
		x.log("Read(nil) = %d, %s", n, x.outcome(err))
		n, err = x.a.Write(nil)
		x.log("Write(nil) = %d, %s", n, x.outcome(err))
	}},
	{name: "empty/after deadline", steps: func(x *parity) {
		x.deadline(x.a, shmtest.Past)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after Close", steps: func(x *parity) {
		x.close(x.a)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after CloseRead and CloseWrite", steps: func(x *parity) {
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after the peer's Close", steps: func(x *parity) {
		x.close(x.b)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "empty/after the peer's CloseRead", steps: func(x *parity) {
		x.closeRead(x.b)
		x.read(x.a, 0)
		x.write(x.a, "")
	}},
	{name: "half close/write", steps: func(x *parity) {
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "y")
		x.close(x.a)
		x.write(x.b, "x")
		x.read(x.b, 8)
	}},
	{name: "half close/read", steps: func(x *parity) {
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.write(x.b, "x")
		x.write(x.a, "y")
		x.read(x.b, 8)
		x.idle(x.b)
	}},
	{name: "half close/read with bytes unread", steps: func(x *parity) {
		x.write(x.b, "hello")
		x.read(x.a, 2)
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.read(x.a, 8)
		x.write(x.b, "x")
	}},
	{name: "half close/both ends write", steps: func(x *parity) {
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
	{name: "half close/both ends read", steps: func(x *parity) {
		x.closeRead(x.a)
		x.closeRead(x.b)
		x.write(x.a, "A")
		x.write(x.b, "B")
		x.read(x.a, 8)
		x.read(x.b, 8)
	}},
	{name: "half close/both halves of one end", steps: func(x *parity) {
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "y")
		x.close(x.a)
	}},
	{name: "half close/twice", steps: func(x *parity) {
		x.closeWrite(x.a)
		x.closeWrite(x.a)
		x.closeRead(x.a)
		x.closeRead(x.a)
	}},
	{name: "half close/after the peer's", steps: func(x *parity) {
		x.closeWrite(x.a)
		x.closeRead(x.b)
		x.close(x.b)
		x.closeWrite(x.a)
		x.closeRead(x.a)
	}},
	{name: "half close/with deadline passed", steps: func(x *parity) {
		x.deadline(x.a, shmtest.Past)
		x.closeWrite(x.a)
		x.read(x.b, 8)
		x.write(x.a, "x")
		x.closeRead(x.a)
		x.read(x.a, 8)
		x.write(x.b, "x")
	}},
	{name: "close/twice", steps: func(x *parity) {
		x.close(x.a)
		x.close(x.a)
	}},
	{name: "close/and then everything", steps: func(x *parity) {
		x.write(x.b, "x")
		x.close(x.a)
		x.read(x.a, 8)
		x.write(x.a, "x")
		x.closeRead(x.a)
		x.closeWrite(x.a)
		x.deadline(x.a, shmtest.Past)
		x.log("SetReadDeadline() = %s", x.outcome(x.a.SetReadDeadline(shmtest.Past)))
		x.log("SetWriteDeadline() = %s", x.outcome(x.a.SetWriteDeadline(shmtest.Past)))
		x.log("addresses %t %t", x.a.LocalAddr() != nil, x.a.RemoteAddr() != nil)
	}},
	{name: "close/write after the peer's", steps: func(x *parity) {
		x.close(x.b)
		x.write(x.a, "x")
		x.write(x.a, "x")
		x.read(x.a, 8)
	}},
	{name: "close/write after the peer's, deadline passed", steps: func(x *parity) {
		x.close(x.b)
		x.deadline(x.a, shmtest.Past)
		x.write(x.a, "x")
		x.read(x.a, 8)
	}},
	{
		name: "close/peer's with our bytes unread", steps: func(x *parity) {
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
		name: "close/peer's with our bytes unread, and its own", steps: func(x *parity) {
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
	{name: "deadline/passed, and data there", steps: func(x *parity) {
		x.write(x.b, "hello")
		x.deadline(x.a, shmtest.Past)
		x.read(x.a, 8)
		x.read(x.a, 8)
		x.deadline(x.a, shmtest.NoDeadline)
		x.read(x.a, 8)
	}},
	{name: "deadline/passed, and EOF there", steps: func(x *parity) {
		x.close(x.b)
		x.deadline(x.a, shmtest.Past)
		x.read(x.a, 8)
		x.deadline(x.a, shmtest.NoDeadline)
		x.read(x.a, 8)
	}},
	{name: "deadline/passed, and room", steps: func(x *parity) {
		x.deadline(x.a, shmtest.Past)
		x.write(x.a, "hello")
		x.deadline(x.a, shmtest.NoDeadline)
		x.write(x.a, "HELLO")
		x.read(x.b, 8)
	}},
	{name: "deadline/read alone", steps: func(x *parity) {
		x.a.SetReadDeadline(shmtest.Past)
		x.write(x.a, "x")
		x.read(x.a, 8)
		x.read(x.b, 8)
	}},
	{name: "deadline/write alone", steps: func(x *parity) {
		x.a.SetWriteDeadline(shmtest.Past)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.write(x.a, "x")
		x.idle(x.b)
	}},
	{name: "deadline/recovery of Read", steps: func(x *parity) {
		x.idle(x.a)
		x.write(x.b, "x")
		x.read(x.a, 8)
		x.idle(x.a)
		x.close(x.b)
		x.read(x.a, 8)
	}},
	{name: "deadline/recovery of Write, n beside the error", steps: func(x *parity) {
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
		x.a.SetWriteDeadline(shmtest.NoDeadline)
		got := make([]byte, n)
		m, err = io.ReadFull(x.b, got) // exactly n bytes
		shmtest.CheckPattern(x.t, got[:m], 0)
		x.log("ReadFull(n): %t, %s", m == n, x.outcome(err))
		x.idle(x.b) // and not one more
		x.write(x.a, "more")
		x.read(x.b, 8)
	}},
	{name: "deadline/cleared while it is awaited", steps: func(x *parity) {
		x.a.SetReadDeadline(time.Now().Add(time.Hour))
		x.whileReading(x.a, func() {
			x.a.SetReadDeadline(shmtest.NoDeadline)
			x.b.Write([]byte("x"))
		})
	}},
	{name: "blocked/Read, Close", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.a.Close() })
		x.close(x.a)
	}},
	{name: "blocked/Read, CloseRead", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.a.CloseRead() })
	}},
	{name: "blocked/Read, CloseWrite and then data", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.a.CloseWrite(); x.b.Write([]byte("x")) })
	}},
	{name: "blocked/Read, peer's Close", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.b.Close() })
	}},
	{name: "blocked/Read, peer's CloseWrite", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.b.CloseWrite() })
	}},
	{name: "blocked/Read, peer's data and Close", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.b.Write([]byte("x")); x.b.Close() })
		x.read(x.a, 8)
	}},
	{name: "blocked/Read, deadline", steps: func(x *parity) {
		x.whileReading(x.a, func() { x.a.SetReadDeadline(shmtest.Past) })
		x.a.SetReadDeadline(shmtest.NoDeadline)
		x.whileReading(x.a, func() { x.a.SetDeadline(shmtest.Past) })
	}},
	{name: "blocked/Write, Close", steps: func(x *parity) {
		n := x.whileWriting(x.a, func() { x.a.Close() })
		x.drain(x.b, n)
	}},
	{name: "blocked/Write, CloseWrite", steps: func(x *parity) {
		// A Unix socket wakes the writer only when there is room.
		var b []byte
		n := x.whileWriting(x.a, func() { x.a.CloseWrite(); b, _ = io.ReadAll(x.b) })
		if len(b) != n || shmtest.FirstDiff(b, 0) >= 0 {
			x.t.Errorf("Write returned %d, read were %d, differing at %d", n, len(b), shmtest.FirstDiff(b, 0))
		}
	}},
	{name: "blocked/Write, peer's Close", steps: func(x *parity) {
		x.whileWriting(x.a, func() { x.b.Close() })
	}},
	{name: "blocked/Write, peer's CloseRead", steps: func(x *parity) {
		x.whileWriting(x.a, func() { x.b.CloseRead(); io.Copy(io.Discard, x.b) })
	}},
	{name: "blocked/Write, deadline", steps: func(x *parity) {
		n := x.whileWriting(x.a, func() { x.a.SetWriteDeadline(shmtest.Past) })
		x.closeWrite(x.a)
		x.drain(x.b, n)
	}},
	{name: "blocked/two Reads, Close", steps: func(x *parity) {
		done := shmtest.Blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileSecond(func() {
			n, err := x.a.Read(make([]byte, 1))
			x.log("second Read = %d, %s", n, x.outcome(err))
		}, func() { x.a.Close() })
		<-done
	}},
	{name: "blocked/two Reads, deadline", steps: func(x *parity) {
		done := shmtest.Blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileSecond(func() {
			n, err := x.a.Read(make([]byte, 1))
			x.log("second Read = %d, %s", n, x.outcome(err))
		}, func() { x.a.SetReadDeadline(shmtest.Past) })
		<-done
	}},
	{name: "blocked/two Writes, deadline", steps: func(x *parity) {
		b := make([]byte, x.huge())
		done := shmtest.Blocked(x.a, func() { x.a.Write(b) })
		x.whileSecond(func() {
			n, err := x.a.Write(b)
			x.log("second Write = %d, %s", n, x.outcome(err))
		}, func() { x.a.SetWriteDeadline(shmtest.Past) })
		<-done
	}},
	{name: "blocked/Read and Write, Close", steps: func(x *parity) {
		done := shmtest.Blocked(x.a, func() { x.a.Read(make([]byte, 1)) })
		x.whileWriting(x.a, func() { x.a.Close() })
		<-done
	}},
	{name: "blocked/Read and Write, served", steps: func(x *parity) {
		done := shmtest.Blocked(x.a, func() { x.read(x.a, 8) })
		x.whileWriting(x.a, func() {
			x.b.Write([]byte("x"))
			<-done
			io.CopyN(io.Discard, x.b, int64(x.huge()))
		})
	}},
	{name: "blocked/io.Copy from conn, Close", steps: func(x *parity) {
		var err error
		done := shmtest.Blocked(x.a, func() { _, err = io.Copy(io.Discard, x.a) })
		x.a.Close()
		<-done
		x.log("io.Copy: %s", shmtest.Class(err))
	}},
	{name: "blocked/io.Copy from conn, deadline", steps: func(x *parity) {
		var buf bytes.Buffer
		var n int64
		var err error
		x.write(x.b, "hello")
		done := shmtest.Blocked(x.a, func() { n, err = io.Copy(&buf, x.a) })
		x.a.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		<-done
		x.log("io.Copy = %d %q, %s", n, &buf, shmtest.Class(err))
	}},
	{name: "blocked/io.Copy to conn, Close", steps: func(x *parity) {
		var n int64
		var err error
		done := shmtest.Blocked(x.a, func() { n, err = io.Copy(x.a, bytes.NewReader(shmtest.Pattern(0, x.huge()))) })
		x.a.Close()
		<-done
		x.log("io.Copy: some %t, %s", n > 0, shmtest.Class(err))
		x.drain(x.b, int(n))
	}},
	{name: "blocked/io.Copy to conn in its source, Close", steps: func(x *parity) {
		var n int64
		var err error
		src := newSlowReader("hello")
		done := make(chan bool)
		go func() { defer close(done); n, err = io.Copy(x.a, src) }()
		<-src.entered
		x.close(x.a) // does not wait for the source
		close(src.release)
		<-done
		x.log("io.Copy = %d, %s", n, shmtest.Class(err))
		x.read(x.b, 8)
	}},
	{name: "io.Copy/ends", steps: func(x *parity) {
		n, err := io.Copy(x.b, strings.NewReader("hello"))
		x.log("io.Copy = %d, %s", n, x.outcome(err))
		x.closeWrite(x.b)
		n, err = io.Copy(io.Discard, x.a)
		x.log("io.Copy = %d, %s", n, x.outcome(err))
	}},
	{name: "io.Copy/errors of the other side", steps: func(x *parity) {
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
	{name: "large/write of much more than fits", steps: func(x *parity) {
		n := x.huge() + 12345
		done := make(chan bool)
		go func() {
			defer close(done)
			m, err := x.a.Write(shmtest.Pattern(0, n))
			x.log("Write: all %t, %s", m == n, x.outcome(err))
			x.close(x.a)
		}()
		b, err := io.ReadAll(x.b)
		<-done
		shmtest.CheckPattern(x.t, b, 0)
		x.log("ReadAll: all %t, %s", len(b) == n, x.outcome(err))
	}},
	{name: "large/peer closes in the middle", steps: func(x *parity) {
		done := make(chan bool)
		go func() {
			defer close(done)
			n, err := x.a.Write(shmtest.Pattern(0, x.huge()))
			x.log("Write: all %t, some %t, %s", n == x.huge(), n > 0, x.outcome(err))
		}()
		io.ReadFull(x.b, make([]byte, 100_000))
		x.b.Close()
		<-done
		x.write(x.a, "x")
	}},
	{name: "large/Close overtakes no Write", steps: func(x *parity) {
		var n int
		var err error
		done := shmtest.Blocked(x.a, func() { n, err = x.a.Write(shmtest.Pattern(0, x.huge())) })
		go x.a.CloseWrite()
		b, rerr := io.ReadAll(x.b)
		<-done
		shmtest.CheckPattern(x.t, b, 0)
		if n != len(b) {
			x.t.Errorf("Write returned %d, read were %d", n, len(b))
		}
		// Whether all fits before CloseWrite is chance; what may not be is a
		// success that was not read.
		x.log("%t, %s", (n == x.huge()) == (err == nil), shmtest.Class(rerr))
	}},
}

// whileSecond runs f, a second call that waits behind another, and end, which
// ends both.
func (x *parity) whileSecond(f, end func()) {
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
	shapes := []shmtest.Shape{
		{},
		{Ring: 4096, Anonymous: true},
		{Swap: true, Anonymous: true},
		shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways),
		shmtest.Shape{Ring: 4096}.Poll(shmtest.PollNever),
	}
	for _, tt := range likeUnix {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			run := func(t *testing.T, s shmtest.Shape) string {
				x := &parity{t: t, shape: s}
				x.a, x.b = s.Pair(t)
				tt.steps(x)
				return x.trace.String()
			}
			var unix string
			t.Run(shmtest.UnixShape.String(), func(t *testing.T) {
				unix = run(t, shmtest.UnixShape)
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
					a, b := shmtest.Shape{Ring: size}.ShmPair(t)
					if _, err := io.Copy(a, bytes.NewReader(make([]byte, start/2))); err != nil {
						t.Fatal(err)
					}
					io.ReadFull(b, make([]byte, start/2))
					a.Write(make([]byte, start-start/2))
					io.ReadFull(b, make([]byte, start-start/2))
					done := make(chan bool)
					go func() {
						defer close(done)
						if m, err := a.Write(shmtest.Pattern(0, n)); m != n || err != nil {
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
					if len(got) != n || shmtest.FirstDiff(got, 0) >= 0 {
						t.Errorf("start=%d,step=%d: read %d bytes, differing at %d", start, step, len(got), shmtest.FirstDiff(got, 0))
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
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		a, b := s.Pair(t)
		const total = 2 << 20
		var wg sync.WaitGroup
		for _, c := range []shmtest.Conn{a, b} {
			r := shmtest.Seeded(t)
			wg.Go(func() {
				want := shmtest.Pattern(0, total)
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
					if i := shmtest.FirstDiff(buf[:n], off); i >= 0 {
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
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		a, b := s.Pair(t)
		const writers, messages = 8, 50
		var wg sync.WaitGroup
		for w := range writers {
			r := shmtest.Seeded(t)
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
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		a, b := s.Pair(t)
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
		want := shmtest.Pattern(0, total)
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
	if *shmtest.Long {
		rounds = 5000
	}
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		l := s.MustListen(t, shmtest.NewName())
		for i := range rounds {
			a := s.MustDial(t, shmtest.NameOf(l))
			b := shmtest.MustAccept(t, l)
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
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		for range 30 {
			a, b := s.Pair(t)
			var wg sync.WaitGroup
			for _, c := range []shmtest.Conn{a, b} {
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
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		buf := make([]byte, 8)
		try := func(want string, wantErr_ string) {
			t.Helper()
			n, err := a.TryRead(buf)
			if string(buf[:n]) != want {
				t.Errorf("TryRead: got %q, want %q", buf[:n], want)
			}
			shmtest.WantErr(t, "TryRead", err, wantErr_)
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

		a, _ = s.ShmPair(t)
		a.CloseRead()
		try("", "EOF")

		// While another Read waits there is nothing for TryRead.
		a, b = s.ShmPair(t)
		done := shmtest.Blocked(a, func() { a.Read(make([]byte, 8)) })
		try("", "ok")
		b.Write([]byte("x"))
		<-done
	})
}

func TestTryWrite(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		size := s.RingSize()
		if n, err := a.TryWrite(nil); n != 0 || err != nil {
			t.Errorf("TryWrite(nil) = %d, %v", n, err)
		}
		if n, err := a.TryWrite(shmtest.Pattern(0, 100)); n != 100 || err != nil {
			t.Fatalf("TryWrite(100) = %d, %v", n, err)
		}
		if n, err := a.TryWrite(shmtest.Pattern(100, size)); n != size-100 || err != nil {
			t.Fatalf("TryWrite(%d) = %d, %v, want %d", size, n, err, size-100)
		}
		if n, err := a.TryWrite([]byte("x")); n != 0 || err != nil {
			t.Fatalf("TryWrite in a full ring = %d, %v", n, err)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, got, 0)
		if n, err := a.TryWrite(shmtest.Pattern(size, size)); n < size/4*3 || n > size || err != nil {
			t.Errorf("TryWrite(%d) in an emptied ring = %d, %v, want at least %d", size, n, err, size/4*3)
		}
		b.Close()
		n, err := a.TryWrite([]byte("x"))
		if n != 0 {
			t.Errorf("TryWrite after the peer's Close = %d", n)
		}
		shmtest.WantErr(t, "TryWrite after the peer's Close", err, "write EPIPE")
		a.Close()
		_, err = a.TryWrite([]byte("x"))
		shmtest.WantErr(t, "TryWrite after Close", err, "write closed")

		a, _ = s.ShmPair(t)
		a.CloseWrite()
		_, err = a.TryWrite([]byte("x"))
		shmtest.WantErr(t, "TryWrite after CloseWrite", err, "write EPIPE")
	})
}

func TestBufferedAvailable(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		size := s.RingSize()
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
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		r := shmtest.Seeded(t)
		for _, n := range []int{0, 1, 100, size - 1, size, size + 1, 3*size + 7} {
			a, b := s.ShmPair(t)
			want := shmtest.Pattern(0, n)
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
		a, b := s.ShmPair(t)
		total := 3*size + 5
		bufs := net.Buffers{shmtest.Pattern(0, size-3), shmtest.Pattern(size-3, size), shmtest.Pattern(2*size-3, size+8)}
		var n int64
		var err error
		done := shmtest.Blocked(a, func() { n, err = a.WriteBuffers(&bufs) })
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		<-done
		shmtest.WantErr(t, "WriteBuffers", err, "write timeout")
		if n <= 0 || n >= int64(total) {
			t.Errorf("WriteBuffers = %d, want some of %d", n, total)
		}
		left := slices.Concat(bufs...)
		if len(left) != total-int(n) {
			t.Errorf("WriteBuffers wrote %d of %d and left %d", n, total, len(left))
		}
		shmtest.CheckPattern(t, left, int(n))
		a.Close()
		got, err := io.ReadAll(b)
		if len(got) != int(n) || err != nil {
			t.Errorf("WriteBuffers = %d, but read were %d, %v", n, len(got), err)
		}
		shmtest.CheckPattern(t, got, 0)

		a, b = s.ShmPair(t)
		b.Close()
		bufs = net.Buffers{[]byte("left"), []byte("over")}
		n, err = a.WriteBuffers(&bufs)
		shmtest.WantErr(t, "WriteBuffers after the peer's Close", err, "write EPIPE")
		if n != 0 || len(bufs) != 2 || string(slices.Concat(bufs...)) != "leftover" {
			t.Errorf("WriteBuffers after the peer's Close = %d, and left %q", n, bufs)
		}
		a.Close()
		_, err = a.WriteBuffers(&bufs)
		shmtest.WantErr(t, "WriteBuffers after Close", err, "write closed")
	})
}

// TestOnePublish checks that what fits into the ring is there as a whole or not
// at all, for a reader that looks all the time.
func TestOnePublish(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		n := min(s.RingSize()/2, 48<<10) // as Write's comment says
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
			{"Commit", s.RingSize() / 2, func(c *shmconn.Conn, b []byte) error {
				p, err := c.Reserve(len(b))
				copy(p, b)
				return errors.Join(err, c.Commit(len(p)))
			}},
			{"CommitReserve", s.RingSize() / 2, func(c *shmconn.Conn, b []byte) error {
				p, err := c.Reserve(len(b))
				copy(p, b)
				_, cerr := c.CommitReserve(len(p), len(b))
				return errors.Join(err, cerr)
			}},
		} {
			t.Run(fmt.Sprintf("%s/len=%d,cap=%d", w.name, w.n, s.RingSize()), func(t *testing.T) {
				a, b := s.ShmPair(t)
				msg := shmtest.Pattern(0, w.n)
				buf := make([]byte, s.RingSize())
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

func TestPeerCred(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		for _, c := range []*shmconn.Conn{a, b} {
			pid, uid, gid := c.PeerCred()
			if pid != os.Getpid() || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
				t.Errorf("PeerCred() = %d, %d, %d, want %d, %d, %d", pid, uid, gid, os.Getpid(), os.Getuid(), os.Getgid())
			}
		}
	})
}

func TestAllocs(t *testing.T) {
	shmtest.SkipSockets(t, "calls allocate")
	if shmtest.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
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
		zero("CommitReserve", func() {
			p, _ := a.Reserve(100)
			p, _ = a.CommitReserve(len(p), 50)
			if err := a.Commit(len(p)); len(p) != 50 || err != nil {
				t.Fatal(len(p), err)
			}
			b.Discard(150)
		})
		zero("TryWriteAll, PeekAtLeast", func() {
			a.TryWriteAll(buf)
			p, _ := b.PeekAtLeast(len(buf))
			b.Discard(len(p))
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
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b, _, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		a.Write([]byte("last words"))
		a.SetDeadline(time.Now().Add(time.Hour)) // a timer does not hold it
		a = nil
		var got []byte
		done := shmtest.Blocked(b, func() { got, err = io.ReadAll(b) })
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
	name := shmtest.NewName()
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
			for _, addr := range []net.Addr{l.Addr(), a.LocalAddr(), a.RemoteAddr(), b.LocalAddr()} {
				if addr.Network() != shmtest.Network || addr.String() != name {
					t.Errorf("%s: address is %q %q, want %q %q", closed, addr.Network(), addr, shmtest.Network, name)
				}
				if addr != (shmconn.Addr{Name: name}) {
					t.Errorf("%s: address is a %T, want an Addr", closed, addr)
				}
			}
			dialer := shmconn.Addr{Name: name, PID: os.Getpid(), UID: uint32(os.Getuid()), Number: 1}
			text := fmt.Sprintf("%s#1(pid=%d,uid=%d)", name, os.Getpid(), os.Getuid())
			if addr := b.RemoteAddr(); addr != dialer || addr.Network() != shmtest.Network || addr.String() != text {
				t.Errorf("%s: the acceptor's RemoteAddr is %q %q, want %q %q", closed, addr.Network(), addr, shmtest.Network, text)
			}
		}
		check("open")
		a.Close()
		b.Close()
		l.Close()
		check("closed")
	}
}

// TestAddrOfPeers checks that a server can tell its clients apart.
func TestAddrOfPeers(t *testing.T) {
	l, err := shmconn.Listen(shmtest.NewName())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := shmtest.StartHelper(t, "agent", shmtest.Shape{})
	for i := 1; i <= 6; i++ {
		pid := os.Getpid()
		if i%2 == 0 {
			pid = h.PID
			h.Do("dial %s", l.Addr())
		} else {
			shmtest.Shape{}.MustDial(t, l.Addr().String())
		}
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := shmconn.Addr{Name: l.Addr().String(), PID: pid, UID: uint32(os.Getuid()), Number: uint64(i)}
		if got := c.RemoteAddr(); got != want {
			t.Errorf("RemoteAddr() of connection %d = %#v, want %#v", i, got, want)
		}
		c.SetReadDeadline(shmtest.Past)
		if _, err := c.Read(make([]byte, 1)); !strings.Contains(fmt.Sprint(err), fmt.Sprintf("#%d(pid=%d,", i, pid)) {
			t.Errorf("error of connection %d does not say which peer: %v", i, err)
		}
	}
}

func TestBufio(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.Pair(t)
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

// serveHTTP serves echoes over l, and returns a client of it. The handler of
// /wait says when it is called, and when its client is gone.
func serveHTTP(t *testing.T, s shmtest.Shape, l net.Listener) (client *http.Client, waiting chan bool) {
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
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		name := shmtest.NewName()
		client, waiting := serveHTTP(t, s, s.MustListen(t, name))
		for _, url := range []string{"http://" + name + "/echo", "http://" + name + ":80/echo"} {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for _, n := range []int{0, 1, 100_000 * (i % 2), 1 << 19} {
						resp, err := client.Post(url, "application/octet-stream", shmtest.OnlyReader{Reader: bytes.NewReader(shmtest.Pattern(0, n))})
						if err != nil {
							t.Error(err)
							return
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if len(got) != n || err != nil || resp.StatusCode != 200 {
							t.Errorf("POST of %d: %d, %d bytes, %v", n, resp.StatusCode, len(got), err)
						}
						shmtest.CheckPattern(t, got, 0)
						if got := resp.Header.Get("Remote"); !strings.HasPrefix(got, name+"#") {
							t.Errorf("RemoteAddr = %q, want that of a dialer of %q", got, name)
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
	shmtest.OnShapes(t, append([]shmtest.Shape{shmtest.UnixShape}, shmtest.SmallShapes...), func(t *testing.T, s shmtest.Shape) {
		x, y := s.Pair(t)
		client := tls.Client(x, &tls.Config{RootCAs: pool, ServerName: "feed"})
		server := tls.Server(y, &tls.Config{Certificates: []tls.Certificate{cert}})
		const n = 1 << 20
		go func() {
			io.Copy(server, server)
			server.CloseWrite()
		}()
		go func() {
			if _, err := client.Write(shmtest.Pattern(0, n)); err != nil {
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
		shmtest.CheckPattern(t, got, 0)
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

// TestClosedSeen closes an end while another goroutine is on its way out of a
// call on it. The peer finds the end as soon as Close has returned, as it does
// with a Unix socket, whose Close waits for the calls under way, too.
func TestClosedSeen(t *testing.T) {
	const rounds = 3000
	for _, s := range []shmtest.Shape{{Ring: 4096, Anonymous: true}, shmtest.Shape{Ring: 4096, Anonymous: true}.Poll(shmtest.PollNever)} {
		t.Run(s.String(), func(t *testing.T) {
			for range rounds {
				a, b := s.ShmPair(t)
				echoed := make(chan struct{})
				go func() {
					defer close(echoed)
					io.Copy(struct{ io.Writer }{b}, struct{ io.Reader }{b})
				}()
				if _, err := a.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				one := make([]byte, 1)
				if _, err := a.Read(one); err != nil {
					t.Fatal(err)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				if n, err := a.TryRead(one); n != 0 || err != io.EOF {
					t.Fatalf("%d, %v right after the other end was closed, want 0, %v", n, err, io.EOF)
				}
				if n, err := a.TryWrite(one); n != 0 || !errors.Is(err, syscall.EPIPE) {
					t.Fatalf("%d, %v right after the other end was closed, want 0, %v", n, err, syscall.EPIPE)
				}
				<-echoed
				a.Close()
			}
		})
	}
}

// These tests use connections and listeners in bubbles of testing/synctest, out
// of them, and both at a time. A socket does not care; a channel or a timer
// that was made in a bubble ends the process when it is used outside.

var bubbleShapes = []shmtest.Shape{shmtest.UnixShape, {}, shmtest.Shape{}.Poll(shmtest.PollNever), shmtest.Shape{}.Poll(shmtest.PollAlways)}

// pingPong passes messages to and fro between goroutines on both ends.
func pingPong(t *testing.T, a, b io.ReadWriter, rounds int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 4)
		for range rounds {
			if _, err := io.ReadFull(b, buf); err != nil {
				done <- err
				return
			}
			b.Write(buf)
		}
		done <- nil
	}()
	buf := make([]byte, 4)
	for i := range rounds {
		a.Write([]byte{byte(i), 1, 2, 3})
		if _, err := io.ReadFull(a, buf); err != nil || buf[0] != byte(i) {
			t.Errorf("round %d: %v, %v", i, buf, err)
			return
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBubbleAndAfter makes a connection in a bubble, uses it there, in another
// bubble and outside, with deadlines, many at a time, until Close outside.
func TestBubbleAndAfter(t *testing.T) {
	shmtest.OnShapes(t, bubbleShapes, func(t *testing.T, s shmtest.Shape) {
		const conns = 8
		var as, bs []shmtest.Conn
		l := s.MustListen(t, shmtest.NewName())
		steps := func() {
			done := make(chan struct{}, conns)
			for i := range conns {
				go func() {
					as[i].SetDeadline(time.Now().Add(time.Hour))
					pingPong(t, as[i], bs[i], 50)
					done <- struct{}{}
				}()
			}
			for range conns {
				<-done
			}
		}
		shmtest.InBubble(t, func() {
			for range conns {
				a, err := s.Dial(shmtest.NameOf(l))
				if err != nil {
					t.Fatal(err)
				}
				b, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				as, bs = append(as, a), append(bs, b.(shmtest.Conn))
			}
			steps()
		})
		steps()
		shmtest.InBubble(t, steps)
		for i := range conns {
			as[i].Close()
			if n, err := bs[i].Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("Read after the peer's Close = %d, %v", n, err)
			}
			bs[i].Close()
		}
	})
}

// TestBubbleMeets has one end in a bubble and the other outside, at the same
// time, and several goroutines on one end, of which some are inside.
func TestBubbleMeets(t *testing.T) {
	shmtest.OnShapes(t, bubbleShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.Pair(t)
		const writers, each, size = 4, 200, 16
		got := make(chan int)
		go func() {
			n, _ := io.Copy(io.Discard, b)
			got <- int(n)
		}()
		write := func(done chan<- struct{}) {
			for range each {
				if _, err := a.Write(make([]byte, size)); err != nil {
					t.Error(err)
				}
			}
			done <- struct{}{}
		}
		outside := make(chan struct{})
		for range writers {
			go write(outside)
		}
		shmtest.InBubble(t, func() {
			inside := make(chan struct{})
			for range writers {
				go write(inside)
			}
			for range writers {
				<-inside
			}
		})
		for range writers {
			<-outside
		}
		a.CloseWrite()
		if n := <-got; n != 2*writers*each*size {
			t.Errorf("%d bytes have come through, want %d", n, 2*writers*each*size)
		}
	})
}

// TestBubbleDeadline sets deadlines inside and outside for calls that wait on
// the other side of the bubble. They are in real time, as a socket's.
func TestBubbleDeadline(t *testing.T) {
	shmtest.OnShapes(t, bubbleShapes, func(t *testing.T, s shmtest.Shape) {
		const soon = 20 * time.Millisecond
		a, _ := s.Pair(t)
		expires := func(what string) {
			t.Helper()
			_, err := a.Read(make([]byte, 1))
			wantOutcome(t, s, what, err, "read timeout")
		}
		shmtest.InBubble(t, func() {
			a.SetReadDeadline(time.Now().Add(soon))
			expires("set and awaited inside")
		})
		a.SetReadDeadline(time.Now().Add(soon))
		shmtest.InBubble(t, func() { expires("set outside, awaited inside") })
		shmtest.InBubble(t, func() { a.SetReadDeadline(time.Now().Add(soon)) })
		expires("set inside, awaited outside")
		shmtest.InBubble(t, func() { a.SetReadDeadline(time.Now().Add(time.Hour)) })
		a.SetReadDeadline(time.Now().Add(soon)) // this stops the other one
		expires("set again outside")
		a.SetReadDeadline(shmtest.NoDeadline)
		shmtest.InBubble(t, func() {
			a.SetReadDeadline(time.Now().Add(time.Hour))
			a.SetReadDeadline(shmtest.Past)
			expires("in the past")
		})
	})
}

// TestBubbleClose closes, inside, what waits outside, and the other way round.
func TestBubbleClose(t *testing.T) {
	shmtest.OnShapes(t, bubbleShapes, func(t *testing.T, s shmtest.Shape) {
		a, _ := s.Pair(t)
		waits := shmtest.Blocked(a, func() {
			_, err := a.Read(make([]byte, 1))
			wantOutcome(t, s, "Read", err, "read closed")
		})
		shmtest.InBubble(t, func() { a.Close() })
		<-waits

		a, _ = s.Pair(t)
		go func() {
			time.Sleep(10 * time.Millisecond)
			a.Close()
		}()
		shmtest.InBubble(t, func() {
			_, err := a.Read(make([]byte, 1))
			wantOutcome(t, s, "Read", err, "read closed")
		})
	})
}

// TestBubbleListener listens in a bubble that ends before the listener does,
// accepts inside and outside, and closes outside what waits inside.
func TestBubbleListener(t *testing.T) {
	shmtest.OnShapes(t, bubbleShapes, func(t *testing.T, s shmtest.Shape) {
		var l shmtest.Listener
		round := func() {
			a, err := s.Dial(shmtest.NameOf(l))
			if err != nil {
				t.Error(err)
				return
			}
			b, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			pingPong(t, a, b, 3)
			a.Close()
			b.Close()
		}
		shmtest.InBubble(t, func() {
			var err error
			if l, err = s.Listen(shmtest.NewName()); err != nil {
				t.Fatal(err)
			}
			round()
			l.SetDeadline(time.Now().Add(20 * time.Millisecond))
			_, err = l.Accept()
			wantOutcome(t, s, "Accept", err, "accept timeout")
			l.SetDeadline(shmtest.NoDeadline)
		})
		round()
		shmtest.InBubble(t, round)
		go func() {
			time.Sleep(10 * time.Millisecond)
			l.Close()
		}()
		shmtest.InBubble(t, func() {
			_, err := l.Accept()
			wantOutcome(t, s, "Accept", err, "accept closed")
		})
	})
}

// TestBubbleHTTP has net/http serve outside and a client inside, as tests do.
func TestBubbleHTTP(t *testing.T) {
	l, err := shmconn.Listen(shmtest.NewName())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
	go srv.Serve(l)
	defer srv.Close()
	for range 2 {
		shmtest.InBubble(t, func() {
			tr := &http.Transport{DialContext: new(shmconn.Dialer).DialContext}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("http://" + l.Addr().String() + "/")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
}

// wantOutcome fails unless err is of the class, over either network.
func wantOutcome(t testing.TB, s shmtest.Shape, what string, err error, want string) {
	t.Helper()
	if got := shmtest.Outcome(t, s.Network(), err); got != want {
		t.Errorf("%s: got %s (%v), want %s", what, got, err, want)
	}
}

// faulty returns a slice of n bytes, the first good of which can be accessed.
func faulty(t testing.TB, good, n int) []byte {
	t.Helper()
	page := os.Getpagesize()
	pages := (n+page-1)/page + 2
	m, err := unix.Mmap(-1, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	edge := (good + page - 1) / page * page
	if err := unix.Mprotect(m[edge:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return m[edge-good:][:n]
}

// TestFaultyMemory passes memory that faults, as a mapped file does that was
// truncated: EFAULT, as over a Unix socket, nothing lost and nothing doubled,
// and the connection goes on.
func TestFaultyMemory(t *testing.T) {
	type steps struct {
		name string
		do   func(t *testing.T, a, b shmtest.Conn) (n int, err error)
	}
	all := []steps{
		{"Write", func(t *testing.T, a, b shmtest.Conn) (int, error) { return a.Write(faulty(t, 0, 100)) }},
		{"Read", func(t *testing.T, a, b shmtest.Conn) (int, error) {
			b.Write([]byte("later"))
			n, err := a.Read(faulty(t, 0, 5))
			buf := make([]byte, 5)
			if _, err := io.ReadFull(a, buf); string(buf) != "later" || err != nil {
				t.Errorf("and then: %q, %v", buf, err)
			}
			return n, err
		}},
		{"WriteBuffers", func(t *testing.T, a, b shmtest.Conn) (int, error) {
			v := net.Buffers{[]byte("one"), faulty(t, 0, 3), []byte("two")}
			if c, ok := a.(*shmconn.Conn); ok {
				n, err := c.WriteBuffers(&v)
				if len(v) != 3 {
					t.Errorf("%d buffers are left, want 3", len(v))
				}
				return int(n), err
			}
			n, err := v.WriteTo(a)
			return int(n), err
		}},
	}
	for _, tt := range all {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, s := range []shmtest.Shape{shmtest.UnixShape, {}, shmtest.Shape{}.Poll(shmtest.PollNever)} {
				a, b := s.Pair(t)
				n, err := tt.do(t, a, b)
				if !errors.Is(err, syscall.EFAULT) {
					t.Errorf("%v: %d, %v, want EFAULT", s, n, err)
				}
				if _, err := a.Write([]byte("on")); err != nil {
					t.Errorf("%v: Write: %v", s, err)
				}
				a.CloseWrite()
				rest, err := io.ReadAll(b)
				if err != nil {
					t.Errorf("%v: %v", s, err)
				}
				got = append(got, string(rest))
			}
			if got[1] != got[0] || got[2] != got[0] {
				t.Errorf("over unix %q, shm %q, shm that parks %q", got[0], got[1], got[2])
			}
		})
	}
	t.Run("Read, a part of it", func(t *testing.T) {
		a, b := shmtest.Shape{}.ShmPair(t)
		const size = 200 << 10 // more than is copied at once
		go b.Write(shmtest.Pattern(0, size))
		shmtest.Eventually(func() bool { return a.Buffered() == size })
		buf := faulty(t, 130<<10, size)
		n, err := a.Read(buf)
		if n == 0 || !errors.Is(err, syscall.EFAULT) {
			t.Fatalf("Read = %d, %v, want EFAULT after a part", n, err)
		}
		shmtest.CheckPattern(t, buf[:n], 0)
		rest := make([]byte, size-n)
		if _, err := io.ReadFull(a, rest); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, rest, n)
	})
	t.Run("for one who wants the panic", func(t *testing.T) {
		a, _ := shmtest.Shape{}.ShmPair(t)
		defer func() {
			if p := recover(); p == nil {
				t.Error("no panic")
			}
			if _, err := a.Write([]byte("on")); err != nil {
				t.Errorf("Write: %v", err)
			}
		}()
		a.Guard(func() { a.Write(faulty(t, 0, 1)) })
	})
}

// TestVisitAfterRinging has calls that read what is there already keep the only
// P, as they do where ringing has the peer run and answer at once. Another
// goroutine waits for a pipe. The runtime's monitor looks after it every 10 ms,
// which is once or twice here.
func TestVisitAfterRinging(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only")
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var got atomic.Int64
	go func() {
		for b := make([]byte, 1); ; got.Add(1) {
			if _, err := r.Read(b); err != nil {
				return
			}
		}
	}()
	for _, read := range []struct {
		name string
		do   func(c *shmconn.Conn) error
	}{
		{"Read", func(c *shmconn.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"Peek", func(c *shmconn.Conn) error {
			_, err := c.Peek(1)
			c.Discard(1)
			return err
		}},
	} {
		p, c := shmtest.RawPair(t, shmtest.Shape{})
		const rounds = 100
		inTime := 0
		for i := range uint64(rounds) {
			before := got.Load()
			if _, err := w.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			p.Put(shmtest.RingB+shmtest.ConsumerParked, 2*i+1)
			shmtest.MustWrite(t, c, []byte{1})
			p.Put(shmtest.RingA+shmtest.Produced, i+1)
			for start := time.Now(); time.Since(start) < 200*time.Microsecond; {
			}
			if err := read.do(c); err != nil {
				t.Fatal(err)
			}
			if got.Load() > before {
				inTime++
			}
		}
		if inTime < rounds/2 {
			t.Errorf("%s: the pipe was read in %d of %d rounds", read.name, inTime, rounds)
		}
		if rings, _ := p.Look(); rings < rounds {
			t.Errorf("%s: rang %d times, want %d", read.name, rings, rounds)
		}
	}
}
