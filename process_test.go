//go:build linux

package shmconn_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// across are the shapes that tests with a second process run on. With its ends
// swapped, the other process is the dialer.
var across = []shape{
	{},
	{Ring: 4096, Anonymous: true, Swap: true},
	shape{Ring: 4096, Swap: true}.poll(pollAlways),
	shape{Ring: 8192, Anonymous: true}.poll(pollNever),
}

// join returns a connection to a new process, which knows it as connection 0.
func join(t *testing.T, s shape) (*shmconn.Conn, *helper) {
	t.Helper()
	h := startHelper(t, "agent", s)
	return joinHelper(t, s, h), h
}

func joinHelper(t *testing.T, s shape, h *helper) *shmconn.Conn {
	t.Helper()
	name := newName()
	if s.Swap {
		l := s.mustListen(t, name)
		h.do("dial %s", name)
		c := mustAccept(t, l)
		l.Close()
		return c.(*shmconn.Conn)
	}
	h.do("listen %s", name)
	c := s.mustDial(t, name)
	h.do("accept")
	h.do("unlisten")
	return c.(*shmconn.Conn)
}

// wantDead checks what every call on c returns once the peer has died and all
// that it wrote was read.
func wantDead(t testing.TB, c *shmconn.Conn) {
	t.Helper()
	buf := make([]byte, 8)
	for range 2 {
		n, err := c.Read(buf)
		wantErr(t, fmt.Sprintf("Read = %d after the peer's death", n), err, "read ECONNRESET")
		n, err = c.Write(buf)
		wantErr(t, fmt.Sprintf("Write = %d after the peer's death", n), err, "write EPIPE")
	}
	_, err := c.TryRead(buf)
	wantErr(t, "TryRead after the peer's death", err, "read ECONNRESET")
	_, err = c.TryWrite(buf)
	wantErr(t, "TryWrite after the peer's death", err, "write EPIPE")
	_, err = c.Peek(1)
	wantErr(t, "Peek after the peer's death", err, "read ECONNRESET")
	_, err = c.Reserve(1)
	wantErr(t, "Reserve after the peer's death", err, "write EPIPE")
	_, err = c.WriteTo(io.Discard)
	wantErr(t, "WriteTo after the peer's death", err, "writeto ECONNRESET")
	_, err = c.ReadFrom(strings.NewReader("x"))
	wantErr(t, "ReadFrom after the peer's death", err, "readfrom EPIPE")
	if err := c.Close(); err != nil {
		t.Errorf("Close after the peer's death: %v", err)
	}
}

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
	onShapes(t, across, func(t *testing.T, s shape) {
		for _, tt := range calls {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				c, h := join(t, s)
				var err error
				done := blocked(c, func() { err = tt.call(c) })
				if s.DialPoll != pollAlways {
					eventually(func() bool { return c.Stats().Parks > 0 })
				}
				h.kill()
				<-done
				wantErr(t, tt.name, err, tt.want)
				wantDead(t, c)
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
		{"ReadFrom", func(c *shmconn.Conn) (int64, error) { return c.ReadFrom(zeros{}) }, "readfrom EPIPE"},
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
	onShapes(t, across, func(t *testing.T, s shape) {
		for _, tt := range calls {
			t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				c, h := join(t, s)
				var n int64
				var err error
				done := blocked(c, func() { n, err = tt.call(c) })
				if s.DialPoll != pollAlways {
					eventually(func() bool { return c.Stats().Parks > 0 })
				}
				h.kill()
				<-done
				wantErr(t, tt.name, err, tt.want)
				if n < int64(s.ringSize()/2) || n > int64(s.ringSize()) {
					t.Errorf("%s = %d with a ring of %d", tt.name, n, s.ringSize())
				}
				wantDead(t, c)
			})
		}
	})
}

// TestKilledBoth kills the peer of a Read and a Write that wait at once.
func TestKilledBoth(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		var rerr, werr error
		r := blocked(c, func() { _, rerr = c.Read(make([]byte, 8)) })
		w := blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)) })
		h.kill()
		<-r
		<-w
		wantErr(t, "Read", rerr, "read ECONNRESET")
		wantErr(t, "Write", werr, "write EPIPE")
		wantDead(t, c)
	})
}

