//go:build linux

package hostile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// A call is one that looks at the peer's words, on a Conn or on a handle. bad
// stores the wrong word: before the call, and with a handle when that is in use
// already.
type call struct {
	name string
	do   func(c *shmconn.Conn, bad func()) error
}

// consuming and producing are calls on a handle, which return the same error
// when they are made again.
func consuming(name string, f func(r *shmconn.Consumer) error) call {
	return call{name, func(c *shmconn.Conn, bad func()) error {
		return c.Consume(func(r *shmconn.Consumer) error {
			bad()
			return twice(f(r), f(r))
		})
	}}
}

func producing(name string, f func(p *shmconn.Producer) error) call {
	return call{name, func(c *shmconn.Conn, bad func()) error {
		return c.Produce(func(p *shmconn.Producer) error {
			bad()
			return twice(f(p), f(p))
		})
	}}
}

func twice(first, second error) error {
	if fmt.Sprint(first) != fmt.Sprint(second) {
		return fmt.Errorf("%v, and then %v", first, second)
	}
	return first
}

// hostileReads and hostileWrites look at how far the peer is, the writes
// because they find no room.
var (
	hostileReads = []call{
		{"Read", func(c *shmconn.Conn, bad func()) error { bad(); _, err := c.Read(make([]byte, 8)); return err }},
		consuming("Consumer.Read", func(r *shmconn.Consumer) error { _, err := r.Read(make([]byte, 8)); return err }),
		consuming("Consumer.Peek", func(r *shmconn.Consumer) error { _, err := r.Peek(8); return err }),
		consuming("Consumer.PeekAtLeast", func(r *shmconn.Consumer) error { _, err := r.PeekAtLeast(8); return err }),
		consuming("Consumer.Discard", func(r *shmconn.Consumer) error { _, err := r.Discard(8); return err }),
	}
	hostileWrites = []call{
		{"Write", func(c *shmconn.Conn, bad func()) error { bad(); _, err := c.Write(make([]byte, 8)); return err }},
		producing("Producer.Write", func(p *shmconn.Producer) error { _, err := p.Write(make([]byte, 8)); return err }),
		producing("Producer.Put", func(p *shmconn.Producer) error { _, err := p.Put(make([]byte, 8)); return err }),
		producing("Producer.Reserve", func(p *shmconn.Producer) error { _, err := p.Reserve(8); return err }),
	}
	hostileCommits = []call{
		{"CommitReserve", func(c *shmconn.Conn, bad func()) error { bad(); _, err := c.CommitReserve(8, 8); return err }},
	}
)

// TestHostileWords stores into the shared words what a peer may not, before a
// call and while it waits.
func TestHostileWords(t *testing.T) {
	const size = 4096
	five := func(t *testing.T, p *shmtest.RawPeer, c *shmconn.Conn) {
		p.Put(shmtest.RingA+shmtest.Produced, 5)
		if n, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatalf("Read = %d, %v", n, err)
		}
	}
	fill := func(t *testing.T, p *shmtest.RawPeer, c *shmconn.Conn) { shmtest.MustWrite(t, c, make([]byte, size)) }
	fillTwice := func(t *testing.T, p *shmtest.RawPeer, c *shmconn.Conn) {
		fill(t, p, c)
		p.Put(shmtest.RingB+shmtest.Consumed, size)
		fill(t, p, c)
	}
	reserve := func(t *testing.T, p *shmtest.RawPeer, c *shmconn.Conn) {
		shmtest.MustWrite(t, c, make([]byte, size-8))
		if _, err := c.Reserve(8); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func(*testing.T, *shmtest.RawPeer, *shmconn.Conn) {}
	for _, w := range []hostileWord{
		{"produced, a byte too far", nothing, shmtest.RingA + shmtest.Produced, size + 1, hostileReads, 0},
		{"produced, far too far", nothing, shmtest.RingA + shmtest.Produced, 1 << 63, hostileReads, 0},
		{"produced, before the start", nothing, shmtest.RingA + shmtest.Produced, math.MaxUint64, hostileReads, 0},
		{"produced, a byte back", five, shmtest.RingA + shmtest.Produced, 4, hostileReads, 0},
		{"produced, back to the start", five, shmtest.RingA + shmtest.Produced, 0, hostileReads, 0},
		{"consumed, a byte too far", fill, shmtest.RingB + shmtest.Consumed, size + 1, hostileWrites, size},
		{"consumed, far too far", fill, shmtest.RingB + shmtest.Consumed, 1 << 63, hostileWrites, size},
		{"consumed, before the start", fill, shmtest.RingB + shmtest.Consumed, math.MaxUint64, hostileWrites, size},
		{"consumed, a byte too far, with a span", reserve, shmtest.RingB + shmtest.Consumed, size + 1, hostileCommits, size},
		{"consumed, a byte back", fillTwice, shmtest.RingB + shmtest.Consumed, size - 1, hostileWrites, 2 * size},
		{"consumed, back to the start", fillTwice, shmtest.RingB + shmtest.Consumed, 0, hostileWrites, 2 * size},
	} {
		for _, call := range w.calls {
			for _, s := range shmtest.HostileShapes {
				for _, waiting := range []bool{false, true} {
					if waiting && call.name == "CommitReserve" {
						continue // it never waits
					}
					name := fmt.Sprintf("%s/%s/poll=%s,waiting=%v", strings.ReplaceAll(w.name, " ", "_"), call.name, shmtest.PollName(s.ListenPoll), waiting)
					t.Run(name, func(t *testing.T) { w.store(t, s, call, waiting) })
				}
			}
		}
	}
}

// A hostileWord is what a peer may not store, and who finds it.
type hostileWord struct {
	name    string
	before  func(*testing.T, *shmtest.RawPeer, *shmconn.Conn)
	off     int
	value   uint64
	calls   []call
	allowed uint64 // for produced: as told
}

// store stores w before call or, if that waits, meanwhile.
func (w hostileWord) store(t *testing.T, s shmtest.Shape, call call, waiting bool) {
	p, c := shmtest.RawPair(t, s)
	w.before(t, p, c)
	bad := func() { p.Put(w.off, w.value) }
	var told uint64 // of the bytes that were read
	var err error
	if waiting {
		done := shmtest.Blocked(c, func() { err = call.do(c, func() {}) })
		told = p.Get(shmtest.RingA + shmtest.Consumed)
		bad()
		p.Knock()
		<-done
	} else {
		told = p.Get(shmtest.RingA + shmtest.Consumed)
		err = call.do(c, bad)
	}
	ce := shmtest.WantCorrupt(t, c, err)
	allowed := w.allowed
	if w.off == shmtest.RingA+shmtest.Produced {
		allowed = told + uint64(s.Ring)
	}
	if ce.Seen != w.value || ce.Allowed != allowed {
		t.Errorf("%v: want seen %d, allowed %d", ce, w.value, allowed)
	}
	p.Dropped()
}

