//go:build linux

package shmconn_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

func TestRingSize(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		for _, c := range []*shmconn.Conn{a, b} {
			if got := c.RingSize(); got != s.RingSize() {
				t.Errorf("RingSize() = %d, want %d", got, s.RingSize())
			}
			c.Close()
			if got := c.RingSize(); got != s.RingSize() {
				t.Errorf("RingSize() after Close = %d, want %d", got, s.RingSize())
			}
		}
	})
}

func TestTryWriteAll(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		size := s.RingSize()
		sent := 0
		try := func(n int, wantOK bool, want string) {
			t.Helper()
			ok, err := a.TryWriteAll(shmtest.Pattern(sent, n))
			if ok != wantOK {
				t.Errorf("TryWriteAll(%d) = %v, want %v", n, ok, wantOK)
			}
			shmtest.WantErr(t, fmt.Sprintf("TryWriteAll(%d)", n), err, want)
			if ok {
				sent += n
			}
			if got := int(a.Stats().BytesWritten); got != sent {
				t.Errorf("after TryWriteAll(%d): %d bytes are written, want %d", n, got, sent)
			}
		}
		try(0, true, "ok")
		try(size/2, true, "ok")
		try(size/2-10, true, "ok")
		try(11, false, "ok") // and not 10 of them
		try(10, true, "ok")
		try(1, false, "ok")
		try(0, true, "ok")
		if got := b.Buffered(); got != size {
			t.Errorf("Buffered() = %d, want %d", got, size)
		}
		_, err := a.TryWriteAll(make([]byte, size/2+1))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(size/2)) {
			t.Errorf("TryWriteAll of more than half a ring: %v", err)
		}
		got := make([]byte, sent)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, got, 0)

		// A Write under way has the writing side.
		done := shmtest.Blocked(a, func() { a.Write(make([]byte, 2*size)) })
		if ok, err := a.TryWriteAll([]byte("x")); ok || err != nil {
			t.Errorf("TryWriteAll beside a Write = %v, %v", ok, err)
		}
		io.ReadFull(b, make([]byte, 2*size))
		<-done
		sent = int(a.Stats().BytesWritten)

		a.SetWriteDeadline(shmtest.Past)
		try(1, false, "write timeout")
		a.SetWriteDeadline(shmtest.NoDeadline)
		try(1, true, "ok")
		b.Close()
		try(1, false, "write EPIPE")
		a.Close()
		try(1, false, "write closed")
	})
}

// TestTryWriteAllOnePublish has a reader look whether a message ever comes in
// parts.
func TestTryWriteAllOnePublish(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		const messages = 5000
		n := min(s.RingSize()/2, 1500)
		go func() {
			for i := 0; i < messages; {
				ok, err := a.TryWriteAll(bytes.Repeat([]byte{byte(i)}, n))
				if err != nil {
					t.Error(err)
					break
				}
				if ok {
					i++
				}
			}
			a.Close()
		}()
		for i := 0; ; {
			p, err := b.PeekAtLeast(1)
			if len(p)%n != 0 && len(p) < s.RingSize()/2 {
				t.Fatalf("message %d came in parts: %d bytes", i, len(p)%n)
			}
			done := 0
			for ; len(p)-done >= n; done += n {
				if p[done] != byte(i) || p[done+n-1] != byte(i) {
					t.Fatalf("message %d has %d and %d in it", i, p[done], p[done+n-1])
				}
				i++
			}
			b.Discard(done)
			if err != nil {
				if i != messages || err != io.EOF {
					t.Errorf("%d messages, %v", i, err)
				}
				return
			}
		}
	})
}

