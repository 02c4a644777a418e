//go:build linux

package kill

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// TestKilledWhileReading kills the peer of calls that wait for it to write.
func TestKilledWhileReading(t *testing.T) {
	calls := []struct {
		name string
		call func(c *shmconn.Conn) error
		want string
	}{
		{"Read", func(c *shmconn.Conn) error { _, err := c.Read(make([]byte, 8)); return err }, "read ECONNRESET"},
		{"Peek", func(c *shmconn.Conn) error { _, err := c.Peek(8); return err }, "read ECONNRESET"},
		{"Discard", func(c *shmconn.Conn) error { _, err := c.Discard(8); return err }, "read ECONNRESET"},
		{"WriteTo", func(c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }, "writeto ECONNRESET"},
		{"WriteTo file", func(c *shmconn.Conn) error {
			f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = c.WriteTo(f)
			return err
		}, "writeto ECONNRESET"},
	}
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		for _, tt := range calls {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				c, h := shmtest.Join(t, s)
				var err error
				done := shmtest.Blocked(c, func() { err = tt.call(c) })
				if s.DialPoll != shmtest.PollAlways {
					shmtest.Eventually(func() bool { return c.Stats().Parks > 0 })
				}
				h.Kill()
				<-done
				shmtest.WantErr(t, tt.name, err, tt.want)
				shmtest.WantDead(t, c)
			})
		}
	})
}

// TestKilledWhileWriting kills the peer of calls that wait for it to read.
func TestKilledWhileWriting(t *testing.T) {
	calls := []struct {
		name string
		call func(c *shmconn.Conn) (int64, error)
		want string
	}{
		{"Write", func(c *shmconn.Conn) (int64, error) { n, err := c.Write(make([]byte, 1<<20)); return int64(n), err }, "write EPIPE"},
		{"ReadFrom", func(c *shmconn.Conn) (int64, error) { return c.ReadFrom(shmtest.Zeros{}) }, "readfrom EPIPE"},
		{"ReadFrom file", func(c *shmconn.Conn) (int64, error) {
			f, err := os.Open("/proc/self/exe")
			if err != nil {
				return 0, err
			}
			defer f.Close()
			return c.ReadFrom(f)
		}, "readfrom EPIPE"},
		{"Reserve", func(c *shmconn.Conn) (int64, error) {
			n, _ := c.TryWrite(make([]byte, 1<<20))
			_, err := c.Reserve(1)
			return int64(n), err
		}, "write EPIPE"},
	}
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		for _, tt := range calls {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				c, h := shmtest.Join(t, s)
				var n int64
				var err error
				done := shmtest.Blocked(c, func() { n, err = tt.call(c) })
				if s.DialPoll != shmtest.PollAlways {
					shmtest.Eventually(func() bool { return c.Stats().Parks > 0 })
				}
				h.Kill()
				<-done
				shmtest.WantErr(t, tt.name, err, tt.want)
				if n < int64(s.RingSize()/2) || n > int64(s.RingSize()) {
					t.Errorf("%s = %d with a ring of %d", tt.name, n, s.RingSize())
				}
				shmtest.WantDead(t, c)
			})
		}
	})
}

// TestKilledBoth kills the peer of a Read and a Write that wait at once.
func TestKilledBoth(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		var rerr, werr error
		r := shmtest.Blocked(c, func() { _, rerr = c.Read(make([]byte, 8)) })
		w := shmtest.Blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)) })
		h.Kill()
		<-r
		<-w
		shmtest.WantErr(t, "Read", rerr, "read ECONNRESET")
		shmtest.WantErr(t, "Write", werr, "write EPIPE")
		shmtest.WantDead(t, c)
	})
}