// TestHostileClosed stores another number than 1 for closed.
func TestHostileClosed(t *testing.T) {
	for _, way := range shmtest.Ways {
		for _, s := range shmtest.HostileShapes {
			for _, waiting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/poll=%s,waiting=%v", way.Name, shmtest.PollName(s.ListenPoll), waiting), func(t *testing.T) {
					hostileClosed(t, s, way.Of, waiting)
				})
			}
		}
	}
}

func hostileClosed(t *testing.T, s shmtest.Shape, of func(*shmconn.Conn) io.ReadWriter, waiting bool) {
	p, c := shmtest.RawPair(t, s)
	end := of(c)
	shmtest.MustWrite(t, c, make([]byte, s.Ring))
	p.Write(p.DataA(), []byte("last"))
	var got []byte
	var rerr, werr error
	closed := func() {
		p.Put(shmtest.RingA+shmtest.Produced, 4)
		p.Write(shmtest.RingA+shmtest.ProducerClosed, []byte{7, 0, 0, 0})
		p.Write(shmtest.RingB+shmtest.ConsumerClosed, []byte{0, 0, 0, 0x80})
	}
	if waiting {
		r := shmtest.Blocked(c, func() { got, rerr = io.ReadAll(end) })
		w := shmtest.Blocked(c, func() { _, werr = end.Write(make([]byte, 8)) })
		closed()
		p.Knock()
		p.Knock()
		<-r
		<-w
	} else {
		closed()
		got, rerr = io.ReadAll(end)
		_, werr = end.Write(make([]byte, 8))
	}
	if string(got) != "last" || rerr != nil {
		t.Errorf("ReadAll = %q, %v", got, rerr)
	}
	shmtest.WantErr(t, "Write", werr, "write EPIPE")
}

// TestHostileParked holds the word that says that the peer sleeps at an odd
// number, and changes it all the time. The latter costs a system call each;
// neither keeps anybody.
func TestHostileParked(t *testing.T) {
	for _, way := range shmtest.Ways {
		for _, s := range shmtest.HostileShapes {
			t.Run(way.Name+"/poll="+shmtest.PollName(s.ListenPoll), func(t *testing.T) { hostileParked(t, s, way.Of) })
		}
	}
}

func hostileParked(t *testing.T, s shmtest.Shape, of func(*shmconn.Conn) io.ReadWriter) {
	p, c := shmtest.RawPair(t, s)
	end := of(c)
	for _, v := range []uint64{1, 3, math.MaxUint64} {
		p.Put(shmtest.RingB+shmtest.ConsumerParked, v)
		before := c.Stats().Rings
		for range 20 {
			shmtest.MustWrite(t, end, []byte("x"))
		}
		if n := c.Stats().Rings - before; n != 1 {
			t.Errorf("20 Writes with the word held at %d rang %d times, want once", v, n)
		}
	}
	for _, v := range []uint64{0, 2, math.MaxUint64 - 1} {
		p.Put(shmtest.RingB+shmtest.ConsumerParked, v)
		before := c.Stats().Rings
		shmtest.MustWrite(t, end, []byte("x"))
		if n := c.Stats().Rings - before; n != 0 {
			t.Errorf("with the word at %d a Write rang %d times", v, n)
		}
	}
	p.Look()
	// More rings than the pipe holds, which nobody takes out.
	rings := c.Stats().Rings
	for i := range uint64(6000) {
		p.Put(shmtest.RingB+shmtest.ConsumerParked, 2*i+1001)
		p.Put(shmtest.RingB+shmtest.Consumed, p.Get(shmtest.RingB+shmtest.Produced))
		shmtest.MustWrite(t, end, []byte("x"))
	}
	if n := c.Stats().Rings - rings; n != 6000 {
		t.Errorf("6000 Writes rang %d times", n)
	}
	if n, gone := p.Look(); n == 0 || gone {
		t.Errorf("%d rings came through, gone %v", n, gone)
	}
	// The acceptor's own words are not the peer's to store into. It may be late,
	// but a knock and a deadline still end its wait.
	done := shmtest.Blocked(c, func() { end.Read(make([]byte, 8)) })
	p.Put(shmtest.RingA+shmtest.ConsumerParked, math.MaxUint64)
	p.Write(shmtest.RingA+shmtest.ConsumerClosed, []byte{9, 9, 9, 9})
	p.Write(shmtest.RingB+shmtest.ProducerClosed, []byte{9, 9, 9, 9})
	for range 100 {
		p.Knock() // for nothing
	}
	c.SetReadDeadline(time.Now())
	<-done
	p.Put(shmtest.RingA+shmtest.Produced, 1)
	c.SetReadDeadline(time.Time{})
	if n, err := end.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
}

// TestSilentDialers connects and says nothing, many times over, and stays.
func TestSilentDialers(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	before := shmtest.OpenDescriptors()
	l := s.MustListen(t, shmtest.NewName())
	shmtest.WantServed(t, s, l)
	listening := shmtest.OpenDescriptors()
	var silent []*shmtest.RawPeer
	for i := range 100 {
		silent = append(silent, shmtest.RawConnect(t, shmtest.NameOf(l)))
		if i%20 == 19 {
			shmtest.WantServed(t, s, l)
		}
	}
	shmtest.WantServed(t, s, l)
	// Those who had to go go in their own time. One may be being looked at.
	shmtest.Eventually(func() bool { return shmtest.OpenDescriptors()-listening-len(silent) <= 65 })
	// The eldest had to go.
	if n, err := unix.Read(silent[0].Sock, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the first one reads %d, %v, want the end", n, err)
	}
	// One of those who are left finds his tongue.
	p := shmtest.RawDialer(t, shmtest.NameOf(l), s)
	p.Handshake()
	shmtest.MustAccept(t, l).Close()
	p.Dropped()
	l.Close()
	for i, q := range silent {
		if n, err := unix.Read(q.Sock, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
			t.Errorf("after Close number %d reads %d, %v, want the end", i, n, err)
		}
		q.Close()
	}
	p.Close()
	shmtest.Eventually(func() bool { return shmtest.OpenDescriptors() <= before })
}

