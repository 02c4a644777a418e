//go:build linux

package close

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// onBoth runs f with an end here, and what the other end is told to do: write
// that many bytes of the pattern, abort, close, closewrite. The other end is in
// this process, and then in another.
func onBoth(t *testing.T, f func(t *testing.T, c *shmconn.Conn, other func(order string, n int))) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		t.Run("process=same", func(t *testing.T) {
			c, o := s.ShmPair(t)
			sent := 0
			f(t, c, func(order string, n int) {
				var err error
				switch order {
				case "write":
					_, err = o.Write(shmtest.Pattern(sent, n))
					sent += n
				case "abort":
					err = o.Abort()
				case "close":
					err = o.Close()
				case "closewrite":
					err = o.CloseWrite()
				}
				if err != nil {
					t.Errorf("other end: %s: %v", order, err)
				}
			})
		})
		t.Run("process=other", func(t *testing.T) {
			c, h := shmtest.Join(t, s)
			f(t, c, func(order string, n int) {
				if order == "write" {
					h.Do("write 0 %d", n)
					return
				}
				h.Do("%s 0", order)
			})
		})
	})
}

// TestAborted has the other end abort while this one waits in each kind of
// call.
func TestAborted(t *testing.T) {
	full := func(c *shmconn.Conn) []byte { return make([]byte, 2*c.Stats().RingSize) }
	for _, tt := range []struct {
		name string
		wait func(c *shmconn.Conn) (int, error)
		want string
	}{
		{"Read", func(c *shmconn.Conn) (int, error) { return c.Read(make([]byte, 8)) }, "read ECONNRESET"},
		{"Peek", func(c *shmconn.Conn) (int, error) { b, err := c.Peek(8); return len(b), err }, "read ECONNRESET"},
		{"WriteTo", func(c *shmconn.Conn) (int, error) { n, err := c.WriteTo(io.Discard); return int(n), err }, "writeto ECONNRESET"},
		{"Write", func(c *shmconn.Conn) (int, error) { return c.Write(full(c)) }, "write EPIPE"},
		{"Reserve", func(c *shmconn.Conn) (int, error) {
			for {
				if n, err := c.TryWrite(full(c)); n == 0 || err != nil {
					break
				}
			}
			b, err := c.Reserve(8)
			return len(b), err
		}, "write EPIPE"},
	} {
		t.Run("wait="+tt.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
				var err error
				done := shmtest.Blocked(c, func() { _, err = tt.wait(c) })
				other("abort", 0)
				<-done
				shmtest.WantErr(t, tt.name, err, tt.want)
				shmtest.WantDead(t, c)
			})
		})
	}
}

// TestAbortedTries has an end that never waits find out.
func TestAbortedTries(t *testing.T) {
	onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
		other("abort", 0)
		var err error
		calls := 0
		for ; err == nil && calls < 1000; calls++ {
			_, err = c.TryRead(make([]byte, 8))
		}
		shmtest.WantErr(t, fmt.Sprintf("TryRead number %d", calls), err, "read ECONNRESET")
		if calls > 64 {
			t.Errorf("TryRead noticed at call %d, want 64 at most", calls)
		}
		shmtest.WantDead(t, c)
	})
	onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
		for {
			if n, err := c.TryWrite(make([]byte, 1<<20)); n == 0 || err != nil {
				break // there is no room, so that the next ones are in vain
			}
		}
		other("abort", 0)
		var err error
		calls := 0
		for ; err == nil && calls < 1000; calls++ {
			_, err = c.TryWrite([]byte("x"))
		}
		shmtest.WantErr(t, fmt.Sprintf("TryWrite number %d", calls), err, "write EPIPE")
		if calls > 64 {
			t.Errorf("TryWrite noticed at call %d, want 64 at most", calls)
		}
		shmtest.WantDead(t, c)
	})
}

// TestAbortedAfterBytes checks that what was written before is read first.
func TestAbortedAfterBytes(t *testing.T) {
	onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
		other("write", 3000)
		other("abort", 0)
		got, err := io.ReadAll(c)
		shmtest.WantErr(t, "ReadAll", err, "read ECONNRESET")
		if len(got) != 3000 {
			t.Errorf("read %d bytes, want 3000", len(got))
		}
		shmtest.CheckPattern(t, got, 0)
		shmtest.WantDead(t, c)
	})
}