// TestLastWords checks that what was written before the writer's end is read,
// and what comes after it.
func TestLastWords(t *testing.T) {
	ends := []struct {
		name string
		end  func(h *shmtest.Helper)
		want string // after the data
	}{
		{"kill -9", func(h *shmtest.Helper) { h.Kill() }, "read ECONNRESET"},
		{"return from main", func(h *shmtest.Helper) { h.Send("return"); h.Wait() }, "read ECONNRESET"},
		{"exec", func(h *shmtest.Helper) { h.Send("exec"); h.Stdin.Close(); h.Wait() }, "read ECONNRESET"},
		{"os.Exit", func(h *shmtest.Helper) { h.Fail("os.Exit") }, "read ECONNRESET"},
		{"panic", func(h *shmtest.Helper) { h.Fail("panic") }, "read ECONNRESET"},
		{"log.Fatal", func(h *shmtest.Helper) { h.Fail("log.Fatal") }, "read ECONNRESET"},
		{"Close", func(h *shmtest.Helper) { h.Do("close 0") }, "EOF"},
		{"CloseWrite", func(h *shmtest.Helper) { h.Do("closewrite 0") }, "EOF"},
		{"Close, return", func(h *shmtest.Helper) { h.Do("close 0"); h.Send("return"); h.Wait() }, "EOF"},
		{"CloseWrite, return", func(h *shmtest.Helper) { h.Do("closewrite 0"); h.Send("return"); h.Wait() }, "EOF"},
		{"Close, kill -9", func(h *shmtest.Helper) { h.Do("close 0"); h.Kill() }, "EOF"},
	}
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		for _, tt := range ends {
			for _, n := range []int{0, 1, s.RingSize()} {
				t.Run(fmt.Sprintf("%s/len=%d,cap=%d", strings.ReplaceAll(tt.name, " ", "_"), n, s.RingSize()), func(t *testing.T) {
					c, h := shmtest.Join(t, s)
					if n > 0 {
						h.Do("write 0 %d", n)
					}
					tt.end(h)
					got := make([]byte, n)
					if m, err := io.ReadFull(c, got); m != n || err != nil {
						t.Fatalf("read %d of %d, %v", m, n, err)
					}
					shmtest.CheckPattern(t, got, 0)
					for range 2 {
						_, err := c.Read(make([]byte, 8))
						shmtest.WantErr(t, "Read", err, tt.want)
					}
					if tt.name != "CloseWrite" {
						writeToTheDead(t, c, 1)
					}
				})
			}
		}
	})
}

// TestKilledWhileItWrites kills the peer in the middle of a large Write: what
// is read is a prefix.
func TestKilledWhileItWrites(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		h.Send("write 0 %d", 64<<20)
		got := make([]byte, 3*s.RingSize()+1)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, got, 0)
		h.Kill()
		rest, err := io.ReadAll(c)
		shmtest.WantErr(t, "Read", err, "read ECONNRESET")
		shmtest.CheckPattern(t, rest, len(got))
		shmtest.WantDead(t, c)
	})
}

// writeToTheDead writes pieces to a peer that is gone. A writer that does not
// wait is told at once when the peer has closed, and within a quarter of the
// ring when it died without a word.
func writeToTheDead(t *testing.T, c *shmconn.Conn, piece int) {
	t.Helper()
	size := c.Stats().RingSize
	for total := 0; ; {
		n, err := c.Write(make([]byte, piece))
		total += n
		if total > size/4+piece {
			t.Fatalf("wrote %d bytes to the dead, with a ring of %d, %v", total, size, err)
		}
		if err != nil {
			shmtest.WantErr(t, "Write", err, "write EPIPE")
			return
		}
	}
}

// TestWriteAfterDeath counts what a writer that does not wait can write to a
// peer that is dead before it is told.
func TestWriteAfterDeath(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		for _, piece := range []int{1, 100, s.RingSize() / 4} {
			t.Run(fmt.Sprintf("len=%d,cap=%d", piece, s.RingSize()), func(t *testing.T) {
				c, h := shmtest.Join(t, s)
				if _, err := c.Write([]byte("to the living")); err != nil {
					t.Fatal(err)
				}
				h.Kill()
				writeToTheDead(t, c, piece)
				shmtest.WantDead(t, c)
			})
		}
	})
}

// TestKilledWithMany kills a peer of many connections, all with calls waiting.
func TestKilledWithMany(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		const conns = 30
		s.Ring = 4096
		h := shmtest.StartHelper(t, "agent", s)
		var wg sync.WaitGroup
		for range conns {
			c := shmtest.JoinHelper(t, s, h)
			done := shmtest.Blocked(c, func() {
				_, err := c.Read(make([]byte, 8))
				shmtest.WantErr(t, "Read", err, "read ECONNRESET")
			})
			wg.Go(func() { <-done })
		}
		h.Kill()
		wg.Wait()
	})
}

