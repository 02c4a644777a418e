//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var long = flag.Bool("long", os.Getenv("SHMCONN_FULL") != "", "the full number of rounds")

// rounds returns how often a test does a thing.
func rounds(usual, full int) int {
	switch {
	case *long:
		return full
	case testing.Short():
		return max(1, usual/10)
	}
	return usual
}

// An oldListener is one that can be taken over, in Accept.
type oldListener struct {
	*Listener
	ended chan error // what Accept has returned
}

// listenHere makes a listener with the name "feed" in the working directory,
// which gives up a successor after a time.
func listenHere(t *testing.T, timeout time.Duration) *oldListener {
	t.Helper()
	l, err := Listen("./feed", ListenOptions{RingSize: 1 << 16, Backlog: 8, Mode: 0o600, TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	l.successorTimeout = timeout
	old := &oldListener{l, make(chan error, 1)}
	go func() {
		_, _, err := l.Accept()
		old.ended <- err
	}()
	t.Cleanup(func() { l.Close(); l.Close() })
	return old
}

// wantEnded has Accept return soon, because the listener is closed.
func (l *oldListener) wantEnded(t *testing.T) {
	t.Helper()
	select {
	case err := <-l.ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Accept: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Accept of a listener that was taken over waits for 30 s")
	}
}

// A newcomer is played by hand.
type newcomer struct {
	t    *testing.T
	conn int
}

// newNewcomer asks the listener of listenHere for its socket.
func newNewcomer(t *testing.T) *newcomer {
	t.Helper()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &newcomer{t, conn}
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: "shmconn.feed@sock"}); err != nil {
		t.Fatal(err)
	}
	if err := say(conn, asksForSocket, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// hears returns what comes next. A descriptor that comes with it is closed.
func (p *newcomer) hears() (kind byte) {
	p.t.Helper()
	poll := []unix.PollFd{{Fd: int32(p.conn), Events: unix.POLLIN}}
	for {
		kind, sock, err := hearNow(p.conn)
		if err == nil {
			if sock >= 0 {
				unix.Close(sock)
			}
			return kind
		}
		if err != unix.EAGAIN {
			p.t.Fatal(err)
		}
		if n, err := unix.Poll(poll, 30000); n == 0 && err == nil {
			p.t.Fatal("no message for 30 s")
		}
	}
}

func (p *newcomer) wantHears(want byte) {
	p.t.Helper()
	if kind := p.hears(); kind != want {
		p.t.Fatalf("the newcomer hears %q, want %q", kind, want)
	}
}

func (p *newcomer) close() { unix.Close(p.conn) }

// asked asks for the socket until it is given: not while another newcomer is
// being given up.
func asked(t *testing.T) *newcomer {
	t.Helper()
	for start := time.Now(); time.Since(start) < 30*time.Second; {
		p := newNewcomer(t)
		switch kind := p.hears(); kind {
		case givesSocket:
			return p
		case notNow:
			p.close()
		default:
			t.Fatalf("the newcomer hears %q", kind)
		}
	}
	t.Fatal("no socket for 30 s")
	return nil
}

// TestTakeOverGivenUp has newcomers say that they have the socket about when
// the listener gives them up: both have to believe the same. A newcomer whose
// message was sent listens, so the old listener ends, and does not tell it to
// ask again. One whose message cannot be sent is told to ask again, and the old
// one goes on.
func TestTakeOverGivenUp(t *testing.T) {
	const timeout = time.Millisecond
	for _, tt := range []struct {
		what   string
		held   bool // the listener is held up after its last look for the message
		rounds int
	}{
		{"held up", true, rounds(200, 10000)},
		{"not held up", false, rounds(1000, 100000)},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Chdir(t.TempDir())
			var old *oldListener
			outcomes := make(map[string]int)
			// Each newcomer is somewhat later than one that was in time, and earlier
			// than one that was not.
			wait := timeout
			for i := range tt.rounds {
				if old == nil {
					old = listenHere(t, timeout)
				}
				p := asked(t)
				if tt.held {
					old.mu.Lock()
				}
				for start := time.Now(); time.Since(start) < wait; {
				}
				sent := say(p.conn, hasSocket, nil)
				if tt.held {
					old.mu.Unlock()
				}
				if sent != nil && sent != unix.EPIPE {
					t.Fatal(sent)
				}
				step := time.Duration(rand.IntN(20)) * time.Microsecond
				if tt.held {
					step *= 20
				}
				switch heard := p.hears(); {
				case sent == nil && heard == theEnd:
					outcomes["the newcomer listens"]++
					old.wantEnded(t)
					old = nil
					wait = min(wait+step, time.Second)
				case sent != nil && heard == notNow:
					outcomes["the old one listens"]++
					p.wantHears(theEnd)
					if old.Stats().Closed {
						t.Fatalf("round %d: the newcomer was told to ask again by a listener that is closed", i)
					}
					wait = max(wait-step, 0)
				case sent == nil && heard == notNow:
					outcomes["both listen"]++
					wait = max(wait-step, 0)
				default:
					t.Fatalf("round %d: the newcomer says that it has the socket: %v, and hears %q", i, sent, heard)
				}
				p.close()
			}
			t.Logf("figure: %v", outcomes)
			if n := outcomes["both listen"]; n > 0 {
				t.Errorf("after %d of %d take-overs both listened", n, tt.rounds)
			} else if len(outcomes) != 2 {
				t.Errorf("all take-overs have ended alike: %v", outcomes)
			}
		})
	}
}

