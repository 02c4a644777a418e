//go:build linux

package shmconn_test

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

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
	if n := openDescriptors() - listening - len(silent); n > 65 { // and one that is being looked at
		t.Errorf("the listener keeps %d of them", n)
	}
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