// TestStopped stops the peer's process, and lets it go on.
func TestStopped(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		h.Do("write 0 10")
		h.Stop()
		buf := make([]byte, 10)
		if n, err := io.ReadFull(c, buf); err != nil {
			t.Errorf("Read of what was written before: %d, %v", n, err)
		}
		shmtest.CheckPattern(t, buf, 0)
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := c.Read(buf)
		shmtest.WantErr(t, "Read", err, "read timeout")
		total := 2 * s.RingSize()
		var n int
		blockedWrite := shmtest.Blocked(c, func() { n, err = c.Write(shmtest.Pattern(0, total)) })
		start := time.Now()
		c.SetWriteDeadline(start.Add(10 * time.Millisecond))
		<-blockedWrite
		shmtest.WantErr(t, "Write", err, "write timeout")
		if n < s.RingSize()/4*3 || n > s.RingSize() {
			t.Errorf("Write = %d, with a ring of %d", n, s.RingSize())
		}
		if d := time.Since(start); d < 10*time.Millisecond {
			t.Errorf("Write's deadline after %v", d)
		}
		c.SetDeadline(shmtest.NoDeadline)

		// It goes on as if nothing had been.
		h.Cont()
		done := make(chan bool)
		go func() {
			defer close(done)
			if m, err := c.Write(shmtest.Pattern(n, total-n)); m != total-n || err != nil {
				t.Errorf("Write = %d, %v", m, err)
			}
		}()
		h.Do("read 0 %d", total)
		<-done
		h.Do("write 0 10")
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Error(err)
		}
		shmtest.CheckPattern(t, buf, 10)

		// Close does not wait for one that is stopped, and it is told afterwards.
		h.Stop()
		c.Write(shmtest.Pattern(total, 5))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		h.Cont()
		if got := h.Call("readall 0"); got != "5" {
			t.Errorf("after our Close it read %s bytes, want 5", got)
		}
		h.Expect("ok")
	})
}

// TestStoppedAWhile stops the peer for a while in the middle of a stream in
// both directions: nobody takes it for dead, deadlines work, and the stream
// goes on.
func TestStoppedAWhile(t *testing.T) {
	pause := time.Second
	if *shmtest.Long {
		pause = 10 * time.Second
	}
	var mu sync.Mutex // guards the following
	var late, resumed shmtest.Figure
	t.Run("shapes", func(t *testing.T) {
		shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
			t.Parallel()
			l, r := stopAWhile(t, s, pause)
			mu.Lock()
			defer mu.Unlock()
			late, resumed = append(late, l...), append(resumed, r)
		})
	})
	t.Logf("figure: SIGSTOP for %v: deadlines late by %v; from SIGCONT to the next byte %v", pause, late, resumed)
}

