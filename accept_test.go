//go:build linux

package shmconn_test

import (
	"errors"
	"math"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"shmconn/internal/shmtest"
)

// accepted is what an Accept has returned.
type accepted struct {
	c   net.Conn
	err error
}

// acceptSoon starts an Accept.
func acceptSoon(l net.Listener) <-chan accepted {
	ch := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		ch <- accepted{c, err}
	}()
	return ch
}

// inAccept waits until an Accept polls, or is parked, and returns which.
func inAccept() (polls bool) {
	shmtest.Eventually(func() bool {
		for _, g := range shmtest.Goroutines() {
			if !strings.Contains(g, "handshake.(*Listener).take(") {
				continue
			}
			polls = strings.Contains(g, "handshake.(*arrival).poll(")
			return polls || strings.Contains(g, "os.(*rawConn).Read(")
		}
		return false
	})
	return polls
}

// acceptPolls returns an Accept on l that polls. It does not while other
// processes want the processors: then it is dialed, and there is another.
func acceptPolls(t *testing.T, s shmtest.Shape, l net.Listener) <-chan accepted {
	for {
		ch := acceptSoon(l)
		if inAccept() {
			return ch
		}
		s.MustDial(t, shmtest.NameOf(l)).Close()
		got := <-ch
		if got.err != nil {
			t.Fatal(got.err)
		}
		got.c.Close()
		time.Sleep(10 * time.Millisecond)
	}
}

// TestAcceptPolls has an Accept poll, which is an hour in that case, and ends
// it by all that can. One that nobody has dialed yet does not poll.
func TestAcceptPolls(t *testing.T) {
	if runtime.NumCPU() < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor: nothing polls for what is not known to be elsewhere")
	}
	if shmtest.Sockets {
		t.Skip("over Unix sockets nothing polls")
	}
	s := shmtest.Shape{Ring: 4096, ListenPoll: time.Hour}
	l := s.MustListen(t, shmtest.NewName())
	first := acceptSoon(l)
	if inAccept() {
		t.Error("an Accept polls before anybody has dialed")
	}
	s.MustDial(t, shmtest.NameOf(l)).Close()
	if got := <-first; got.err != nil {
		t.Fatal(got.err)
	}
	ch := acceptPolls(t, s, l)
	c := s.MustDial(t, shmtest.NameOf(l))
	got := <-ch
	if got.err != nil {
		t.Fatal(got.err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := got.c.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}

	ch = acceptPolls(t, s, l)
	l.SetDeadline(time.Now().Add(time.Millisecond))
	shmtest.WantErr(t, "Accept with a deadline", (<-ch).err, "accept timeout")
	l.SetDeadline(time.Time{})

	ch = acceptPolls(t, s, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	shmtest.WantErr(t, "Accept of a closed listener", (<-ch).err, "accept closed")
}

// TestAcceptParks has dialers come later than Accept polls: the next Accept
// does not poll at all.
func TestAcceptParks(t *testing.T) {
	if shmtest.Sockets {
		t.Skip("over Unix sockets nothing polls")
	}
	s := shmtest.Shape{Ring: 4096, ListenPoll: 30 * time.Millisecond}
	l := s.MustListen(t, shmtest.NewName())
	for range 3 {
		ch := acceptSoon(l)
		if inAccept() {
			t.Error("an Accept polls after one that took longer than that")
		}
		time.Sleep(2 * s.ListenPoll)
		s.MustDial(t, shmtest.NameOf(l)).Close()
		got := <-ch
		if got.err != nil {
			t.Fatal(got.err)
		}
		got.c.Close()
	}
}

// TestAcceptBeforeDialers checks that Accept does not poll for ever where its
// connections do: nobody may ever dial.
func TestAcceptBeforeDialers(t *testing.T) {
	if shmtest.Sockets {
		t.Skip("over Unix sockets nothing polls")
	}
	for _, poll := range []time.Duration{-1, math.MaxInt64} {
		l := shmtest.Shape{Ring: 4096, ListenPoll: poll}.MustListen(t, shmtest.NewName())
		ch := acceptSoon(l)
		if inAccept() {
			t.Errorf("BusyPoll %v: Accept polls before anybody has dialed", poll)
		}
		l.Close()
		if got := <-ch; !errors.Is(got.err, net.ErrClosed) {
			t.Errorf("BusyPoll %v: %v after Close", poll, got.err)
		}
	}
}