func TestPeekAtLeast(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		half := s.RingSize() / 2
		read := 0
		peek := func(min, want int, wantClass string) {
			t.Helper()
			p, err := a.PeekAtLeast(min)
			if len(p) != want || cap(p) != want {
				t.Errorf("PeekAtLeast(%d): %d bytes, capacity %d, want %d", min, len(p), cap(p), want)
			}
			shmtest.CheckPattern(t, p, read)
			shmtest.WantErr(t, fmt.Sprintf("PeekAtLeast(%d)", min), err, wantClass)
		}
		peek(0, 0, "ok")
		b.Write(shmtest.Pattern(0, 10))
		peek(0, 10, "ok")
		b.Write(shmtest.Pattern(10, 10)) // of which a look at its own copy of the position knows nothing
		peek(1, 20, "ok")
		peek(20, 20, "ok")
		a.Discard(15)
		read = 15
		peek(1, 5, "ok")

		done := shmtest.Blocked(a, func() { peek(6, 7, "ok") })
		b.Write(shmtest.Pattern(20, 2))
		<-done

		b.Write(shmtest.Pattern(22, half))
		peek(1, half, "ok") // and no more
		for _, n := range []int{-1, half + 1} {
			if _, err := a.PeekAtLeast(n); err == nil {
				t.Errorf("PeekAtLeast(%d) = nil", n)
			}
		}
		a.Discard(half)
		read += half
		peek(0, 7, "ok")
		a.SetReadDeadline(shmtest.Past)
		peek(1, 7, "read timeout")
		a.SetReadDeadline(time.Now().Add(time.Millisecond))
		peek(8, 7, "read timeout")
		a.SetReadDeadline(shmtest.NoDeadline)
		b.Close()
		peek(7, 7, "ok")
		peek(8, 7, "EOF")
		a.Discard(7)
		read += 7
		peek(0, 0, "ok")
		peek(1, 0, "EOF")
		a.Close()
		peek(0, 0, "read closed")
	})
}

// TestPeekAtLeastFrames reads messages of all sizes as its comment says, in as
// many looks as it takes.
func TestPeekAtLeastFrames(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		r := shmtest.Seeded(t)
		const messages = 3000
		most := s.RingSize()/2 - 4
		go func() {
			defer a.Close()
			for i := range messages {
				n := r.IntN(min(most, 3000) + 1)
				msg := append(binary.LittleEndian.AppendUint32(nil, uint32(n)), bytes.Repeat([]byte{byte(i)}, n)...)
				if _, err := a.Write(msg); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		got, need := 0, 4
		for {
			p, err := b.PeekAtLeast(need)
			if len(p) < need {
				if err != io.EOF || len(p) > 0 {
					t.Errorf("%d bytes are left, %v", len(p), err)
				}
				break
			}
			done := 0
			for {
				rest := p[done:]
				if need = 4; len(rest) < need {
					break
				}
				if need += int(binary.LittleEndian.Uint32(rest)); len(rest) < need {
					break
				}
				if want := bytes.Repeat([]byte{byte(got)}, need-4); !bytes.Equal(rest[4:need], want) {
					t.Fatalf("message %d is wrong", got)
				}
				got++
				done += need
			}
			if done == 0 && need <= len(p) {
				t.Fatal("no progress")
			}
			b.Discard(done)
		}
		if got != messages {
			t.Errorf("%d messages, want %d", got, messages)
		}
	})
}

// TestPeekAgainstWrite has a reader that waits for more than there is, in Peek
// or by asking Buffered, while a writer waits for room: neither may wait for
// the other.
func TestPeekAgainstWrite(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		for _, r := range []int{8, size/4 - 1, size / 4, size/4 + 1, size/2 - 1} {
			for _, n := range []int{r + 1, size/2 - 1, size / 2} {
				for _, w := range []int{n - r, size / 2, size/4*3 - 1, size / 4 * 3, size, 2 * size} {
					for _, owed := range []int{0, size/4 - 1} {
						if n <= r || w < n-r {
							continue
						}
						a, b := s.ShmPair(t)
						a.Write(shmtest.Pattern(0, owed))
						io.ReadFull(b, make([]byte, owed))
						a.Write(shmtest.Pattern(0, r))
						written := make(chan error, 1)
						go func() {
							_, err := a.Write(shmtest.Pattern(r, w))
							written <- err
						}()
						if owed > 0 {
							for b.Buffered() < n {
								runtime.Gosched()
							}
						}
						got, err := b.Peek(n)
						if err != nil || !bytes.Equal(got, shmtest.Pattern(0, n)) {
							t.Fatalf("ring %d, owed %d, unread %d, Write(%d): Peek(%d) = %d bytes, %v", size, owed, r, w, n, len(got), err)
						}
						if _, err := b.Discard(r + w); err != nil {
							t.Fatal(err)
						}
						if err := <-written; err != nil {
							t.Fatal(err)
						}
						a.Close()
						b.Close()
					}
				}
			}
		}
	})
}