// stopAWhile returns how late deadlines were meanwhile, and how long it took
// until the stream went on.
func stopAWhile(t *testing.T, s shmtest.Shape, pause time.Duration) (late shmtest.Figure, resumed time.Duration) {
	path := filepath.Join(t.TempDir(), "killstats")
	y := shmtest.NewKillStats(t, path)
	x := &shmtest.Round{TB: t, Rand: shmtest.Seeded(t)}
	defer x.End()
	d := newKillPair(x, y, path, "streams", s)
	waiting, h := shmtest.Join(t, s)
	limited := shmtest.JoinHelper(t, s, h)
	some := int64(8 * s.RingSize())

	var read atomic.Int64
	var got *shmtest.Gathered
	var werr error
	r, w := rand.New(rand.NewPCG(x.Uint64(), 0)), rand.New(rand.NewPCG(x.Uint64(), 0))
	reading, writing := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reading)
		got = shmtest.Gather(d.c, r, func(n int) { read.Add(int64(n)) })
	}()
	go func() {
		defer close(writing)
		werr = shmtest.Feed(d.c, w, 0, math.MaxInt, func(int) {}, func() {})
	}()
	shmtest.Eventually(func() bool { return read.Load() > some && y.Read.Load() > uint64(some) })
	d.h.Stop()
	h.Stop()
	start := time.Now()
	buf := make([]byte, 8)
	var n int
	var err error
	pending := shmtest.Blocked(waiting, func() { n, err = waiting.Read(buf) })
	if _, err := limited.TryWrite(make([]byte, s.RingSize())); err != nil {
		t.Error(err)
	}
	for time.Since(start) < pause {
		for range 100 {
			if n, err := limited.TryRead(make([]byte, 8)); n != 0 || err != nil {
				t.Errorf("TryRead = %d, %v", n, err)
			}
			if n, err := limited.TryWrite(make([]byte, 8)); n != 0 || err != nil {
				t.Errorf("TryWrite = %d, %v", n, err)
			}
		}
		due := time.Now().Add(time.Duration(x.IntN(50_000)) * time.Microsecond)
		limited.SetDeadline(due)
		var err error
		if x.IntN(2) == 0 {
			_, err = limited.Read(make([]byte, 8))
			shmtest.WantErr(t, "Read", err, "read timeout")
		} else {
			_, err = limited.Write(make([]byte, 8))
			shmtest.WantErr(t, "Write", err, "write timeout")
		}
		over := time.Since(due)
		if over < 0 {
			t.Errorf("deadline came %v too early", -over)
		}
		late = append(late, over)
		limited.SetDeadline(shmtest.NoDeadline)
	}
	select {
	case <-pending:
		t.Errorf("Read that waits for a stopped peer = %d, %v", n, err)
	case <-reading:
		t.Errorf("Read from a stopped peer: %v", got.Err)
	case <-writing:
		t.Errorf("Write to a stopped peer: %v", werr)
	default:
	}
	before, theirs := read.Load(), y.Read.Load()
	d.h.Cont()
	start = time.Now()
	shmtest.Eventually(func() bool { return read.Load() > before })
	resumed = time.Since(start)
	shmtest.Eventually(func() bool { return read.Load() > before+some && y.Read.Load() > theirs+uint64(some) })
	d.h.Kill()
	<-reading
	<-writing
	d.judge(got)

	h.Cont()
	h.Do("write 0 8")
	<-pending
	if n != 8 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	shmtest.CheckPattern(t, buf, 0)
	return late, resumed
}

// TestKilledWhileStopped kills a process that is stopped.
func TestKilledWhileStopped(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		h.Stop()
		var err error
		done := shmtest.Blocked(c, func() { _, err = c.Read(make([]byte, 8)) })
		h.Kill()
		<-done
		shmtest.WantErr(t, "Read", err, "read ECONNRESET")
	})
}

// TestDialStopped dials a listener whose process is stopped.
func TestDialStopped(t *testing.T) {
	for _, s := range shmtest.AcrossShapes {
		s.Swap = false
		t.Run(s.String(), func(t *testing.T) {
			h := shmtest.StartHelper(t, "agent", s)
			name := shmtest.NewName()
			h.Do("listen %s", name)
			h.Stop()
			const conns = 10
			for i := range conns {
				c := s.MustDial(t, name)
				if n, err := c.Write(shmtest.Pattern(0, 100+i)); n != 100+i || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
				c.Close()
			}
			h.Cont()
			for i := range conns {
				h.Do("accept")
				if got := h.Call("readall %d", i); got != fmt.Sprint(100+i) {
					t.Errorf("connection %d: read %s bytes, want %d", i, got, 100+i)
				}
				h.Expect("ok")
			}
		})
	}
}

// TestListenerKilled kills the listener's process with connections in its
// backlog, and takes over its name.
func TestListenerKilled(t *testing.T) {
	for _, s := range shmtest.AcrossShapes {
		s.Swap = false
		t.Run(s.String(), func(t *testing.T) {
			h := shmtest.StartHelper(t, "agent", s)
			name := shmtest.NewName()
			h.Do("listen %s", name)
			h.Stop() // so that it cannot take anything out of the backlog
			reading := s.MustDial(t, name).(*shmconn.Conn)
			writing := s.MustDial(t, name).(*shmconn.Conn)
			idle := s.MustDial(t, name).(*shmconn.Conn)
			var rerr, werr error
			r := shmtest.Blocked(reading, func() { _, rerr = reading.Read(make([]byte, 8)) })
			w := shmtest.Blocked(writing, func() { _, werr = writing.Write(make([]byte, 1<<20)) })

			// It is there as long as it lives, be it stopped.
			_, err := s.Listen(name)
			shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")

			h.Kill()
			<-r
			<-w
			shmtest.WantErr(t, "Read", rerr, "read ECONNRESET")
			shmtest.WantErr(t, "Write", werr, "write EPIPE")
			for _, c := range []*shmconn.Conn{reading, writing, idle} {
				shmtest.WantDead(t, c)
			}
			_, err = s.Dial(name)
			shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")

			l := s.MustListen(t, name)
			a := s.MustDial(t, name)
			b := shmtest.MustAccept(t, l)
			a.Write([]byte("x"))
			if n, err := b.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
			l.Close()
			shmtest.Reclaim(t, name)
		})
	}
}