// TestLastWords checks that what was written before the writer's end is read,
// and what comes after it.
func TestLastWords(t *testing.T) {
	ends := []struct {
		name string
		end  func(h *helper)
		want string // after the data
	}{
		{"kill -9", func(h *helper) { h.kill() }, "read ECONNRESET"},
		{"return from main", func(h *helper) { h.send("return"); h.wait() }, "read ECONNRESET"},
		{"exec", func(h *helper) { h.send("exec"); h.stdin.Close(); h.wait() }, "read ECONNRESET"},
		{"os.Exit", func(h *helper) { h.fail("os.Exit") }, "read ECONNRESET"},
		{"panic", func(h *helper) { h.fail("panic") }, "read ECONNRESET"},
		{"log.Fatal", func(h *helper) { h.fail("log.Fatal") }, "read ECONNRESET"},
		{"Close", func(h *helper) { h.do("close 0") }, "EOF"},
		{"CloseWrite", func(h *helper) { h.do("closewrite 0") }, "EOF"},
		{"Close, return", func(h *helper) { h.do("close 0"); h.send("return"); h.wait() }, "EOF"},
		{"CloseWrite, return", func(h *helper) { h.do("closewrite 0"); h.send("return"); h.wait() }, "EOF"},
		{"Close, kill -9", func(h *helper) { h.do("close 0"); h.kill() }, "EOF"},
	}
	onShapes(t, across, func(t *testing.T, s shape) {
		for _, tt := range ends {
			for _, n := range []int{0, 1, s.ringSize()} {
				t.Run(fmt.Sprintf("%s/len=%d,cap=%d", strings.ReplaceAll(tt.name, " ", "_"), n, s.ringSize()), func(t *testing.T) {
					c, h := join(t, s)
					if n > 0 {
						h.do("write 0 %d", n)
					}
					tt.end(h)
					got := make([]byte, n)
					if m, err := io.ReadFull(c, got); m != n || err != nil {
						t.Fatalf("read %d of %d, %v", m, n, err)
					}
					checkPattern(t, got, 0)
					for range 2 {
						_, err := c.Read(make([]byte, 8))
						wantErr(t, "Read", err, tt.want)
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
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		h.send("write 0 %d", 64<<20)
		got := make([]byte, 3*s.ringSize()+1)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		checkPattern(t, got, 0)
		h.kill()
		rest, err := io.ReadAll(c)
		wantErr(t, "Read", err, "read ECONNRESET")
		checkPattern(t, rest, len(got))
		wantDead(t, c)
	})
}

// writeToTheDead writes pieces to a peer that is gone. A writer that does not wait
// is told at once when the peer has closed, and within a quarter of the ring when
// it died without a word.
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
			wantErr(t, "Write", err, "write EPIPE")
			return
		}
	}
}

// TestWriteAfterDeath counts what a writer that does not wait can write to a
// peer that is dead before it is told.
func TestWriteAfterDeath(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		for _, piece := range []int{1, 100, s.ringSize() / 4} {
			t.Run(fmt.Sprintf("len=%d,cap=%d", piece, s.ringSize()), func(t *testing.T) {
				c, h := join(t, s)
				if _, err := c.Write([]byte("to the living")); err != nil {
					t.Fatal(err)
				}
				h.kill()
				writeToTheDead(t, c, piece)
				wantDead(t, c)
			})
		}
	})
}

// TestKilledWithMany kills a peer of many connections, all with calls waiting.
func TestKilledWithMany(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		const conns = 30
		s.Ring = 4096
		h := startHelper(t, "agent", s)
		var wg sync.WaitGroup
		for range conns {
			c := joinHelper(t, s, h)
			done := blocked(c, func() {
				_, err := c.Read(make([]byte, 8))
				wantErr(t, "Read", err, "read ECONNRESET")
			})
			wg.Go(func() { <-done })
		}
		h.kill()
		wg.Wait()
	})
}