func TestPeekDiscard(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		a, b := s.ShmPair(t)
		a.Write([]byte("hello, world"))
		for range 2 { // Peek takes nothing off
			if got, err := b.Peek(5); string(got) != "hello" || err != nil {
				t.Errorf("Peek(5) = %q, %v", got, err)
			}
		}
		if n, err := b.Discard(7); n != 7 || err != nil {
			t.Errorf("Discard(7) = %d, %v", n, err)
		}
		if got, err := b.Peek(0); len(got) != 0 || err != nil {
			t.Errorf("Peek(0) = %q, %v", got, err)
		}
		if n, err := b.Discard(0); n != 0 || err != nil {
			t.Errorf("Discard(0) = %d, %v", n, err)
		}
		if got := b.Buffered(); got != 5 {
			t.Errorf("Buffered() = %d, want 5", got)
		}
		b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		got, err := b.Peek(6)
		shmtest.WantErr(t, "Peek(6) of 5 with a deadline", err, "read timeout")
		if string(got) != "world" {
			t.Errorf("Peek(6) of 5 with a deadline = %q", got)
		}
		got, err = b.Peek(2)
		shmtest.WantErr(t, "Peek(2) of 5 with a deadline passed", err, "read timeout")
		if len(got) > 2 || !strings.HasPrefix("wo", string(got)) {
			t.Errorf("Peek(2) of 5 with a deadline passed = %q", got)
		}
		n, err := b.Discard(6)
		shmtest.WantErr(t, "Discard(6) of 5 with a deadline", err, "read timeout")
		if n != 0 && n != 5 {
			t.Errorf("Discard(6) of 5 with a deadline = %d", n)
		}
		t.Logf("Discard(6) of 5, deadline passed = %d", n)
		b.SetReadDeadline(shmtest.NoDeadline)
		b.Discard(b.Buffered())

		// Out of range.
		for _, n := range []int{-1, math.MinInt, size/2 + 1, size, math.MaxInt} {
			if got, err := b.Peek(n); len(got) != 0 || err == nil {
				t.Errorf("Peek(%d) = %d bytes, %v, want an error", n, len(got), err)
			} else {
				shmtest.Outcome(t, shmtest.Network, err)
			}
		}
		if n, err := b.Discard(-1); n != 0 || err == nil {
			t.Errorf("Discard(-1) = %d, %v, want an error", n, err)
		} else {
			shmtest.Outcome(t, shmtest.Network, err)
		}

		// They wait; half the ring is not too much; Discard of more is neither.
		go a.Write(shmtest.Pattern(0, size/2))
		got, err = b.Peek(size / 2)
		if len(got) != size/2 || err != nil {
			t.Errorf("Peek(%d) = %d bytes, %v", size/2, len(got), err)
		}
		shmtest.CheckPattern(t, got, 0)
		b.Discard(size / 2)
		go a.Write(append(make([]byte, 3*size), "tail"...))
		if n, err := b.Discard(3 * size); n != 3*size || err != nil {
			t.Errorf("Discard(%d) = %d, %v", 3*size, n, err)
		}
		if got, err := b.Peek(4); string(got) != "tail" || err != nil {
			t.Errorf("Peek(4) = %q, %v", got, err)
		}

		// The end.
		a.Close()
		got, err = b.Peek(5)
		if string(got) != "tail" || err != io.EOF {
			t.Errorf("Peek(5) of 4 at the end = %q, %v", got, err)
		}
		if got, err := b.Peek(4); string(got) != "tail" || err != nil {
			t.Errorf("Peek(4) of 4 at the end = %q, %v", got, err)
		}
		if n, err := b.Discard(5); n != 4 || err != io.EOF {
			t.Errorf("Discard(5) of 4 at the end = %d, %v", n, err)
		}
		if got, err := b.Peek(1); len(got) != 0 || err != io.EOF {
			t.Errorf("Peek(1) after the end = %q, %v", got, err)
		}
		b.Close()
		_, err = b.Peek(1)
		shmtest.WantErr(t, "Peek after Close", err, "read closed")
		_, err = b.Discard(1)
		shmtest.WantErr(t, "Discard after Close", err, "read closed")
	})
}

