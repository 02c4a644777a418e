//go:build linux

package truncate

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// truncations are calls that wait until the peer does something, which is to
// truncate the segment.
var truncations = []struct {
	name  string
	full  bool // of a full ring
	call  func(t *testing.T, c *shmconn.Conn) error
	quick bool // also with a polling shape
}{
	{"Read", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Read(make([]byte, 8)); return err }, true},
	{"Peek", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Peek(8); return err }, false},
	{"Discard", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Discard(8); return err }, false},
	{"Write", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Write(make([]byte, 8)); return err }, true},
	{"WriteBuffers", true, func(t *testing.T, c *shmconn.Conn) error {
		_, err := c.WriteBuffers(&net.Buffers{[]byte("a"), []byte("b")})
		return err
	}, false},
	{"Reserve", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Reserve(8); return err }, false},
	{"ReadFrom", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.ReadFrom(strings.NewReader("abc")); return err }, false},
	{"ReadFrom a file", true, func(t *testing.T, c *shmconn.Conn) error {
		_, err := c.ReadFrom(shmtest.TempFile(t, []byte("abc")))
		return err
	}, false},
	{"WriteTo", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }, false},
	{"WriteTo a socket", false, func(t *testing.T, c *shmconn.Conn) error {
		a, _ := shmtest.TCPPair(t)
		_, err := c.WriteTo(a)
		return err
	}, false},
}

// TestTruncatedWaiting truncates the segment under a call that waits and then
// rings.
func TestTruncatedWaiting(t *testing.T) {
	for _, tt := range truncations {
		for _, s := range shmtest.HostileShapes {
			if s.ListenPoll == shmtest.PollAlways && !tt.quick {
				continue
			}
			t.Run(fmt.Sprintf("%s/poll=%s", strings.ReplaceAll(tt.name, " ", "_"), shmtest.PollName(s.ListenPoll)), func(t *testing.T) {
				if s.ListenPoll != shmtest.PollNever {
					shmtest.SkipRaced(t)
				}
				p, c := shmtest.RawPair(t, s)
				if tt.full {
					shmtest.MustWrite(t, c, make([]byte, s.Ring))
				}
				var err error
				done := shmtest.Blocked(c, func() { err = tt.call(t, c) })
				if s.ListenPoll == shmtest.PollNever {
					shmtest.Eventually(func() bool { return c.Stats().Parks > 0 })
				}
				p.Truncate(0)
				if s.ListenPoll != shmtest.PollAlways { // who polls finds out by himself
					p.Knock()
				}
				<-done
				shmtest.WantCorrupt(t, c, err)
				p.Dropped()
			})
		}
	}
}

// TestTruncatedRings leaves the header and takes the rings, or a part of them,
// away.
func TestTruncatedRings(t *testing.T) {
	page := os.Getpagesize()
	const size = 16 << 10
	for _, tt := range []struct {
		name string
		call func(t *testing.T, c *shmconn.Conn) error
	}{
		{"Read", func(t *testing.T, c *shmconn.Conn) error { _, err := c.Read(make([]byte, size)); return err }},
		{"TryRead", func(t *testing.T, c *shmconn.Conn) error { _, err := c.TryRead(make([]byte, size)); return err }},
		{"Peek", func(t *testing.T, c *shmconn.Conn) error {
			b, err := c.Peek(size / 2)
			if err != nil {
				return err
			}
			sum := 0
			return c.Guard(func() {
				for _, x := range b {
					sum += int(x)
				}
			})
		}},
		{"Reserve", func(t *testing.T, c *shmconn.Conn) error {
			b, err := c.Reserve(size / 2)
			if err != nil {
				return err
			}
			return c.Guard(func() { clear(b) })
		}},
		{"Write", func(t *testing.T, c *shmconn.Conn) error { _, err := c.Write(make([]byte, size)); return err }},
		{"TryWrite", func(t *testing.T, c *shmconn.Conn) error { _, err := c.TryWrite(make([]byte, size)); return err }},
		{"ReadFrom", func(t *testing.T, c *shmconn.Conn) error {
			_, err := c.ReadFrom(io.LimitReader(shmtest.Zeros{}, size))
			return err
		}},
		{"ReadFrom a file", func(t *testing.T, c *shmconn.Conn) error {
			_, err := c.ReadFrom(shmtest.TempFile(t, make([]byte, size)))
			return err
		}},
		{"WriteTo", func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }},
		{"WriteTo a TCP socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := shmtest.TCPPair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a Unix socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := shmtest.UnixShape.Pair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a pipe", func(t *testing.T, c *shmconn.Conn) error {
			r, w := shmtest.PipePair(t)
			go io.Copy(io.Discard, r)
			_, err := c.WriteTo(w)
			return err
		}},
		{"WriteTo a file", func(t *testing.T, c *shmconn.Conn) error {
			f := shmtest.TempFile(t, nil)
			w, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
			if err != nil {
				w, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			_, err = c.WriteTo(w)
			return err
		}},
	} {
		for _, left := range []int{page, page + 1, page + 4096} {
			t.Run(fmt.Sprintf("%s/left=%d", strings.ReplaceAll(tt.name, " ", "_"), left), func(t *testing.T) {
				p, c := shmtest.RawPair(t, shmtest.Shape{Ring: size})
				p.Put(shmtest.RingA+shmtest.Produced, size)
				p.Truncate(left)
				shmtest.WantCorrupt(t, c, tt.call(t, c))
				p.Dropped()
			})
		}
	}
}