// TestLateDialer introduces itself after it has kept the listener waiting, and
// after another dialer was served.
func TestLateDialer(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	p := shmtest.RawDialer(t, shmtest.NameOf(l), s)
	shmtest.WantServed(t, s, l)
	p.Handshake()
	c := shmtest.MustAccept(t, l)
	p.Put(shmtest.RingA+shmtest.Produced, 5)
	p.Knock()
	if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
}

// TestLateDialers has many dialers introduce themselves about when the listener
// finds that they have not yet. If one is not heard, the test hangs.
func TestLateDialers(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	for i := range 1000 {
		p := shmtest.RawDialer(t, shmtest.NameOf(l), s)
		for at := time.Now(); time.Since(at) < time.Duration(i%200)*250*time.Nanosecond; {
		}
		p.Handshake()
		shmtest.MustAccept(t, l).Close()
		p.Close()
	}
}

// TestRubbish introduces itself in all the wrong ways. Each is dropped, leaves
// nothing, and keeps nobody.
func TestRubbish(t *testing.T) {
	temp := func(t *testing.T, flags int) int {
		fd, err := unix.Open(filepath.Join(t.TempDir(), "file"), unix.O_CREAT|unix.O_CLOEXEC|flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	open := func(t *testing.T, path string, flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	socket := func(t *testing.T) int {
		fd, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd[0]); unix.Close(fd[1]) })
		return fd[0]
	}
	memory := func(t *testing.T, p *shmtest.RawPeer, seals int) int {
		fd, err := unix.MemfdCreate("shmconn.raw", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if _, err := unix.Write(fd, p.Read(0, os.Getpagesize()+2*p.Size)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	type wrong struct {
		name string
		do   func(t *testing.T, p *shmtest.RawPeer, message []byte, fds []int) ([]byte, []int)
	}
	text := func(name string, f func(b []byte) []byte) wrong {
		return wrong{name, func(t *testing.T, p *shmtest.RawPeer, b []byte, fds []int) ([]byte, []int) { return f(b), fds }}
	}
	number := func(name string, f func(fds []int) []int) wrong {
		return wrong{name, func(t *testing.T, p *shmtest.RawPeer, b []byte, fds []int) ([]byte, []int) { return b, f(fds) }}
	}
	// instead sends another descriptor in the i-th place.
	instead := func(name string, i int, f func(t *testing.T, p *shmtest.RawPeer) int) wrong {
		return wrong{name, func(t *testing.T, p *shmtest.RawPeer, b []byte, fds []int) ([]byte, []int) {
			fds[i] = f(t, p)
			return b, fds
		}}
	}
	header := func(name string, off int, b ...byte) wrong {
		return wrong{name, func(t *testing.T, p *shmtest.RawPeer, m []byte, fds []int) ([]byte, []int) {
			p.Write(off, b)
			return m, fds
		}}
	}
	resize := func(name string, n int) wrong {
		return wrong{name, func(t *testing.T, p *shmtest.RawPeer, m []byte, fds []int) ([]byte, []int) {
			p.Truncate(n)
			return m, fds
		}}
	}
	page := os.Getpagesize()
	both := []wrong{
		text("no text", func([]byte) []byte { return nil }),
		text("a byte of text", func(b []byte) []byte { return b[:1] }),
		text("a byte of text too few", func(b []byte) []byte { return b[:len(b)-1] }),
		text("a byte of text too many", func(b []byte) []byte { return append(b, 0) }),
		text("much text", func(b []byte) []byte { return append(b, make([]byte, 32<<10)...) }),
		text("another text", func(b []byte) []byte { return []byte("GET / HTTP/1.0\r\n\r\n      ") }),
		text("another version", func(b []byte) []byte { b[7] = 2; return b }),
		text("another id", func(b []byte) []byte { b[8]++; return b }),
		number("no descriptors", func([]int) []int { return nil }),
		number("one descriptor", func(fds []int) []int { return fds[:1] }),
		number("two descriptors", func(fds []int) []int { return fds[:2] }),
		number("four descriptors", func(fds []int) []int { return append(fds, fds[0]) }),
		number("five descriptors", func(fds []int) []int { return append(fds, fds[0], fds[1]) }),
		number("253 descriptors", func(fds []int) []int { return append(fds, slices.Repeat(fds[1:2], 250)...) }),
		number("in another order", func(fds []int) []int { slices.Reverse(fds); return fds }),
		number("the doorbells exchanged", func(fds []int) []int { return []int{fds[0], fds[2], fds[1]} }),
		instead("a file to ring", 1, func(t *testing.T, _ *shmtest.RawPeer) int { return temp(t, unix.O_WRONLY) }),
		instead("a file to listen to", 2, func(t *testing.T, _ *shmtest.RawPeer) int { return temp(t, unix.O_RDONLY) }),
		instead("a socket to ring", 1, func(t *testing.T, _ *shmtest.RawPeer) int { return socket(t) }),
		instead("a socket to listen to", 2, func(t *testing.T, _ *shmtest.RawPeer) int { return socket(t) }),
		instead("a device to ring", 1, func(t *testing.T, _ *shmtest.RawPeer) int { return open(t, "/dev/null", unix.O_WRONLY) }),
		instead("a device to listen to", 2, func(t *testing.T, _ *shmtest.RawPeer) int { return open(t, "/dev/zero", unix.O_RDONLY) }),
		instead("the segment to listen to", 2, func(t *testing.T, p *shmtest.RawPeer) int { return p.Seg }),
		instead("a directory as the segment", 0, func(t *testing.T, _ *shmtest.RawPeer) int { return open(t, "/", unix.O_RDONLY) }),
		instead("/dev/zero as the segment", 0, func(t *testing.T, _ *shmtest.RawPeer) int { return open(t, "/dev/zero", unix.O_RDWR) }),
		instead("a socket as the segment", 0, func(t *testing.T, _ *shmtest.RawPeer) int { return socket(t) }),
		instead("a pipe as the segment", 0, func(t *testing.T, p *shmtest.RawPeer) int { return p.HisBell }),
		instead("the listener's socket as the segment", 0, func(t *testing.T, p *shmtest.RawPeer) int { return p.Sock }),
		instead("a segment to read", 0, func(t *testing.T, p *shmtest.RawPeer) int {
			return open(t, fmt.Sprintf("/proc/self/fd/%d", p.Seg), unix.O_RDONLY)
		}),
		instead("a segment to write", 0, func(t *testing.T, p *shmtest.RawPeer) int {
			return open(t, fmt.Sprintf("/proc/self/fd/%d", p.Seg), unix.O_WRONLY)
		}),
		header("no magic number", 0, 0, 0, 0, 0, 0, 0, 0, 0),
		header("another format version", 8, 9),
		header("another ring size", 16, 0, 0, 1),
	}
	for k := range oddDescriptors(t) {
		for i := range shmtest.HelloDescriptors {
			both = append(both, instead(fmt.Sprintf("odd descriptor %d in place %d", k, i), i, func(t *testing.T, _ *shmtest.RawPeer) int {
				return oddDescriptors(t)[k]
			}))
		}
	}
	for _, kind := range []struct {
		shape  shmtest.Shape
		wrongs []wrong
	}{
		{shmtest.Shape{Ring: 8192}, append([]wrong{
			resize("an empty segment", 0),
			resize("a segment of a page", page),
			resize("a segment with a byte less", page+2*8192-1),
			resize("a segment with a page more", 2*page+2*8192),
			instead("memory without seals", 0, func(t *testing.T, p *shmtest.RawPeer) int { return memory(t, p, 0) }),
			instead("memory that can be cut", 0, func(t *testing.T, p *shmtest.RawPeer) int {
				return memory(t, p, unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
			}),
			instead("memory whose seals can change", 0, func(t *testing.T, p *shmtest.RawPeer) int {
				return memory(t, p, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
			}),
			instead("memory that cannot be written", 0, func(t *testing.T, p *shmtest.RawPeer) int {
				return memory(t, p, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL|unix.F_SEAL_FUTURE_WRITE)
			}),
		}, both...)},
		{shmtest.Shape{Ring: 8192, Anonymous: true}, append([]wrong{
			instead("no seals", 0, func(t *testing.T, p *shmtest.RawPeer) int { return memory(t, p, 0) }),
			instead("a seal too few", 0, func(t *testing.T, p *shmtest.RawPeer) int { return memory(t, p, unix.F_SEAL_GROW|unix.F_SEAL_SEAL) }),
			instead("a seal too many", 0, func(t *testing.T, p *shmtest.RawPeer) int {
				return memory(t, p, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL|unix.F_SEAL_WRITE)
			}),
		}, both...)},
	} {
		s := kind.shape
		t.Run(fmt.Sprintf("anonymous=%v", s.Anonymous), func(t *testing.T) {
			l := s.MustListen(t, shmtest.NewName())
			name := shmtest.NameOf(l)
			go shmtest.ServeEcho(l)
			wantEchoed := func(t *testing.T) {
				t.Helper()
				if err := shmtest.Echoed(s, name, 0); err != nil {
					t.Errorf("a polite dialer: %v", err)
				}
			}
			wantEchoed(t)
			for _, w := range kind.wrongs {
				t.Run(strings.ReplaceAll(w.name, " ", "_"), func(t *testing.T) {
					before, drops := shmtest.OpenDescriptors(), shmtest.Refused(t, name)
					p := shmtest.RawDialer(t, name, s)
					message, fds := p.Hello()
					message, fds = w.do(t, p, message, fds)
					mine := shmtest.OpenDescriptors() - before
					p.Say(message, fds)
					shmtest.Eventually(func() bool { return shmtest.Refused(t, name) == drops+1 })
					shmtest.Eventually(func() bool { return shmtest.OpenDescriptors() <= before+mine })
					// It is not left waiting for something.
					if n, err := unix.Read(p.Sock, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
						t.Errorf("it reads %d, %v, want the end", n, err)
					}
					p.HandOver()
					p.Dropped()
					wantEchoed(t)
				})
			}
		})
	}
}

// TestFlood has dialers of all kinds at the same time.
func TestFlood(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, i))
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("unixpacket", shmtest.UnixShape.Path("shmconn."+shmtest.NameOf(l)+"@sock"))
				if err != nil {
					continue // the backlog is full
				}
				if rnd.IntN(2) == 0 {
					c.Write(make([]byte, 1+rnd.IntN(64)))
				}
				c.Close()
			}
		})
	}
	for range 30 {
		shmtest.WantServed(t, s, l)
	}
	close(stop)
	wg.Wait()
}