// TestDiscardGivesRoom removes half a ring of small spans, without a wait: the
// peer gets the room of all but a quarter ring.
func TestDiscardGivesRoom(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		a, b := s.ShmPair(t)
		shmtest.MustWrite(t, a, make([]byte, size))
		for range size / 2 / 64 {
			if p, err := b.Peek(64); len(p) != 64 || err != nil {
				t.Fatalf("Peek(64) = %d bytes, %v", len(p), err)
			}
			if n, err := b.Discard(64); n != 64 || err != nil {
				t.Fatalf("Discard(64) = %d, %v", n, err)
			}
		}
		if n := a.Available(); n < size/4 || n > size/2 {
			t.Errorf("there is room for %d bytes, want %d to %d", n, size/4, size/2)
		}
	})
}

// TestSpansAreContiguous moves spans over the end of the ring.
func TestSpansAreContiguous(t *testing.T) {
	for _, n := range []int{1, 7, 1000, 1023, 2047, 2048} {
		t.Run(fmt.Sprintf("len=%d,cap=4096", n), func(t *testing.T) {
			a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
			for off := 0; off < 5*4096; off += n {
				w, err := a.Reserve(n)
				if len(w) != n || err != nil {
					t.Fatalf("Reserve(%d) = %d bytes, %v", n, len(w), err)
				}
				copy(w, shmtest.Pattern(off, n))
				if b.Buffered() != 0 {
					t.Fatal("bytes are there before Commit")
				}
				if err := a.Commit(n); err != nil {
					t.Fatal(err)
				}
				r, err := b.Peek(n)
				if len(r) != n || err != nil {
					t.Fatalf("Peek(%d) = %d bytes, %v", n, len(r), err)
				}
				if i := shmtest.FirstDiff(r, off); i >= 0 {
					t.Fatalf("byte %d differs", off+i)
				}
				if m, err := b.Discard(n); m != n || err != nil {
					t.Fatalf("Discard(%d) = %d, %v", n, m, err)
				}
			}
		})
	}
}

func TestReserveCommit(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		a, b := s.ShmPair(t)
		bad := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s succeeded, want an error", what)
				return
			}
			shmtest.Outcome(t, shmtest.Network, err)
			if b.Buffered() != 0 {
				t.Errorf("%s published %d bytes", what, b.Buffered())
				b.Discard(b.Buffered())
			}
		}
		read := func(want string) {
			t.Helper()
			got := make([]byte, 64)
			if n, err := b.TryRead(got); string(got[:n]) != want || err != nil {
				t.Errorf("read %q, %v, want %q", got[:n], err, want)
			}
		}
		bad("Commit(1) of nothing", a.Commit(1))
		for _, n := range []int{-1, math.MinInt, size/2 + 1, size, math.MaxInt} {
			_, err := a.Reserve(n)
			bad(fmt.Sprintf("Reserve(%d)", n), err)
			bad("Commit(1) after it", a.Commit(1))
		}
		reserve := func(str string) {
			t.Helper()
			w, err := a.Reserve(len(str))
			if len(w) != len(str) || err != nil {
				t.Fatalf("Reserve(%d) = %d bytes, %v", len(str), len(w), err)
			}
			copy(w, str)
		}
		reserve("hello")
		if err := a.Commit(5); err != nil {
			t.Error(err)
		}
		read("hello")
		bad("a second Commit", a.Commit(1))
		reserve("hello")
		if err := a.Commit(3); err != nil {
			t.Error(err)
		}
		read("hel")
		bad("Commit of the rest", a.Commit(2))
		reserve("hello")
		bad("Commit of more than reserved", a.Commit(6))
		reserve("hello")
		bad("Commit(-1)", a.Commit(-1))
		reserve("hello")
		reserve("HEY") // takes the place of the first
		bad("Commit of more than reserved", a.Commit(5))
		reserve("hello")
		if n, err := a.Write([]byte("written")); n != 7 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		read("written")
		bad("Commit after Write", a.Commit(5))

		// It waits for room.
		w, err := a.Reserve(size / 2)
		if len(w) != size/2 || err != nil {
			t.Errorf("Reserve(%d) = %d bytes, %v", size/2, len(w), err)
		}
		a.Write(make([]byte, size/2+1))
		a.TryWrite(make([]byte, size/4))
		a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, err = a.Reserve(size / 2)
		shmtest.WantErr(t, "Reserve without room", err, "write timeout")
		a.SetWriteDeadline(shmtest.NoDeadline)
		done := shmtest.Blocked(a, func() {
			if w, err := a.Reserve(size / 2); len(w) != size/2 || err != nil {
				t.Errorf("Reserve(%d) = %d bytes, %v", size/2, len(w), err)
			}
		})
		b.Discard(b.Buffered())
		<-done

		// The ends.
		b.Close()
		_, err = a.Reserve(1)
		shmtest.WantErr(t, "Reserve after the peer's Close", err, "write EPIPE")
		a.Close()
		_, err = a.Reserve(1)
		shmtest.WantErr(t, "Reserve after Close", err, "write closed")
		shmtest.WantErr(t, "Commit after Close", a.Commit(1), "write closed")
	})
}