// TestTruncatedAndBack truncates the segment and makes it as long as it was:
// all that is in it is zero.
func TestTruncatedAndBack(t *testing.T) {
	const size = 4096
	p, c := shmtest.RawPair(t, shmtest.Shape{Ring: size})
	p.Put(shmtest.RingA+shmtest.Produced, 5)
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.Truncate(0)
	p.Truncate(os.Getpagesize() + 2*size)
	_, err := c.Read(make([]byte, 8))
	ce := shmtest.WantCorrupt(t, c, err)
	if ce.Seen != 0 {
		t.Errorf("%v: want seen 0", ce)
	}
}

// TestTruncatedBeside truncates the segment of one of several connections that
// one goroutine polls for. It is this one's Read that fails, whoever looks, and
// the others go on.
func TestTruncatedBeside(t *testing.T) {
	const others = 3
	for _, procs := range []int{1, 2, 4} {
		for at := range others + 1 {
			t.Run(fmt.Sprintf("procs=%d,at=%d", procs, at), func(t *testing.T) {
				shmtest.SkipRaced(t)
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				s := shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways)
				type end struct {
					a, b *shmconn.Conn
					done <-chan struct{}
					n    int
					err  error
				}
				var ends []*end
				wait := func(c *shmconn.Conn) *end {
					e := &end{b: c}
					e.done = shmtest.Blocked(c, func() { e.n, e.err = c.Read(make([]byte, 8)) })
					return e
				}
				var p *shmtest.RawPeer
				var bad *end
				for i := range others + 1 {
					if i == at {
						var c *shmconn.Conn
						p, c = shmtest.RawPair(t, s)
						bad = wait(c)
						continue
					}
					a, b := s.ShmPair(t)
					e := wait(b)
					e.a = a
					ends = append(ends, e)
				}
				p.Truncate(0)
				<-bad.done
				shmtest.WantCorrupt(t, bad.b, bad.err)
				for _, e := range ends {
					shmtest.MustWrite(t, e.a, []byte("hello"))
					<-e.done
					if e.n != 5 || e.err != nil {
						t.Errorf("Read beside it = %d, %v", e.n, e.err)
					}
				}
			})
		}
	}
}

// TestTruncatedSent truncates a segment right after sending it: the dialer is
// dropped, or the connection is found to be damaged.
func TestTruncatedSent(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	dropped, damaged := 0, 0
	for i := range 600 {
		before := shmtest.Refused(t, shmtest.NameOf(l))
		p := shmtest.RawDialer(t, shmtest.NameOf(l), s)
		p.Put(shmtest.RingA+shmtest.Produced, 5)
		p.Handshake()
		for spun := 0; spun < i%150*100; spun++ { // up to some 10 microseconds at a time
			if spun%500 == 499 {
				runtime.Gosched()
			}
		}
		p.Truncate(0)
		var c net.Conn
		shmtest.Eventually(func() bool {
			if shmtest.Refused(t, shmtest.NameOf(l)) > before {
				return true
			}
			l.SetDeadline(time.Now().Add(time.Millisecond))
			var err error
			if c, err = l.Accept(); err != nil {
				shmtest.WantErr(t, "Accept", err, "accept timeout")
			}
			return err == nil
		})
		if c == nil {
			dropped++
		} else {
			damaged++
			_, err := c.Read(make([]byte, 8))
			shmtest.WantCorrupt(t, c.(*shmconn.Conn), err)
		}
		p.Close()
	}
	t.Logf("%d were dropped, %d damaged", dropped, damaged)
	l.SetDeadline(time.Time{})
	shmtest.WantServed(t, s, l)
}

// TestForeignFault faults in memory that is not the connection's: that is not
// for Guard to take.
func TestForeignFault(t *testing.T) {
	p, c := shmtest.RawPair(t, shmtest.Shape{Ring: 4096})
	f := shmtest.TempFile(t, make([]byte, os.Getpagesize()))
	mem, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := unix.Ftruncate(int(f.Fd()), 0); err != nil {
		t.Skipf("the file cannot be truncated: %v", err)
	}
	func() {
		defer func() {
			if fault, ok := recover().(interface{ Addr() uintptr }); !ok || fault.Addr() == 0 {
				t.Error("the fault did not come up")
			}
		}()
		t.Errorf("Guard = %v", c.Guard(func() { _ = string(mem[:1]) }))
	}()
	// The connection is as good as before.
	p.Put(shmtest.RingA+shmtest.Produced, 5)
	if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	shmtest.MustWrite(t, c, []byte("x"))
}

// A cut takes memory away that somebody has mapped. A hole is made where there
// is no room for what was in it: elsewhere the next access would fill it with
// zeros.
type cut struct {
	name     string
	punch    bool
	from, to func(ring int) int64 // what goes
}