// The words of the rings' headers.
var (
	producers = []int{shmtest.RingA + shmtest.Produced, shmtest.RingB + shmtest.Produced}
	consumers = []int{shmtest.RingA + shmtest.Consumed, shmtest.RingB + shmtest.Consumed}
	positions = append(slices.Clone(producers), consumers...)
	states    = []int{
		shmtest.RingA + shmtest.ConsumerParked, shmtest.RingA + shmtest.ConsumerClosed, shmtest.RingA + shmtest.ProducerParked, shmtest.RingA + shmtest.ProducerClosed,
		shmtest.RingB + shmtest.ConsumerParked, shmtest.RingB + shmtest.ConsumerClosed, shmtest.RingB + shmtest.ProducerParked, shmtest.RingB + shmtest.ProducerClosed,
	}
)

// A scrawl stores something where it should not.
type scrawl struct {
	name string
	do   func(m []byte, rnd *rand.Rand) (off, n int)
}

var scrawls = []scrawl{
	{"ring bytes", func(m []byte, rnd *rand.Rand) (int, int) {
		off := os.Getpagesize() + rnd.IntN(len(m)-os.Getpagesize())
		m[off] = byte(rnd.Uint32())
		return off, 1
	}},
	{"positions a bit off", func(m []byte, rnd *rand.Rand) (int, int) {
		off := positions[rnd.IntN(len(positions))]
		return scrawlWord(m, off, binary.NativeEndian.Uint64(m[off:])+uint64(rnd.IntN(80))-16)
	}},
	{"positions exchanged", func(m []byte, rnd *rand.Rand) (int, int) {
		off := positions[rnd.IntN(len(positions))]
		return scrawlWord(m, off, binary.NativeEndian.Uint64(m[positions[rnd.IntN(len(positions))]:]))
	}},
	{"produced", func(m []byte, rnd *rand.Rand) (int, int) {
		return scrawlWord(m, producers[rnd.IntN(len(producers))], anyWord(rnd))
	}},
	{"consumed", func(m []byte, rnd *rand.Rand) (int, int) {
		return scrawlWord(m, consumers[rnd.IntN(len(consumers))], anyWord(rnd))
	}},
	{"consumed, a bit off", func(m []byte, rnd *rand.Rand) (int, int) {
		off := consumers[rnd.IntN(len(consumers))]
		return scrawlWord(m, off, binary.NativeEndian.Uint64(m[off:])+uint64(rnd.IntN(80))-16)
	}},
	{"parked", func(m []byte, rnd *rand.Rand) (int, int) {
		off := states[rnd.IntN(len(states))] &^ 8 // parked is just before closed
		return scrawlWord(m, off, anyWord(rnd))
	}},
	{"parked and closed", func(m []byte, rnd *rand.Rand) (int, int) {
		return scrawlWord(m, states[rnd.IntN(len(states))], uint64(rnd.IntN(4)))
	}},
	{"closed, seldom", func(m []byte, rnd *rand.Rand) (int, int) {
		off := states[rnd.IntN(len(states))] | 8
		return scrawlWord(m, off, uint64(rnd.IntN(2000)/1999))
	}},
	{"the header", func(m []byte, rnd *rand.Rand) (int, int) {
		return scrawlWord(m, rnd.IntN(os.Getpagesize()/8)*8, anyWord(rnd))
	}},
}