// TestStopped stops the peer's process, and lets it go on.
func TestStopped(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		h.do("write 0 10")
		h.stop()
		buf := make([]byte, 10)
		if n, err := io.ReadFull(c, buf); err != nil {
			t.Errorf("Read of what was written before: %d, %v", n, err)
		}
		checkPattern(t, buf, 0)
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := c.Read(buf)
		wantErr(t, "Read", err, "read timeout")
		total := 2 * s.ringSize()
		var n int
		blockedWrite := blocked(c, func() { n, err = c.Write(pattern(0, total)) })
		start := time.Now()
		c.SetWriteDeadline(start.Add(10 * time.Millisecond))
		<-blockedWrite
		wantErr(t, "Write", err, "write timeout")
		if n < s.ringSize()/4*3 || n > s.ringSize() {
			t.Errorf("Write = %d, with a ring of %d", n, s.ringSize())
		}
		if d := time.Since(start); d < 10*time.Millisecond {
			t.Errorf("Write's deadline after %v", d)
		}
		c.SetDeadline(none)

		// It goes on as if nothing had been.
		h.cont()
		done := make(chan bool)
		go func() {
			defer close(done)
			if m, err := c.Write(pattern(n, total-n)); m != total-n || err != nil {
				t.Errorf("Write = %d, %v", m, err)
			}
		}()
		h.do("read 0 %d", total)
		<-done
		h.do("write 0 10")
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Error(err)
		}
		checkPattern(t, buf, 10)

		// Close does not wait for one that is stopped, and it is told afterwards.
		h.stop()
		c.Write(pattern(total, 5))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		h.cont()
		if got := h.call("readall 0"); got != "5" {
			t.Errorf("after our Close it read %s bytes, want 5", got)
		}
		h.expect("ok")
	})
}

// TestStoppedAWhile stops the peer for a while in the middle of a stream in both
// directions: nobody takes it for dead, deadlines work, and the stream goes on.
func TestStoppedAWhile(t *testing.T) {
	pause := time.Second
	if *long {
		pause = 10 * time.Second
	}
	var mu sync.Mutex // guards the following
	var late, resumed figure
	t.Run("shapes", func(t *testing.T) {
		onShapes(t, across, func(t *testing.T, s shape) {
			t.Parallel()
			l, r := stopAWhile(t, s, pause)
			mu.Lock()
			defer mu.Unlock()
			late, resumed = append(late, l...), append(resumed, r)
		})
	})
	t.Logf("figure: SIGSTOP for %v: deadlines late by %v; from SIGCONT to the next byte %v", pause, late, resumed)
}

// stopAWhile returns how late deadlines were meanwhile, and how long it took until the
// stream went on.
func stopAWhile(t *testing.T, s shape, pause time.Duration) (late figure, resumed time.Duration) {
	path := filepath.Join(t.TempDir(), "tally")
	y := newTally(t, path)
	x := &round{TB: t, Rand: seeded(t)}
	defer x.end()
	d := x.duel(y, path, "streams", s)
	waiting, h := join(t, s)
	limited := joinHelper(t, s, h)
	some := int64(8 * s.ringSize())

	var read atomic.Int64
	var got *gathered
	var werr error
	r, w := rand.New(rand.NewPCG(x.Uint64(), 0)), rand.New(rand.NewPCG(x.Uint64(), 0))
	reading, writing := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reading)
		got = gather(d.c, r, func(n int) { read.Add(int64(n)) })
	}()
	go func() {
		defer close(writing)
		werr = feed(d.c, w, 0, math.MaxInt, func(int) {}, func() {})
	}()
	eventually(func() bool { return read.Load() > some && y.read.Load() > uint64(some) })
	d.h.stop()
	h.stop()
	start := time.Now()
	buf := make([]byte, 8)
	var n int
	var err error
	pending := blocked(waiting, func() { n, err = waiting.Read(buf) })
	if _, err := limited.TryWrite(make([]byte, s.ringSize())); err != nil {
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
			wantErr(t, "Read", err, "read timeout")
		} else {
			_, err = limited.Write(make([]byte, 8))
			wantErr(t, "Write", err, "write timeout")
		}
		over := time.Since(due)
		if over < 0 {
			t.Errorf("deadline came %v too early", -over)
		}
		late = append(late, over)
		limited.SetDeadline(none)
	}
	select {
	case <-pending:
		t.Errorf("Read that waits for a stopped peer = %d, %v", n, err)
	case <-reading:
		t.Errorf("Read from a stopped peer: %v", got.err)
	case <-writing:
		t.Errorf("Write to a stopped peer: %v", werr)
	default:
	}
	before, theirs := read.Load(), y.read.Load()
	d.h.cont()
	start = time.Now()
	eventually(func() bool { return read.Load() > before })
	resumed = time.Since(start)
	eventually(func() bool { return read.Load() > before+some && y.read.Load() > theirs+uint64(some) })
	d.h.kill()
	<-reading
	<-writing
	d.judge(got)

	h.cont()
	h.do("write 0 8")
	<-pending
	if n != 8 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	checkPattern(t, buf, 0)
	return late, resumed
}