var cuts = []cut{
	{"truncated to nothing", false, atZero, atEnd},
	{"truncated to the header", false, atRings, atEnd},
	{"punched the header", true, atZero, atRings},
	{"punched the rings", true, atRings, atEnd},
	{"punched all", true, atZero, atEnd},
	{"truncated in ring A", false, func(ring int) int64 { return atRings(ring) + int64(ring/2) }, atEnd},
}

func atZero(int) int64 { return 0 }

func atRings(int) int64 { return int64(os.Getpagesize()) }

func atEnd(ring int) int64 { return atRings(ring) + 2*int64(ring) }

// place returns the directory for segments that are to be cut, and the volume
// that it is if there has to be one.
func (k cut) place(t testing.TB) (dir string, v *shmtest.Volume) {
	t.Helper()
	if !k.punch {
		return os.Getenv("SHMCONN_DIR"), nil
	}
	v = shmtest.NewVolume(t, "size=4m")
	return v.Dir, v
}

// do cuts. A user who is quick can get a hole filled again before the room is
// taken.
func (k cut) do(t testing.TB, v *shmtest.Volume, seg *os.File, ring int) {
	t.Helper()
	from, to := k.from(ring), k.to(ring)
	if !k.punch {
		if err := seg.Truncate(from); err != nil {
			t.Fatal(err)
		}
		return
	}
	v.Take(0)
	if err := unix.Fallocate(int(seg.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from); err != nil {
		t.Fatal(err)
	}
	v.Take(0)
}

// errorAddr returns the address in the *net.OpError that is next to the
// *CorruptError in err: where the damage is said to be. It is empty if there is
// no damage.
func errorAddr(err error) (addr string) {
	for {
		op, ok := errors.AsType[*net.OpError](err)
		if !ok {
			break
		}
		if addr = ""; op.Net == "shm" {
			addr = op.Addr.String()
		}
		err = op.Err
	}
	if _, ok := err.(*shmconn.CorruptError); !ok {
		return ""
	}
	return addr
}

// wantDamaged fails unless err says that c is damaged, in an error as they all
// are.
func wantDamaged(t testing.TB, what string, err error, c *shmconn.Conn) {
	t.Helper()
	if errorAddr(err) != c.RemoteAddr().String() {
		t.Errorf("%s: got %v, want a CorruptError of %s", what, err, c.RemoteAddr())
	}
}

// wantFatal fails unless faults that nobody expects end the process, as they do
// at first.
func wantFatal(t testing.TB, after string) {
	t.Helper()
	if debug.SetPanicOnFault(false) {
		t.Errorf("%s leaves its goroutine with faults turned into panics", after)
	}
}

// cutCalls are the calls that can find out. Those that cannot fail say what
// they may return.
var cutCalls = []struct {
	name  string
	never bool // it does not fail
	call  func(c *shmconn.Conn, span []byte) error
}{
	{"Read", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.Read(make([]byte, 8)); return err }},
	{"Write", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.Write(make([]byte, 8)); return err }},
	{"TryRead", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.TryRead(make([]byte, 8)); return err }},
	{"TryWrite", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.TryWrite(make([]byte, 8)); return err }},
	{"WriteBuffers", false, func(c *shmconn.Conn, _ []byte) error {
		_, err := c.WriteBuffers(&net.Buffers{make([]byte, 8), make([]byte, 8)})
		return err
	}},
	{"Peek and look", false, func(c *shmconn.Conn, _ []byte) error {
		p, err := c.Peek(8)
		if err == nil {
			err = c.Guard(func() { _ = string(p) })
		}
		if err == nil {
			_, err = c.Discard(8)
		}
		return err
	}},
	{"Reserve and fill", false, func(c *shmconn.Conn, _ []byte) error {
		p, err := c.Reserve(8)
		if err == nil {
			err = c.Guard(func() { clear(p) })
		}
		if err == nil {
			p, err = c.CommitReserve(8, 8)
		}
		if err == nil {
			err = c.Guard(func() { clear(p) })
		}
		if err == nil {
			err = c.Commit(8)
		}
		return err
	}},
	{"ReadFrom", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.ReadFrom(strings.NewReader("hello")); return err }},
	{"ReadFrom file", false, func(c *shmconn.Conn, _ []byte) error {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = c.ReadFrom(f)
		return err
	}},
	{"WriteTo", false, func(c *shmconn.Conn, _ []byte) error { _, err := c.WriteTo(io.Discard); return err }},
	{"WriteTo pipe", false, func(c *shmconn.Conn, _ []byte) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		defer w.Close()
		_, err = c.WriteTo(w)
		return err
	}},
	{"Buffered", true, func(c *shmconn.Conn, _ []byte) error { return withinRing(c.Buffered(), c) }},
	{"Available", true, func(c *shmconn.Conn, _ []byte) error { return withinRing(c.Available(), c) }},
	{"Stats", true, func(c *shmconn.Conn, _ []byte) error { return withinRing(int(c.Stats().BytesRead), c) }},
	{"SetDeadline", true, func(c *shmconn.Conn, _ []byte) error { return c.SetDeadline(time.Now().Add(time.Hour)) }},
	{"CloseRead", true, func(c *shmconn.Conn, _ []byte) error { return c.CloseRead() }},
	{"CloseWrite", true, func(c *shmconn.Conn, _ []byte) error { return c.CloseWrite() }},
	{"Close", true, func(c *shmconn.Conn, _ []byte) error { return c.Close() }},
}