func TestCommitReserve(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		size := s.RingSize()
		a, b := s.ShmPair(t)
		// bad is a call that may do nothing: it publishes nothing, and what was
		// reserved stays so.
		bad := func(n, next int, want string) {
			t.Helper()
			room, err := a.CommitReserve(n, next)
			if room != nil || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("CommitReserve(%d, %d) = %d bytes, %v, want an error with %q", n, next, len(room), err, want)
			}
			shmtest.Outcome(t, shmtest.Network, err)
			if b.Buffered() != 0 {
				t.Errorf("CommitReserve(%d, %d) published %d bytes", n, next, b.Buffered())
			}
		}
		good := func(n, next int) []byte {
			t.Helper()
			room, err := a.CommitReserve(n, next)
			if len(room) != next || cap(room) != next || room == nil || err != nil {
				t.Fatalf("CommitReserve(%d, %d) = %d bytes of %d, %v", n, next, len(room), cap(room), err)
			}
			return room
		}
		read := func(want string) {
			t.Helper()
			got := make([]byte, 64)
			if n, err := b.TryRead(got); string(got[:n]) != want || err != nil {
				t.Errorf("read %q, %v, want %q", got[:n], err, want)
			}
		}
		bad(1, 1, "0 are reserved")
		bad(0, 1, "0 are reserved")
		room, err := a.Reserve(5)
		if err != nil {
			t.Fatal(err)
		}
		copy(room, "hello")
		for _, next := range []int{-1, math.MinInt, size/2 + 1, math.MaxInt} {
			bad(3, next, "half the ring size")
		}
		bad(6, 5, "commit of 6 bytes, but 5 are reserved")
		bad(-1, 5, "commit of -1 bytes, but 5 are reserved")
		a.SetWriteDeadline(shmtest.Past)
		bad(3, 5, "timeout")
		a.SetWriteDeadline(shmtest.NoDeadline)
		calls := a.Stats().WriteCalls
		copy(good(3, 7), "written") // the reservation has outlasted all that
		read("hel")
		copy(good(7, 2), "yz")
		read("written")
		copy(good(0, 4), "abcd")
		bad(5, 1, "but 4 are reserved") // the one before is gone
		good(4, 0)
		read("abcd")
		bad(1, 1, "0 are reserved")
		if n := a.Stats().WriteCalls - calls; n != 3 {
			t.Errorf("%d calls have moved bytes, want 3", n)
		}
		a.Reserve(5)
		a.Write([]byte("w"))
		read("w")
		bad(5, 5, "0 are reserved")

		// It does not wait for room, and has published by then.
		if room, err = a.Reserve(size / 2); err != nil {
			t.Fatal(err)
		}
		copy(room, shmtest.Pattern(0, size/2))
		copy(good(size/2, size/2), shmtest.Pattern(size/2, size/2))
		if room, err = a.CommitReserve(size/2, 1); room != nil || err != nil {
			t.Errorf("with the ring full: %d bytes, %v, want nil, nil", len(room), err)
		}
		if err := a.Commit(1); err == nil {
			t.Error("Commit of what was not reserved succeeded")
		}
		done := shmtest.Blocked(a, func() { room, err = a.Reserve(1) })
		got := make([]byte, size)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatal(err)
		}
		shmtest.CheckPattern(t, got, 0)
		if <-done; len(room) != 1 || err != nil {
			t.Errorf("Reserve after it: %d bytes, %v", len(room), err)
		}

		// The ends.
		b.Close()
		room, err = a.CommitReserve(1, 1)
		shmtest.WantErr(t, "CommitReserve after the peer's Close", err, "write EPIPE")
		a.Close()
		_, err = a.CommitReserve(1, 1)
		shmtest.WantErr(t, "CommitReserve after Close", err, "write closed")
	})
}