// TestListenAgain kills a listener and listens again at once, without removing
// anything by hand. The dialers in the backlog are told.
func TestListenAgain(t *testing.T) {
	var again, told shmtest.Figure
	much := make([]byte, 1<<20)
	shmtest.InRounds(t, shmtest.Rounds(400), func(x *shmtest.Round) {
		s := x.Shape(x.Poll())
		s.Swap = false
		h := shmtest.StartHelper(x, "agent", s)
		name := shmtest.NewName()
		h.Do("listen %s", name)
		if x.IntN(2) == 0 {
			h.Stop() // or else it has taken the first one off the backlog
		}
		ends := make([]time.Time, 20)
		var wg sync.WaitGroup
		for i := range ends {
			c := s.MustDial(x, name)
			done := shmtest.Blocked(c, func() {
				if i%2 == 0 {
					_, err := c.Read(make([]byte, 8))
					ends[i] = time.Now()
					shmtest.WantErr(x, "Read", err, "read ECONNRESET")
				} else {
					_, err := c.Write(much)
					ends[i] = time.Now()
					shmtest.WantErr(x, "Write", err, "write EPIPE")
				}
			})
			wg.Go(func() { <-done; shmtest.WantDead(x, c.(*shmconn.Conn)) })
		}
		start := time.Now()
		h.Kill()
		l := s.MustListen(x, name)
		again = append(again, time.Since(start))
		wg.Wait()
		for _, end := range ends {
			told = append(told, end.Sub(start))
		}
		shmtest.WantServed(x, s, l)
		l.Close()
		shmtest.Reclaim(x, name)
	})
	t.Logf("figure: from kill -9 of a listener to the end of Listen: %v; dialers in its backlog told: %v", again, told)
}

// TestStaleRace lets many processes take over one stale name: exactly one gets
// it, and serves. Then it is killed, and the next race is for what it has left.
func TestStaleRace(t *testing.T) {
	processes, races := 16, 10
	if *shmtest.Long {
		processes, races = 100, 200
	}
	s := shmtest.Shape{Ring: 4096}
	name := shmtest.NewName()
	winner := shmtest.StartHelper(t, "agent", s)
	winner.Do("listen %s", name)
	racers := make([]*shmtest.Helper, processes)
	for i := range racers {
		racers[i] = shmtest.StartHelper(t, "agent", s)
	}
	var won, refused shmtest.Figure
	for range races {
		winner.Kill()
		start := time.Now()
		for _, h := range racers {
			h.Send("listen %s", name)
		}
		answers, after := make([]string, processes), make(shmtest.Figure, processes)
		var wg sync.WaitGroup
		for i, h := range racers {
			wg.Go(func() {
				h.Lines.Scan()
				answers[i], after[i] = h.Lines.Text(), time.Since(start)
			})
		}
		wg.Wait()
		winners := 0
		for i, answer := range answers {
			switch answer {
			case "ok":
				winners++
				winner = racers[i]
				racers[i] = shmtest.StartHelper(t, "agent", s)
				won = append(won, after[i])
			case "EADDRINUSE":
				refused = append(refused, after[i])
			default:
				t.Errorf("Listen: %s", answer)
			}
		}
		if winners != 1 {
			t.Fatalf("%d of %d processes got the name: %q", winners, processes, answers)
		}
		c := s.MustDial(t, name).(*shmconn.Conn)
		if pid, _, _ := c.PeerCred(); pid != winner.PID {
			t.Errorf("process %d listens, and %d has won", pid, winner.PID)
		}
		winner.Do("accept")
		c.Write(shmtest.Pattern(0, 10))
		winner.Do("read 0 10")
		c.Close()
	}
	winner.Kill()
	shmtest.Reclaim(t, name)
	t.Logf("figure: %d processes race for a stale name, %d times: the one that gets it %v; the others told %v", processes, races, won, refused)
}