func withinRing(n int, c *shmconn.Conn) error {
	if n < 0 || n > c.Stats().RingSize {
		return fmt.Errorf("it is %d", n)
	}
	return nil
}

// TestCut takes the memory of a connection away between two calls. Whichever
// call comes upon it says so, or does what it does without, and no other
// connection is harmed.
func TestCut(t *testing.T) {
	const size = 16 << 10
	cells, found := 0, 0
	for _, k := range cuts[:len(cuts)-1] { // the last one leaves what these calls touch
		t.Run(strings.ReplaceAll(k.name, " ", "_"), func(t *testing.T) {
			dir, v := k.place(t)
			c, d, _ := shmtest.SegmentIn(t, dir, shmtest.Shape{Ring: size})
			for _, tt := range cutCalls {
				for _, s := range []shmtest.Shape{{Ring: size}, {Ring: size, Swap: true}} {
					a, b, seg := shmtest.SegmentIn(t, dir, s)
					if s.Swap {
						a, b = b, a
					}
					b.Write(shmtest.Pattern(0, 1000))
					span, err := a.Peek(8)
					if err != nil {
						t.Fatal(err)
					}
					k.do(t, v, seg, size)
					cells++
					what := tt.name + ", " + s.String()
					switch err := tt.call(a, span); {
					case tt.never:
						if err != nil {
							t.Errorf("%s: %v", what, err)
						}
						wantFatal(t, what)
					default:
						for n := 0; err == nil && n < 2*size; n++ { // what is in the ring, and what fits
							err = tt.call(a, span)
						}
						wantFatal(t, what)
						found++
						wantDamaged(t, what, err, a)
						shmtest.Outcome(t, "shm", err)
						_, err = a.Read(make([]byte, 8))
						wantDamaged(t, what+", and then Read", err, a)
						_, err = a.Write(make([]byte, 8))
						wantDamaged(t, what+", and then Write", err, a)
					}
					if tt.name != "Close" {
						if err := a.Close(); err != nil {
							t.Errorf("%s, and then Close: %v", what, err)
						}
					}
					b.Close() // which may find out itself
					seg.Close()
					if v != nil {
						v.GiveBack()
					}
				}
			}
			shmtest.WantSound(t, c, d)
		})
	}
	t.Logf("figure: segment cut between calls: %d cells (call x cut x end), %d found with a CorruptError of that connection, 0 elsewhere", cells, found)
}

// A copying reads from a connection that is cut meanwhile, or writes to it.
// good is a connection that has a part in some of them: what is written to it
// is read, and if not from is set there is always something to read.
type copying struct {
	name string
	from bool // bad is read from
	run  func(t *testing.T, bad, good *shmconn.Conn) error
}

var copyings = []copying{
	{"Conn to Conn", true, func(t *testing.T, bad, good *shmconn.Conn) error { return copied(good, bad) }},
	{"Conn to io.Pipe", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		r, w := io.Pipe()
		defer r.Close()
		go io.Copy(io.Discard, r)
		return copied(w, bad)
	}},
	{"Conn to io.MultiWriter", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		return copied(io.MultiWriter(io.Discard, good), bad)
	}},
	{"Conn to file", true, func(t *testing.T, bad, good *shmconn.Conn) error { return copied(shmtest.TempFile(t, nil), bad) }},
	{"Conn to TCP", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		x, y := shmtest.TCPPair(t)
		go io.Copy(io.Discard, y)
		return copied(x, bad)
	}},
	{"Conn to Unix socket", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		x, y := shmtest.UnixShape.Pair(t)
		go io.Copy(io.Discard, y)
		return copied(x, bad)
	}},
	{"Conn to pipe", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		r, w := shmtest.PipePair(t)
		go io.Copy(io.Discard, r)
		return copied(w, bad)
	}},
	{"Conn to Conn, by Read and Write", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		return copied(shmtest.OnlyWriter{Writer: good}, shmtest.OnlyReader{Reader: bad})
	}},
	{"Conn to Conn, by CopyN", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		_, err := io.CopyN(good, bad, 1<<40)
		return err
	}},
	{"Conn to Conn, by TeeReader", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		return copied(io.Discard, io.TeeReader(bad, good))
	}},
	{"Conn to Conn, in place", true, func(t *testing.T, bad, good *shmconn.Conn) error {
		for {
			// The fault is in the Write of the one on a span of the other.
			p, err := bad.Peek(1)
			if err == nil {
				p, err = bad.Peek(max(1, min(bad.Buffered(), 4096)))
			}
			var werr error
			if err == nil {
				err = bad.Guard(func() { werr = good.Guard(func() { _, werr = good.Write(p) }) })
			}
			if err == nil {
				_, err = bad.Discard(len(p))
			}
			if err = cmp.Or(werr, err); err != nil {
				return err
			}
		}
	}},
	{"Conn to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error { return copied(bad, good) }},
	{"io.Pipe to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		r, w := io.Pipe()
		defer r.Close()
		go io.Copy(w, shmtest.Zeros{})
		return copied(bad, r)
	}},
	{"Conn to io.MultiWriter", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		return copied(io.MultiWriter(io.Discard, bad), good)
	}},
	{"file to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error { return copied(bad, endlessFile(t)) }},
	{"file to Conn, by ReadFrom", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		_, err := bad.ReadFrom(endlessFile(t))
		return err
	}},
	{"TCP to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		x, y := shmtest.TCPPair(t)
		go io.Copy(x, shmtest.Zeros{})
		return copied(bad, y)
	}},
	{"Unix socket to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		x, y := shmtest.UnixShape.Pair(t)
		go io.Copy(x, shmtest.Zeros{})
		return copied(bad, y)
	}},
	{"pipe to Conn", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		r, w := shmtest.PipePair(t)
		go io.Copy(w, shmtest.Zeros{})
		return copied(bad, r)
	}},
	{"Conn to Conn, by Read and Write", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		return copied(shmtest.OnlyWriter{Writer: bad}, shmtest.OnlyReader{Reader: good})
	}},
	{"Conn to Conn, by CopyN", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		_, err := io.CopyN(bad, good, 1<<40)
		return err
	}},
	{"Conn to Conn, in place", false, func(t *testing.T, bad, good *shmconn.Conn) error {
		for {
			p, err := bad.Reserve(4096)
			n := 0
			var rerr error
			if err == nil {
				err = bad.Guard(func() { rerr = good.Guard(func() { n, rerr = good.Read(p) }) })
			}
			if err == nil {
				err = bad.Commit(n)
			}
			if err = cmp.Or(rerr, err); err != nil {
				return err
			}
		}
	}},
}