// TestCommitReserveStream sends a stream in place, by CommitReserve and, where
// that finds no room, Reserve.
func TestCommitReserveStream(t *testing.T) {
	total := 2 << 20
	if shmtest.RaceEnabled || shmtest.Sockets || testing.Short() {
		total = 1 << 19
	}
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		a, b := s.ShmPair(t)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		length := func(rnd *rand.Rand) int {
			if rnd.IntN(50) == 0 {
				return 1 + rnd.IntN(s.RingSize()/2)
			}
			return 1 + rnd.IntN(100)
		}
		joined, full := 0, make(chan struct{}, 1)
		sent := make(chan error, 1)
		go func() {
			defer a.CloseWrite()
			rnd := rand.New(rand.NewPCG(seed, 1))
			room, err := a.Reserve(length(rnd))
			for done := 0; err == nil && done < total; {
				n := min(rnd.IntN(len(room)+1), total-done)
				copy(room, shmtest.Pattern(done, n))
				next := length(rnd)
				room, err = a.CommitReserve(n, next)
				done += n
				if room != nil {
					joined++
				} else if err == nil {
					select {
					case full <- struct{}{}:
					default:
					}
					room, err = a.Reserve(next)
				}
			}
			sent <- err
		}()
		<-full // the first time the ring is full: so both ways to go on are taken
		rnd := rand.New(rand.NewPCG(seed, 2))
		for got := 0; ; {
			n := length(rnd)
			p, err := b.PeekAtLeast(n)
			if len(p) < n && err != io.EOF {
				t.Fatalf("PeekAtLeast(%d) = %d bytes, %v", n, len(p), err)
			}
			p = p[:min(len(p), n+rnd.IntN(n))]
			shmtest.CheckPattern(t, p, got)
			got += len(p)
			if len(p) == 0 {
				if got != total {
					t.Errorf("%d bytes of %d have come", got, total)
				}
				break
			}
			if n, err := b.Discard(len(p)); err != nil {
				t.Fatalf("Discard(%d) = %d, %v", len(p), n, err)
			}
		}
		if err := <-sent; err != nil || joined == 0 {
			t.Errorf("the sender: %v; %d times it got room at once", err, joined)
		}
	})
}

// advance moves n bytes from a to b, so that both are n bytes further on.
func advance(t *testing.T, a, b *shmconn.Conn, n int) {
	t.Helper()
	if _, err := a.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Discard(n); err != nil {
		t.Fatal(err)
	}
}

// TestSpansAfterClose touches spans of connections that were closed.
func TestSpansAfterClose(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		for _, end := range []string{"own", "both", "own first", "own, wrapped", "both, wrapped"} {
			a, b := s.ShmPair(t)
			end, wrapped := strings.CutSuffix(end, ", wrapped")
			if wrapped && !shmtest.Sockets {
				advance(t, a, b, s.RingSize()-3)
				advance(t, b, a, s.RingSize()-3)
			}
			a.Write([]byte("hello"))
			r, err := b.Peek(5)
			if err != nil {
				t.Fatal(err)
			}
			w, err := b.Reserve(s.RingSize() / 2)
			if err != nil {
				t.Fatal(err)
			}
			switch end {
			case "own":
				b.Close()
			case "both":
				a.Close()
				b.Close()
			case "own first":
				b.Close()
				a.Close()
			}
			runtime.GC()
			for i := range w {
				w[i] = r[i%len(r)]
			}
			// The addresses are not given to another connection while the span is out.
			c, d := s.ShmPair(t)
			for i := range w {
				w[i] = 0xEE
			}
			c.Write([]byte("other"))
			got := make([]byte, 5)
			if io.ReadFull(d, got); string(got) != "other" {
				t.Errorf("%s: another connection reads %q", end, got)
			}
			runtime.KeepAlive(b)
		}
	})
}

