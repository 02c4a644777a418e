//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
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
	"shmconn/internal/segment"
)

// These tests speak to the library by hand, as FORMAT.md says, and then as it does
// not allow.

// somebody is a user that nobody is.
const somebody = 12345

func init() { helpers["poor"] = poor }

// Where the words of a connection segment are.
const (
	ringA, ringB     = 512, 1024 // dialer to acceptor, acceptor to dialer
	produced         = 0
	consumed         = 128
	consumerParked   = 256
	consumerClosed   = 264
	producerParked   = 384
	producerClosed   = 392
	flagsOffset      = 24
	helloText        = "shmconn\x01"
	helloDescriptors = 3
)

// A rawPeer is a dialer that is not the library's.
type rawPeer struct {
	t    testing.TB
	size int // of a ring
	id   [16]byte

	// Descriptors, -1 when closed.
	sock   int // to the listener
	seg    int
	bell   int // rung by the acceptor
	ringer int // rings the acceptor
	// What is for the acceptor, as long as it was not sent.
	hisRinger, hisBell int
}

// rawConnect connects to the listener on name. rawDialer makes all that is needed
// for an introduction, too.
func rawConnect(t testing.TB, name string) *rawPeer {
	t.Helper()
	p := &rawPeer{t: t, sock: -1, seg: -1, bell: -1, ringer: -1, hisRinger: -1, hisBell: -1}
	var err error
	if p.sock, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	if err := unix.Connect(p.sock, &unix.SockaddrUnix{Name: unixShape.path("shmconn." + name + "@sock")}); err != nil {
		t.Fatal(err)
	}
	return p
}

func rawDialer(t testing.TB, name string, s shape) *rawPeer {
	t.Helper()
	p := rawConnect(t, name)
	p.size = s.ringSize()
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	for i := range p.id {
		p.id[i] = byte(rng.Uint32())
	}
	var err error
	if s.Anonymous {
		p.seg, err = unix.MemfdCreate("shmconn.raw", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	} else {
		path := unixShape.path("shmconn." + name + "@" + hex.EncodeToString(p.id[:]))
		p.seg, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		t.Cleanup(func() { os.Remove(path) }) // unless the acceptor has done so
	}
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	if err := unix.Ftruncate(p.seg, int64(page+2*p.size)); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 48)
	e := binary.NativeEndian
	e.PutUint64(header, 0x0a6e6e6f636d6873)
	e.PutUint32(header[8:], 1)
	e.PutUint32(header[12:], uint32(page))
	e.PutUint64(header[16:], uint64(p.size))
	if s.Anonymous {
		e.PutUint32(header[flagsOffset:], 1)
	}
	copy(header[32:], p.id[:])
	p.write(0, header)
	if s.Anonymous {
		if _, err := unix.FcntlInt(uintptr(p.seg), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			t.Fatal(err)
		}
	}
	p.bell, p.hisRinger = rawPipe(t)
	p.hisBell, p.ringer = rawPipe(t)
	return p
}

func rawPipe(t testing.TB) (r, w int) {
	t.Helper()
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	return fd[0], fd[1]
}

