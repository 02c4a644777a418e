//go:build linux

package reuse

import (
	"testing"
	"testing/synctest"
	"time"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// aSpare is a shape of which a process keeps one spare, and whose dials wait
// for as long as they are told.
var aSpare = shmtest.Shape{Ring: 1 << 20, Spares: 3 << 20, DialPoll: shmtest.PollAlways}

// awaitSpares makes dials wait for a spare for d. There are none at first.
func awaitSpares(t *testing.T, d time.Duration) {
	before := handshake.SpareWait
	handshake.SpareWait = d
	handshake.DropSpares()
	t.Cleanup(func() { handshake.SpareWait = before })
}

// halfClosed makes a connection that the dialer alone has closed, and returns
// the other end.
func halfClosed(t *testing.T, s shmtest.Shape, l shmtest.Listener) *shmconn.Conn {
	t.Helper()
	c := s.MustDial(t, shmtest.NameOf(l))
	a := shmtest.MustAccept(t, l).(*shmconn.Conn)
	c.Close()
	return a
}

// TestReuseAwaited dials while the only spare has not been closed by the
// listener: the dial waits for that.
func TestReuseAwaited(t *testing.T) {
	shmtest.SkipSockets(t, "nothing is used again")
	awaitSpares(t, time.Hour)
	l := aSpare.MustListen(t, shmtest.NewName())
	for i := range uint64(10) {
		a := halfClosed(t, aSpare, l)
		if n := a.Stats().Reused; n != 2*i {
			t.Fatalf("used for the %d. time, want %d", n, 2*i)
		}
		time.AfterFunc(5*time.Millisecond, func() { a.Close() })
		c := aSpare.MustDial(t, shmtest.NameOf(l))
		if n := reusedBy(c); n != 2*i+1 {
			t.Fatalf("used for the %d. time, want %d", n, 2*i+1)
		}
		shmtest.MustAccept(t, l).Close()
		c.Close()
	}
}

// TestReuseAwaitedInVain lets a dial wait for a spare that does not come: no
// other waits until one has come.
func TestReuseAwaitedInVain(t *testing.T) {
	shmtest.SkipSockets(t, "nothing is used again")
	awaitSpares(t, 20*time.Millisecond)
	l := aSpare.MustListen(t, shmtest.NewName())
	halfClosed(t, aSpare, l)
	start := time.Now()
	halfClosed(t, aSpare, l)
	if took := time.Since(start); took < handshake.SpareWait {
		t.Errorf("the dial took %v, and has not waited", took)
	}
	handshake.SpareWait = time.Hour
	for range 3 {
		if a := halfClosed(t, aSpare, l); a.Stats().Reused != 0 {
			t.Error("what the listener has not closed was used again")
		}
	}
	// All others were given up for this one.
	halfClosed(t, aSpare, l).Close()
	a := halfClosed(t, aSpare, l)
	if a.Stats().Reused != 1 {
		t.Error("what was ready was not used again")
	}
	time.AfterFunc(5*time.Millisecond, func() { a.Close() })
	if a := halfClosed(t, aSpare, l); a.Stats().Reused != 2 {
		t.Error("a dial did not wait, although the one before has found a spare")
	}
}

// TestReuseAwaitedByOne has two dials find no spare ready: one of them waits.
func TestReuseAwaitedByOne(t *testing.T) {
	shmtest.SkipSockets(t, "nothing is used again")
	awaitSpares(t, time.Hour)
	l := aSpare.MustListen(t, shmtest.NewName())
	a := halfClosed(t, aSpare, l)
	dialed := make(chan shmtest.Conn)
	for range 2 {
		go func() { dialed <- aSpare.MustDial(t, shmtest.NameOf(l)) }()
	}
	if n := reusedBy(<-dialed); n != 0 {
		t.Errorf("used for the %d. time, want a new one", n)
	}
	select {
	case <-dialed:
		t.Error("nobody waits")
		return
	case <-time.After(5 * time.Millisecond):
	}
	a.Close()
	if n := reusedBy(<-dialed); n != 1 {
		t.Errorf("used for the %d. time, want 1", n)
	}
}

// TestReuseNotAwaited dials where no dial waits for a spare: they would not
// return.
func TestReuseNotAwaited(t *testing.T) {
	shmtest.SkipSockets(t, "nothing is used again")
	awaitSpares(t, time.Hour)
	more, never := aSpare, aSpare
	more.Spares = 5 << 20
	never.DialPoll = shmtest.PollNever
	for name, s := range map[string]shmtest.Shape{"room for one more": more, "BusyPoll: 1": never} {
		handshake.DropSpares()
		l := s.MustListen(t, shmtest.NewName())
		halfClosed(t, s, l)
		if c := s.MustDial(t, shmtest.NameOf(l)); reusedBy(c) != 0 {
			t.Errorf("%s: what the listener has not closed was used again", name)
		}
	}
	handshake.DropSpares()
	synctest.Test(t, func(t *testing.T) {
		l := aSpare.MustListen(t, shmtest.NewName())
		halfClosed(t, aSpare, l)
		if c := aSpare.MustDial(t, shmtest.NameOf(l)); reusedBy(c) != 0 {
			t.Errorf("in a bubble: what the listener has not closed was used again")
		}
	})
	other := aSpare.MustListen(t, shmtest.NewName())
	if c := aSpare.MustDial(t, shmtest.NameOf(other)); reusedBy(c) != 0 {
		t.Error("another listener's memory was used again")
	}
}
