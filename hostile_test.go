//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
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
)

func init() { helpers["vandal"], helpers["mob"] = vandal, mob }

// TestHostileWords stores into the shared words what a peer may not, before a call
// and while it waits.
func TestHostileWords(t *testing.T) {
	const size = 4096
	read := func(c *shmconn.Conn) error { _, err := c.Read(make([]byte, 8)); return err }
	write := func(c *shmconn.Conn) error { _, err := c.Write(make([]byte, 8)); return err }
	five := func(t *testing.T, p *rawPeer, c *shmconn.Conn) {
		p.put(ringA+produced, 5)
		if n, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatalf("Read = %d, %v", n, err)
		}
	}
	fill := func(t *testing.T, p *rawPeer, c *shmconn.Conn) { mustSet(t, c, make([]byte, size)) }
	twice := func(t *testing.T, p *rawPeer, c *shmconn.Conn) {
		fill(t, p, c)
		p.put(ringB+consumed, size)
		fill(t, p, c)
	}
	nothing := func(*testing.T, *rawPeer, *shmconn.Conn) {}
	for _, tt := range []struct {
		name    string
		before  func(*testing.T, *rawPeer, *shmconn.Conn)
		off     int
		value   uint64
		call    func(*shmconn.Conn) error
		allowed uint64 // for produced: as told
	}{
		{"produced, a byte too far", nothing, ringA + produced, size + 1, read, 0},
		{"produced, far too far", nothing, ringA + produced, 1 << 63, read, 0},
		{"produced, before the start", nothing, ringA + produced, math.MaxUint64, read, 0},
		{"produced, a byte back", five, ringA + produced, 4, read, 0},
		{"produced, back to the start", five, ringA + produced, 0, read, 0},
		{"consumed, a byte too far", fill, ringB + consumed, size + 1, write, size},
		{"consumed, far too far", fill, ringB + consumed, 1 << 63, write, size},
		{"consumed, before the start", fill, ringB + consumed, math.MaxUint64, write, size},
		{"consumed, a byte back", twice, ringB + consumed, size - 1, write, 2 * size},
		{"consumed, back to the start", twice, ringB + consumed, 0, write, 2 * size},
	} {
		for _, s := range hostileShapes {
			for _, waiting := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/poll=%s,waiting=%v", strings.ReplaceAll(tt.name, " ", "_"), pollName(s.ListenPoll), waiting), func(t *testing.T) {
					p, c := rawPair(t, s)
					tt.before(t, p, c)
					var told uint64 // of the bytes that were read
					var err error
					if waiting {
						done := blocked(c, func() { err = tt.call(c) })
						told = p.get(ringA + consumed)
						p.put(tt.off, tt.value)
						p.knock()
						<-done
					} else {
						told = p.get(ringA + consumed)
						p.put(tt.off, tt.value)
						err = tt.call(c)
					}
					ce := wantCorrupt(t, c, err)
					allowed := tt.allowed
					if tt.off == ringA+produced {
						allowed = told + size
					}
					if ce.Seen != tt.value || ce.Allowed != allowed {
						t.Errorf("%v: want seen %d, allowed %d", ce, tt.value, allowed)
					}
					p.dropped()
				})
			}
		}
	}
}

// TestHostileClosed stores another number than 1 for closed.
func TestHostileClosed(t *testing.T) {
	for _, s := range hostileShapes {
		for _, waiting := range []bool{false, true} {
			t.Run(fmt.Sprintf("poll=%s,waiting=%v", pollName(s.ListenPoll), waiting), func(t *testing.T) {
				p, c := rawPair(t, s)
				mustSet(t, c, make([]byte, s.Ring))
				p.write(p.dataA(), []byte("last"))
				var got []byte
				var rerr, werr error
				closed := func() {
					p.put(ringA+produced, 4)
					p.write(ringA+producerClosed, []byte{7, 0, 0, 0})
					p.write(ringB+consumerClosed, []byte{0, 0, 0, 0x80})
				}
				if waiting {
					r := blocked(c, func() { got, rerr = io.ReadAll(c) })
					w := blocked(c, func() { _, werr = c.Write(make([]byte, 8)) })
					closed()
					p.knock()
					p.knock()
					<-r
					<-w
				} else {
					closed()
					got, rerr = io.ReadAll(c)
					_, werr = c.Write(make([]byte, 8))
				}
				if string(got) != "last" || rerr != nil {
					t.Errorf("ReadAll = %q, %v", got, rerr)
				}
				wantErr(t, "Write", werr, "write EPIPE")
			})
		}
	}
}

