//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
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
		_, err := c.ReadFrom(tempFile(t, []byte("abc")))
		return err
	}, false},
	{"WriteTo", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }, false},
	{"WriteTo a socket", false, func(t *testing.T, c *shmconn.Conn) error {
		a, _ := tcpPair(t)
		_, err := c.WriteTo(a)
		return err
	}, false},
}

// TestTruncatedWaiting truncates the segment under a call that waits and then
// rings.
func TestTruncatedWaiting(t *testing.T) {
	for _, tt := range truncations {
		for _, s := range hostileShapes {
			if s != hostileShapes[0] && !tt.quick {
				continue
			}
			t.Run(fmt.Sprintf("%s/poll=%s", strings.ReplaceAll(tt.name, " ", "_"), pollName(s.ListenPoll)), func(t *testing.T) {
				p, c := rawPair(t, s)
				if tt.full {
					mustSet(t, c, make([]byte, s.Ring))
				}
				var err error
				done := blocked(c, func() { err = tt.call(t, c) })
				p.truncate(0)
				if s.ListenPoll != pollAlways { // who polls finds out by himself
					p.knock()
				}
				<-done
				wantCorrupt(t, c, err)
				p.dropped()
			})
		}
	}
}

// TestTruncatedRings leaves the header and takes the rings, or a part of them, away.
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
			_, err := c.ReadFrom(io.LimitReader(zeros{}, size))
			return err
		}},
		{"ReadFrom a file", func(t *testing.T, c *shmconn.Conn) error {
			_, err := c.ReadFrom(tempFile(t, make([]byte, size)))
			return err
		}},
		{"WriteTo", func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }},
		{"WriteTo a TCP socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := tcpPair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a Unix socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := unixShape.pair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a pipe", func(t *testing.T, c *shmconn.Conn) error {
			r, w := pipePair(t)
			go io.Copy(io.Discard, r)
			_, err := c.WriteTo(w)
			return err
		}},
		{"WriteTo a file", func(t *testing.T, c *shmconn.Conn) error {
			f := tempFile(t, nil)
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
				p, c := rawPair(t, shape{Ring: size})
				p.put(ringA+produced, size)
				p.truncate(left)
				wantCorrupt(t, c, tt.call(t, c))
				p.dropped()
			})
		}
	}
}

// TestTruncatedAndBack truncates the segment and makes it as long as it was: all
// that is in it is zero.
func TestTruncatedAndBack(t *testing.T) {
	const size = 4096
	p, c := rawPair(t, shape{Ring: size})
	p.put(ringA+produced, 5)
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.truncate(0)
	p.truncate(os.Getpagesize() + 2*size)
	_, err := c.Read(make([]byte, 8))
	ce := wantCorrupt(t, c, err)
	if ce.Seen != 0 {
		t.Errorf("%v: want seen 0", ce)
	}
}

// TestTruncatedBeside truncates the segment of one of several connections that one
// goroutine polls for. It is this one's Read that fails, whoever looks, and the
// others go on.
func TestTruncatedBeside(t *testing.T) {
	const others = 3
	for _, procs := range []int{1, 2, 4} {
		for at := range others + 1 {
			t.Run(fmt.Sprintf("procs=%d,at=%d", procs, at), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				s := shape{Ring: 4096}.poll(pollAlways)
				type end struct {
					a, b *shmconn.Conn
					done <-chan struct{}
					n    int
					err  error
				}
				var ends []*end
				wait := func(c *shmconn.Conn) *end {
					e := &end{b: c}
					e.done = blocked(c, func() { e.n, e.err = c.Read(make([]byte, 8)) })
					return e
				}
				var p *rawPeer
				var bad *end
				for i := range others + 1 {
					if i == at {
						var c *shmconn.Conn
						p, c = rawPair(t, s)
						bad = wait(c)
						continue
					}
					a, b := s.shmPair(t)
					e := wait(b)
					e.a = a
					ends = append(ends, e)
				}
				p.truncate(0)
				<-bad.done
				wantCorrupt(t, bad.b, bad.err)
				for _, e := range ends {
					mustSet(t, e.a, []byte("hello"))
					<-e.done
					if e.n != 5 || e.err != nil {
						t.Errorf("Read beside it = %d, %v", e.n, e.err)
					}
				}
			})
		}
	}
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

// TestTruncatedSent truncates a segment right after sending it: the dialer is
// dropped, or the connection is found to be damaged.
func TestTruncatedSent(t *testing.T) {
	s := shape{Ring: 4096}
	l := s.mustListen(t, newName())
	dropped, damaged := 0, 0
	for i := range 600 {
		before := refused(t, nameOf(l))
		p := rawDialer(t, nameOf(l), s)
		p.put(ringA+produced, 5)
		p.introduce()
		for spun := 0; spun < i%150*100; spun++ { // up to some 10 microseconds at a time
			if spun%500 == 499 {
				runtime.Gosched()
			}
		}
		p.truncate(0)
		var c net.Conn
		eventually(func() bool {
			if refused(t, nameOf(l)) > before {
				return true
			}
			l.SetDeadline(time.Now().Add(time.Millisecond))
			var err error
			if c, err = l.Accept(); err != nil {
				wantErr(t, "Accept", err, "accept timeout")
			}
			return err == nil
		})
		if c == nil {
			dropped++
		} else {
			damaged++
			_, err := c.Read(make([]byte, 8))
			wantCorrupt(t, c.(*shmconn.Conn), err)
		}
		p.close()
	}
	t.Logf("%d were dropped, %d damaged", dropped, damaged)
	l.SetDeadline(time.Time{})
	polite(t, s, l)
}