// scrawlWord stores a word and returns where.
func scrawlWord(m []byte, off int, word uint64) (int, int) {
	binary.NativeEndian.PutUint64(m[off:], word)
	return off, 8
}

// anyWord returns a number of any size, near zero from above or below more
// often than not.
func anyWord(rnd *rand.Rand) uint64 {
	v := rnd.Uint64() >> rnd.IntN(64)
	if rnd.IntN(3) == 0 {
		v = -v
	}
	return v
}

// vandal is a process that stores garbage into segments. Its orders are "go
// FILE KIND PAUSE SEED" and "ring PIPE", answered once it has begun, "halt",
// answered by how often it has stored something since, or rung, and "hit",
// answered by how many bytes of the last segment's header, of how many, and of
// its rings it has ever stored into.
func vandal(s shmtest.Shape, in *bufio.Scanner) {
	var hit []bool
	var m []byte
	var stop atomic.Bool
	done := make(chan int)
	for in.Scan() {
		switch f := strings.Fields(in.Text()); f[0] {
		case "go":
			var err error
			if m, err = mapFile(f[1]); err != nil {
				fmt.Println(err)
				continue
			}
			if hit == nil {
				hit = make([]bool, len(m))
			}
			kind, _ := strconv.Atoi(f[2])
			pause, _ := strconv.Atoi(f[3])
			seed, _ := strconv.ParseUint(f[4], 10, 64)
			stop.Store(false)
			begun := make(chan bool)
			go func() { done <- scribble(m, hit, kind, pause, seed, begun, &stop) }()
			<-begun
			fmt.Println("ok")
		case "ring":
			fd, err := unix.Open(f[1], unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				fmt.Println(err)
				continue
			}
			stop.Store(false)
			go func() { done <- ring(fd, &stop) }()
			fmt.Println("ok")
		case "halt":
			stop.Store(true)
			fmt.Println(<-done)
			if m != nil {
				unix.Munmap(m)
				m = nil
			}
		case "hit":
			page := os.Getpagesize()
			header, rings := 0, 0
			for i, yes := range hit {
				switch {
				case yes && i < page:
					header++
				case yes:
					rings++
				}
			}
			fmt.Println(header, page, rings, len(hit)-page)
		}
	}
}

func mapFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// scribble stores garbage of a kind, or of all if there is no such, until stop
// says so, and returns how often. Between two stores it lets so many numbers go
// by.
func scribble(m []byte, hit []bool, kind, pause int, seed uint64, begun chan bool, stop *atomic.Bool) (n int) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	for ; !stop.Load(); n++ {
		k := kind
		if k >= len(scrawls) {
			k = rnd.IntN(len(scrawls))
		}
		off, length := scrawls[k].do(m, rnd)
		for i := range length {
			hit[off+i] = true
		}
		if n == 0 {
			close(begun)
		}
		for range pause {
			rnd.Uint64()
		}
	}
	return n
}

// ring fills a pipe until stop says so, and returns how many bytes it has put
// in.
func ring(fd int, stop *atomic.Bool) (n int) {
	defer unix.Close(fd)
	for bytes := make([]byte, 64); !stop.Load(); {
		if m, err := unix.Write(fd, bytes); err == nil {
			n += m
		}
	}
	return n
}

// TestVandal has a third process store garbage into connections all the time
// that all calls are made at both ends. What a call returns can be garbage, and
// most connections are soon found to be damaged; nothing worse comes of it, and
// nothing anywhere else.
func TestVandal(t *testing.T) {
	const size = 4096
	conns, stores := 150, 1_000_000
	if *shmtest.Long {
		conns, stores = 20_000, 100_000_000
	}
	rnd := shmtest.Seeded(t)
	h := shmtest.StartHelper(t, "vandal", shmtest.Shape{})
	files := shmtest.ProbeFiles(t)
	stop := shmtest.Control(t)
	all := &shmtest.Outcomes{T: t, Ends: make(map[string]int)}
	goroutines, fds := runtime.NumGoroutine(), shmtest.OpenDescriptors()
	n, stored := 0, 0
	start := time.Now()
	for ; n < conns || stored < stores; n++ {
		s := shmtest.Shape{Ring: size}.Poll([]time.Duration{0, shmtest.PollAlways, shmtest.PollNever}[n%3])
		a, b, seg := shmtest.SegmentIn(t, os.Getenv("SHMCONN_DIR"), s)
		kind, pause := n%(len(scrawls)+1), []int{0, 0, 20, 1000}[rnd.IntN(4)]
		h.Do("go /proc/%d/fd/%d %d %d %d", os.Getpid(), seg.Fd(), kind, pause, rnd.Uint64())
		all.Probe(a, b, size, rnd.Uint64(), files, 4*time.Millisecond)
		m, err := strconv.Atoi(h.Call("halt"))
		if err != nil {
			t.Fatal(err)
		}
		stored += m
		seg.Close()
		if t.Failed() {
			t.Fatalf("it was connection %d, with %v, kind of garbage %d, pause %d", n, s, kind, pause)
		}
	}
	took := time.Since(start)
	var header, page, rings, of int
	fmt.Sscan(h.Call("hit"), &header, &page, &rings, &of)
	t.Logf("figure: garbage from a third process: %d stores (into %d of %d header bytes, %d of %d ring bytes) on %d connections in %v: %v; control connection: %d bytes verified",
		stored, header, page, rings, of, n, took.Round(100*time.Millisecond), all, stop())
	if header != page || rings != of {
		t.Errorf("it has missed %d bytes of the header and %d of the rings", page-header, of-rings)
	}
	if all.Ends["corrupt"] == 0 {
		t.Error("nothing was found to be damaged: the garbage misses")
	}
	shmtest.Eventually(func() bool { return runtime.NumGoroutine() <= goroutines && shmtest.OpenDescriptors() <= fds })
}

// An unruly is a way to be a dialer that is none.
type unruly struct {
	name     string
	keep     int  // of these stay at a time
	accepted bool // Accept returns some, or all
	do       func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int)
}