// TestHearEnd has messages come right before the end. The kernel looks for a
// message first, and for the end then: so it can say that there is nothing but
// the end when both have come in between.
func TestHearEnd(t *testing.T) {
	conns, closed := make(chan int), make(chan struct{})
	defer close(conns)
	go func() {
		for conn := range conns {
			say(conn, notNow, nil)
			unix.Close(conn)
			closed <- struct{}{}
		}
	}()
	n := rounds(100000, 2000000)
	missed := 0
	for range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		conns <- pair[1]
		var kind byte
		for err = unix.EAGAIN; err == unix.EAGAIN; {
			kind, _, err = hearNow(pair[0])
		}
		if kind != notNow || err != nil {
			missed++
		}
		<-closed
		unix.Close(pair[0])
	}
	if missed > 0 {
		t.Errorf("%d of %d messages were not heard", missed, n)
	}
}

// locked reports whether some process has the lock of listenHere's name.
func locked(t *testing.T) bool {
	t.Helper()
	f, err := os.Open("shmconn.feed")
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
}

// TestTakeOverClosing closes a listener while a newcomer has its socket, and
// holds it up in its Close until it would have given up the newcomer: that is
// not told to ask again, because it would drop the backlog, and is told nothing
// before the lock is free.
func TestTakeOverClosing(t *testing.T) {
	for _, confirms := range []bool{false, true} {
		t.Chdir(t.TempDir())
		old := listenHere(t, 10*time.Millisecond)
		p := asked(t)
		old.mu.Lock()
		sock := old.sockets[0]
		old.mu.Unlock()
		holding, release, released := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(released)
			sock.raw.Control(func(uintptr) { // Close waits for this
				close(holding)
				<-release
			})
		}()
		<-holding
		if confirms {
			if err := say(p.conn, hasSocket, nil); err != nil {
				t.Fatal(err)
			}
		}
		closed := make(chan error)
		go func() { closed <- old.Close() }()
		for start := time.Now(); time.Since(start) < 100*time.Millisecond; time.Sleep(time.Millisecond) {
			if kind, _, err := hearNow(p.conn); err != unix.EAGAIN {
				t.Errorf("confirms %t: the newcomer hears %q, %v of a listener that has not let go of its socket", confirms, kind, err)
				break
			}
		}
		close(release)
		<-released
		p.wantHears(theEnd)
		if locked(t) {
			t.Errorf("confirms %t: the listener has told the newcomer that it has let go, and has the lock", confirms)
		}
		if err := <-closed; err != nil {
			t.Errorf("confirms %t: Close: %v", confirms, err)
		}
		old.wantEnded(t)
		p.close()
	}
}

// TestTakeOverClosedEarly closes a listener that a newcomer has asked for its
// socket, and that waits for a dialer with a spare before it gives it: the
// newcomer is told to ask again, and not that nobody hands anything over.
func TestTakeOverClosedEarly(t *testing.T) {
	t.Chdir(t.TempDir())
	for range rounds(50, 1000) {
		old := listenHere(t, takeOverTimeout)
		old.spares.n.Add(1) // until Close
		p := newNewcomer(t)
		for waits := false; !waits; time.Sleep(time.Millisecond) {
			old.mu.Lock()
			waits = old.shared
			old.mu.Unlock()
		}
		old.Close()
		p.wantHears(notNow)
		p.wantHears(theEnd)
		p.close()
		old.wantEnded(t)
	}
}