func copied(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// endlessFile returns a file that is longer than anybody reads, with nothing in
// it.
func endlessFile(t testing.TB) *os.File {
	f := shmtest.TempFile(t, nil)
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestCutWhileCopying cuts a connection under an io.Copy that is under way. It
// ends with an error that names the one that was cut, and the other one goes
// on.
func TestCutWhileCopying(t *testing.T) {
	rounds := 3
	if *shmtest.Long {
		rounds = 200
	}
	rnd := shmtest.Seeded(t)
	var took []time.Duration
	for _, k := range cuts {
		t.Run(strings.ReplaceAll(k.name, " ", "_"), func(t *testing.T) {
			if k.from(0) == 0 {
				shmtest.SkipRaced(t)
			}
			for _, how := range copyings {
				direction := "to"
				if how.from {
					direction = "from"
				}
				t.Run(strings.ReplaceAll(how.name, " ", "_")+"/"+direction, func(t *testing.T) {
					for i := range rounds {
						// The end that copies looks by itself, as nobody can ring for it.
						s := shmtest.Shape{Ring: 64 << 10, DialPoll: shmtest.PollAlways, ListenPoll: []time.Duration{0, shmtest.PollAlways, shmtest.PollNever}[i%3]}
						if rnd.IntN(2) == 0 {
							s.DialPoll, s.ListenPoll, s.Swap = s.ListenPoll, s.DialPoll, true
						}
						took = append(took, cutWhileCopying(t, k, how, s, rnd.Int64N(256<<10)))
					}
				})
			}
		})
	}
	if len(took) == 0 {
		return // -run
	}
	slices.Sort(took)
	t.Logf("figure: segment cut during io.Copy: %d copies, in %d pairings x %d cuts, each ended by the CorruptError of the connection that was cut, the other one sound; told after %v in the median, %v at the most",
		len(took), len(copyings), len(cuts), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
}

// cutWhileCopying cuts once so many bytes have gone through, and returns how
// long after the cut the copy ended.
func cutWhileCopying(t *testing.T, k cut, how copying, s shmtest.Shape, after int64) time.Duration {
	dir, v := k.place(t)
	bad, peer, seg := shmtest.SegmentIn(t, dir, s)
	reads, writes := shmtest.RingB, shmtest.RingA
	if s.Swap {
		bad, peer = peer, bad
		reads, writes = writes, reads
	}
	good, other := shmtest.Shape{Ring: 16 << 10}.ShmPair(t)

	// The peer of the one that is cut streams until it finds out.
	var through atomic.Int64
	var ends sync.WaitGroup
	ends.Go(func() {
		buf := make([]byte, 3000)
		for {
			var n int
			var err error
			if how.from {
				n, err = peer.Write(buf)
			} else {
				n, err = peer.Read(buf)
			}
			through.Add(int64(n))
			if err != nil {
				if c := shmtest.Class(err); errorAddr(err) == "" && c != "ECONNRESET" && c != "EPIPE" {
					t.Errorf("the peer of what was cut: %v", err)
				}
				return
			}
		}
	})
	// The peer of the other one reads all, or streams until it is told to stop.
	const last = "the last of them"
	var stop atomic.Bool
	var got []byte
	ends.Go(func() {
		var err error
		if how.from {
			got, err = tail(other)
		} else {
			for err == nil && !stop.Load() {
				_, err = other.Write(make([]byte, 3000))
			}
			other.Write([]byte(last))
			other.CloseWrite()
		}
		if err != nil {
			t.Errorf("the peer of the other one: %v", err)
		}
	})

	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = how.run(t, bad, good)
		wantFatal(t, "a copy")
	}()
	shmtest.Eventually(func() bool { return through.Load() >= after })
	start := time.Now()
	for over := false; !over; {
		k.do(t, v, seg, s.Ring)
		if k.from(s.Ring) > 0 {
			// The header is there, and the peer may have been the first to find out. So
			// somebody has to say that there is something in the ring, and room.
			store(t, seg, reads+shmtest.Produced, load(t, seg, reads+shmtest.Consumed)+uint64(s.Ring))
			store(t, seg, writes+shmtest.Consumed, load(t, seg, writes+shmtest.Produced))
		}
		select {
		case <-done:
			over = true
		case <-time.After(time.Millisecond):
			if v != nil { // it was quick, and has holes filled again before the room was taken
				v.GiveBack()
			}
		}
	}
	took := time.Since(start)
	wantDamaged(t, "the copy", err, bad)
	bad.Close()
	stop.Store(true)
	if how.from {
		if _, err := good.Write([]byte(last)); err != nil {
			t.Errorf("Write of the other one: %v", err)
		}
		good.CloseWrite()
	} else if got, err = tail(good); err != nil {
		t.Errorf("Read of the other one: %v", err)
	}
	ends.Wait()
	if !bytes.HasSuffix(got, []byte(last)) {
		t.Errorf("the other one has lost its end: %q", got)
	}
	for _, c := range []io.Closer{peer, good, other, seg} {
		c.Close()
	}
	return took
}

// tail reads r to its end and returns the last bytes.
func tail(r io.Reader) ([]byte, error) {
	var last []byte
	buf := make([]byte, 3000)
	for {
		n, err := r.Read(buf)
		last = append(last, buf[:n]...)
		last = last[max(0, len(last)-16):]
		if err == io.EOF {
			return last, nil
		}
		if err != nil {
			return last, err
		}
	}
}

// load and store are for words of a segment whose header is there.
func load(t testing.TB, seg *os.File, off int) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := seg.ReadAt(b[:], int64(off)); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

func store(t testing.TB, seg *os.File, off int, word uint64) {
	t.Helper()
	if _, err := seg.WriteAt(binary.NativeEndian.AppendUint64(nil, word), int64(off)); err != nil {
		t.Fatal(err)
	}
}

// errOurs is a panic that has nothing to do with a fault.
var errOurs = errors.New("a panic of ours")

// TestCutInGuard has a function in Guard come upon memory that is gone, its own
// connection's and others', and upon pointers that have nothing to do with it.
func TestCutInGuard(t *testing.T) {
	const size = 16 << 10
	fault := func(f func()) (p any) {
		defer func() { p = recover() }()
		f()
		return nil
	}
	n := 0
	for _, k := range cuts[:len(cuts)-1] {
		if k.name == "punched the header" {
			continue // the spans are still there
		}
		t.Run(strings.ReplaceAll(k.name, " ", "_"), func(t *testing.T) {
			dir, v := k.place(t)
			good, other := shmtest.Shape{Ring: size}.ShmPair(t)
			for _, tt := range []struct {
				name string
				do   func(t *testing.T, bad *shmconn.Conn, in, out []byte)
			}{
				{"looks", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					wantDamaged(t, "Guard", bad.Guard(func() { _ = bytes.Count(in, nil) }), bad)
				}},
				{"fills", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					wantDamaged(t, "Guard", bad.Guard(func() { clear(out) }), bad)
				}},
				{"in Guard of its own", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					var inner error
					outer := bad.Guard(func() { inner = bad.Guard(func() { clear(out) }) })
					wantDamaged(t, "inner Guard", inner, bad)
					if outer != nil {
						t.Errorf("outer Guard: %v", outer)
					}
				}},
				{"Write on the other", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					wantDamaged(t, "Guard", bad.Guard(func() { good.Write(in) }), bad)
				}},
				{"Read on the other", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					other.Write(shmtest.Pattern(0, 100))
					wantDamaged(t, "Guard", bad.Guard(func() { good.Read(out) }), bad)
					got := make([]byte, 100)
					if n, err := io.ReadFull(good, got); err != nil { // it has not been taken off
						t.Errorf("Read of what could not be read before: %d, %v", n, err)
					}
					shmtest.CheckPattern(t, got, 0)
				}},
				{"its own Write", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					var err error
					if g := bad.Guard(func() { _, err = bad.Write(in) }); g != nil {
						t.Errorf("Guard: %v", g)
					}
					wantDamaged(t, "Write", err, bad)
				}},
				{"in the other's Guard", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					p := fault(func() { t.Errorf("Guard of another connection: %v", good.Guard(func() { clear(out) })) })
					if f, ok := p.(interface{ Addr() uintptr }); !ok || f.Addr() == 0 {
						t.Errorf("the fault did not come through: %v", p)
					}
				}},
				{"a nil pointer", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					for range 2 { // before the damage is found out, and after
						var ptr *[8]byte
						p := fault(func() { t.Errorf("Guard of a nil pointer: %v", bad.Guard(func() { ptr[3]++ })) })
						if err, ok := p.(runtime.Error); !ok || !strings.Contains(err.Error(), "nil pointer") {
							t.Errorf("the nil pointer did not come through: %v", p)
						}
						if _, ok := errors.AsType[*shmconn.CorruptError](bad.Guard(func() { clear(out) })); !ok {
							t.Error("no CorruptError after it")
						}
					}
				}},
				{"a nil pointer in a Reader", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					var nobody *strings.Reader
					if p := fault(func() { bad.ReadFrom(shmtest.OnlyReader{Reader: nobody}) }); p == nil {
						t.Error("the nil pointer did not come through")
					}
					_, err := bad.Write(make([]byte, 8)) // which nothing keeps from finding out
					wantDamaged(t, "Write", err, bad)
				}},
				{"a panic", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					if p := fault(func() { bad.Guard(func() { panic(errOurs) }) }); p != errOurs {
						t.Errorf("the panic is %v", p)
					}
				}},
				{"Close in it", func(t *testing.T, bad *shmconn.Conn, in, out []byte) {
					wantDamaged(t, "Guard", bad.Guard(func() { bad.Close(); clear(out) }), bad)
				}},
			} {
				for _, first := range []int{0, size - 500} { // from where on the spans wrap
					t.Run(fmt.Sprintf("%s/at=%d", strings.ReplaceAll(tt.name, " ", "_"), first), func(t *testing.T) {
						bad, peer, seg := shmtest.SegmentIn(t, dir, shmtest.Shape{Ring: size})
						advance(t, peer, bad, first)
						advance(t, bad, peer, first)
						peer.Write(shmtest.Pattern(0, 1000))
						in, err := bad.Peek(1000)
						if err != nil {
							t.Fatal(err)
						}
						out, err := bad.Reserve(1000)
						if err != nil {
							t.Fatal(err)
						}
						k.do(t, v, seg, size)
						tt.do(t, bad, in, out)
						wantFatal(t, "Guard")
						shmtest.WantSound(t, good, other)
						n++
						bad.Close()
						peer.Close()
						seg.Close()
						if v != nil {
							v.GiveBack()
						}
					})
				}
			}
		})
	}
	t.Logf("figure: segment cut in Guard: %d cells, foreign faults, nil pointers and panics came through, the other connection sound", n)
}