func (p *rawPeer) close() {
	for _, fd := range []*int{&p.sock, &p.seg, &p.bell, &p.ringer, &p.hisRinger, &p.hisBell} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// hello returns the message of a proper introduction and its descriptors.
func (p *rawPeer) hello() (message []byte, fds []int) {
	return append([]byte(helloText), p.id[:]...), []int{p.seg, p.hisRinger, p.hisBell}
}

// say sends a message with descriptors.
func (p *rawPeer) say(message []byte, fds []int) {
	p.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(p.sock, message, oob, nil, unix.MSG_NOSIGNAL); err != nil {
		p.t.Fatalf("sendmsg: %v", err)
	}
}

// handOver closes what the acceptor has got.
func (p *rawPeer) handOver() {
	unix.Close(p.sock)
	unix.Close(p.hisRinger)
	unix.Close(p.hisBell)
	p.sock, p.hisRinger, p.hisBell = -1, -1, -1
}

// introduce does what the library does.
func (p *rawPeer) introduce() {
	p.t.Helper()
	p.say(p.hello())
	p.handOver()
}

func (p *rawPeer) write(off int, b []byte) {
	p.t.Helper()
	if n, err := unix.Pwrite(p.seg, b, int64(off)); n != len(b) || err != nil {
		p.t.Fatalf("pwrite at %d: %d, %v", off, n, err)
	}
}

func (p *rawPeer) read(off, n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if m, err := unix.Pread(p.seg, b, int64(off)); m != n || err != nil {
		p.t.Fatalf("pread at %d: %d, %v", off, m, err)
	}
	return b
}

func (p *rawPeer) put(off int, v uint64) {
	p.t.Helper()
	p.write(off, binary.NativeEndian.AppendUint64(nil, v))
}

func (p *rawPeer) get(off int) uint64 {
	p.t.Helper()
	return binary.NativeEndian.Uint64(p.read(off, 8))
}

// dataA and dataB are where the rings begin.
func (p *rawPeer) dataA() int { return os.Getpagesize() }
func (p *rawPeer) dataB() int { return os.Getpagesize() + p.size }

func (p *rawPeer) truncate(n int) {
	p.t.Helper()
	if err := unix.Ftruncate(p.seg, int64(n)); err != nil {
		p.t.Fatal(err)
	}
}

// knock rings the acceptor's doorbell.
func (p *rawPeer) knock() {
	p.t.Helper()
	if _, err := unix.Write(p.ringer, []byte{1}); err != nil && err != unix.EAGAIN && err != unix.EPIPE {
		p.t.Fatal(err)
	}
}

// look empties its own doorbell. It returns how often that was rung, and whether
// the acceptor is gone.
func (p *rawPeer) look() (rings int, gone bool) {
	p.t.Helper()
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(p.bell, buf)
		switch {
		case err == unix.EAGAIN:
			return rings, false
		case err == unix.EINTR:
		case err != nil:
			p.t.Fatal(err)
		case n == 0:
			return rings, true
		default:
			rings += n
		}
	}
}

// dropped waits until the acceptor has closed all that it was given.
func (p *rawPeer) dropped() {
	eventually(func() bool { _, gone := p.look(); return gone })
}

// rawPair returns a raw peer and the Conn at the other end.
func rawPair(t testing.TB, s shape) (*rawPeer, *shmconn.Conn) {
	t.Helper()
	name := newName()
	l := s.mustListen(t, name)
	defer l.Close()
	p := rawDialer(t, name, s)
	p.introduce()
	return p, mustAccept(t, l).(*shmconn.Conn)
}

var hostileShapes = []shape{
	{Ring: 4096},
	shape{Ring: 4096}.poll(pollAlways),
	shape{Ring: 4096}.poll(pollNever),
}

func mustSet(t testing.TB, c *shmconn.Conn, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write of %d = %d, %v", len(b), n, err)
	}
}