// TestKilledWhileStopped kills a process that is stopped.
func TestKilledWhileStopped(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		h.stop()
		var err error
		done := blocked(c, func() { _, err = c.Read(make([]byte, 8)) })
		h.kill()
		<-done
		wantErr(t, "Read", err, "read ECONNRESET")
	})
}

// TestDialStopped dials a listener whose process is stopped.
func TestDialStopped(t *testing.T) {
	for _, s := range across {
		s.Swap = false
		t.Run(s.String(), func(t *testing.T) {
			h := startHelper(t, "agent", s)
			name := newName()
			h.do("listen %s", name)
			h.stop()
			const conns = 10
			for i := range conns {
				c := s.mustDial(t, name)
				if n, err := c.Write(pattern(0, 100+i)); n != 100+i || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
				c.Close()
			}
			h.cont()
			for i := range conns {
				h.do("accept")
				if got := h.call("readall %d", i); got != fmt.Sprint(100+i) {
					t.Errorf("connection %d: read %s bytes, want %d", i, got, 100+i)
				}
				h.expect("ok")
			}
		})
	}
}

// reclaim takes over the name that a process which was killed has left, and gives
// it up.
func reclaim(t testing.TB, name string) {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if left, _ := filepath.Glob(unixShape.path("shmconn." + name + "*")); len(left) != 0 {
		t.Errorf("left after Listen and Close: %q", left)
	}
}

// TestListenerKilled kills the listener's process with connections in its
// backlog, and takes over its name.
func TestListenerKilled(t *testing.T) {
	for _, s := range across {
		s.Swap = false
		t.Run(s.String(), func(t *testing.T) {
			h := startHelper(t, "agent", s)
			name := newName()
			h.do("listen %s", name)
			h.stop() // so that it cannot take anything out of the backlog
			reading := s.mustDial(t, name).(*shmconn.Conn)
			writing := s.mustDial(t, name).(*shmconn.Conn)
			idle := s.mustDial(t, name).(*shmconn.Conn)
			var rerr, werr error
			r := blocked(reading, func() { _, rerr = reading.Read(make([]byte, 8)) })
			w := blocked(writing, func() { _, werr = writing.Write(make([]byte, 1<<20)) })

			// It is there as long as it lives, be it stopped.
			_, err := s.listen(name)
			wantErr(t, "Listen", err, "listen EADDRINUSE")

			h.kill()
			<-r
			<-w
			wantErr(t, "Read", rerr, "read ECONNRESET")
			wantErr(t, "Write", werr, "write EPIPE")
			for _, c := range []*shmconn.Conn{reading, writing, idle} {
				wantDead(t, c)
			}
			_, err = s.dial(name)
			wantErr(t, "Dial", err, "dial ECONNREFUSED")

			l := s.mustListen(t, name)
			a := s.mustDial(t, name)
			b := mustAccept(t, l)
			a.Write([]byte("x"))
			if n, err := b.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
			l.Close()
			reclaim(t, name)
		})
	}
}

// TestListenAgain kills a listener and listens again at once, without removing
// anything by hand. The dialers in the backlog are told.
func TestListenAgain(t *testing.T) {
	var again, told figure
	much := make([]byte, 1<<20)
	inRounds(t, full(400), func(x *round) {
		s := x.shape(x.poll())
		s.Swap = false
		h := startHelper(x, "agent", s)
		name := newName()
		h.do("listen %s", name)
		if x.IntN(2) == 0 {
			h.stop() // or else it has taken the first one off the backlog
		}
		ends := make([]time.Time, 20)
		var wg sync.WaitGroup
		for i := range ends {
			c := s.mustDial(x, name)
			done := blocked(c, func() {
				if i%2 == 0 {
					_, err := c.Read(make([]byte, 8))
					ends[i] = time.Now()
					wantErr(x, "Read", err, "read ECONNRESET")
				} else {
					_, err := c.Write(much)
					ends[i] = time.Now()
					wantErr(x, "Write", err, "write EPIPE")
				}
			})
			wg.Go(func() { <-done; wantDead(x, c.(*shmconn.Conn)) })
		}
		start := time.Now()
		h.kill()
		l := s.mustListen(x, name)
		again = append(again, time.Since(start))
		wg.Wait()
		for _, end := range ends {
			told = append(told, end.Sub(start))
		}
		polite(x, s, l)
		l.Close()
		reclaim(x, name)
	})
	t.Logf("figure: from kill -9 of a listener to the end of Listen: %v; dialers in its backlog told: %v", again, told)
}