// TestAbortedHalf aborts after a direction has come to its end in order.
func TestAbortedHalf(t *testing.T) {
	onBoth(t, func(t *testing.T, c *shmconn.Conn, other func(string, int)) {
		other("write", 10)
		other("closewrite", 0)
		other("abort", 0)
		got, err := io.ReadAll(c)
		if len(got) != 10 || err != nil {
			t.Errorf("read %d bytes, %v, want 10 and the end", len(got), err)
		}
		_, err = c.Write(make([]byte, 2*c.Stats().RingSize)) // waits for room, and so is told
		shmtest.WantErr(t, "Write", err, "write EPIPE")
	})
}

// TestAbort looks at the end that aborts.
func TestAbort(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		var readErr, writeErr error
		reading := shmtest.Blocked(a, func() { _, readErr = a.Read(make([]byte, 8)) })
		writing := shmtest.Blocked(a, func() { _, writeErr = a.Write(make([]byte, 2*s.RingSize())) })
		shmtest.WantErr(t, "Abort", a.Abort(), "ok")
		<-reading
		<-writing
		shmtest.WantErr(t, "Read under way", readErr, "read closed")
		shmtest.WantErr(t, "Write under way", writeErr, "write closed")
		_, err := a.Read(make([]byte, 8))
		shmtest.WantErr(t, "Read after it", err, "read closed")
		shmtest.WantErr(t, "Abort again", a.Abort(), "close closed")
		shmtest.WantErr(t, "Close after it", a.Close(), "close closed")
		_, err = io.Copy(io.Discard, b)
		shmtest.WantErr(t, "the other end's Copy", err, "writeto ECONNRESET")

		a, b = s.ShmPair(t)
		shmtest.WantErr(t, "Close", a.Close(), "ok")
		shmtest.WantErr(t, "Abort after Close", a.Abort(), "close closed")
		_, err = b.Read(make([]byte, 8))
		shmtest.WantErr(t, "the other end's Read after Close and Abort", err, "EOF")
	})
}

// TestAbortRacesClose has both at once: one of them counts, and the other end
// finds what that one stands for.
func TestAbortRacesClose(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		aborted := 0
		for range 200 {
			a, b, stop, err := s.Connect()
			if err != nil {
				t.Fatal(err)
			}
			x, y := a.(*shmconn.Conn), b.(*shmconn.Conn)
			x.Write([]byte("some"))
			errs := make(chan error, 1)
			go func() { errs <- x.Abort() }()
			closeErr := x.Close()
			abortErr := <-errs
			want := "EOF"
			if abortErr == nil {
				aborted++
				want = "read ECONNRESET"
				shmtest.WantErr(t, "Close beside Abort", closeErr, "close closed")
			} else {
				shmtest.WantErr(t, "Abort beside Close", abortErr, "close closed")
				shmtest.WantErr(t, "Close", closeErr, "ok")
			}
			if _, err := io.ReadFull(y, make([]byte, 4)); err != nil {
				t.Errorf("ReadFull: %v", err)
			}
			_, err = y.Read(make([]byte, 1))
			shmtest.WantErr(t, "the other end", err, want)
			stop()
		}
		t.Logf("Abort was first %d times of 200", aborted)
	})
}

// TestAbortInGuard has the peer notice while a Guard keeps this end's memory.
func TestAbortInGuard(t *testing.T) {
	for _, how := range []string{"Abort", "Close"} {
		t.Run(how, func(t *testing.T) {
			shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
				a, b := s.ShmPair(t)
				inside, leave, left := make(chan bool), make(chan bool), make(chan error)
				go func() { left <- a.Guard(func() { close(inside); <-leave }) }()
				<-inside
				want := "EOF"
				if how == "Abort" {
					want = "read ECONNRESET"
					a.Abort()
				} else {
					a.Close()
				}
				b.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err := b.Read(make([]byte, 8))
				shmtest.WantErr(t, "Read", err, want)
				close(leave)
				if err := <-left; err != nil && err != os.ErrClosed {
					t.Errorf("Guard: %v", err)
				}
			})
		})
	}
}