// TestWire speaks the protocol by hand, so that the next tests are about what they
// say, and so that another version of this library can still be spoken to.
func TestWire(t *testing.T) {
	for _, s := range append(slices.Clone(hostileShapes), shape{Ring: 8192, Anonymous: true}) {
		t.Run(s.String(), func(t *testing.T) {
			p, c := rawPair(t, s)
			buf := make([]byte, s.Ring)

			// From the dialer, over the end of the ring.
			p.write(p.dataA()+s.Ring-3, []byte("abc"))
			p.write(p.dataA(), []byte("defg"))
			p.put(ringA+produced, uint64(s.Ring)-3)
			if n, err := io.ReadFull(c, buf[:s.Ring-3]); err != nil {
				t.Fatalf("Read = %d, %v", n, err)
			}
			p.put(ringA+produced, uint64(s.Ring)+4)
			if n, err := c.Read(buf); string(buf[:n]) != "abcdefg" || err != nil {
				t.Errorf("Read = %q, %v", buf[:n], err)
			}
			if got := p.get(ringA + consumed); got > uint64(s.Ring)+4 || got < uint64(s.Ring)*3/4 {
				t.Errorf("it has told of %d bytes read", got)
			}

			// To the dialer, who first does not and then does sleep.
			mustSet(t, c, []byte("hello"))
			if got := string(p.read(p.dataB(), 5)); got != "hello" || p.get(ringB+produced) != 5 {
				t.Errorf("ring B has %d bytes: %q", p.get(ringB+produced), got)
			}
			if n, gone := p.look(); n != 0 || gone {
				t.Errorf("rung %d times, gone %v, without having parked", n, gone)
			}
			p.put(ringB+consumerParked, 1)
			mustSet(t, c, []byte("x"))
			if n, _ := p.look(); n != 1 {
				t.Errorf("rung %d times, want once", n)
			}

			// The acceptor sleeps, or polls; either way it says what it has read.
			done := blocked(c, func() { c.Read(buf) })
			eventually(func() bool { return p.get(ringA+consumed) == uint64(s.Ring)+4 })
			if s.ListenPoll == pollNever {
				eventually(func() bool { return p.get(ringA+consumerParked)&1 == 1 })
			}
			p.put(ringA+produced, uint64(s.Ring)+5)
			p.knock()
			<-done

			p.put(ringB+consumerParked, 3)
			c.Close()
			if got := p.get(ringB+producerClosed) & math.MaxUint32; binary.NativeEndian.Uint32(p.read(ringB+producerClosed, 4)) != 1 {
				t.Errorf("the writing side is closed: %d", got)
			}
			if binary.NativeEndian.Uint32(p.read(ringA+consumerClosed, 4)) != 1 {
				t.Error("the reading side is not closed")
			}
			n := 0
			eventually(func() bool { m, gone := p.look(); n += m; return gone })
			if n != 1 {
				t.Errorf("at Close it rang %d times, want once", n)
			}
		})
	}
}

// wantCorrupt fails unless err is a *CorruptError, wrapped as all errors are, and
// all later calls on c say the same.
func wantCorrupt(t testing.TB, c *shmconn.Conn, err error) *shmconn.CorruptError {
	t.Helper()
	ce, ok := errors.AsType[*shmconn.CorruptError](err)
	if !ok {
		t.Fatalf("got %v, want a CorruptError", err)
	}
	outcome(t, "shm", err)
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

// openDescriptors counts the descriptors of this process.
func openDescriptors() int { return len(listDir("/proc/self/fd")) }

// refused returns how many dialers the listener on name has dropped.
func refused(t testing.TB, name string) uint64 {
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

// polite dials and is served.
func polite(t testing.TB, s shape, l listener) {
	t.Helper()
	a, err := s.dial(nameOf(l))
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

// poor is a process that runs out of descriptors. Its orders are listen NAME, unlisten,
// fill N (which leaves N descriptors), free, count (of descriptors), accept, temporary (the
// same, but wants a temporary error), dial NAME, echo (of 8 bytes), read (all), close; and
// serve N, which accepts so many connections in the background as servers do, failed, which
// waits until it has failed to, and served, which waits for all and tells how often it has
// failed, and the first 8 bytes of each.
func poor(s shape, in *bufio.Scanner) {
	var l *shmconn.Listener
	var c net.Conn
	var filling []int
	served := make(chan string, 1)
	failed := make(chan bool, 1)
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "listen":
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll}
			l, err = lc.Listen(f[1])
		case "fill":
			limit := syscall.Rlimit{Cur: 64, Max: 64}
			if err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
				break
			}
			for {
				fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					break
				}
				filling = append(filling, fd)
			}
			left, _ := strconv.Atoi(f[1])
			for range left {
				unix.Close(filling[0])
				filling = filling[1:]
			}
		case "free":
			for _, fd := range filling {
				unix.Close(fd)
			}
			filling = nil
		case "count":
			n := 0
			for fd := range 64 {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
					n++
				}
			}
			fmt.Println(n)
			continue
		case "unlisten":
			err = l.Close()
			l = nil
		case "dial":
			d := &shmconn.Dialer{BusyPoll: s.DialPoll}
			c, err = d.DialContext(context.Background(), "shm", f[1])
		case "echo":
			b := make([]byte, 8)
			if _, err = io.ReadFull(c, b); err == nil {
				_, err = c.Write(b)
			}
		case "close":
			err = c.Close()
			c = nil
		case "serve":
			n, _ := strconv.Atoi(f[1])
			go func() { served <- serveAll(l, n, failed) }()
		case "failed":
			<-failed
		case "served":
			fmt.Println(<-served)
			continue
		case "accept":
			c, err = l.Accept()
		case "temporary":
			_, err = l.Accept()
			ne, ok := err.(interface{ Temporary() bool })
			if !errors.Is(err, syscall.EMFILE) || !ok || !ne.Temporary() {
				err = fmt.Errorf("%v is not EMFILE or not temporary", err)
			} else {
				err = nil
			}
		case "removed": // waits for the error that says so
			_, err = l.Accept()
			if errors.Is(err, syscall.EMFILE) {
				err = nil
			}
		case "read":
			b, rerr := io.ReadAll(c)
			fmt.Println(string(b))
			c.Close()
			c, err = nil, rerr
		}
		if errors.Is(err, syscall.EMFILE) {
			outcome(new(processTB), "shm", err)
			fmt.Println("EMFILE")
			continue
		}
		fmt.Println(class(err))
	}
	if c != nil {
		c.Close()
	}
	if l != nil {
		l.Close()
	}
}