// TestStaleRace lets many processes take over one stale name: exactly one gets it, and
// serves. Then it is killed, and the next race is for what it has left.
func TestStaleRace(t *testing.T) {
	processes, races := 16, 10
	if *long {
		processes, races = 100, 200
	}
	s := shape{Ring: 4096}
	name := newName()
	winner := startHelper(t, "agent", s)
	winner.do("listen %s", name)
	racers := make([]*helper, processes)
	for i := range racers {
		racers[i] = startHelper(t, "agent", s)
	}
	var won, refused figure
	for range races {
		winner.kill()
		start := time.Now()
		for _, h := range racers {
			h.send("listen %s", name)
		}
		answers, after := make([]string, processes), make(figure, processes)
		var wg sync.WaitGroup
		for i, h := range racers {
			wg.Go(func() {
				h.lines.Scan()
				answers[i], after[i] = h.lines.Text(), time.Since(start)
			})
		}
		wg.Wait()
		winners := 0
		for i, answer := range answers {
			switch answer {
			case "ok":
				winners++
				winner = racers[i]
				racers[i] = startHelper(t, "agent", s)
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
		c := s.mustDial(t, name).(*shmconn.Conn)
		if pid, _, _ := c.PeerCred(); pid != winner.pid {
			t.Errorf("process %d listens, and %d has won", pid, winner.pid)
		}
		winner.do("accept")
		c.Write(pattern(0, 10))
		winner.do("read 0 10")
		c.Close()
	}
	winner.kill()
	reclaim(t, name)
	t.Logf("figure: %d processes race for a stale name, %d times: the one that gets it %v; the others told %v", processes, races, won, refused)
}

// TestStaleRaceWithin lets many goroutines take over one stale name: exactly one gets
// it.
func TestStaleRaceWithin(t *testing.T) {
	for range 5 {
		h := startHelper(t, "agent", shape{Ring: 4096})
		name := newName()
		h.do("listen %s", name)
		h.kill()
		var won atomic.Int32
		var winner listener
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				l, err := shape{Ring: 4096}.listen(name)
				if err != nil {
					wantErr(t, "Listen", err, "listen EADDRINUSE")
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
	s := shape{Ring: 4096}
	h := startHelper(t, "agent", s)
	name := newName()
	h.do("listen %s", name)
	_, err := s.listen(name)
	wantErr(t, "Listen", err, "listen EADDRINUSE")
	c := s.mustDial(t, name) // it is not harmed
	h.do("accept")
	h.do("unlisten")
	l := s.mustListen(t, name)
	if got := h.call("listen %s", name); got != "EADDRINUSE" {
		t.Errorf("Listen in the other process: %s", got)
	}
	h.do("dial %s", name)
	mustAccept(t, l)
	c.Write(pattern(0, 10))
	h.do("read 0 10")
}

// TestDialerKilled kills a dialer that is in the backlog: what it wrote is
// there.
func TestDialerKilled(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		name := newName()
		l := s.mustListen(t, name)
		h := startHelper(t, "agent", s)
		h.do("dial %s", name)
		h.do("write 0 100")
		h.kill()
		c := mustAccept(t, l)
		got := make([]byte, 100)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		checkPattern(t, got, 0)
		wantDead(t, c.(*shmconn.Conn))
	})
}

// TestSwept kills a dialer whose segment nobody attaches any more: the next
// Listen removes it, and none that is in use.
func TestSwept(t *testing.T) {
	s := shape{Ring: 4096}
	name := newName()
	l := s.mustListen(t, name)
	h := startHelper(t, "agent", s)
	h.do("dial %s", name)
	h.do("dial %s", name)
	alive := s.mustDial(t, name)
	h.kill()
	l.Close()
	_, err := alive.Read(make([]byte, 1))
	wantErr(t, "Read", err, "read ECONNRESET")
	alive.Close()
	reclaim(t, name)
}

// TestPeerCredAcross asks for the number of the other process, at both ends.
func TestPeerCredAcross(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		pid, uid, gid := c.PeerCred()
		if pid != h.pid || int(uid) != os.Getuid() || int(gid) != os.Getgid() {
			t.Errorf("PeerCred() = %d, %d, %d, want %d, %d, %d", pid, uid, gid, h.pid, os.Getuid(), os.Getgid())
		}
		want := fmt.Sprintf("%d %d %d", os.Getpid(), os.Getuid(), os.Getgid())
		if got := h.call("cred 0"); got != want {
			t.Errorf("PeerCred() at the other end = %s, want %s", got, want)
		}
	})
}

