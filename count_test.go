//go:build linux

package shmconn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"shmconn"
)

// TestCalls looks at which calls are counted, and that a long one is counted once.
func TestCalls(t *testing.T) {
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
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

		n := 10 * s.ringSize()
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

// TestBlocked looks at the times of waits: on the ring that was waited for, while the wait is under
// way and after it, and never less than before.
func TestBlocked(t *testing.T) {
	const long = 5 * time.Millisecond
	onShapes(t, small, func(t *testing.T, s shape) {
		a, b := s.shmPair(t)
		// lasts lets a wait of c, whose time of looks at, go on for so long.
		lasts := func(what string, c *shmconn.Conn, of func(shmconn.Stats) time.Duration, call, end func()) {
			t.Helper()
			before := of(c.Stats())
			start := time.Now()
			done := blocked(c, call)
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
		full := make([]byte, s.ringSize())
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
	s := shape{Ring: 4096}
	a, b, seg := segmentPair(t, s)
	defer a.Close()
	defer b.Close()
	done := blocked(b, func() {
		if _, err := b.Read(make([]byte, 1)); !isCorrupt(err) {
			t.Errorf("Read = %v", err)
		}
	})
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

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*shmconn.CorruptError](err)
	return ok
}

// TestPending counts who waits for Accept, the kernel's part of them too.
func TestPending(t *testing.T) {
	const n = 5
	l := shape{}.mustListen(t, newName()).(*shmconn.Listener)
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
		// One is being taken off the kernel's queue at some time.
		eventually(func() bool { return l.Stats().Pending == n-i })
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

// TestCountsNeverFall looks all the time at what both ends have counted, while they are at work,
// and callers queue for a side.
func TestCountsNeverFall(t *testing.T) {
	a, b := shape{Ring: 1 << 20}.shmPair(t)
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
