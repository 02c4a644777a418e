//go:build linux

package close

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// isDone reports whether the channel is closed now.
func isDone(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// doneWaits counts the goroutines behind Done.
func doneWaits() (n int) {
	for _, g := range shmtest.Goroutines() {
		if strings.Contains(g, ".awaitEnd") {
			n++
		}
	}
	return n
}

// ends are the ways of the other end to go.
var ends = []struct{ order, read string }{
	{"close", "EOF"},
	{"abort", "read ECONNRESET"},
}

// TestDone has the other end go while bytes of it lie here unread, and others
// do not.
func TestDone(t *testing.T) {
	for _, end := range ends {
		t.Run(end.order, func(t *testing.T) {
			onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
				ch := c.Done()
				if c.Done() != ch {
					t.Error("another channel")
				}
				other("write", 1000)
				other("closewrite", 0)
				time.Sleep(5 * time.Millisecond)
				if isDone(ch) {
					t.Error("done after CloseWrite")
				}
				other(end.order, 0)
				<-ch
				_, err := c.TryWrite([]byte("x")) // at once
				shmtest.WantErr(t, "TryWrite", err, "write EPIPE")
				got, err := io.ReadAll(c)
				shmtest.CheckPattern(t, got, 0)
				if len(got) != 1000 || err != nil {
					t.Errorf("ReadAll: %d bytes, %v", len(got), err)
				}
				if !isDone(c.Done()) {
					t.Error("no longer done")
				}
				c.Close()
				shmtest.Eventually(func() bool { return doneWaits() == 0 })
			})
			onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
				other(end.order, 0)
				<-c.Done() // called afterwards
				_, err := c.TryRead(make([]byte, 1))
				shmtest.WantErr(t, "TryRead", err, end.read)
			})
		})
	}
}

// TestDoneKilled kills the other end.
func TestDoneKilled(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		ch := c.Done()
		h.Do("write 0 100")
		h.Kill()
		<-ch
		got, err := io.ReadAll(c)
		shmtest.WantErr(t, "ReadAll", err, "read ECONNRESET")
		shmtest.CheckPattern(t, got, 0)
		if len(got) != 100 {
			t.Errorf("read %d bytes, want 100", len(got))
		}
		shmtest.WantDead(t, c)
	})
}

// TestDonePrompt takes the time until the end shows, while unread bytes lie in
// both rings and a Write waits.
func TestDonePrompt(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		var late []time.Duration
		for range 15 {
			a, b, stop, err := s.Connect()
			if err != nil {
				t.Fatal(err)
			}
			x, y := a.(*shmconn.Conn), b.(*shmconn.Conn)
			ch := x.Done()
			y.Write(make([]byte, 100))
			done := shmtest.Blocked(x, func() { x.Write(make([]byte, 2*s.RingSize())) })
			start := time.Now()
			y.Abort()
			<-ch
			late = append(late, time.Since(start))
			<-done
			stop()
		}
		slices.Sort(late)
		t.Logf("noticed after %v, at most %v", late[len(late)/2], late[len(late)-1])
		if late[len(late)/2] > 50*time.Millisecond {
			t.Errorf("noticed too late: %v", late)
		}
	})
}

// TestDoneWhileBusy has calls of all kinds go on beside Done, of which none is
// disturbed.
func TestDoneWhileBusy(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		chA, chB := a.Done(), b.Done()
		var wg sync.WaitGroup
		const total = 200_000
		send := func(c *shmconn.Conn) {
			for off := 0; off < total; off += 500 {
				if _, err := c.Write(shmtest.Pattern(off, 500)); err != nil {
					t.Error(err)
				}
				if off%10_000 == 0 {
					time.Sleep(time.Millisecond) // so that the other parks
				}
			}
		}
		receive := func(c *shmconn.Conn) {
			got := make([]byte, total)
			if _, err := io.ReadFull(c, got); err != nil {
				t.Error(err)
			}
			shmtest.CheckPattern(t, got, 0)
		}
		wg.Go(func() { send(a) })
		wg.Go(func() { send(b) })
		wg.Go(func() { receive(a) })
		wg.Go(func() { receive(b) })
		wg.Wait()
		if isDone(chA) || isDone(chB) {
			t.Error("done, and both ends are open")
		}

		// Both directions wait while the peer goes.
		var readErr, writeErr error
		reading := shmtest.Blocked(a, func() { _, readErr = a.Read(make([]byte, 1)) })
		writing := shmtest.Blocked(a, func() { _, writeErr = a.Write(make([]byte, 2*s.RingSize())) })
		b.Close()
		<-chA
		<-chB
		<-reading
		<-writing
		shmtest.WantErr(t, "Read", readErr, "EOF")
		shmtest.WantErr(t, "Write", writeErr, "write EPIPE")
	})
}

// TestDoneOwn closes this end, before and after the call.
func TestDoneOwn(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		for _, how := range []func(*shmconn.Conn) error{(*shmconn.Conn).Close, (*shmconn.Conn).Abort} {
			a, b := s.ShmPair(t)
			ch := a.Done()
			how(a)
			<-ch
			if how(b); !isDone(b.Done()) {
				t.Error("not done after Close")
			}
			shmtest.Eventually(func() bool { return doneWaits() == 0 })
		}

		// At the same time, where the descriptor must not be another's by now.
		for range 100 {
			a, _, stop, err := s.Connect()
			if err != nil {
				t.Fatal(err)
			}
			c := a.(*shmconn.Conn)
			got := make(chan (<-chan struct{}), 1)
			go func() { got <- c.Done() }()
			c.Close()
			<-<-got
			stop()
		}
	})
}

// TestDoneGuard has the peer go while a Guard of its keeps the memory.
func TestDoneGuard(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	inside, leave := make(chan bool), make(chan bool)
	go b.Guard(func() { close(inside); <-leave })
	<-inside
	b.Close()
	<-a.Done()
	close(leave)
}

// TestDoneDropped drops this end without a Close.
func TestDoneDropped(t *testing.T) {
	a, b, _, err := shmtest.Shape{}.Connect()
	if err != nil {
		t.Fatal(err)
	}
	ch := a.(*shmconn.Conn).Done()
	a = nil
	shmtest.Eventually(func() bool { runtime.GC(); return isDone(ch) })
	b.Close()
}

// TestDoneBubble calls Done in a bubble, and selects on it inside and outside.
func TestDoneBubble(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	var ch <-chan struct{}
	shmtest.InBubble(t, func() {
		ch = a.Done()
		if isDone(ch) {
			t.Error("done at once")
		}
		b.Close()
		<-ch
	})
	<-ch
	c, _ := shmtest.Shape{}.ShmPair(t)
	ch = c.Done()
	shmtest.InBubble(t, func() { c.Close(); <-ch })
}

// TestDoneScarce calls Done where no descriptor is left.
func TestDoneScarce(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if p, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != syscall.EMFILE {
		unix.Close(p)
		t.Fatalf("epoll_create1: %v, want EMFILE", err)
	}
	ch := a.Done()
	time.Sleep(5 * time.Millisecond)
	if isDone(ch) {
		t.Error("done at once")
	}
	start := time.Now()
	b.Close()
	<-ch
	if d := time.Since(start); d > 200*time.Millisecond {
		t.Errorf("noticed after %v", d)
	}
}