// TestStaleRaceWithin lets many goroutines take over one stale name: exactly
// one gets it.
func TestStaleRaceWithin(t *testing.T) {
	for range 5 {
		h := shmtest.StartHelper(t, "agent", shmtest.Shape{Ring: 4096})
		name := shmtest.NewName()
		h.Do("listen %s", name)
		h.Kill()
		var won atomic.Int32
		var winner shmtest.Listener
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				l, err := shmtest.Shape{Ring: 4096}.Listen(name)
				if err != nil {
					shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")
					return
				}
				won.Add(1)
				winner = l
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d listeners", won.Load())
		}
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		winner.Close()
	}
}

// TestListenAcross listens on one name in two processes.
func TestListenAcross(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	h := shmtest.StartHelper(t, "agent", s)
	name := shmtest.NewName()
	h.Do("listen %s", name)
	_, err := s.Listen(name)
	shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")
	c := s.MustDial(t, name) // it is not harmed
	h.Do("accept")
	h.Do("unlisten")
	l := s.MustListen(t, name)
	if got := h.Call("listen %s", name); got != "EADDRINUSE" {
		t.Errorf("Listen in the other process: %s", got)
	}
	h.Do("dial %s", name)
	shmtest.MustAccept(t, l)
	c.Write(shmtest.Pattern(0, 10))
	h.Do("read 0 10")
}

// TestDialerKilled kills a dialer that is in the backlog: what it wrote is
// there.
func TestDialerKilled(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		name := shmtest.NewName()
		l := s.MustListen(t, name)
		h := shmtest.StartHelper(t, "agent", s)
		h.Do("dial %s", name)
		h.Do("write 0 100")
		h.Kill()
		c := shmtest.MustAccept(t, l)
		got := make([]byte, 100)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, got, 0)
		shmtest.WantDead(t, c.(*shmconn.Conn))
	})
}

// TestSwept kills a dialer whose segment nobody attaches any more: the next
// Listen removes it, and none that is in use.
func TestSwept(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	name := shmtest.NewName()
	l := s.MustListen(t, name)
	h := shmtest.StartHelper(t, "agent", s)
	h.Do("dial %s", name)
	h.Do("dial %s", name)
	alive := s.MustDial(t, name)
	h.Kill()
	l.Close()
	_, err := alive.Read(make([]byte, 1))
	shmtest.WantErr(t, "Read", err, "read ECONNRESET")
	alive.Close()
	shmtest.Reclaim(t, name)
}

// TestPeerCredAcross asks for the number of the other process, at both ends.
func TestPeerCredAcross(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		pid, uid, gid := c.PeerCred()
		if pid != h.PID || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
			t.Errorf("PeerCred() = %d, %d, %d, want %d, %d, %d", pid, uid, gid, h.PID, os.Getuid(), os.Getgid())
		}
		want := fmt.Sprintf("%d %d %d", os.Getpid(), os.Getuid(), os.Getgid())
		if got := h.Call("cred 0"); got != want {
			t.Errorf("PeerCred() at the other end = %s, want %s", got, want)
		}
	})
}

// TestStreamAcross streams in both directions between two processes at once.
func TestStreamAcross(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		const n = 8 << 20
		c, in := shmtest.Join(t, s)
		d, out := shmtest.Join(t, s)
		in.Send("read 0 %d", n)
		out.Send("write 0 %d", n)
		var wg sync.WaitGroup
		r := shmtest.Seeded(t)
		wg.Go(func() {
			for off := 0; off < n; {
				k := min(n-off, 1+r.IntN(1<<r.IntN(18)))
				if m, err := c.Write(shmtest.Pattern(off, k)); m != k || err != nil {
					t.Errorf("Write = %d, %v", m, err)
					return
				}
				off += k
			}
		})
		wg.Go(func() {
			got := make([]byte, n)
			if _, err := io.ReadFull(d, got); err != nil {
				t.Error(err)
			}
			shmtest.CheckPattern(t, got, 0)
		})
		wg.Wait()
		in.Expect("ok")
		out.Expect("ok")
	})
}