var unrulies = []unruly{
	// The first one has its own numbers in TestUnruly.
	{"connects and says nothing", 300, false, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) { shmtest.RawConnect(t, name) }},
	{"sends half an introduction and stays", 100, false, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		message, fds := p.Hello()
		p.TrySay(message[:n%len(message)], fds[:n%4])
	}},
	{"sends wrong descriptors", 0, false, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		message, fds := p.Hello()
		odd := append(oddDescriptors(t), p.Sock)
		for i := range fds {
			if n%7>>i&1 == 0 { // at least one
				fds[i] = odd[(n/7+i)%len(odd)]
			}
		}
		p.TrySay(message, fds)
	}},
	{"sends 253 descriptors", 0, false, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		message, fds := p.Hello()
		p.TrySay(message, append(fds, slices.Repeat(fds[:1], 250)...))
	}},
	{"holds leases and locks on what it sends, and all descriptors", 100, true, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		unix.FcntlInt(uintptr(p.Seg), unix.F_SETLEASE, unix.F_WRLCK)
		unix.FcntlFlock(uintptr(p.Seg), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		unix.Flock(p.Seg, unix.LOCK_EX)
		p.TrySay(p.Hello())
	}},
	{"sends a file that grows and shrinks", 0, true, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		p.TrySay(p.Hello())
		for range 5 {
			p.Truncate(os.Getpagesize() + 2*p.Size + n%5*os.Getpagesize())
			p.Truncate(n % 3 * os.Getpagesize())
		}
	}},
	{"connects and vanishes", 0, false, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) { shmtest.RawConnect(t, name) }},
	{"introduces itself and vanishes", 0, true, func(t *shmtest.ProcessTB, name string, s shmtest.Shape, n int) {
		p := shmtest.RawDialer(t, name, s)
		p.TrySay(p.Hello())
	}},
}

// oddDescriptors returns descriptors that have no place in an introduction.
func oddDescriptors(t testing.TB) (fds []int) {
	add := func(fd int, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	add(unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	add(unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0))
	add(unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0))
	add(unix.Open("/proc/self/maps", unix.O_RDONLY|unix.O_CLOEXEC, 0))
	add(unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0))
	add(unix.Eventfd(0, unix.EFD_CLOEXEC))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	add(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	add(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC))
	add(unix.InotifyInit1(unix.IN_CLOEXEC))
	add(unix.MemfdCreate("odd", unix.MFD_CLOEXEC))
	t.Cleanup(func() { closeDescriptors(fds) })
	return fds
}

func closeDescriptors(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// unrulyDialers is a process of unruly dialers. Its orders are "go KIND NAME
// LEAST", answered at once, and "halt", answered by how many there were when
// there had been at least so many.
func unrulyDialers(s shmtest.Shape, in *bufio.Scanner) {
	var stop atomic.Bool
	done := make(chan int)
	for in.Scan() {
		switch f := strings.Fields(in.Text()); f[0] {
		case "go":
			kind, _ := strconv.Atoi(f[1])
			least, _ := strconv.Atoi(f[3])
			stop.Store(false)
			go func() { done <- riot(unrulies[kind], f[2], s, least, &stop) }()
			fmt.Println("ok")
		case "halt":
			stop.Store(true)
			fmt.Println(<-done)
		}
	}
}

func riot(u unruly, name string, s shmtest.Shape, least int, stop *atomic.Bool) (n int) {
	var staying []*shmtest.ProcessTB
	for ; n < least || !stop.Load(); n++ {
		t := new(shmtest.ProcessTB)
		u.do(t, name, s, n)
		staying = append(staying, t)
		if len(staying) > u.keep {
			staying[0].RunCleanups()
			staying = slices.Delete(staying, 0, 1)
		}
	}
	for _, t := range staying {
		t.RunCleanups()
	}
	return n
}

// A watch notes the most that this process has had of things, beyond what it
// has at first.
type watch struct {
	stop chan struct{}
	done sync.WaitGroup

	first, most struct{ goroutines, descriptors, threads, rss int }
}

func newWatch() *watch {
	w := &watch{stop: make(chan struct{})}
	runtime.GC()
	debug.FreeOSMemory()
	w.look()
	w.first = w.most
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(time.Millisecond):
				w.look()
			}
		}
	})
	return w
}

func (w *watch) look() {
	w.most.goroutines = max(w.most.goroutines, runtime.NumGoroutine())
	w.most.descriptors = max(w.most.descriptors, shmtest.OpenDescriptors())
	w.most.threads = max(w.most.threads, len(shmtest.ListDir("/proc/self/task")))
	var size, rss int
	statm, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(statm), &size, &rss)
	w.most.rss = max(w.most.rss, rss*os.Getpagesize())
}

// end ends it, and fails unless the most was within bounds.
func (w *watch) end(t testing.TB, goroutines, descriptors, threads, megabytes int) string {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	check := func(what string, got, most int) {
		if got > most {
			t.Errorf("%d %s more than at first, want %d at the most", got, what, most)
		}
	}
	g, d := w.most.goroutines-w.first.goroutines, w.most.descriptors-w.first.descriptors
	th, mb := w.most.threads-w.first.threads, (w.most.rss-w.first.rss)>>20
	check("goroutines", g, goroutines)
	check("descriptors", d, descriptors)
	check("threads", th, threads)
	check("megabytes", mb, megabytes)
	return fmt.Sprintf("at the most %d goroutines, %d descriptors, %d threads, %d MiB more", g, d, th, mb)
}

// TestUnruly has a process of dialers that do not follow the protocol, as fast
// as it can, while others dial. All of these are served, and the listener's
// process stays as it is.
func TestUnruly(t *testing.T) {
	for kind, u := range unrulies {
		t.Run(testName(u.name), func(t *testing.T) {
			u.run(t, kind, 10_000, func(s shmtest.Shape) *shmtest.Helper { return shmtest.StartHelper(t, "unruly", s) })
		})
	}
}

// TestUnrulyUser is TestUnruly with dialers of another user, whose descriptors
// Accept leaves to other goroutines.
func TestUnrulyUser(t *testing.T) {
	start := shmtest.OtherUsers(t)
	for kind, u := range unrulies {
		t.Run(testName(u.name), func(t *testing.T) {
			u.run(t, kind, 2000, func(s shmtest.Shape) *shmtest.Helper {
				return start(t, "unruly", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, s)
			})
		})
	}
}

func testName(s string) string { return strings.NewReplacer(" ", "_", ",", "").Replace(s) }