// TestStreamAcross streams in both directions between two processes at once.
func TestStreamAcross(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		const n = 8 << 20
		c, in := join(t, s)
		d, out := join(t, s)
		in.send("read 0 %d", n)
		out.send("write 0 %d", n)
		var wg sync.WaitGroup
		r := seeded(t)
		wg.Go(func() {
			for off := 0; off < n; {
				k := min(n-off, 1+r.IntN(1<<r.IntN(18)))
				if m, err := c.Write(pattern(off, k)); m != k || err != nil {
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
			checkPattern(t, got, 0)
		})
		wg.Wait()
		in.expect("ok")
		out.expect("ok")
	})
}

// TestNotInherited starts a process while there are listeners and connections:
// it gets none of their descriptors, or it would keep them from dying.
func TestNotInherited(t *testing.T) {
	s := shape{Ring: 4096}
	inherited := func() (targets []string) {
		h := startHelper(t, "fds", s)
		for {
			line := h.line()
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
	l := s.mustListen(t, newName())
	s.mustDial(t, nameOf(l))
	s.mustDial(t, nameOf(l))
	mustAccept(t, l)
	s.Anonymous = true
	s.pair(t)
	if after := inherited(); !slices.Equal(after, before) {
		t.Errorf("a new process has the descriptors\n%q\nand had\n%q\nbefore there were connections", after, before)
	}
}

// TestEnds ends the peer's process in ways that are not as orderly as Close: they are as
// kill -9 to who waits.
func TestEnds(t *testing.T) {
	for _, how := range []string{"os.Exit", "panic", "log.Fatal"} {
		t.Run(how, func(t *testing.T) {
			var told figure
			inRounds(t, full(400), func(x *round) {
				s := x.shape(x.poll())
				name := newName()
				l := s.mustListen(x, name)
				h := startHelper(x, "agent", s)
				h.do("dial %s", name)
				c := mustAccept(x, l).(*shmconn.Conn)
				l.Close()
				n := x.IntN(s.ringSize())
				h.do("write 0 %d", n)
				got := make([]byte, n)
				if _, err := io.ReadFull(c, got); err != nil {
					x.Fatal(err)
				}
				checkPattern(x, got, 0)
				var rerr, werr error
				var rend, wend time.Time
				reading := blocked(c, func() { _, rerr = c.Read(make([]byte, 8)); rend = time.Now() })
				writing := blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)); wend = time.Now() })
				start := time.Now()
				h.fail(how)
				<-reading
				<-writing
				wantErr(x, "Read", rerr, "read ECONNRESET")
				wantErr(x, "Write", werr, "write EPIPE")
				told = append(told, rend.Sub(start), wend.Sub(start))
				wantDead(x, c)
				reclaim(x, name)
			})
			t.Logf("figure: told of %s, from the order to do so: %v", how, told)
		})
	}
}

// TestKilledWhileForking kills the peer while it starts processes: such a child has all
// of its descriptors between its fork and its exec.
func TestKilledWhileForking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tally")
	killBusy(t, newTally(t, path), path, "forks", full(1000))
}

// TestChildLivesOn kills a peer that has started a process, which lives on. It does not
// keep the peer's connections from dying.
func TestChildLivesOn(t *testing.T) {
	onShapes(t, across, func(t *testing.T, s shape) {
		c, h := join(t, s)
		child := h.call("child")
		var rerr, werr error
		r := blocked(c, func() { _, rerr = c.Read(make([]byte, 8)) })
		w := blocked(c, func() { _, werr = c.Write(make([]byte, 1<<20)) })
		h.signal(syscall.SIGKILL) // and no wait, which would end the child's input
		<-r
		<-w
		if state, _ := processState(child); state == "" || state == "Z" {
			t.Errorf("the child, process %s, has ended: state %q", child, state)
		}
		wantErr(t, "Read", rerr, "read ECONNRESET")
		wantErr(t, "Write", werr, "write EPIPE")
		wantDead(t, c)
		h.kill()
		eventually(func() bool { state, _ := processState(child); return state == "" || state == "Z" })
	})
}