// TestNotInherited starts a process while there are listeners and connections:
// it gets none of their descriptors, or it would keep them from dying.
func TestNotInherited(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	inherited := func() (targets []string) {
		h := shmtest.StartHelper(t, "fds", s)
		for {
			line := h.Line()
			if line == "end" {
				slices.Sort(targets)
				return targets
			}
			// Without the directory that it lists, which has its number in it.
			if _, target, _ := strings.Cut(line, " "); !strings.HasPrefix(target, "/proc/") {
				targets = append(targets, target)
			}
		}
	}
	before := inherited()
	l := s.MustListen(t, shmtest.NewName())
	s.MustDial(t, shmtest.NameOf(l))
	s.MustDial(t, shmtest.NameOf(l))
	shmtest.MustAccept(t, l)
	s.Anonymous = true
	s.Pair(t)
	if after := inherited(); !slices.Equal(after, before) {
		t.Errorf("a new process has the descriptors\n%q\nand had\n%q\nbefore there were connections", after, before)
	}
}

// TestEnds ends the peer's process in ways that are not as orderly as Close:
// they are as kill -9 to who waits.
func TestEnds(t *testing.T) {
	for _, how := range []string{"os.Exit", "panic", "log.Fatal"} {
		t.Run(how, func(t *testing.T) {
			var told shmtest.Figure
			shmtest.InRounds(t, shmtest.Rounds(400), func(x *shmtest.Round) {
				s := x.Shape(x.Poll())
				name := shmtest.NewName()
				l := s.MustListen(x, name)
				h := shmtest.StartHelper(x, "agent", s)
				h.Do("dial %s", name)
				c := shmtest.MustAccept(x, l).(*shmconn.Conn)
				l.Close()
				n := x.IntN(s.RingSize())
				h.Do("write 0 %d", n)
				got := make([]byte, n)
				if _, err := io.ReadFull(c, got); err != nil {
					x.Fatal(err)
				}
				shmtest.CheckPattern(x, got, 0)
				var rerr, werr error
				var rend, wend time.Time
				reading := shmtest.Blocked(c, func() { _, rerr = c.Read(make([]byte, 8)); rend = time.Now() })
				writing := shmtest.Blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)); wend = time.Now() })
				start := time.Now()
				h.Fail(how)
				<-reading
				<-writing
				shmtest.WantErr(x, "Read", rerr, "read ECONNRESET")
				shmtest.WantErr(x, "Write", werr, "write EPIPE")
				told = append(told, rend.Sub(start), wend.Sub(start))
				shmtest.WantDead(x, c)
				shmtest.Reclaim(x, name)
			})
			t.Logf("figure: told of %s, from the order to do so: %v", how, told)
		})
	}
}

// TestKilledWhileForking kills the peer while it starts processes: such a child
// has all of its descriptors between its fork and its exec.
func TestKilledWhileForking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "killstats")
	killBusy(t, shmtest.NewKillStats(t, path), path, "forks", shmtest.Rounds(1000))
}

// TestChildLivesOn kills a peer that has started a process, which lives on. It
// does not keep the peer's connections from dying.
func TestChildLivesOn(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		c, h := shmtest.Join(t, s)
		child := h.Call("child")
		var rerr, werr error
		r := shmtest.Blocked(c, func() { _, rerr = c.Read(make([]byte, 8)) })
		w := shmtest.Blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)) })
		h.Signal(syscall.SIGKILL) // and no wait, which would end the child's input
		<-r
		<-w
		if state, _ := shmtest.ProcessState(child); state == "" || state == "Z" {
			t.Errorf("the child, process %s, has ended: state %q", child, state)
		}
		shmtest.WantErr(t, "Read", rerr, "read ECONNRESET")
		shmtest.WantErr(t, "Write", werr, "write EPIPE")
		shmtest.WantDead(t, c)
		h.Kill()
		shmtest.Eventually(func() bool { state, _ := shmtest.ProcessState(child); return state == "" || state == "Z" })
	})
}