// run has at least so many dialers of the kind u, ten times as many with -long,
// in a process that start starts.
func (u unruly) run(t *testing.T, kind, least int, start func(shmtest.Shape) *shmtest.Helper) {
	dials := 30
	if *shmtest.Long {
		dials, least = 1000, 10*least
	}
	s := shmtest.Shape{Ring: 1 << 20, Mode: 0o666}
	if kind == 0 {
		// To make such a segment takes longer than others need to push a dialer out
		// who has not said anything yet.
		s.Ring, dials = 64<<20, dials/3
	}
	l := s.MustListen(t, shmtest.NewName())
	h := start(s)
	served := make(chan struct{})
	go func() {
		defer close(served)
		shmtest.ServeEcho(l)
	}()
	goroutines, descriptors := runtime.NumGoroutine(), shmtest.OpenDescriptors()
	w := newWatch()
	h.Do("go %d %s %d", kind, shmtest.NameOf(l), least)
	var took []time.Duration
	for i := range dials {
		start := time.Now()
		if err := shmtest.Echoed(s, shmtest.NameOf(l), i); err != nil {
			t.Errorf("dial number %d: %v", i, err)
		}
		took = append(took, time.Since(start))
	}
	n := h.Call("halt")
	handshake.DropSpares()
	shmtest.Eventually(func() bool { return runtime.NumGoroutine() <= goroutines+1 && shmtest.OpenDescriptors() <= descriptors })
	// Silent ones; the descriptors of those that are being looked at; others.
	fds := 64 + 4*16 + 32
	if u.accepted {
		fds += 2 * (shmtest.MostConns + 1)
	}
	most := w.end(t, 2000, fds, 64, 256)
	l.Close()
	<-served
	slices.Sort(took)
	t.Logf("figure: %s: %s of them; %d others dialed meanwhile, all served, within %v in the median, %v at the most; the listener's process: %s",
		u.name, n, dials, took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond), most)
}

// blocker is a dialer that later makes the doorbells that it has sent block.
// Its orders are "dial NAME" and "block".
func blocker(s shmtest.Shape, in *bufio.Scanner) {
	t := new(shmtest.ProcessTB)
	defer t.RunCleanups()
	var doorbells []int
	for in.Scan() {
		switch f := strings.Fields(in.Text()); f[0] {
		case "dial":
			p := shmtest.RawDialer(t, f[1], s)
			message, fds := p.Hello()
			doorbells = fds[1:]
			p.Say(message, fds)
		case "block":
			for _, fd := range doorbells {
				if err := unix.SetNonblock(fd, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		fmt.Println("ok")
	}
}

// TestBlockingUser has a dialer of another user make the doorbells block once
// they are in use. Calls keep their deadlines.
func TestBlockingUser(t *testing.T) {
	start := shmtest.OtherUsers(t)
	s := shmtest.Shape{Ring: 4096, Mode: 0o666}.Poll(shmtest.PollNever)
	l := s.MustListen(t, shmtest.NewName())
	h := start(t, "blocker", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, s)
	h.Do("dial %s", shmtest.NameOf(l))
	c := shmtest.MustAccept(t, l)
	h.Do("block")
	c.SetDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	shmtest.WantErr(t, "Read", err, "read timeout")
	_, err = c.Write(make([]byte, 1<<20))
	shmtest.WantErr(t, "Write", err, "write timeout")
}

// TestDoorbellFlood has a peer ring all the time, for nothing, while calls
// wait. It costs processor time; what comes in is read, deadlines are kept, and
// others are served.
func TestDoorbellFlood(t *testing.T) {
	rounds := 100
	if *shmtest.Long {
		rounds = 20_000
	}
	h := shmtest.StartHelper(t, "vandal", shmtest.Shape{})
	stop := shmtest.Control(t)
	var figures []string
	for _, s := range shmtest.HostileShapes {
		t.Run("poll="+shmtest.PollName(s.ListenPoll), func(t *testing.T) {
			p, c := shmtest.RawPair(t, s)
			shmtest.MustWrite(t, c, make([]byte, s.Ring)) // so that a Write has to wait
			goroutines := runtime.NumGoroutine()
			before, start := processorTime(), time.Now()
			h.Do("ring /proc/%d/fd/%d", os.Getpid(), p.Ringer)

			// Both directions wait, until their deadlines.
			var late time.Duration
			for range 5 {
				deadline := time.Now().Add(20 * time.Millisecond)
				c.SetDeadline(deadline)
				var rerr, werr error
				w := shmtest.Blocked(c, func() { _, werr = c.Write([]byte("x")) })
				_, rerr = c.Read(make([]byte, 8))
				<-w
				if d := time.Since(deadline); d < 0 {
					t.Errorf("both have ended %v before the deadline", -d)
				} else {
					late = max(late, d)
				}
				shmtest.WantErr(t, "Read", rerr, "read timeout")
				shmtest.WantErr(t, "Write", werr, "write timeout")
			}
			c.SetDeadline(shmtest.NoDeadline)

			// What comes in between all the rings is there.
			var took []time.Duration
			at := make(chan time.Time)
			read := make(chan bool)
			go func() {
				for range rounds {
					if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
						t.Errorf("Read = %d, %v", n, err)
					}
					at <- time.Now()
				}
				close(read)
			}()
			for i := range rounds {
				start := time.Now()
				p.Put(shmtest.RingA+shmtest.Produced, uint64(i+1))
				took = append(took, (<-at).Sub(start))
			}
			<-read

			// And Close ends a wait.
			done := shmtest.Blocked(c, func() {
				_, err := c.Read(make([]byte, 8))
				shmtest.WantErr(t, "Read", err, "read closed")
			})
			c.Close()
			<-done
			n := h.Call("halt")
			busy := float64(processorTime()-before) / float64(time.Since(start))
			shmtest.Eventually(func() bool { return runtime.NumGoroutine() <= goroutines })
			slices.Sort(took)
			figures = append(figures, fmt.Sprintf("poll=%s: %s rings, %.1f processors busy, deadline kept within %v, a byte read after %v in the median, %v at the most",
				shmtest.PollName(s.ListenPoll), n, busy, late.Round(10*time.Microsecond), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond)))
		})
	}
	t.Logf("figure: doorbell flooded: %s; control connection: %d bytes verified", strings.Join(figures, "; "), stop())
}

// processorTime returns how long this process has had processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLease has a dialer hold a lease and locks on the segment that it sends.
// It is accepted and nobody waits for it: not the one who accepts, nor who
// sweeps what it leaves.
func TestLease(t *testing.T) {
	const limit = 10 * time.Second // a lease is broken after 45
	for _, tt := range []struct {
		name string
		hold func(fd int) error
	}{
		{"a lease", func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
			return err
		}},
		{"a lock", func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}},
		{"a lock of the process", func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}},
		{"a flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) }},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			s := shmtest.Shape{Ring: 4096}
			name := shmtest.NewName()
			l := s.MustListen(t, name)
			start := time.Now()
			p := shmtest.RawDialer(t, name, s)
			if err := tt.hold(p.Seg); err != nil {
				t.Fatal(err)
			}
			p.Say(p.Hello()) // and keeps all that it has sent
			c := shmtest.MustAccept(t, l)
			p.Put(shmtest.RingA+shmtest.Produced, 5)
			p.Knock()
			if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
			c.Close()
			p.HandOver()
			p.Dropped()

			// One that nobody takes, and that is there when the name is taken again.
			q := shmtest.RawDialer(t, name, s)
			if err := tt.hold(q.Seg); err != nil {
				t.Fatal(err)
			}
			shmtest.WantServed(t, s, l)
			l.Close()
			l = s.MustListen(t, name)
			shmtest.WantServed(t, s, l)
			if d := time.Since(start); d > limit {
				t.Errorf("it took %v", d)
			}
		})
	}
}