// TestCleanedAway removes files of listeners at random moments, as a session manager
// does that cleans /dev/shm. What was connected goes on, what waits is accepted, and the
// names come back.
func TestCleanedAway(t *testing.T) {
	n := 20
	if *long {
		n = 200
	}
	s := shape{Ring: 4096}
	rng := seeded(t)
	var mu sync.Mutex // guards the following
	var back figure
	var wg sync.WaitGroup
	for range n {
		name := newName()
		l := s.mustListen(t, name)
		a := s.mustDial(t, name)
		b := mustAccept(t, l)
		waiting := s.mustDial(t, name)
		waiting.Write([]byte("waiting"))
		files := [][]string{{""}, {"@sock"}, {"", "@sock"}}[rng.IntN(3)]
		moment := time.Duration(rng.IntN(1000)) * time.Millisecond
		wg.Go(func() {
			time.Sleep(moment)
			for _, f := range files {
				if err := os.Remove(unixShape.path("shmconn." + name + f)); err != nil {
					t.Error(err)
				}
			}
			start := time.Now()
			again, err := s.dial(name)
			for ; err != nil; again, err = s.dial(name) {
				wantErr(t, "Dial", err, "dial ECONNREFUSED")
				buf := make([]byte, 4)
				a.Write([]byte("live"))
				if n, err := io.ReadFull(b, buf); string(buf) != "live" || err != nil {
					t.Errorf("Read = %d, %v", n, err)
				}
				time.Sleep(time.Millisecond)
			}
			took := time.Since(start)
			defer again.Close()
			again.Write([]byte("again"))
			var got []string
			for range 2 {
				c, err := l.Accept()
				if err != nil {
					t.Errorf("Accept: %v", err)
					return
				}
				defer c.Close()
				buf := make([]byte, 16)
				n, err := c.Read(buf)
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				got = append(got, string(buf[:n]))
			}
			slices.Sort(got)
			if !slices.Equal(got, []string{"again", "waiting"}) {
				t.Errorf("accepted: %q", got)
			}
			mu.Lock()
			defer mu.Unlock()
			back = append(back, took)
		})
	}
	wg.Wait()
	t.Logf("figure: from the removal of a listener's files to a Dial that works: %v", back)
}

// TestLeftovers checks that TestMain would see what a test leaves.
func TestLeftovers(t *testing.T) {
	dir := os.Getenv("SHMCONN_DIR")
	for _, tt := range []struct {
		name  string
		leave func(t *testing.T)
		want  []string // in lines that are new
	}{
		{"goroutine", func(t *testing.T) {
			stop := make(chan struct{})
			t.Cleanup(func() { close(stop) })
			go func() { <-stop }()
		}, []string{"goroutine: .*TestLeftovers"}},
		{"listener", func(t *testing.T) { shape{}.mustListen(t, newName()) },
			[]string{`descriptor: .*/shmconn\.[^@]*$`, "descriptor: .*socket", `file: .*/shmconn\.[^@]*$`, "file: .*@sock$"}},
		{"connection", func(t *testing.T) { shape{}.pair(t) },
			[]string{`mapping: .*@[0-9a-f]{32} \(deleted\)$`, `descriptor: .*@[0-9a-f]{32} \(deleted\)$`, "descriptor: 4 x pipe"}},
		{"anonymous connection", func(t *testing.T) { shape{Anonymous: true}.pair(t) },
			[]string{"mapping: .*memfd:", "descriptor: 4 x pipe"}},
		{"dialer", func(t *testing.T) {
			name := newName()
			h := startHelper(t, "agent", shape{})
			h.do("listen %s", name)
			h.stop() // and it stays in the backlog
			shape{}.mustDial(t, name)
		}, []string{`mapping: .*@[0-9a-f]{32}$`, `file: .*@[0-9a-f]{32}$`}},
		{"helper", func(t *testing.T) { startHelper(t, "agent", shape{}) },
			[]string{"process: .*state [^Z]"}},
		{"process that nobody waits for", func(t *testing.T) {
			h := startHelper(t, "agent", shape{})
			h.dead = true
			h.signal(syscall.SIGKILL)
			eventually(func() bool { state, _ := processState(fmt.Sprint(h.pid)); return state == "Z" })
		}, []string{"process: .*state Z"}},
		{"child of a process that was killed", func(t *testing.T) {
			h := startHelper(t, "agent", shape{})
			child := h.call("child")
			h.dead = true
			h.signal(syscall.SIGKILL)
			eventually(func() bool { _, parent := processState(child); return parent != h.pid })
		}, []string{"process: .* cat,"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			before, were := descriptors(), leftovers(dir, nil)
			tt.leave(t)
			var now []string
			for _, line := range leftovers(dir, before) {
				if !slices.Contains(were, line) {
					now = append(now, line)
				}
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(now, regexp.MustCompile("(?s)^"+want).MatchString) {
					t.Errorf("nothing like %q is seen, only\n%s", want, strings.Join(now, "\n"))
				}
			}
		})
	}
}