// serveAll accepts n connections, and tries again a little later after each error that is
// temporary, as net/http does. It returns how many those were and what was read first.
func serveAll(l *shmconn.Listener, n int, failed chan<- bool) string {
	var got []string
	failures := 0
	for len(got) < n {
		c, err := l.Accept()
		if err != nil {
			if ne, ok := err.(interface{ Temporary() bool }); !ok || !ne.Temporary() {
				return err.Error()
			}
			if failures++; failures == 1 {
				failed <- true
			}
			time.Sleep(time.Millisecond)
			continue
		}
		b := make([]byte, 8)
		if _, err := io.ReadFull(c, b); err != nil {
			return err.Error()
		}
		c.Close()
		got = append(got, string(b))
	}
	return fmt.Sprint(failures, " ", strings.Join(got, " "))
}

// TestOutOfDescriptors dials a listener whose process has no descriptors left, or
// too few. Accept says so; the dialer keeps its place and is served when there are
// some again.
func TestOutOfDescriptors(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		for left := range 6 {
			t.Run(fmt.Sprintf("anonymous=%v,left=%d", anonymous, left), func(t *testing.T) {
				s := shape{Ring: 4096, Anonymous: anonymous}
				h := startHelper(t, "poor", s)
				name := newName()
				h.do("listen %s", name)
				for range 8 { // in which they become free at another moment each
					h.do("fill %d", left)
					a := s.mustDial(t, name)
					if _, err := a.Write([]byte("patience")); err != nil {
						t.Fatal(err)
					}
					a.Close()
					if left < 1+helloDescriptors { // the socket, and what is sent
						for range 3 {
							h.do("temporary")
						}
					}
					h.do("free")
					// An error that was on its way may come first.
					var got string
					for range 3 {
						if got = h.call("accept"); got != "EMFILE" {
							break
						}
					}
					if got != "ok" {
						t.Fatalf("Accept: %s", got)
					}
					h.send("read")
					h.expect("patience")
					h.expect("ok")
				}
			})
		}
	}
}