// advance moves n bytes from a to b, so that both are n bytes further on.
func advance(t *testing.T, a, b *shmconn.Conn, n int) {
	t.Helper()
	if _, err := a.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Discard(n); err != nil {
		t.Fatal(err)
	}
}

// TestCutAnonymous tries to cut sealed memory, at both ends: the kernel does
// not let it be truncated. To punch it makes zeros, which is damage, not a
// fault.
func TestCutAnonymous(t *testing.T) {
	const size = 16 << 10
	refused := func(t *testing.T, fd int) {
		t.Helper()
		whole := int64(os.Getpagesize() + 2*size)
		for _, n := range []int64{0, 1, int64(os.Getpagesize()), whole - 1, whole + 1, 2 * whole} {
			if err := unix.Ftruncate(fd, n); err != unix.EPERM {
				t.Errorf("ftruncate to %d: %v, want EPERM", n, err)
			}
		}
		if err := unix.Fallocate(fd, 0, whole, 1); err != unix.EPERM {
			t.Errorf("fallocate of a byte more: %v, want EPERM", err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != unix.EPERM {
			t.Errorf("another seal: %v, want EPERM", err)
		}
	}
	punch := func(t *testing.T, fd int, c *shmconn.Conn) {
		t.Helper()
		if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(os.Getpagesize())); err != nil {
			t.Fatal(err)
		}
		// All positions are 0 now, which is too few of what this end has read.
		_, err := c.Read(make([]byte, 8))
		wantDamaged(t, "Read", err, c)
		shmtest.WantCorrupt(t, c, err)
	}
	t.Run("by the dialer", func(t *testing.T) {
		p, c := shmtest.RawPair(t, shmtest.Shape{Ring: size, Anonymous: true})
		p.Put(shmtest.RingA+shmtest.Produced, 5)
		if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
			t.Fatalf("Read = %d, %v", n, err)
		}
		refused(t, p.Seg)
		punch(t, p.Seg, c)
	})
	t.Run("by who has it mapped", func(t *testing.T) {
		a, b := shmtest.Shape{Ring: size, Anonymous: true}.ShmPair(t)
		a.Write(make([]byte, 5))
		io.ReadFull(b, make([]byte, 5))
		const maps = "/proc/self/map_files/"
		for _, link := range shmtest.ListDir(maps) {
			target, _ := os.Readlink(maps + link)
			if !strings.HasPrefix(target, "/memfd:shmconn."+a.LocalAddr().String()) {
				continue
			}
			seg, err := os.OpenFile(maps+link, os.O_RDWR, 0)
			if err != nil {
				t.Skipf("no way to the segment: %v", err)
			}
			defer seg.Close()
			refused(t, int(seg.Fd()))
			shmtest.WantSound(t, a, b)
			punch(t, int(seg.Fd()), b)
			return
		}
		t.Skip("no way to the segment")
	})
	t.Log("figure: anonymous segment cut: ftruncate, fallocate beyond the end and another seal give EPERM; a hole is a CorruptError")
}