// TestForeignFault faults in memory that is not the connection's: that is not for
// Guard to take.
func TestForeignFault(t *testing.T) {
	p, c := rawPair(t, shape{Ring: 4096})
	f := tempFile(t, make([]byte, os.Getpagesize()))
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
	p.put(ringA+produced, 5)
	if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	mustSet(t, c, []byte("x"))
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

// poor is a listener in a process that runs out of descriptors. Its orders are
// listen NAME, fill N (which leaves N descriptors), free, accept, temporary (the
// same, but wants a temporary error), read and unlink.
func poor(s shape, in *bufio.Scanner) {
	var l *shmconn.Listener
	var c net.Conn
	var filling []int
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
		fmt.Println(class(err))
	}
	if c != nil {
		c.Close()
	}
	if l != nil {
		l.Close()
	}
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
						if got = h.call("accept"); !strings.Contains(got, "too many open files") {
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

// somebodyElse starts a helper as another user, who needs a copy of this binary that
// he may run.
func somebodyElse(t *testing.T) func(t *testing.T, s shape) *helper {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot run a process as another user")
	}
	dir, err := os.MkdirTemp("", "shmconn-somebody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/shmconn.test", bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, s shape) *helper {
		return startBinary(t, dir+"/shmconn.test", &syscall.Credential{Uid: somebody, Gid: somebody}, "agent", s)
	}
}

// TestSomebodyElse has connections between two users end in all ways: it leaves
// nothing, though neither may remove the other's files.
func TestSomebodyElse(t *testing.T) {
	start := somebodyElse(t)
	for _, s := range []shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			h := start(t, s)
			name := newName()
			h.do("listenmode %s %d", name, 0o666)
			d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { return uid == somebody }}
			dial := func() *shmconn.Conn {
				t.Helper()
				c, err := d.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			files := func() (n int) {
				for _, f := range listDir(os.Getenv("SHMCONN_DIR")) {
					if strings.HasPrefix(f, "shmconn."+name+"@") {
						n++
					}
				}
				return n
			}

			closed := dial()
			h.do("accept")
			closed.Write(pattern(0, 3000))
			h.do("read 0 3000")
			h.do("write 0 3000")
			h.do("close 0")
			got, err := io.ReadAll(closed)
			if len(got) != 3000 || err != nil {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			checkPattern(t, got, 0)
			if pid, uid, gid := closed.PeerCred(); pid != h.pid || uid != somebody || gid != somebody {
				t.Errorf("PeerCred() = %d, %d, %d", pid, uid, gid)
			}
			closed.Close()
			if n := files(); n != 1 { // the socket
				t.Errorf("%d files", n)
			}

			killed, waiting := dial(), dial()
			h.do("accept")
			h.do("write 1 100")
			done := blocked(waiting, func() {
				_, err := waiting.Read(make([]byte, 8))
				wantErr(t, "Read of who was in the backlog", err, "read ECONNRESET")
			})
			h.kill()
			<-done
			if got, err := io.ReadAll(killed); len(got) != 100 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			_, err = killed.Write([]byte("x"))
			wantErr(t, "Write", err, "write EPIPE")
			killed.Close()
			waiting.Close()

			// What he has left is not ours to take.
			_, err = d.Dial(name)
			wantErr(t, "Dial of a stale name", err, "dial ECONNREFUSED")
			_, err = shmconn.Dial(name)
			wantErr(t, "Dial of another user's name", err, "dial permission")
			_, err = shmconn.Listen(name)
			wantErr(t, "Listen on another user's name", err, "listen permission")
			if n := files(); n != 1 {
				t.Errorf("%d files", n)
			}
			// It is his.
			h = start(t, s)
			h.do("listen %s", name)
			h.do("unlisten")
			if n := files(); n != 0 {
				t.Errorf("%d files", n)
			}
		})
	}
	t.Run("a name in use", func(t *testing.T) {
		h := start(t, shape{Ring: 4096})
		name := newName()
		h.do("listen %s", name)
		_, err := shmconn.Listen(name)
		if got := class(err); got != "EADDRINUSE" && got != "permission" {
			t.Errorf("Listen: %s", got)
		}
		h.do("unlisten")

		l := shape{Ring: 4096}.mustListen(t, name)
		if got := h.call("listen %s", name); got != "permission" && got != "EADDRINUSE" {
			t.Errorf("another user's Listen: %s", got)
		}
		polite(t, shape{Ring: 4096}, l)
	})
	t.Run("modes", func(t *testing.T) { // so that others may not do by hand what Dial refuses
		name := newName()
		l := shape{Ring: 4096}.mustListen(t, name)
		for _, file := range []string{"", "@sock"} {
			info, err := os.Stat(unixShape.path("shmconn." + name + file))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("shmconn.NAME%s: %v, %v", file, info.Mode(), err)
			}
		}
		polite(t, shape{Ring: 4096}, l)
	})
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