// TestShortOfDescriptors has all that needs descriptors run out of them after each number,
// and recover when there are some again.
func TestShortOfDescriptors(t *testing.T) {
	var figures []string
	for _, s := range []shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		kind := fmt.Sprintf("anonymous=%v", s.Anonymous)
		files := func() (names []string) {
			return listDir(os.Getenv("SHMCONN_DIR"))
		}
		// needs tries an order with ever more descriptors left and returns with how many it
		// succeeds. Before, it leaves nothing.
		needs := func(t *testing.T, h *helper, order string, undo string) (n int) {
			t.Helper()
			h.do(order) // what the process needs once, it has now
			h.do(undo)
			count, names := h.call("count"), files()
			for ; ; n++ {
				h.do("fill %d", n)
				got := h.call(order)
				h.do("free")
				if got == "ok" {
					break
				}
				if got != "EMFILE" || n == 20 {
					t.Fatalf("%s with %d descriptors left: %s", order, n, got)
				}
				eventually(func() bool { return h.call("count") == count })
				if left := files(); !slices.Equal(left, names) {
					t.Errorf("%s with %d descriptors left has left %q, there were %q", order, n, left, names)
				}
			}
			h.do(undo)
			return n
		}
		t.Run(kind+"/Dial", func(t *testing.T) {
			l := s.mustListen(t, newName())
			served := make(chan bool)
			go func() { defer close(served); serveEcho(l) }()
			h := startHelper(t, "poor", s)
			n := needs(t, h, "dial "+nameOf(l), "close")
			if err := echoed(s, nameOf(l), 0); err != nil {
				t.Errorf("another dialer: %v", err)
			}
			l.Close()
			<-served
			figures = append(figures, fmt.Sprintf("%s: Dial needs %d", kind, n))
		})
		t.Run(kind+"/Listen", func(t *testing.T) {
			n := needs(t, startHelper(t, "poor", s), "listen "+newName(), "unlisten")
			figures = append(figures, fmt.Sprintf("%s: Listen needs %d", kind, n))
		})
		t.Run(kind+"/Accept", func(t *testing.T) {
			const dialers = 40
			failures, ordered := 0, 0
			var recovery time.Duration
			for left := range 6 {
				h := startHelper(t, "poor", s)
				name := newName()
				h.do("listen %s", name)
				open := s.mustDial(t, name)
				h.do("accept")
				h.do("fill %d", left)
				h.do("serve %d", dialers)
				var want []string
				for i := range dialers {
					c := s.mustDial(t, name)
					want = append(want, fmt.Sprintf("%08d", i))
					if _, err := c.Write([]byte(want[i])); err != nil {
						t.Fatal(err)
					}
				}
				// What is open needs none.
				if _, err := open.Write([]byte("as usual")); err != nil {
					t.Error(err)
				}
				h.do("echo")
				b := make([]byte, 8)
				if _, err := io.ReadFull(open, b); string(b) != "as usual" || err != nil {
					t.Errorf("a connection that was open before reads %q, %v", b, err)
				}
				if left < 1+helloDescriptors {
					h.do("failed")
				}
				start := time.Now()
				h.do("free")
				f := strings.Fields(h.call("served"))
				recovery = max(recovery, time.Since(start))
				n, err := strconv.Atoi(f[0])
				if err != nil {
					t.Fatalf("left=%d: %q", left, f)
				}
				failures += n
				got := f[1:]
				if slices.Equal(got, want) {
					ordered++
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("left=%d: served were %q, want all", left, got)
				}
			}
			figures = append(figures, fmt.Sprintf("%s: Accept failed %d times, temporarily, and then served all of 6 x %d dialers (%d x in order) within %v of there being descriptors again",
				kind, failures, dialers, ordered, recovery.Round(100*time.Microsecond)))
		})
	}
	t.Logf("figure: out of descriptors: %s", strings.Join(figures, "; "))
}