// TestScribbled overwrites words of the header while both ends are in use:
// calls may fail and the stream may be garbage, but nothing crashes, hangs, or
// counts more than it was given.
func TestScribbled(t *testing.T) {
	rounds := 200
	if *shmtest.Long {
		rounds = 5000
	}
	for _, poll := range []time.Duration{0, shmtest.PollAlways, shmtest.PollNever} {
		t.Run("poll="+shmtest.PollName(poll), func(t *testing.T) {
			r := shmtest.Seeded(t)
			corrupt := 0
			for range rounds {
				a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{Ring: 4096}.Poll(poll))
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
						shmtest.Outcome(t, "shm", err)
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
								p, err = c.CommitReserve(len(p), k)
								check("CommitReserve", len(p), k, err)
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

// TestRudeDialers connects to the listener's socket and does not say what a
// dialer says: it delays nobody, and Accept does not return it.
func TestRudeDialers(t *testing.T) {
	name := shmtest.NewName()
	l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
	sock := shmtest.UnixShape.Path("shmconn." + name + "@sock")
	for i := range 20 {
		c, err := net.Dial("unix", sock)
		if err != nil {
			// The socket's type is the library's own affair.
			if c, err = net.Dial("unixpacket", sock); err != nil {
				t.Skipf("no way to be rude to the listener's socket: %v", err)
			}
		}
		defer c.Close()
		switch i % 4 {
		case 0: // says nothing
		case 1:
			c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		case 2:
			c.Write(make([]byte, 65536))
		case 3:
			c.Close()
		}
	}
	a := shmtest.Shape{}.MustDial(t, name)
	a.Write([]byte("polite"))
	b := shmtest.MustAccept(t, l)
	buf := make([]byte, 8)
	if n, err := b.Read(buf); string(buf[:n]) != "polite" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	l.SetDeadline(time.Now().Add(20 * time.Millisecond))
	c, err := l.Accept()
	if err == nil {
		c.Close()
		t.Error("Accept returned a rude one")
	} else {
		shmtest.WantErr(t, "Accept", err, "accept timeout")
	}
}

// TestWire speaks the protocol by hand, so that the next tests are about what
// they say, and so that another version of this library can still be spoken to.
func TestWire(t *testing.T) {
	for _, s := range append(slices.Clone(shmtest.HostileShapes), shmtest.Shape{Ring: 8192, Anonymous: true}) {
		t.Run(s.String(), func(t *testing.T) {
			p, c := shmtest.RawPair(t, s)
			buf := make([]byte, s.Ring)

			// From the dialer, over the end of the ring.
			p.Write(p.DataA()+s.Ring-3, []byte("abc"))
			p.Write(p.DataA(), []byte("defg"))
			p.Put(shmtest.RingA+shmtest.Produced, uint64(s.Ring)-3)
			if n, err := io.ReadFull(c, buf[:s.Ring-3]); err != nil {
				t.Fatalf("Read = %d, %v", n, err)
			}
			p.Put(shmtest.RingA+shmtest.Produced, uint64(s.Ring)+4)
			if n, err := c.Read(buf); string(buf[:n]) != "abcdefg" || err != nil {
				t.Errorf("Read = %q, %v", buf[:n], err)
			}
			if got := p.Get(shmtest.RingA + shmtest.Consumed); got > uint64(s.Ring)+4 || got < uint64(s.Ring)*3/4 {
				t.Errorf("it has told of %d bytes read", got)
			}

			// To the dialer, who first does not and then does sleep.
			shmtest.MustWrite(t, c, []byte("hello"))
			if got := string(p.Read(p.DataB(), 5)); got != "hello" || p.Get(shmtest.RingB+shmtest.Produced) != 5 {
				t.Errorf("ring B has %d bytes: %q", p.Get(shmtest.RingB+shmtest.Produced), got)
			}
			if n, gone := p.Look(); n != 0 || gone {
				t.Errorf("rung %d times, gone %v, without having parked", n, gone)
			}
			p.Put(shmtest.RingB+shmtest.ConsumerParked, 1)
			shmtest.MustWrite(t, c, []byte("x"))
			if n, _ := p.Look(); n != 1 {
				t.Errorf("rung %d times, want once", n)
			}

			// The acceptor sleeps, or polls; either way it says what it has read.
			done := shmtest.Blocked(c, func() { c.Read(buf) })
			shmtest.Eventually(func() bool { return p.Get(shmtest.RingA+shmtest.Consumed) == uint64(s.Ring)+4 })
			if s.ListenPoll == shmtest.PollNever {
				shmtest.Eventually(func() bool { return p.Get(shmtest.RingA+shmtest.ConsumerParked)&1 == 1 })
			}
			p.Put(shmtest.RingA+shmtest.Produced, uint64(s.Ring)+5)
			p.Knock()
			<-done

			p.Put(shmtest.RingB+shmtest.ConsumerParked, 3)
			c.Close()
			if got := p.Get(shmtest.RingB+shmtest.ProducerClosed) & math.MaxUint32; binary.NativeEndian.Uint32(p.Read(shmtest.RingB+shmtest.ProducerClosed, 4)) != 1 {
				t.Errorf("the writing side is closed: %d", got)
			}
			if binary.NativeEndian.Uint32(p.Read(shmtest.RingA+shmtest.ConsumerClosed, 4)) != 1 {
				t.Error("the reading side is not closed")
			}
			n := 0
			shmtest.Eventually(func() bool { m, gone := p.Look(); n += m; return gone })
			if n != 1 {
				t.Errorf("at Close it rang %d times, want once", n)
			}
		})
	}
}
