//go:build linux

package shmconn_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// TestCalls looks at which calls are counted, and that a long one is counted
// once.
func TestCalls(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		var wrote, read uint64
		check := func(what string, writes, reads uint64) {
			t.Helper()
			wrote, read = wrote+writes, read+reads
			if st := a.Stats(); st.WriteCalls != wrote || st.ReadCalls != 0 {
				t.Errorf("%s: the writer counts %d, %d, want %d, 0", what, st.WriteCalls, st.ReadCalls, wrote)
			}
			if st := b.Stats(); st.WriteCalls != 0 || st.ReadCalls != read {
				t.Errorf("%s: the reader counts %d, %d, want 0, %d", what, st.WriteCalls, st.ReadCalls, read)
			}
		}
		buf := make([]byte, 100)
		check("nothing", 0, 0)
		for range 3 {
			a.Write(buf)
		}
		a.Write(nil)
		check("Write", 3, 0)
		b.Read(nil)
		b.Read(buf)
		b.Peek(100)
		b.TryRead(buf)
		b.Discard(0)
		b.Discard(100)
		b.TryRead(buf)
		check("Read, Discard", 0, 3)
		a.TryWrite(buf)
		a.WriteBuffers(&net.Buffers{buf, nil, buf})
		a.WriteBuffers(&net.Buffers{nil})
		a.Reserve(10)
		a.Commit(10)
		a.Reserve(10)
		a.Commit(0)
		a.Commit(1) // refused
		check("TryWrite, WriteBuffers, Commit", 3, 0)
		b.Read(make([]byte, 1000))
		check("Read of it all", 0, 1)

		a.ReadFrom(io.MultiReader(bytes.NewReader(buf), bytes.NewReader(buf)))
		check("ReadFrom", 2, 0)
		b.Read(make([]byte, 1000))
		read++

		n := 10 * s.RingSize()
		read = 0
		before := b.Stats().ReadCalls
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Discard(n / 2)
			io.ReadFull(b, make([]byte, n-n/2))
		}()
		a.Write(make([]byte, n))
		<-done
		read = b.Stats().ReadCalls
		if read < before+2 {
			t.Errorf("the reader counts %d calls more", read-before)
		}
		check("a Write and a Discard of many rings", 1, 0)
		a.Close()
		b.WriteTo(io.Discard)
		a.Write(buf)
		b.Read(buf)
		check("calls that fail", 0, 0)
		b.Close()
		check("after Close", 0, 0)
	})
}

// TestBlocked looks at the times of waits: on the ring that was waited for,
// while the wait is under way and after it, and never less than before.
func TestBlocked(t *testing.T) {
	const long = 5 * time.Millisecond
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		// lasts lets a wait of c, whose time of looks at, go on for so long.
		lasts := func(what string, c *shmconn.Conn, of func(shmconn.Stats) time.Duration, call, end func()) {
			t.Helper()
			before := of(c.Stats())
			start := time.Now()
			done := shmtest.Blocked(c, call)
			last := before
			for last < before+long {
				now := of(c.Stats())
				if now < last || now > before+time.Since(start) {
					t.Fatalf("%s: %v after %v, in %v", what, now, last, time.Since(start))
				}
				last = now
			}
			end()
			<-done
			after := of(c.Stats())
			if total := time.Since(start); after < last || after > before+total {
				t.Errorf("%s: %v after %v, in %v", what, after, last, total)
			}
			time.Sleep(long)
			if now := of(c.Stats()); now != after {
				t.Errorf("%s: %v, and later without a wait %v", what, after, now)
			}
		}
		readWait := func(st shmconn.Stats) time.Duration { return st.ReadWait }
		writeWait := func(st shmconn.Stats) time.Duration { return st.WriteWait }
		buf := make([]byte, 1)
		for range 2 {
			lasts("Read", b, readWait, func() { b.Read(make([]byte, 1)) }, func() { a.Write(buf) })
		}
		if st := b.Stats(); st.WriteWait != 0 {
			t.Errorf("the reader has waited for room: %v", st.WriteWait)
		}
		full := make([]byte, s.RingSize())
		a.Write(full)
		lasts("Write", a, writeWait, func() { a.Write(buf) }, func() { io.ReadFull(b, full) })
		b.SetReadDeadline(time.Now().Add(time.Hour))
		io.ReadFull(b, buf)
		lasts("Read until its deadline", b, readWait, func() { b.Read(buf) }, func() { b.SetReadDeadline(time.Unix(1, 0)) })
		b.SetReadDeadline(time.Time{})
		lasts("Read until Close", b, readWait, func() { b.Read(buf) }, func() { b.Close() })
		a.Close()
	})
}