// TestHostileParked holds the word that says that the peer sleeps at an odd number,
// and changes it all the time. The latter costs a system call each; neither keeps
// anybody.
func TestHostileParked(t *testing.T) {
	for _, s := range hostileShapes {
		t.Run("poll="+pollName(s.ListenPoll), func(t *testing.T) {
			p, c := rawPair(t, s)
			for _, v := range []uint64{1, 3, math.MaxUint64} {
				p.put(ringB+consumerParked, v)
				before := c.Stats().Rings
				for range 20 {
					mustSet(t, c, []byte("x"))
				}
				if n := c.Stats().Rings - before; n != 1 {
					t.Errorf("20 Writes with the word held at %d rang %d times, want once", v, n)
				}
			}
			for _, v := range []uint64{0, 2, math.MaxUint64 - 1} {
				p.put(ringB+consumerParked, v)
				before := c.Stats().Rings
				mustSet(t, c, []byte("x"))
				if n := c.Stats().Rings - before; n != 0 {
					t.Errorf("with the word at %d a Write rang %d times", v, n)
				}
			}
			p.look()
			// More rings than the pipe holds, which nobody takes out.
			rings := c.Stats().Rings
			for i := range uint64(6000) {
				p.put(ringB+consumerParked, 2*i+1001)
				p.put(ringB+consumed, p.get(ringB+produced))
				mustSet(t, c, []byte("x"))
			}
			if n := c.Stats().Rings - rings; n != 6000 {
				t.Errorf("6000 Writes rang %d times", n)
			}
			if n, gone := p.look(); n == 0 || gone {
				t.Errorf("%d rings came through, gone %v", n, gone)
			}
			// The acceptor's own words are not the peer's to store into. It may be late,
			// but a knock and a deadline still end its wait.
			done := blocked(c, func() { c.Read(make([]byte, 8)) })
			p.put(ringA+consumerParked, math.MaxUint64)
			p.write(ringA+consumerClosed, []byte{9, 9, 9, 9})
			p.write(ringB+producerClosed, []byte{9, 9, 9, 9})
			for range 100 {
				p.knock() // for nothing
			}
			c.SetReadDeadline(time.Now())
			<-done
			p.put(ringA+produced, 1)
			c.SetReadDeadline(time.Time{})
			if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
		})
	}
}

// TestSilentDialers connects and says nothing, many times over, and stays.
func TestSilentDialers(t *testing.T) {
	s := shape{Ring: 4096}
	before := openDescriptors()
	l := s.mustListen(t, newName())
	polite(t, s, l)
	listening := openDescriptors()
	var silent []*rawPeer
	for i := range 100 {
		silent = append(silent, rawConnect(t, nameOf(l)))
		if i%20 == 19 {
			polite(t, s, l)
		}
	}
	polite(t, s, l)
	// Those who had to go go in their own time. One may be being looked at.
	eventually(func() bool { return openDescriptors()-listening-len(silent) <= 65 })
	// The eldest had to go.
	if n, err := unix.Read(silent[0].sock, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the first one reads %d, %v, want the end", n, err)
	}
	// One of those who are left finds his tongue.
	p := rawDialer(t, nameOf(l), s)
	p.introduce()
	mustAccept(t, l).Close()
	p.dropped()
	l.Close()
	for i, q := range silent {
		if n, err := unix.Read(q.sock, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
			t.Errorf("after Close number %d reads %d, %v, want the end", i, n, err)
		}
		q.close()
	}
	p.close()
	eventually(func() bool { return openDescriptors() <= before })
}

// TestLateDialer introduces itself after it has kept the listener waiting, and
// after another dialer was served.
func TestLateDialer(t *testing.T) {
	s := shape{Ring: 4096}
	l := s.mustListen(t, newName())
	p := rawDialer(t, nameOf(l), s)
	polite(t, s, l)
	p.introduce()
	c := mustAccept(t, l)
	p.put(ringA+produced, 5)
	p.knock()
	if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
}

