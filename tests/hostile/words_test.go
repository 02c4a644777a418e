//go:build linux

package hostile

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"shmconn"
	"shmconn/internal/shmtest"
)

// This file holds single sentences of FORMAT.md against the code: about the
// words of a segment, seen from the peer's side.

// TestPositionBeforeClosed: "It must have stored its last position before it
// stores consumed's closed", in CloseRead and in Close.
func TestPositionBeforeClosed(t *testing.T) {
	for _, how := range []struct {
		name  string
		close func(c *shmconn.Conn) error
	}{
		{"CloseRead", (*shmconn.Conn).CloseRead},
		{"Close", (*shmconn.Conn).Close},
	} {
		t.Run(how.name, func(t *testing.T) {
			p, c := shmtest.RawPair(t, shmtest.Shape{Ring: 4096})
			p.Write(p.DataA(), make([]byte, 20))
			p.Put(shmtest.RingA+shmtest.Produced, 20)
			if n, err := c.Read(make([]byte, 10)); n != 10 || err != nil {
				t.Fatalf("Read = %d, %v", n, err)
			}
			if err := how.close(c); err != nil {
				t.Fatal(err)
			}
			if p.ClosedWord(shmtest.RingA+shmtest.ConsumerClosed) != 1 {
				t.Error("consumer's closed is not stored")
			}
			if got := p.Get(shmtest.RingA + shmtest.Consumed); got != 10 {
				t.Errorf("consumed is %d once closed is stored, want 10", got)
			}
		})
	}
}

// TestPositionBeforeClosedUnderWay is that for a Close beside a Read under way.
func TestPositionBeforeClosedUnderWay(t *testing.T) {
	rounds := 2000
	if *shmtest.Long {
		rounds = 20_000
	}
	name := shmtest.NewName()
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, name)
	for range rounds {
		p := shmtest.RawDialer(t, name, s)
		p.Handshake()
		c := shmtest.MustAccept(t, l).(*shmconn.Conn)
		p.Put(shmtest.RingA+shmtest.Produced, 4000)
		var got int
		first := make(chan struct{})
		done := make(chan error)
		go func() {
			for {
				n, err := c.Read(make([]byte, 8))
				if got += n; n > 0 && got == n {
					close(first)
				}
				if err != nil {
					done <- err
					return
				}
			}
		}()
		<-first
		c.Close()
		shmtest.WantErr(t, "Read", <-done, "read closed")
		shmtest.Eventually(func() bool { return p.ClosedWord(shmtest.RingA+shmtest.ConsumerClosed) == 1 })
		if told := p.Get(shmtest.RingA + shmtest.Consumed); told != uint64(got) {
			t.Fatalf("consumed is %d once closed is stored, %d were read", told, got)
		}
		p.Close()
	}
}

// TestNothingStoredAfterDamage: "the end should store nothing more", by
// whichever call: the words are those from before.
func TestNothingStoredAfterDamage(t *testing.T) {
	for _, way := range shmtest.Ways {
		t.Run(way.Name, func(t *testing.T) { nothingStored(t, way.Of) })
	}
}

func nothingStored(t *testing.T, of func(*shmconn.Conn) io.ReadWriter) {
	p, c := shmtest.RawPair(t, shmtest.Shape{Ring: 4096}.Poll(shmtest.PollNever))
	end := of(c)
	p.Write(p.DataA(), make([]byte, 20))
	p.Put(shmtest.RingA+shmtest.Produced, 20)
	if n, err := end.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	// A Write that waits for room, parked, is to be told of the damage and to
	// leave its word as it is.
	shmtest.MustWrite(t, end, make([]byte, 4096))
	var werr error
	waits := shmtest.Blocked(c, func() { _, werr = end.Write([]byte("x")) })
	shmtest.Eventually(func() bool { return p.Get(shmtest.RingB+shmtest.ProducerParked)&1 == 1 })

	p.Put(shmtest.RingA+shmtest.Produced, 1<<40)
	words := []int{shmtest.RingA + shmtest.Consumed, shmtest.RingA + shmtest.ConsumerParked, shmtest.RingA + shmtest.ConsumerClosed, shmtest.RingB + shmtest.Produced, shmtest.RingB + shmtest.ProducerParked, shmtest.RingB + shmtest.ProducerClosed}
	var before []uint64
	for _, off := range words {
		before = append(before, p.Get(off))
	}
	corrupt := func(what string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*shmconn.CorruptError](err); !ok {
			t.Errorf("%s: %v, want a CorruptError", what, err)
		}
	}
	_, err := end.Read(make([]byte, 4096)) // of the 10 that it knows to be there
	if err == nil {
		_, err = end.Read(make([]byte, 1))
	}
	corrupt("Read", err)
	<-waits
	corrupt("Write", werr)
	for i := range before { // Read may have acknowledged before it found out
		if words[i] == shmtest.RingA+shmtest.Consumed {
			before[i] = p.Get(shmtest.RingA + shmtest.Consumed)
		}
	}
	c.Stats()
	c.Buffered()
	c.CloseWrite()
	c.Close()
	for i, off := range words {
		if got := p.Get(off); got != before[i] {
			t.Errorf("the word at %d is %d after the damage, was %d", off, got, before[i])
		}
	}
	p.Dropped()
}

// TestProcessorWord: an end stores the processor that it is on when it rings,
// and why it went to sleep, and takes whatever stands in the peer's words for a
// hint.
func TestProcessorWord(t *testing.T) {
	for _, s := range []shmtest.Shape{{Ring: 4096}, shmtest.Shape{Ring: 4096}.Poll(shmtest.PollNever), shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways)} {
		t.Run(s.String(), func(t *testing.T) {
			p, c := shmtest.RawPair(t, s)
			p.Put(shmtest.RingB+shmtest.ConsumerParked, 1) // so that the Write rings
			shmtest.MustWrite(t, c, []byte("x"))
			if rings, _ := p.Look(); rings != 1 {
				t.Fatalf("%d rings, want 1", rings)
			}
			for _, off := range []int{shmtest.RingB + shmtest.ProducerCPU, shmtest.RingA + shmtest.ConsumerCPU} {
				if cpu := binary.NativeEndian.Uint32(p.Read(off, 4)); cpu == 0 || cpu > 1<<16 {
					t.Errorf("the word at %d is %d, want 1 + a processor's number", off, cpu)
				}
			}
			for i, hint := range []uint32{0, 1, 2, 1 << 31, 1<<32 - 1} {
				for _, off := range []int{shmtest.RingA + shmtest.ProducerCPU, shmtest.RingB + shmtest.ConsumerCPU, shmtest.RingA + shmtest.ProducerCause, shmtest.RingB + shmtest.ConsumerCause} {
					p.Write(off, binary.NativeEndian.AppendUint32(nil, hint))
				}
				done := shmtest.Blocked(c, func() {
					if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
						t.Errorf("the peer's processor %d: Read = %d, %v", hint, n, err)
					}
				})
				p.Put(shmtest.RingA+shmtest.Produced, uint64(i+1))
				p.Knock()
				<-done
			}
			if s.ListenPoll == shmtest.PollNever { // no other always goes to sleep
				if n := binary.NativeEndian.Uint32(p.Read(shmtest.RingA+shmtest.ConsumerCause, 4)); n == 0 || n > 5 {
					t.Errorf("the word says that it went to sleep because of %d, want 1 to 5", n)
				}
			}
		})
	}
}