// TestBlockedFault ends a wait by a fault: its time stops, too.
func TestBlockedFault(t *testing.T) {
	a, b, seg := shmtest.SegmentPair(t, shmtest.Shape{Ring: 4096}.Poll(shmtest.PollNever))
	defer a.Close()
	defer b.Close()
	done := shmtest.Blocked(b, func() {
		if _, err := b.Read(make([]byte, 1)); !shmtest.IsCorrupt(err) {
			t.Errorf("Read = %v", err)
		}
	})
	// A parked Read looks at nothing: see shmtest.SkipRaced.
	shmtest.Eventually(func() bool { return b.Stats().Parks > 0 })
	if err := seg.Truncate(0); err != nil {
		t.Fatal(err)
	}
	b.SetReadDeadline(time.Now().Add(time.Hour))
	a.Write(make([]byte, 1)) // finds out, and wakes nobody
	b.SetReadDeadline(time.Unix(1, 0))
	<-done
	wait := b.Stats().ReadWait
	time.Sleep(5 * time.Millisecond)
	if now := b.Stats().ReadWait; wait == 0 || now != wait {
		t.Errorf("ReadWait = %v, and later %v", wait, now)
	}
}

// TestPending counts the dialers that wait for Accept, in the kernel's queue
// too.
func TestPending(t *testing.T) {
	const n = 5
	l := shmtest.Shape{}.MustListen(t, shmtest.NewName()).(*shmconn.Listener)
	if st := l.Stats(); st != (shmconn.ListenerStats{}) {
		t.Errorf("Stats of a new listener = %+v", st)
	}
	for range n {
		c, err := shmconn.Dial(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for i := range n {
		// At any moment, as the listener takes them off the kernel's queue.
		for range 20 {
			if st := l.Stats(); st.Pending != n-i {
				t.Fatalf("%d pending after %d were accepted, want %d", st.Pending, i, n-i)
			}
		}
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if st := l.Stats(); st.Accepted != uint64(i+1) || st.Closed {
			t.Errorf("Stats after %d = %+v", i+1, st)
		}
	}
	l.Close()
	if st := l.Stats(); st != (shmconn.ListenerStats{Accepted: n, Closed: true}) {
		t.Errorf("Stats after Close = %+v", st)
	}
}

// TestCountsNeverFall looks all the time at what both ends have counted, while
// they are at work, and callers queue for a side.
func TestCountsNeverFall(t *testing.T) {
	a, b := shmtest.Shape{Ring: 1 << 20}.ShmPair(t)
	for range 3 {
		go func() {
			for buf := make([]byte, 200<<10); ; {
				if _, err := a.Write(buf); err != nil {
					return
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 60<<10); ; {
			if _, err := b.Read(buf); err != nil {
				return
			}
		}
	}()
	var last [2]shmconn.Stats
	for start := time.Now(); time.Since(start) < 200*time.Millisecond; {
		for i, c := range []*shmconn.Conn{a, b} {
			st := c.Stats()
			if l := last[i]; st.BytesRead < l.BytesRead || st.BytesWritten < l.BytesWritten || st.ReadCalls < l.ReadCalls ||
				st.WriteCalls < l.WriteCalls || st.ReadWait < l.ReadWait || st.WriteWait < l.WriteWait {
				t.Fatalf("%+v\nafter %+v", st, l)
			}
			last[i] = st
		}
	}
	a.Close()
	<-done
	b.Close()
}

func TestStats(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		if got, want := a.Stats(), (shmconn.Stats{Network: shmtest.Network, RingSize: s.RingSize()}); got != want {
			t.Errorf("Stats() of a new connection = %+v, want %+v", got, want)
		}
		a.Write(make([]byte, 100))
		a.WriteBuffers(&net.Buffers{make([]byte, 10), make([]byte, 20)})
		a.Reserve(10)
		a.Commit(7)
		io.ReadFull(b, make([]byte, 30))
		b.Peek(10)
		b.Discard(12)
		if st := a.Stats(); st.BytesWritten != 137 || st.BytesRead != 0 {
			t.Errorf("Stats() of the writer = %+v", st)
		}
		if st := b.Stats(); st.BytesRead != 42 || st.BytesWritten != 0 {
			t.Errorf("Stats() of the reader = %+v", st)
		}
		io.ReadFull(b, make([]byte, b.Buffered()))

		done := shmtest.Blocked(b, func() { b.Read(make([]byte, 1)) })
		if shmtest.Sockets {
			a.Write([]byte("x"))
			<-done
			if st := b.Stats(); st.Parks != st.Waits || st.ParksAlways != st.Waits || st.Rings != 0 {
				t.Errorf("a wait over Unix sockets: %+v", st)
			}
		} else if s.DialPoll == shmtest.PollAlways {
			a.Write([]byte("x"))
			<-done
			if st := b.Stats(); st.Parks != 0 {
				t.Errorf("BusyPoll < 0 has parked: %+v", st)
			}
			if st := a.Stats(); st.Rings != 0 {
				t.Errorf("BusyPoll < 0 was rung for: %+v", st)
			}
		} else {
			shmtest.Eventually(func() bool { return b.Stats().Parks > 0 })
			shmtest.Eventually(func() bool { a.Write([]byte("x")); return a.Stats().Rings > 0 })
			<-done
		}
		if st := b.Stats(); st.Waits == 0 {
			t.Errorf("Stats() after a wait = %+v", st)
		}
		a.Close()
		b.Close()
		if st := a.Stats(); st.RingSize != s.RingSize() || st.BytesWritten < 138 {
			t.Errorf("Stats() after Close = %+v", st)
		}
		if st := b.Stats(); st.BytesRead < 138 {
			t.Errorf("Stats() after Close = %+v", st)
		}
	})
}

// TestParkCauses: Stats says why waits went to sleep, and the causes make up
// Parks.
func TestParkCauses(t *testing.T) {
	shmtest.SkipSockets(t, "all waits sleep at once")
	const gap = 5 * time.Millisecond // longer than DefaultBusyPoll
	for _, tt := range []struct {
		shape shmtest.Shape
		want  func(st shmconn.Stats) uint64
		none  func(st shmconn.Stats) uint64
	}{
		{
			shmtest.Shape{Ring: 4096},
			func(st shmconn.Stats) uint64 { return st.ParksGap }, // but for the first, and for what others do
			func(st shmconn.Stats) uint64 { return st.ParksAlways },
		},
		{
			shmtest.Shape{Ring: 4096}.Poll(shmtest.PollNever),
			func(st shmconn.Stats) uint64 { return st.ParksAlways },
			func(st shmconn.Stats) uint64 { return st.Parks - st.ParksAlways },
		},
		{
			shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways),
			func(st shmconn.Stats) uint64 { return st.Waits },
			func(st shmconn.Stats) uint64 { return st.Parks },
		},
	} {
		t.Run(tt.shape.String(), func(t *testing.T) {
			a, b := tt.shape.ShmPair(t)
			for range 10 {
				done := shmtest.Blocked(b, func() {
					if n, err := b.Read(make([]byte, 8)); n != 1 || err != nil {
						t.Errorf("Read = %d, %v", n, err)
					}
				})
				time.Sleep(gap)
				shmtest.MustWrite(t, a, []byte("x"))
				<-done
			}
			st := b.Stats()
			if tt.want(st) == 0 || tt.none(st) != 0 {
				t.Errorf("%+v", st)
			}
			if sum := st.ParksAlways + st.ParksGap + st.ParksContended + st.ParksNear + st.ParksSpent; sum != st.Parks || st.Parks > st.Waits {
				t.Errorf("%d waits, %d parks, whose causes are %d", st.Waits, st.Parks, sum)
			}
		})
	}
}