// TestTruncatedBesideAccept truncates segments under Reads that poll while an
// Accept does, too: whichever of them leads looks at the conditions of all.
func TestTruncatedBesideAccept(t *testing.T) {
	shmtest.SkipRaced(t)
	l := shmtest.Shape{Ring: 4096, ListenPoll: time.Minute}.MustListen(t, shmtest.NewName())
	accepted := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				accepted <- err
				return
			}
			c.Close()
		}
	}()
	s := shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways)
	for range 20 {
		for range 2 { // and then it polls for a minute
			shmtest.Shape{Ring: 4096}.MustDial(t, shmtest.NameOf(l)).Close()
		}
		var reads []<-chan struct{}
		var segs []*os.File
		for range 4 {
			a, _, seg := shmtest.SegmentPair(t, s)
			reads = append(reads, shmtest.Blocked(a, func() {
				_, err := a.Read(make([]byte, 8))
				shmtest.WantCorrupt(t, a, err)
			}))
			segs = append(segs, seg)
		}
		for _, seg := range segs {
			if err := seg.Truncate(0); err != nil {
				t.Fatal(err)
			}
		}
		for _, done := range reads {
			<-done
		}
	}
	l.Close()
	shmtest.WantErr(t, "Accept", <-accepted, "accept closed")
}