func TestGuard(t *testing.T) {
	a, _ := shmtest.Shape{}.ShmPair(t)
	ran := false
	if err := a.Guard(func() { ran = true }); err != nil || !ran {
		t.Errorf("Guard = %v, ran %t", err, ran)
	}
	if err := a.Guard(func() { a.Guard(func() { ran = false }) }); err != nil || ran {
		t.Errorf("Guard in Guard = %v, ran %t", err, !ran)
	}
	panics := func(name string, f func()) (v any) {
		defer func() {
			v = recover()
			if v == nil {
				t.Errorf("%s: no panic", name)
			}
		}()
		err := a.Guard(f)
		t.Errorf("%s: Guard returned %v", name, err)
		return nil
	}
	if v := panics("own", func() { panic(errForeign) }); v != errForeign {
		t.Errorf("panic is %v", v)
	}
	var nilMap map[int]int
	panics("map", func() { nilMap[1] = 1 })
	var p *[8]byte
	panics("nil", func() { p[3]++ })
	if v, ok := panics("index", func() { _ = make([]int, 1)[len(os.Args)+5] }).(runtime.Error); !ok {
		t.Errorf("panic is %v", v)
	}
	// Goexit, as of t.FailNow, goes through too.
	done := make(chan bool)
	go func() {
		defer close(done)
		a.Guard(runtime.Goexit)
		t.Error("Guard returned after Goexit")
	}()
	<-done
	// None of it has done the connection harm.
	if err := a.Guard(func() {}); err != nil {
		t.Error(err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	a.Close()
	if err := a.Guard(func() {}); err != nil {
		shmtest.WantErr(t, "Guard after Close", err, "guard closed")
	}
}

// TestGuardAfterClose: "After Close, f is not called", also while another Guard
// keeps the memory mapped; and Guards that overlap do not keep it for ever.
func TestGuardAfterClose(t *testing.T) {
	before := len(shmtest.Mappings())
	c, peer := shmtest.Shape{}.ShmPair(t)
	in, out := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Guard(func() { close(in); <-out }); err != nil {
			t.Errorf("Guard under way at the Close: %v", err)
		}
	})
	<-in
	c.Close()
	shmtest.WantErr(t, "Guard", c.Guard(func() { t.Error("f is called after Close") }), "guard closed")
	close(out)
	wg.Wait()
	peer.Close()
	if n := len(shmtest.Mappings()); n > before {
		t.Errorf("%d mappings are left, want %d:\n%s", n, before, shmtest.Mappings())
	}
}

// TestCommitRefused has the peer close while a reservation is out. Commit
// cannot ever succeed then, so it ends the reservation, and Close gives the
// addresses back.
func TestCommitRefused(t *testing.T) {
	const rounds, ring = 100, 64 << 10
	s := shmtest.Shape{Ring: ring}
	l := s.MustListen(t, shmtest.NewName())
	grown := func() int {
		before := addressSpace(t)
		for range rounds {
			a := s.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
			b := shmtest.MustAccept(t, l)
			if _, err := a.Reserve(10); err != nil {
				t.Fatal(err)
			}
			b.Close()
			shmtest.WantErr(t, "Commit", a.Commit(10), "write EPIPE")
			a.Close()
		}
		return addressSpace(t) - before
	}
	grown() // what the runtime takes the first time
	if n := grown(); n > rounds/2*4*ring {
		t.Errorf("%d connections took %d bytes of the address space", rounds, n)
	}
}

// TestCommitExpired is the counterpart: after a deadline the reservation is
// still there.
func TestCommitExpired(t *testing.T) {
	a, b := shmtest.Shape{}.ShmPair(t)
	room, err := a.Reserve(5)
	if err != nil {
		t.Fatal(err)
	}
	copy(room, "hello")
	a.SetWriteDeadline(shmtest.Past)
	shmtest.WantErr(t, "Commit", a.Commit(5), "write timeout")
	a.SetWriteDeadline(shmtest.NoDeadline)
	if err := a.Commit(5); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(b, buf); string(buf) != "hello" || err != nil {
		t.Errorf("read %q, %v", buf, err)
	}
}

// addressSpace returns how many bytes of it this process has mapped.
func addressSpace(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		pages = 10*pages + int(c-'0')
	}
	return pages * os.Getpagesize()
}