// TestLateDialers has many dialers introduce themselves about when the listener
// finds that they have not yet. If one is not heard, the test hangs.
func TestLateDialers(t *testing.T) {
	s := shape{Ring: 4096}
	l := s.mustListen(t, newName())
	for i := range 1000 {
		p := rawDialer(t, nameOf(l), s)
		for at := time.Now(); time.Since(at) < time.Duration(i%200)*250*time.Nanosecond; {
		}
		p.introduce()
		mustAccept(t, l).Close()
		p.close()
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
	memory := func(t *testing.T, p *rawPeer, seals int) int {
		fd, err := unix.MemfdCreate("shmconn.raw", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if _, err := unix.Write(fd, p.read(0, os.Getpagesize()+2*p.size)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	type wrong struct {
		name string
		do   func(t *testing.T, p *rawPeer, message []byte, fds []int) ([]byte, []int)
	}
	text := func(name string, f func(b []byte) []byte) wrong {
		return wrong{name, func(t *testing.T, p *rawPeer, b []byte, fds []int) ([]byte, []int) { return f(b), fds }}
	}
	number := func(name string, f func(fds []int) []int) wrong {
		return wrong{name, func(t *testing.T, p *rawPeer, b []byte, fds []int) ([]byte, []int) { return b, f(fds) }}
	}
	// instead sends another descriptor in the i-th place.
	instead := func(name string, i int, f func(t *testing.T, p *rawPeer) int) wrong {
		return wrong{name, func(t *testing.T, p *rawPeer, b []byte, fds []int) ([]byte, []int) {
			fds[i] = f(t, p)
			return b, fds
		}}
	}
	header := func(name string, off int, b ...byte) wrong {
		return wrong{name, func(t *testing.T, p *rawPeer, m []byte, fds []int) ([]byte, []int) {
			p.write(off, b)
			return m, fds
		}}
	}
	resize := func(name string, n int) wrong {
		return wrong{name, func(t *testing.T, p *rawPeer, m []byte, fds []int) ([]byte, []int) {
			p.truncate(n)
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
		instead("a file to ring", 1, func(t *testing.T, _ *rawPeer) int { return temp(t, unix.O_WRONLY) }),
		instead("a file to listen to", 2, func(t *testing.T, _ *rawPeer) int { return temp(t, unix.O_RDONLY) }),
		instead("a socket to ring", 1, func(t *testing.T, _ *rawPeer) int { return socket(t) }),
		instead("a socket to listen to", 2, func(t *testing.T, _ *rawPeer) int { return socket(t) }),
		instead("a device to ring", 1, func(t *testing.T, _ *rawPeer) int { return open(t, "/dev/null", unix.O_WRONLY) }),
		instead("a device to listen to", 2, func(t *testing.T, _ *rawPeer) int { return open(t, "/dev/zero", unix.O_RDONLY) }),
		instead("the segment to listen to", 2, func(t *testing.T, p *rawPeer) int { return p.seg }),
		instead("a directory as the segment", 0, func(t *testing.T, _ *rawPeer) int { return open(t, "/", unix.O_RDONLY) }),
		instead("/dev/zero as the segment", 0, func(t *testing.T, _ *rawPeer) int { return open(t, "/dev/zero", unix.O_RDWR) }),
		instead("a socket as the segment", 0, func(t *testing.T, _ *rawPeer) int { return socket(t) }),
		instead("a pipe as the segment", 0, func(t *testing.T, p *rawPeer) int { return p.hisBell }),
		instead("the listener's socket as the segment", 0, func(t *testing.T, p *rawPeer) int { return p.sock }),
		instead("a segment to read", 0, func(t *testing.T, p *rawPeer) int {
			return open(t, fmt.Sprintf("/proc/self/fd/%d", p.seg), unix.O_RDONLY)
		}),
		instead("a segment to write", 0, func(t *testing.T, p *rawPeer) int {
			return open(t, fmt.Sprintf("/proc/self/fd/%d", p.seg), unix.O_WRONLY)
		}),
		header("no magic number", 0, 0, 0, 0, 0, 0, 0, 0, 0),
		header("another format version", 8, 9),
		header("another ring size", 16, 0, 0, 1),
	}
	for k := range oddDescriptors(t) {
		for i := range helloDescriptors {
			both = append(both, instead(fmt.Sprintf("odd descriptor %d in place %d", k, i), i, func(t *testing.T, _ *rawPeer) int {
				return oddDescriptors(t)[k]
			}))
		}
	}
	for _, kind := range []struct {
		shape  shape
		wrongs []wrong
	}{
		{shape{Ring: 8192}, append([]wrong{
			resize("an empty segment", 0),
			resize("a segment of a page", page),
			resize("a segment with a byte less", page+2*8192-1),
			resize("a segment with a page more", 2*page+2*8192),
			instead("memory", 0, func(t *testing.T, p *rawPeer) int {
				return memory(t, p, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
			}),
		}, both...)},
		{shape{Ring: 8192, Anonymous: true}, append([]wrong{
			instead("no seals", 0, func(t *testing.T, p *rawPeer) int { return memory(t, p, 0) }),
			instead("a seal too few", 0, func(t *testing.T, p *rawPeer) int { return memory(t, p, unix.F_SEAL_GROW|unix.F_SEAL_SEAL) }),
			instead("a seal too many", 0, func(t *testing.T, p *rawPeer) int {
				return memory(t, p, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL|unix.F_SEAL_WRITE)
			}),
		}, both...)},
	} {
		s := kind.shape
		t.Run(fmt.Sprintf("anonymous=%v", s.Anonymous), func(t *testing.T) {
			l := s.mustListen(t, newName())
			name := nameOf(l)
			polite(t, s, l)
			for _, w := range kind.wrongs {
				t.Run(strings.ReplaceAll(w.name, " ", "_"), func(t *testing.T) {
					before, drops := openDescriptors(), refused(t, name)
					p := rawDialer(t, name, s)
					message, fds := p.hello()
					message, fds = w.do(t, p, message, fds)
					mine := openDescriptors() - before
					p.say(message, fds)
					eventually(func() bool { return refused(t, name) == drops+1 })
					eventually(func() bool { return openDescriptors() <= before+mine })
					// It is not left waiting for something.
					if n, err := unix.Read(p.sock, make([]byte, 1)); n > 0 || err != nil && err != unix.ECONNRESET {
						t.Errorf("it reads %d, %v, want the end", n, err)
					}
					p.handOver()
					p.dropped()
					polite(t, s, l)
				})
			}
		})
	}
}

// TestFlood has dialers of all kinds at the same time.
func TestFlood(t *testing.T) {
	s := shape{Ring: 4096}
	l := s.mustListen(t, newName())
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
				c, err := net.Dial("unixpacket", unixShape.path("shmconn."+nameOf(l)+"@sock"))
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
		polite(t, s, l)
	}
	close(stop)
	wg.Wait()
}

// Outcomes are what came of many calls, of many goroutines.
type outcomes struct {
	t     testing.TB
	calls atomic.Int64
	over  atomic.Int64 // nanoseconds that a call has outlasted its deadline, at the most

	mu   sync.Mutex
	ends map[string]int // how often a direction of a connection has ended how
}

// final are the errors after which a connection, or a direction of it, is of no more use.
var final = []string{"closed", "EOF", "EPIPE", "ECONNRESET", "corrupt"}

// ended fails unless err is one of those that a peer may cause, and reports whether there
// is nothing more to come. It counts the first such error.
func (y *outcomes) ended(what string, err error, first bool) bool {
	if err == nil {
		return false
	}
	outcome(y.t, "shm", err)
	c, _, _ := strings.Cut(class(err), " ")
	if !slices.Contains(final, c) {
		if c != "timeout" {
			y.t.Errorf("%s: %v", what, err)
		}
		return false
	}
	if first {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.ends[c]++
	}
	return true
}

func (y *outcomes) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var ends []string
	for _, c := range final {
		ends = append(ends, fmt.Sprintf("%s %d", c, y.ends[c]))
	}
	return fmt.Sprintf("%d calls; directions ended: %s; %v after the deadline at the most",
		y.calls.Load(), strings.Join(ends, ", "), time.Duration(y.over.Load()).Round(10*time.Microsecond))
}

// A prober makes all the calls that a Conn has, in one direction, at random, and holds
// what they return against what is so whatever the peer does.
type prober struct {
	*outcomes
	c    *shmconn.Conn
	rnd  *rand.Rand
	file *os.File // a regular one, to copy from or to
	size int      // of a ring
}

// timed calls f after it has set a deadline, mostly, and looks whether f keeps it.
func (p *prober) timed(set func(time.Time) error, f func() error) error {
	var deadline time.Time
	if p.rnd.IntN(4) > 0 {
		deadline = time.Now().Add(time.Duration(p.rnd.IntN(2000)) * time.Microsecond)
	}
	if err := set(deadline); err != nil {
		return err
	}
	p.calls.Add(1)
	err := f()
	if over := time.Since(deadline); !deadline.IsZero() && over > 0 {
		if over > 10*time.Second {
			p.t.Errorf("a call outlasted its deadline by %v", over)
		}
		for old := p.over.Load(); int64(over) > old && !p.over.CompareAndSwap(old, int64(over)); old = p.over.Load() {
		}
	}
	return err
}

// count fails unless n is from 0 to most.
func (p *prober) count(what string, n, most int, err error) {
	if n < 0 || n > most {
		p.t.Errorf("%s of %d = %d, %v", what, most, n, err)
	}
}

const (
	mostConns = 300 // that serveEcho serves at a time

	canary = 0xA5 // what is in buffers beyond their end
	more   = 4    // calls that a prober makes when nothing more is to come
)

// reads makes calls that read until there is nothing more to come, and some more.
func (p *prober) reads() {
	for left := more; left > 0; {
		k := 1 + p.rnd.IntN(p.size/2)
		buf := bytes.Repeat([]byte{canary}, k+16)
		err := p.timed(p.c.SetReadDeadline, func() (err error) {
			var n int
			switch p.rnd.IntN(8) {
			case 0, 1:
				n, err = p.c.Read(buf[:k])
				p.count("Read", n, k, err)
			case 2:
				n, err = p.c.TryRead(buf[:k])
				p.count("TryRead", n, k, err)
			case 3:
				var span []byte
				span, err = p.c.Peek(k)
				p.count("Peek", len(span), k, err)
				if err == nil {
					err = p.c.Guard(func() { copy(buf[:k], span) })
				}
				if err == nil {
					n, err = p.c.Discard(len(span))
					p.count("Discard", n, k, err)
				}
			case 4:
				n, err = p.c.Discard(k)
				p.count("Discard", n, k, err)
			case 5:
				_, err = p.c.WriteTo(io.Discard)
			case 6:
				p.file.Seek(0, io.SeekStart)
				_, err = p.c.WriteTo(p.file)
			case 7:
				p.count("Buffered", p.c.Buffered(), p.size, nil)
				p.count("RingSize", p.c.Stats().RingSize, p.size, nil)
			}
			return err
		})
		if i := slices.IndexFunc(buf[k:], func(b byte) bool { return b != canary }); i >= 0 {
			p.t.Errorf("byte %d of a buffer of %d was written to", k+i, k)
		}
		if p.ended("a call that reads", err, left == more) {
			left--
		}
	}
}

// writes is reads for the other direction.
func (p *prober) writes() {
	for left := more; left > 0; {
		k := 1 + p.rnd.IntN(p.size/2)
		err := p.timed(p.c.SetWriteDeadline, func() (err error) {
			var n int
			switch p.rnd.IntN(8) {
			case 0, 1:
				n, err = p.c.Write(make([]byte, k))
				p.count("Write", n, k, err)
			case 2:
				n, err = p.c.TryWrite(make([]byte, k))
				p.count("TryWrite", n, k, err)
			case 3:
				var span []byte
				if span, err = p.c.Reserve(k); err != nil {
					break
				}
				if len(span) != k {
					p.t.Errorf("Reserve(%d) returned %d bytes", k, len(span))
				}
				if err = p.c.Guard(func() { clear(span) }); err == nil {
					err = p.c.Commit(p.rnd.IntN(k + 1))
				}
			case 4:
				v := net.Buffers{make([]byte, k), make([]byte, k)}
				var m int64
				m, err = p.c.WriteBuffers(&v)
				p.count("WriteBuffers", int(m), 2*k, err)
			case 5:
				var m int64
				m, err = p.c.ReadFrom(io.LimitReader(zeros{}, int64(k)))
				p.count("ReadFrom", int(m), k, err)
			case 6:
				p.file.Seek(0, io.SeekStart)
				_, err = p.c.ReadFrom(p.file)
			case 7:
				p.count("Available", p.c.Available(), p.size, nil)
				p.count("RingSize", p.c.Stats().RingSize, p.size, nil)
			}
			return err
		})
		if p.ended("a call that writes", err, left == more) {
			left--
		}
	}
}

// probe has both directions of both ends in use until they have all ended, which is when
// both ends are closed if not before. It closes something after so long, or as long as it
// takes until all has ended by itself if that is sooner.
func (y *outcomes) probe(a, b *shmconn.Conn, size int, seed uint64, files []*os.File, after time.Duration) {
	var wg sync.WaitGroup
	for i, c := range []*shmconn.Conn{a, b} {
		reader := &prober{y, c, rand.New(rand.NewPCG(seed, uint64(2*i))), files[2*i], size}
		writer := &prober{y, c, rand.New(rand.NewPCG(seed, uint64(2*i+1))), files[2*i+1], size}
		wg.Go(reader.reads)
		wg.Go(writer.writes)
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(after):
		for _, close := range [][]func() error{
			{a.Close, b.Close}, {b.CloseWrite, a.Close}, {a.CloseRead, b.Close}, {b.CloseRead, b.CloseWrite, b.Close},
		}[seed%4] {
			close()
		}
		a.Close()
		b.Close()
		<-over
	}
	a.Close()
	b.Close()
}

// probeFiles returns files for probe.
func probeFiles(t testing.TB) (files []*os.File) {
	for range 4 {
		files = append(files, tempFile(t, make([]byte, 5000)))
	}
	return files
}

// control streams to and fro over a connection of its own until stop is called, which
// returns how many bytes that were. They come out as they went in.
func control(t testing.TB) (stop func() int) {
	a, b := shape{Ring: 8192}.shmPair(t)
	var wg sync.WaitGroup
	var over atomic.Bool
	var total int
	wg.Go(func() { // what comes in goes back
		if _, err := io.Copy(b, b); err != nil {
			t.Errorf("the echo of the control connection: %v", err)
		}
		b.CloseWrite()
	})
	wg.Go(func() {
		for n := 1; !over.Load(); n = n*5%(16<<10) + 1 {
			go a.Write(pattern(total, n))
			got := make([]byte, n)
			if _, err := io.ReadFull(a, got); err != nil {
				t.Errorf("the control connection: %v", err)
				return
			}
			checkPattern(t, got, total)
			total += n
			time.Sleep(50 * time.Microsecond) // so that it leaves the processors to others
		}
		a.CloseWrite()
	})
	return func() int {
		over.Store(true)
		wg.Wait()
		return total
	}
}

// The words of the rings' headers.
var (
	producers = []int{ringA + produced, ringB + produced}
	consumers = []int{ringA + consumed, ringB + consumed}
	positions = append(slices.Clone(producers), consumers...)
	states    = []int{
		ringA + consumerParked, ringA + consumerClosed, ringA + producerParked, ringA + producerClosed,
		ringB + consumerParked, ringB + consumerClosed, ringB + producerParked, ringB + producerClosed,
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

// anyWord returns a number of any size, near zero from above or below more often than not.
func anyWord(rnd *rand.Rand) uint64 {
	v := rnd.Uint64() >> rnd.IntN(64)
	if rnd.IntN(3) == 0 {
		v = -v
	}
	return v
}

// vandal is a process that stores garbage into segments. Its orders are "go FILE KIND
// PAUSE SEED" and "ring PIPE", answered once it has begun, "halt", answered by how often it
// has stored something since, or rung, and "hit", answered by how many bytes of the last segment's header, of
// how many, and of its rings it has ever stored into.
func vandal(s shape, in *bufio.Scanner) {
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

// scribble stores garbage of a kind, or of all if there is no such, until stop says so, and
// returns how often. Between two stores it lets so many numbers go by.
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

// ring fills a pipe until stop says so, and returns how many bytes it has put in.
func ring(fd int, stop *atomic.Bool) (n int) {
	defer unix.Close(fd)
	for bytes := make([]byte, 64); !stop.Load(); {
		if m, err := unix.Write(fd, bytes); err == nil {
			n += m
		}
	}
	return n
}

// TestVandal has a third process store garbage into connections all the time that all
// calls are made at both ends. What a call returns can be garbage, and most connections
// are soon found to be damaged; nothing worse comes of it, and nothing anywhere else.
func TestVandal(t *testing.T) {
	const size = 4096
	conns, stores := 150, 1_000_000
	if *long {
		conns, stores = 20_000, 100_000_000
	}
	rnd := seeded(t)
	h := startHelper(t, "vandal", shape{})
	files := probeFiles(t)
	stop := control(t)
	all := &outcomes{t: t, ends: make(map[string]int)}
	goroutines, fds := runtime.NumGoroutine(), openDescriptors()
	n, stored := 0, 0
	start := time.Now()
	for ; n < conns || stored < stores; n++ {
		s := shape{Ring: size}.poll([]time.Duration{0, pollAlways, pollNever}[n%3])
		a, b, seg := segmentIn(t, os.Getenv("SHMCONN_DIR"), s)
		kind, pause := n%(len(scrawls)+1), []int{0, 0, 20, 1000}[rnd.IntN(4)]
		h.do("go /proc/%d/fd/%d %d %d %d", os.Getpid(), seg.Fd(), kind, pause, rnd.Uint64())
		all.probe(a, b, size, rnd.Uint64(), files, 4*time.Millisecond)
		m, err := strconv.Atoi(h.call("halt"))
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
	fmt.Sscan(h.call("hit"), &header, &page, &rings, &of)
	t.Logf("figure: garbage from a third process: %d stores (into %d of %d header bytes, %d of %d ring bytes) on %d connections in %v: %v; control connection: %d bytes verified",
		stored, header, page, rings, of, n, took.Round(100*time.Millisecond), all, stop())
	if header != page || rings != of {
		t.Errorf("it has missed %d bytes of the header and %d of the rings", page-header, of-rings)
	}
	if all.ends["corrupt"] == 0 {
		t.Error("nothing was found to be damaged: the garbage misses")
	}
	eventually(func() bool { return runtime.NumGoroutine() <= goroutines && openDescriptors() <= fds })
}

// A processTB is the testing.TB of a helper process: what is fatal ends the process.
type processTB struct {
	testing.TB
	cleanups []func()
}

func (p *processTB) Helper()                   {}
func (p *processTB) Cleanup(f func())          { p.cleanups = append(p.cleanups, f) }
func (p *processTB) Fatal(a ...any)            { fmt.Fprintln(os.Stderr, a...); os.Exit(3) }
func (p *processTB) Errorf(f string, a ...any) { p.Fatal(fmt.Sprintf(f, a...)) }
func (p *processTB) Fatalf(f string, a ...any) { p.Fatal(fmt.Sprintf(f, a...)) }

func (p *processTB) cleanup() {
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
}

// An unruly is a way to be a dialer that is none.
type unruly struct {
	name     string
	keep     int  // of these stay at a time
	accepted bool // Accept returns some, or all
	do       func(t *processTB, name string, s shape, n int)
}

var unrulies = []unruly{
	// The first one has its own numbers in TestUnruly.
	{"connects and says nothing", 300, false, func(t *processTB, name string, s shape, n int) { rawConnect(t, name) }},
	{"sends half an introduction and stays", 100, false, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		message, fds := p.hello()
		p.trySay(message[:n%len(message)], fds[:n%4])
	}},
	{"sends wrong descriptors", 0, false, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		message, fds := p.hello()
		odd := append(oddDescriptors(t), p.sock)
		for i := range fds {
			if n%7>>i&1 == 0 { // at least one
				fds[i] = odd[(n/7+i)%len(odd)]
			}
		}
		p.trySay(message, fds)
	}},
	{"sends 253 descriptors", 0, false, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		message, fds := p.hello()
		p.trySay(message, append(fds, slices.Repeat(fds[:1], 250)...))
	}},
	{"holds leases and locks on what it sends, and all descriptors", 100, true, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		unix.FcntlInt(uintptr(p.seg), unix.F_SETLEASE, unix.F_WRLCK)
		unix.FcntlFlock(uintptr(p.seg), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		unix.Flock(p.seg, unix.LOCK_EX)
		p.trySay(p.hello())
	}},
	{"sends a file that grows and shrinks", 0, true, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		p.trySay(p.hello())
		for range 5 {
			p.truncate(os.Getpagesize() + 2*p.size + n%5*os.Getpagesize())
			p.truncate(n % 3 * os.Getpagesize())
		}
	}},
	{"connects and vanishes", 0, false, func(t *processTB, name string, s shape, n int) { rawConnect(t, name) }},
	{"introduces itself and vanishes", 0, true, func(t *processTB, name string, s shape, n int) {
		p := rawDialer(t, name, s)
		p.trySay(p.hello())
	}},
}

// trySay is say to a listener that may be fed up.
func (p *rawPeer) trySay(message []byte, fds []int) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	unix.Sendmsg(p.sock, message, oob, nil, unix.MSG_NOSIGNAL)
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

// mob is a process of unruly dialers. Its orders are "go KIND NAME LEAST", answered at
// once, and "halt", answered by how many there were when there had been at least so many.
func mob(s shape, in *bufio.Scanner) {
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

func riot(u unruly, name string, s shape, least int, stop *atomic.Bool) (n int) {
	var staying []*processTB
	for ; n < least || !stop.Load(); n++ {
		t := new(processTB)
		u.do(t, name, s, n)
		staying = append(staying, t)
		if len(staying) > u.keep {
			staying[0].cleanup()
			staying = slices.Delete(staying, 0, 1)
		}
	}
	for _, t := range staying {
		t.cleanup()
	}
	return n
}

// A watch notes the most that this process has had of things, beyond what it has at first.
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
	w.most.descriptors = max(w.most.descriptors, openDescriptors())
	w.most.threads = max(w.most.threads, len(listDir("/proc/self/task")))
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

// TestUnruly has a process of dialers that do not follow the protocol, as fast as it can,
// while others dial. All of these are served, and the listener's process stays as it is.
func TestUnruly(t *testing.T) {
	dials, least := 30, 10_000
	if *long {
		dials, least = 1000, 100_000
	}
	for kind, u := range unrulies {
		t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(u.name), func(t *testing.T) {
			s, dials := shape{Ring: 1 << 20}, dials
			if kind == 0 {
				// To make such a segment takes longer than others need to push a dialer out
				// who has not said anything yet.
				s.Ring, dials = 64<<20, dials/3
			}
			l := s.mustListen(t, newName())
			h := startHelper(t, "mob", s)
			served := make(chan struct{})
			go func() {
				defer close(served)
				serveEcho(l)
			}()
			goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
			w := newWatch()
			h.do("go %d %s %d", kind, nameOf(l), least)
			var took []time.Duration
			for i := range dials {
				start := time.Now()
				if err := echoed(s, nameOf(l), i); err != nil {
					t.Errorf("dial number %d: %v", i, err)
				}
				took = append(took, time.Since(start))
			}
			n := h.call("halt")
			eventually(func() bool { return runtime.NumGoroutine() <= goroutines+1 && openDescriptors() <= descriptors })
			fds := 64 + 4*16 + 32 // silent ones; the descriptors of those that are being looked at; others
			if u.accepted {
				fds += 2 * (mostConns + 1)
			}
			most := w.end(t, 2000, fds, 64, 256)
			l.Close()
			<-served
			slices.Sort(took)
			t.Logf("figure: %s: %s of them; %d others dialed meanwhile, all served, within %v in the median, %v at the most; the listener's process: %s",
				u.name, n, dials, took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond), most)
		})
	}
}

// serveEcho sends back the first bytes of each connection, of mostConns at a time, until l
// is closed.
func serveEcho(l listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for free := make(chan bool, mostConns); ; {
		free <- true
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { c.Close(); <-free }()
			buf := make([]byte, 64)
			n, err := c.Read(buf)
			if err == nil {
				c.Write(buf[:n])
			}
		})
	}
}

// echoed dials and is answered.
func echoed(s shape, name string, i int) error {
	c, err := s.dial(name)
	if err != nil {
		return err
	}
	defer c.Close()
	want := fmt.Sprintf("polite %d", i)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if string(got) != want && err == nil {
		err = fmt.Errorf("answer is %q", got)
	}
	return err
}

// TestDoorbellFlood has a peer ring all the time, for nothing, while calls wait. It costs
// processor time; what comes in is read, deadlines are kept, and others are served.
func TestDoorbellFlood(t *testing.T) {
	rounds := 100
	if *long {
		rounds = 20_000
	}
	h := startHelper(t, "vandal", shape{})
	stop := control(t)
	var figures []string
	for _, s := range hostileShapes {
		t.Run("poll="+pollName(s.ListenPoll), func(t *testing.T) {
			p, c := rawPair(t, s)
			mustSet(t, c, make([]byte, s.Ring)) // so that a Write has to wait
			goroutines := runtime.NumGoroutine()
			before, start := processorTime(), time.Now()
			h.do("ring /proc/%d/fd/%d", os.Getpid(), p.ringer)

			// Both directions wait, until their deadlines.
			var late time.Duration
			for range 5 {
				deadline := time.Now().Add(20 * time.Millisecond)
				c.SetDeadline(deadline)
				var rerr, werr error
				w := blocked(c, func() { _, werr = c.Write([]byte("x")) })
				_, rerr = c.Read(make([]byte, 8))
				<-w
				if d := time.Since(deadline); d < 0 {
					t.Errorf("both have ended %v before the deadline", -d)
				} else {
					late = max(late, d)
				}
				wantErr(t, "Read", rerr, "read timeout")
				wantErr(t, "Write", werr, "write timeout")
			}
			c.SetDeadline(none)

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
				p.put(ringA+produced, uint64(i+1))
				took = append(took, (<-at).Sub(start))
			}
			<-read

			// And Close ends a wait.
			done := blocked(c, func() {
				_, err := c.Read(make([]byte, 8))
				wantErr(t, "Read", err, "read closed")
			})
			c.Close()
			<-done
			n := h.call("halt")
			busy := float64(processorTime()-before) / float64(time.Since(start))
			eventually(func() bool { return runtime.NumGoroutine() <= goroutines })
			slices.Sort(took)
			figures = append(figures, fmt.Sprintf("poll=%s: %s rings, %.1f processors busy, deadline kept within %v, a byte read after %v in the median, %v at the most",
				pollName(s.ListenPoll), n, busy, late.Round(10*time.Microsecond), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond)))
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

// TestLease has a dialer hold a lease and locks on the segment that it sends. It is
// accepted and nobody waits for it: not the one who accepts, nor who sweeps what it leaves.
func TestLease(t *testing.T) {
	const patience = 10 * time.Second // a lease is broken after 45
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
			s := shape{Ring: 4096}
			name := newName()
			l := s.mustListen(t, name)
			start := time.Now()
			p := rawDialer(t, name, s)
			if err := tt.hold(p.seg); err != nil {
				t.Fatal(err)
			}
			p.say(p.hello()) // and keeps all that it has sent
			c := mustAccept(t, l)
			p.put(ringA+produced, 5)
			p.knock()
			if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
			c.Close()
			p.handOver()
			p.dropped()

			// One that nobody takes, and that is there when the name is taken again.
			q := rawDialer(t, name, s)
			if err := tt.hold(q.seg); err != nil {
				t.Fatal(err)
			}
			polite(t, s, l)
			l.Close()
			l = s.mustListen(t, name)
			polite(t, s, l)
			if d := time.Since(start); d > patience {
				t.Errorf("it took %v", d)
			}
		})
	}
}