// TestRestoreWithoutDescriptors removes a listener's socket while its process has
// too few descriptors to put it back: it is put back later.
func TestRestoreWithoutDescriptors(t *testing.T) {
	for left := range 4 {
		t.Run(fmt.Sprintf("left=%d", left), func(t *testing.T) {
			t.Parallel()
			s := shape{Ring: 4096}
			h := startHelper(t, "poor", s)
			name := newName()
			h.do("listen %s", name)
			h.do("fill %d", left)
			if err := os.Remove(unixShape.path("shmconn." + name + "@sock")); err != nil {
				t.Fatal(err)
			}
			if left < 2 {
				h.do("removed")
			}
			h.do("free")
			var a conn
			eventually(func() bool {
				var err error
				if a, err = s.dial(name); err != nil {
					wantErr(t, "Dial", err, "dial ECONNREFUSED")
				}
				return err == nil
			})
			a.Write([]byte("patience"))
			a.Close()
			for h.call("accept") != "ok" {
			}
			h.send("read")
			h.expect("patience")
			h.expect("ok")
		})
	}
}

// TestRemovedAll removes all of a listener's files. What was connected and what
// waits goes on, and the name comes back.
func TestRemovedAll(t *testing.T) {
	t.Parallel()
	s := shape{Ring: 4096}
	name := newName()
	l := s.mustListen(t, name)
	a := s.mustDial(t, name)
	b := mustAccept(t, l)
	waiting := s.mustDial(t, name)
	waiting.Write([]byte("waiting"))
	for _, f := range []string{"", "@sock"} {
		if err := os.Remove(unixShape.path("shmconn." + name + f)); err != nil {
			t.Fatal(err)
		}
	}
	var again conn
	eventually(func() (ok bool) {
		var err error
		again, err = s.dial(name)
		if err != nil {
			wantErr(t, "Dial", err, "dial ECONNREFUSED")
		}
		return err == nil
	})
	defer again.Close()
	again.Write([]byte("again"))
	a.Write([]byte("before"))
	buf := make([]byte, 16)
	if n, err := b.Read(buf); string(buf[:n]) != "before" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	var got []string
	for range 2 {
		n, err := mustAccept(t, l).Read(buf)
		if err != nil {
			t.Error(err)
		}
		got = append(got, string(buf[:n]))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"again", "waiting"}) {
		t.Errorf("accepted: %q", got)
	}
}

// TestDirectoryRemoved removes the directory that the name is in: Accept says so,
// and connections go on.
func TestDirectoryRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := shmconn.Dial(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = l.Accept()
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "removed") {
			t.Errorf("Accept: %v, want it to say that the name was removed", err)
		}
	}
	_, err = shmconn.Dial(dir + "/feed")
	wantErr(t, "Dial", err, "dial ECONNREFUSED")
	a.Write([]byte("on"))
	buf := make([]byte, 8)
	if n, err := b.Read(buf); !bytes.Equal(buf[:n], []byte("on")) || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
}

// TestNameTaken removes a listener's files, and somebody else listens on the name:
// Accept says so, and Close leaves the other one alone.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	s := shape{Ring: 4096}
	name := newName()
	l := s.mustListen(t, name)
	for _, f := range []string{"", "@sock"} {
		if err := os.Remove(unixShape.path("shmconn." + name + f)); err != nil {
			t.Fatal(err)
		}
	}
	other := s.mustListen(t, name)
	_, err := l.Accept()
	wantErr(t, "Accept", err, "accept EADDRINUSE")
	l.Close()
	polite(t, s, other)
}

