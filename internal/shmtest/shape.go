//go:build linux

package shmtest

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"shmconn"
)

// A Shape is a way to make connections. The zero shape is shm with all
// defaults.
type Shape struct {
	Net        string // "", the library, or "unix", a socket of package net
	Ring       int
	Anonymous  bool
	ListenPoll time.Duration
	DialPoll   time.Duration
	Swap       bool // the first of a pair is the accepted end
	Spares     int  // SpareBytes of both ends
	SpareTime  time.Duration
	Mode       os.FileMode // of the listener's files
}

// Network is the name of the network in an address.
func (s Shape) Network() string {
	if s.Net == "" {
		return Network
	}
	return s.Net
}

// Network is the network of the library's addresses: "shm", or "unix" in a
// binary that goes over Unix sockets instead (tag shmconn_sockets).
var Network = shmconn.Addr{}.Network()

// Sockets says whether the library goes over Unix sockets instead.
var Sockets = Network == "unix"

// SkipSockets skips a test that is not about what the library does over Unix
// sockets.
func SkipSockets(t testing.TB, why string) {
	t.Helper()
	if Sockets {
		t.Skip("over Unix sockets: " + why)
	}
}

func (s Shape) String() string {
	str := "net=" + s.Network()
	if s.Net != "unix" {
		str += ",ring=" + strconv.Itoa(s.RingSize()) + ",seg="
		if s.Anonymous {
			str += "anonymous"
		} else {
			str += "named"
		}
		str += ",poll=" + PollName(s.DialPoll)
		if s.ListenPoll != s.DialPoll {
			str += "+" + PollName(s.ListenPoll)
		}
	}
	if s.Swap {
		str += ",ends=swapped"
	}
	if s.Spares < 0 {
		str += ",spares=none"
	}
	return str
}

// PollName writes a BusyPoll.
func PollName(d time.Duration) string {
	if d < 0 {
		return "always"
	}
	if d == 0 {
		return "default"
	}
	return d.String()
}

// RingSize is the size of the ring that the shape gets.
func (s Shape) RingSize() int {
	if s.Ring == 0 {
		return shmconn.DefaultRingSize
	}
	return s.Ring
}

// Poll returns s with BusyPoll d at both ends.
func (s Shape) Poll(d time.Duration) Shape {
	s.ListenPoll, s.DialPoll = d, d
	return s
}

// A Conn is what *net.UnixConn and *shmconn.Conn have in common.
type Conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// A Listener is what *net.UnixListener and *shmconn.Listener have in common.
type Listener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// Path returns the Unix socket's path for name.
func (s Shape) Path(name string) string { return filepath.Join(os.Getenv("SHMCONN_DIR"), name) }

// spares returns SpareBytes. In an environment that says so, the shapes that
// say nothing of spares keep none.
func (s Shape) spares() int {
	if s.Spares == 0 && os.Getenv("SHMCONN_TEST_SPARES") == "off" {
		return -1
	}
	return s.Spares
}

// Listen listens on name, with the shape.
func (s Shape) Listen(name string) (Listener, error) {
	if s.Net == "unix" {
		l, err := net.Listen("unix", s.Path(name))
		if err != nil {
			return nil, err
		}
		return l.(*net.UnixListener), nil
	}
	lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll, SpareBytes: s.spares(), SpareTime: s.SpareTime, Mode: s.Mode}
	l, err := lc.Listen(name)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// DialContext dials name, with the shape.
func (s Shape) DialContext(ctx context.Context, name string, timeout time.Duration) (Conn, error) {
	if s.Net == "unix" {
		c, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "unix", s.Path(name))
		if err != nil {
			return nil, err
		}
		return c.(*net.UnixConn), nil
	}
	c, err := (&shmconn.Dialer{BusyPoll: s.DialPoll, Timeout: timeout, SpareBytes: s.spares(), SpareTime: s.SpareTime}).DialContext(ctx, "shm", name)
	if err != nil {
		return nil, err
	}
	return c.(*shmconn.Conn), nil
}

// Dial dials name, with the shape.
func (s Shape) Dial(name string) (Conn, error) {
	return s.DialContext(context.Background(), name, 0)
}

// Connect returns the two ends of a connection, and a function that closes
// both.
func (s Shape) Connect() (a, b Conn, stop func(), err error) {
	l, err := s.Listen(NewName())
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	a, err = s.Dial(NameOf(l))
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := l.Accept()
	if err != nil {
		a.Close()
		return nil, nil, nil, err
	}
	b = c.(Conn)
	if s.Swap {
		a, b = b, a
	}
	return a, b, func() { a.Close(); b.Close() }, nil
}

// NameOf returns the name that l listens on.
func NameOf(l net.Listener) string { return filepath.Base(l.Addr().String()) }

// Pair returns the two ends of a connection, closed when the test ends.
func (s Shape) Pair(t testing.TB) (a, b Conn) {
	t.Helper()
	a, b, stop, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return a, b
}

// ShmPair is Pair for what only a *shmconn.Conn has.
func (s Shape) ShmPair(t testing.TB) (a, b *shmconn.Conn) {
	t.Helper()
	x, y := s.Pair(t)
	return x.(*shmconn.Conn), y.(*shmconn.Conn)
}

// MustListen listens until the test ends.
func (s Shape) MustListen(t testing.TB, name string) Listener {
	t.Helper()
	l, err := s.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// MustDial dials a connection that is closed when the test ends.
func (s Shape) MustDial(t testing.TB, name string) Conn {
	t.Helper()
	c, err := s.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// MustAccept accepts a connection that is closed when the test ends.
func MustAccept(t testing.TB, l Listener) Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(Conn)
}

// Values of BusyPoll.
const (
	PollAlways = -1 * time.Nanosecond // never parks
	PollNever  = 1 * time.Nanosecond  // parks at once
)

// UnixShape is a Unix socket.
var UnixShape = Shape{Net: "unix"}

// Deadlines: one that has passed, and none.
var (
	Past       = time.Unix(1, 0)
	NoDeadline time.Time
)

// SmallShapes are the shapes that quick tests run on.
var SmallShapes = []Shape{
	{},
	{Ring: 4096, Anonymous: true, Swap: true},
	Shape{Ring: 4096}.Poll(PollAlways),
	Shape{Ring: 8192, Anonymous: true}.Poll(PollNever),
}

// Seeded returns a source of random numbers and logs how to have it again.
func Seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// OnShapes runs f once for each shape.
func OnShapes(t *testing.T, shapes []Shape, f func(t *testing.T, s Shape)) {
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) { f(t, s) })
	}
}

// AcrossShapes are the shapes that tests with a second process run on. With its
// ends swapped, the other process is the dialer.
var AcrossShapes = []Shape{
	{},
	{Ring: 4096, Anonymous: true, Swap: true},
	Shape{Ring: 4096, Swap: true}.Poll(PollAlways),
	Shape{Ring: 8192, Anonymous: true}.Poll(PollNever),
}

// HostileShapes are those that a RawPeer lies to.
var HostileShapes = []Shape{
	{Ring: 4096},
	Shape{Ring: 4096}.Poll(PollAlways),
	Shape{Ring: 4096}.Poll(PollNever),
}
