package ring

import (
	"math"
	"os"
	"reflect"
	"runtime"
	"testing"
)

// aligned returns n bytes that begin like a page, as far as a Header minds:
// what make returns can be on the stack, at any address.
func aligned(n int) []byte {
	mem := make([]byte, n+os.Getpagesize())
	off := -uintptr(reflect.ValueOf(mem).Pointer()) % uintptr(os.Getpagesize())
	return mem[off:][:n:n]
}

// TestDecode decodes what both ends of a ring have stored.
func TestDecode(t *testing.T) {
	mem := aligned(HeaderSize)
	h := At(mem)
	const size = 64
	p, c := NewProducer(h, make([]byte, size), 0), NewConsumer(h, make([]byte, size), 0)
	p.Put(make([]byte, 50))
	p.Publish()
	c.Refresh()
	c.Take(make([]byte, 20))
	c.Publish()
	p.Own.Parked.Store(3)
	c.Own.Parked.Store(4)
	c.Own.Closed.Store(1)
	p.Own.Cause.Store(5)
	c.Own.Cause.Store(6)
	p.Own.Spare.Store(7)
	c.Own.Spare.Store(8)
	got := Decode(mem)
	if want := (Snapshot{50, 20, 4, 3, 1, 0, 6, 5, 8, 7}); got != want {
		t.Errorf("Decode = %+v, want %+v", got, want)
	}
	if n := got.Waiting(size); n != 30 {
		t.Errorf("Waiting = %d, want 30", n)
	}
	if err := got.Check(got, size, 1); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestCheck(t *testing.T) {
	const size = 64
	pos := func(produced, consumed uint64) Snapshot { return Snapshot{Produced: produced, Consumed: consumed} }
	for _, tt := range []struct {
		earlier, later Snapshot
		ok             bool
	}{
		{pos(0, 0), pos(0, 0), true},
		{pos(64, 0), pos(64, 0), true},
		{pos(65, 0), pos(65, 0), false}, // more than the ring holds
		{pos(10, 11), pos(10, 11), false},
		{pos(10, 11), pos(11, 11), true},          // the producer's position was copied first
		{pos(100, 36), pos(200, 180), true},       // both have moved on
		{pos(100, 36), pos(1000, 36), true},       // as it may look when it was copied last
		{pos(100, 35), pos(1000, 36), true},       // likewise
		{pos(101, 36), pos(1000, 36), false},      // but the consumer's stood still while this was seen
		{pos(11, 10), pos(10, 10), false},         // backwards
		{pos(11, 10), pos(11, 9), false},          // likewise
		{pos(0, 0), pos(math.MaxUint64, 0), true}, // may have been
		{pos(math.MaxUint64, 0), pos(math.MaxUint64, 0), false},
		{pos(0, math.MaxUint64), pos(0, math.MaxUint64), false},
		{pos(math.MaxUint64, math.MaxUint64), pos(math.MaxUint64, math.MaxUint64), true},
		{Snapshot{}, Snapshot{ConsumerClosed: 1, ProducerClosed: 1}, true},
		{Snapshot{ConsumerClosed: 1}, Snapshot{}, false}, // backwards
		{Snapshot{}, Snapshot{ConsumerClosed: 2}, true},  // the generation was copied before
		{Snapshot{ConsumerClosed: 2}, Snapshot{ConsumerClosed: 2}, false},
		{Snapshot{ProducerClosed: math.MaxUint32}, Snapshot{ProducerClosed: math.MaxUint32}, false},
	} {
		if err := tt.later.Check(tt.earlier, size, 1); (err == nil) != tt.ok {
			t.Errorf("%+v after %+v: %v", tt.later, tt.earlier, err)
		}
		if n := tt.later.Waiting(size); n < 0 || n > size {
			t.Errorf("%+v: %d bytes wait in a ring of %d", tt.later, n, size)
		}
	}
}

// TestCheckRunning looks at a ring while both ends work on it: what is read
// word by word, in any order, never looks damaged.
func TestCheckRunning(t *testing.T) {
	mem := aligned(HeaderSize)
	h := At(mem)
	const size, total = 64, 1 << 16
	data := make([]byte, size)
	done := make(chan struct{}, 2)
	go func() {
		p := NewProducer(h, data, 0)
		for p.Written() < total {
			p.Refresh()
			if p.Put(make([]byte, 7)); p.Free() == size {
				runtime.Gosched()
			}
			p.Publish()
		}
		done <- struct{}{}
	}()
	go func() {
		c := NewConsumer(h, data, 0)
		for b := make([]byte, 11); c.Consumed() < total; {
			if n, _ := c.Refresh(); n == 0 {
				runtime.Gosched()
			}
			c.Take(b)
			c.Publish()
		}
		done <- struct{}{}
	}()
	look := func(i int) (s Snapshot) {
		if i%2 == 0 {
			s.Produced, s.Consumed = h.produced.Load(), h.consumed.Load()
		} else {
			s.Consumed, s.Produced = h.consumed.Load(), h.produced.Load()
		}
		return s
	}
	for i, ended := 0, 0; ended < 2; i++ {
		select {
		case <-done:
			ended++
		default:
		}
		first := look(i)
		if i%7 == 0 {
			runtime.Gosched()
		}
		second := look(i / 2)
		if err := second.Check(first, size, 1); err != nil {
			t.Fatalf("%+v after %+v: %v", second, first, err)
		}
	}
}