// TestFullDirectory listens and dials in a directory without room for bytes, or for names,
// or with some now and then. Either it says so and leaves nothing, or the connection has
// all its memory for good.
func TestFullDirectory(t *testing.T) {
	const size = 16 << 10
	page := os.Getpagesize()
	need := page + 2*size
	s := shape{Ring: size}
	left := func(v *volume) []string {
		return slices.DeleteFunc(listDir(v.dir), func(name string) bool { return !strings.HasPrefix(name, "shmconn.") })
	}
	// full has both ends write all that there is room for and read it, which is when
	// memory that is not there would be a fault.
	full := func(t *testing.T, a, b *shmconn.Conn) {
		t.Helper()
		for _, ends := range [][2]*shmconn.Conn{{a, b}, {b, a}} {
			mustSet(t, ends[0], pattern(0, size))
			got := make([]byte, size)
			if n, err := io.ReadFull(ends[1], got); err != nil {
				t.Errorf("read %d of %d, %v", n, size, err)
			}
			checkPattern(t, got, 0)
		}
	}
	// nothing fails unless there are as many descriptors, mappings and names as before.
	nothing := func(t *testing.T, v *volume) (check func(what string)) {
		fds, maps, names := openDescriptors(), len(mappings()), left(v)
		return func(what string) {
			t.Helper()
			eventually(func() bool { return openDescriptors() <= fds }) // the listener drops whom it has not heard of
			if n := len(mappings()); n != maps {
				t.Errorf("%s: there are %d mappings, before %d", what, n, maps)
			}
			if got := left(v); !slices.Equal(got, names) {
				t.Errorf("%s has left %q, there were %q", what, got, names)
			}
		}
	}
	var refused, served int
	t.Run("bytes", func(t *testing.T) {
		v := newVolume(t, "size=1m")
		check := nothing(t, v)
		v.take(0)
		_, err := s.listen(v.dir + "/feed")
		wantErr(t, "Listen", err, "listen ENOSPC")
		check("Listen")
		v.giveBack()
		v.take(int64(page))
		l := s.mustListen(t, v.dir+"/feed")
		for room := 0; room <= need; room += page {
			v.giveBack()
			v.take(int64(room))
			check := nothing(t, v)
			c, err := s.dial(v.dir + "/feed")
			if room < need {
				wantErr(t, fmt.Sprintf("Dial with room for %d bytes", room), err, "dial ENOSPC")
				if err != nil && !strings.Contains(err.Error(), fmt.Sprint(need)) {
					t.Errorf("the error does not say that %d bytes are needed: %v", need, err)
				}
				check("Dial")
				refused++
				continue
			}
			if err != nil {
				t.Fatalf("Dial with just enough room: %v", err)
			}
			d := mustAccept(t, l)
			full(t, c.(*shmconn.Conn), d.(*shmconn.Conn))
			c.Close()
			d.Close()
			served++
		}
	})
	t.Run("names", func(t *testing.T) {
		v := newVolume(t, "size=1m,nr_inodes=32")
		var spare []string
		for {
			path := filepath.Join(v.dir, fmt.Sprint("spare", len(spare)))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
			spare = append(spare, path)
		}
		free := func() {
			os.Remove(spare[0])
			spare = spare[1:]
		}
		for range 2 { // the listener's file, and its socket
			check := nothing(t, v)
			_, err := s.listen(v.dir + "/feed")
			wantErr(t, "Listen", err, "listen ENOSPC")
			check("Listen")
			refused++
			free()
		}
		l := s.mustListen(t, v.dir+"/feed")
		check := nothing(t, v)
		_, err := s.dial(v.dir + "/feed")
		wantErr(t, "Dial", err, "dial ENOSPC")
		refused++
		check("Dial")
		free()
		c := s.mustDial(t, v.dir+"/feed").(*shmconn.Conn)
		full(t, c, mustAccept(t, l).(*shmconn.Conn))
		served++
	})
	t.Run("now and then", func(t *testing.T) {
		dials := 500
		if *long {
			dials = 20_000
		}
		v := newVolume(t, "size=512k")
		l := s.mustListen(t, v.dir+"/feed")
		var wg, filling sync.WaitGroup
		var stop atomic.Bool
		filling.Go(func() {
			r := seeded(t)
			for !stop.Load() {
				v.take(r.Int64N(512 << 10))
				time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
				v.giveBack()
			}
		})
		var echoing sync.WaitGroup
		echoing.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				echoing.Go(func() { io.Copy(c, c); c.Close() })
			}
		})
		var ok, enospc atomic.Int64
		for range 3 {
			wg.Go(func() {
				for range dials {
					c, err := s.dial(v.dir + "/feed")
					if err != nil {
						wantErr(t, "Dial", err, "dial ENOSPC")
						enospc.Add(1)
						continue
					}
					go c.Write(pattern(0, 5*size))
					got := make([]byte, 5*size)
					if n, err := io.ReadFull(c, got); err != nil {
						t.Errorf("echoed were %d bytes, %v", n, err)
					}
					checkPattern(t, got, 0)
					c.Close()
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		stop.Store(true)
		filling.Wait()
		if ok.Load() == 0 || enospc.Load() == 0 {
			t.Errorf("%d dials had room and %d had none: one of both was not tried", ok.Load(), enospc.Load())
		}
		eventually(func() bool { return len(left(v)) == 2 })
		l.Close()
		echoing.Wait()
		refused += int(enospc.Load())
		served += int(ok.Load())
	})
	t.Logf("figure: directory full: %d calls with ENOSPC, which left no name, descriptor or mapping; %d connections made beside them had all their memory", refused, served)
}

// TestFullDirectoryLater removes a listener's files where there is no room to put them
// back: Accept says so, and they come back when there is.
func TestFullDirectoryLater(t *testing.T) {
	t.Parallel()
	v := newVolume(t, "size=1m")
	s := shape{Ring: 4096}
	l := s.mustListen(t, v.dir+"/feed")
	for _, name := range []string{"/shmconn.feed", "/shmconn.feed@sock"} {
		if err := os.Remove(v.dir + name); err != nil {
			t.Fatal(err)
		}
	}
	v.take(0)
	_, err := l.Accept()
	wantErr(t, "Accept", err, "accept ENOSPC")
	if got := listDir(v.dir); len(got) != 1 { // what takes the room
		t.Errorf("files: %q", got)
	}
	v.giveBack()
	var c conn
	eventually(func() bool { c, err = s.dial(v.dir + "/feed"); return err == nil })
	c.Close()
}

// swarm is many dialers who say something and go. With few descriptors, few can be on
// their way, unless it is root's. Its orders are "until NAME", which dials until that takes
// long, and "more NAME N".
func swarm(s shape, in *bufio.Scanner) {
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	n := 0
	dial := func(name string, timeout time.Duration) error {
		d := &shmconn.Dialer{Timeout: timeout, AllowUID: func(uint32) bool { return true }}
		c, err := d.Dial(name)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = fmt.Fprintf(c, "%08d", n)
		n++
		return err
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "until":
			for err == nil {
				err = dial(f[1], 100*time.Millisecond)
			}
			fmt.Println(n)
		case "more":
			for more, _ := strconv.Atoi(f[2]); more > 0 && err == nil; more-- {
				err = dial(f[1], 0)
			}
		}
		fmt.Println(class(err))
	}
}

// TestOnTheWay has a user dial who may have no more descriptors on their way: that is as
// with a backlog that is full, and all are served in the end.
func TestOnTheWay(t *testing.T) {
	start := otherUsers(t)
	for _, s := range []shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: 0o666, Backlog: 1000}
			l, err := lc.Listen(newName())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			h := start(t, "swarm", syscall.Credential{Uid: somebody, Gid: somebody}, s)
			n, _ := strconv.Atoi(h.call("until %s", l.Addr()))
			h.expect("timeout")
			if most := 64/helloDescriptors + 5; n < 10 || n > most {
				t.Errorf("%d got in, want no more than %d: the limit was not tried", n, most)
			}
			const more = 50
			h.send("more %s %d", l.Addr(), more)
			t.Logf("figure: %d introductions on their way at a time, of a user with 64 descriptors; %d more waited, all served in order", n, more)
			for i := range n + more {
				got, err := io.ReadAll(mustAccept(t, l))
				if want := fmt.Sprintf("%08d", i); string(got) != want || err != nil {
					t.Fatalf("number %d says %q, %v, want %q", i, got, err, want)
				}
			}
			h.expect("ok")
		})
	}
}