// TestCutInUse cuts connections at some moment while all calls are made at both
// ends.
func TestCutInUse(t *testing.T) {
	const size = 16 << 10
	rounds := 20
	if *shmtest.Long {
		rounds = 2000
	}
	rnd := shmtest.Seeded(t)
	files := shmtest.ProbeFiles(t)
	stop := shmtest.Control(t)
	all := &shmtest.Outcomes{T: t, Ends: make(map[string]int)}
	n := 0
	for _, k := range cuts {
		t.Run(strings.ReplaceAll(k.name, " ", "_"), func(t *testing.T) {
			if k.from(0) == 0 {
				shmtest.SkipRaced(t)
			}
			dir, v := k.place(t)
			for i := range rounds {
				a, b, seg := shmtest.SegmentIn(t, dir, shmtest.Shape{Ring: size}.Poll([]time.Duration{0, shmtest.PollAlways, shmtest.PollNever}[i%3]))
				seed, when := rnd.Uint64(), time.Duration(rnd.IntN(1000))*time.Microsecond
				var wg sync.WaitGroup
				wg.Go(func() { all.Probe(a, b, size, seed, files, 3*time.Millisecond) })
				time.Sleep(when)
				k.do(t, v, seg, size)
				wg.Wait()
				seg.Close()
				if v != nil {
					v.GiveBack()
				}
				n++
			}
		})
	}
	t.Logf("figure: segment cut in use: %d connections, %d cuts, all calls at both ends: %v; control connection: %d bytes verified", n, len(cuts), all, stop())
	if n > 0 && all.Ends["corrupt"] == 0 {
		t.Error("nothing was found to be damaged: the cuts miss")
	}
}

// TestDamagedClose closes an end that has found damage: to the other end, whose
// segment looks sound, that is a reset and not the end of the stream, after
// which it would trust what it has.
func TestDamagedClose(t *testing.T) {
	for _, end := range []func(*shmconn.Conn) error{(*shmconn.Conn).Close, (*shmconn.Conn).CloseWrite} {
		a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{Ring: 4096})
		defer a.Close()
		defer b.Close()
		shmtest.MustWrite(t, a, []byte("all that "))
		// The dialer's ring is A.
		if _, err := seg.WriteAt([]byte{1, 1, 1, 1}, shmtest.RingA+shmtest.Consumed+4); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(make([]byte, 4096)); !shmtest.IsCorrupt(err) {
			t.Fatalf("Write = %v, want a CorruptError", err)
		}
		end(a)
		a.Close()
		got, err := io.ReadAll(b)
		if !bytes.HasPrefix(got, []byte("all that ")) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d bytes, %v, want what was written and a reset", len(got), err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write = %v, want EPIPE", err)
		}
	}
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
				for _, s := range []shmtest.Shape{{}, {Swap: true}} {
					a, b, seg := shmtest.SegmentPair(t, s)
					if s.Swap {
						a, b = b, a
					}
					b.Write(shmtest.Pattern(0, 1000))
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
					shmtest.Outcome(t, "shm", err)
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

// TestTruncatedStats asks for what never waits nor fails, of a damaged
// connection.
func TestTruncatedStats(t *testing.T) {
	a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{})
	b.Write(shmtest.Pattern(0, 1000))
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
	for _, poll := range []time.Duration{0, shmtest.PollAlways, shmtest.PollNever} {
		t.Run("poll="+shmtest.PollName(poll), func(t *testing.T) {
			if poll != shmtest.PollNever {
				shmtest.SkipRaced(t)
			}
			a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{Ring: 4096}.Poll(poll))
			var rerr, werr error
			r := shmtest.Blocked(a, func() { _, rerr = a.Read(make([]byte, 8)) })
			w := shmtest.Blocked(a, func() { _, werr = a.Write(make([]byte, 1<<20)) })
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
