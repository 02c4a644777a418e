//go:build linux

package shmtest

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn"
)

// Where the words of a connection segment are.
const (
	RingA, RingB     = 512, 1024 // dialer to acceptor, acceptor to dialer
	Produced         = 0
	Consumed         = 128
	ConsumerParked   = 256
	ConsumerClosed   = 264
	ConsumerCPU      = 268
	ConsumerCause    = 272
	ProducerParked   = 384
	ProducerClosed   = 392
	ProducerCPU      = 396
	ProducerCause    = 400
	flagsOffset      = 24
	helloText        = "shmconn\x01"
	HelloDescriptors = 3
)

// A RawPeer is a dialer that is not the library's.
type RawPeer struct {
	t    testing.TB
	Size int // of a ring
	ID   [16]byte

	// Descriptors, -1 when closed.
	Sock   int // to the listener
	Seg    int
	bell   int // rung by the acceptor
	Ringer int // rings the acceptor
	// What is for the acceptor, as long as it was not sent.
	hisRinger, HisBell int
}

// RawConnect connects to the listener on name. RawDialer makes all that is
// needed for an introduction, too.
func RawConnect(t testing.TB, name string) *RawPeer {
	t.Helper()
	p := &RawPeer{t: t, Sock: -1, Seg: -1, bell: -1, Ringer: -1, hisRinger: -1, HisBell: -1}
	var err error
	if p.Sock, err = rawConnect(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// rawConnect returns a socket that is connected to the listener on name.
func rawConnect(name string) (int, error) {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: UnixShape.Path("shmconn." + name + "@sock")}); err != nil {
		unix.Close(sock)
		return -1, err
	}
	return sock, nil
}

// RawDialer connects and makes what a dialer hands over, and a segment.
func RawDialer(t testing.TB, name string, s Shape) *RawPeer {
	t.Helper()
	p := RawConnect(t, name)
	p.Size = s.RingSize()
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	for i := range p.ID {
		p.ID[i] = byte(rng.Uint32())
	}
	var err error
	if s.Anonymous {
		p.Seg, err = unix.MemfdCreate("shmconn.raw", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	} else {
		path := UnixShape.Path("shmconn." + name + "@" + hex.EncodeToString(p.ID[:]))
		p.Seg, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
		t.Cleanup(func() { os.Remove(path) }) // unless the acceptor has done so
	}
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	if err := unix.Ftruncate(p.Seg, int64(page+2*p.Size)); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 48)
	e := binary.NativeEndian
	e.PutUint64(header, 0x0a6e6e6f636d6873)
	e.PutUint32(header[8:], 1)
	e.PutUint32(header[12:], uint32(page))
	e.PutUint64(header[16:], uint64(p.Size))
	if s.Anonymous {
		e.PutUint32(header[flagsOffset:], 1)
	}
	copy(header[32:], p.ID[:])
	p.Write(0, header)
	if s.Anonymous {
		if _, err := unix.FcntlInt(uintptr(p.Seg), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			t.Fatal(err)
		}
	}
	p.bell, p.hisRinger = rawPipe(t)
	p.HisBell, p.Ringer = rawPipe(t)
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

// Close closes all that it has.
func (p *RawPeer) Close() {
	for _, fd := range []*int{&p.Sock, &p.Seg, &p.bell, &p.Ringer, &p.hisRinger, &p.HisBell} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// Hello returns the message of a proper introduction and its descriptors.
func (p *RawPeer) Hello() (message []byte, fds []int) {
	return append([]byte(helloText), p.ID[:]...), []int{p.Seg, p.hisRinger, p.HisBell}
}

// Say sends a message with descriptors.
func (p *RawPeer) Say(message []byte, fds []int) {
	p.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(p.Sock, message, oob, nil, unix.MSG_NOSIGNAL); err != nil {
		p.t.Fatalf("sendmsg: %v", err)
	}
}

// HandOver closes what the acceptor has got.
func (p *RawPeer) HandOver() {
	unix.Close(p.Sock)
	unix.Close(p.hisRinger)
	unix.Close(p.HisBell)
	p.Sock, p.hisRinger, p.HisBell = -1, -1, -1
}

// Handshake does what the library does.
func (p *RawPeer) Handshake() {
	p.t.Helper()
	p.Say(p.Hello())
	p.HandOver()
}

// Write stores b into the segment.
func (p *RawPeer) Write(off int, b []byte) {
	p.t.Helper()
	if n, err := unix.Pwrite(p.Seg, b, int64(off)); n != len(b) || err != nil {
		p.t.Fatalf("pwrite at %d: %d, %v", off, n, err)
	}
}

// Read loads n bytes of the segment.
func (p *RawPeer) Read(off, n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if m, err := unix.Pread(p.Seg, b, int64(off)); m != n || err != nil {
		p.t.Fatalf("pread at %d: %d, %v", off, m, err)
	}
	return b
}

// Put stores a word of the segment.
func (p *RawPeer) Put(off int, v uint64) {
	p.t.Helper()
	p.Write(off, binary.NativeEndian.AppendUint64(nil, v))
}

// Get loads a word of the segment.
func (p *RawPeer) Get(off int) uint64 {
	p.t.Helper()
	return binary.NativeEndian.Uint64(p.Read(off, 8))
}

// DataA and DataB are where the rings begin.
func (p *RawPeer) DataA() int { return os.Getpagesize() }
func (p *RawPeer) DataB() int { return os.Getpagesize() + p.Size }

// Truncate gives the segment another size.
func (p *RawPeer) Truncate(n int) {
	p.t.Helper()
	if err := unix.Ftruncate(p.Seg, int64(n)); err != nil {
		p.t.Fatal(err)
	}
}

// Knock rings the acceptor's doorbell.
func (p *RawPeer) Knock() {
	p.t.Helper()
	if _, err := unix.Write(p.Ringer, []byte{1}); err != nil && err != unix.EAGAIN && err != unix.EPIPE {
		p.t.Fatal(err)
	}
}

// Look empties its own doorbell. It returns how often that was rung, and
// whether the acceptor is gone.
func (p *RawPeer) Look() (rings int, gone bool) {
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

// Dropped waits until the acceptor has closed all that it was given.
func (p *RawPeer) Dropped() {
	Eventually(func() bool { _, gone := p.Look(); return gone })
}

// RawPair returns a raw peer and the Conn at the other end.
func RawPair(t testing.TB, s Shape) (*RawPeer, *shmconn.Conn) {
	t.Helper()
	name := NewName()
	l := s.MustListen(t, name)
	defer l.Close()
	p := RawDialer(t, name, s)
	p.Handshake()
	return p, MustAccept(t, l).(*shmconn.Conn)
}

// HungUp waits until the listener has closed p's socket.
func (p *RawPeer) HungUp() {
	p.t.Helper()
	fds := []unix.PollFd{{Fd: int32(p.Sock), Events: unix.POLLRDHUP}}
	for {
		if n, err := unix.Poll(fds, -1); err != unix.EINTR {
			if n != 1 || err != nil {
				p.t.Fatal(n, err)
			}
			return
		}
	}
}

// TrySay is Say to a listener that may be fed up.
func (p *RawPeer) TrySay(message []byte, fds []int) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	unix.Sendmsg(p.Sock, message, oob, nil, unix.MSG_NOSIGNAL)
}

// ClosedWord loads a closed word.
func (p *RawPeer) ClosedWord(off int) uint32 {
	p.t.Helper()
	return binary.NativeEndian.Uint32(p.Read(off, 4))
}