// TestUsers lets processes of two users meet.
func TestUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: cannot run a process as another user")
	}
	const other = 65534
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// go test's own directory is closed to others.
	dir, err := os.MkdirTemp("", "shmconn-users-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/shmconn.test", bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T, s shape) *helper {
		return startBinary(t, dir+"/shmconn.test", &syscall.Credential{Uid: other, Gid: other}, "agent", s)
	}
	for _, s := range []shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			listen := func(t *testing.T, mode fs.FileMode) *shmconn.Listener {
				lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: mode}
				l, err := lc.Listen(newName())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				return l
			}
			t.Run("dial", func(t *testing.T) {
				for mode, want := range map[fs.FileMode]string{0: "permission", 0o600: "permission", 0o660: "permission", 0o666: "ok"} {
					l := listen(t, mode)
					h := start(t, s)
					if got := h.call("dial %s", l.Addr()); got != want {
						t.Errorf("Mode %#o: another user's Dial: %s, want %s", mode, got, want)
						continue
					}
					if want != "ok" {
						continue
					}
					c, err := l.AcceptConn()
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if pid, uid, gid := c.PeerCred(); pid != h.pid || uid != other || gid != other {
						t.Errorf("PeerCred() = %d, %d, %d", pid, uid, gid)
					}
					if got, want := h.call("cred 0"), fmt.Sprintf("%d 0 %d", os.Getpid(), os.Getgid()); got != want {
						t.Errorf("PeerCred() at the other end = %s, want %s", got, want)
					}
					c.Write(pattern(0, 100))
					h.do("read 0 100")
					h.do("write 0 100")
					h.kill()
					got := make([]byte, 100)
					if _, err := io.ReadFull(c, got); err != nil {
						t.Error(err)
					}
					checkPattern(t, got, 0)
					wantDead(t, c)
				}
			})
			t.Run("listen", func(t *testing.T) {
				h := start(t, s)
				name := newName()
				h.do("listenmode %s %d", name, 0o666)
				_, err := shmconn.Dial(name)
				wantErr(t, "Dial of another user's listener", err, "dial permission")
				var asked []uint32
				d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { asked = append(asked, uid); return false }}
				_, err = d.Dial(name)
				wantErr(t, "Dial of a listener that AllowUID refuses", err, "dial permission")
				if len(asked) == 0 || slices.ContainsFunc(asked, func(uid uint32) bool { return uid != other }) {
					t.Errorf("AllowUID was asked for %d", asked)
				}
				d.AllowUID = func(uid uint32) bool { return uid == other }
				c, err := d.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				h.do("accept")
				c.Write(pattern(0, 100))
				h.do("read 0 100")

				// AllowUID is asked for one's own user too.
				own := listen(t, 0)
				_, err = d.Dial(own.Addr().String())
				wantErr(t, "Dial of the own user's listener, which AllowUID refuses", err, "dial permission")
				h.do("unlisten")
			})
			t.Run("stale", func(t *testing.T) {
				h := startHelper(t, "agent", s)
				name := newName()
				h.do("listen %s", name)
				h.kill()
				if got := start(t, s).call("listen %s", name); got != "permission" {
					t.Errorf("another user's Listen on a stale name: %s, want permission", got)
				}
				reclaim(t, name)
			})
		})
	}
}
