package ring

import (
	"bytes"
	"errors"
	"testing"
)

// fuzzSizes are the sizes of rings that the fuzz targets use.
var fuzzSizes = []int{4, 8, 16, 64, 128, 512}

// fuzzLength returns the i-th of the lengths that the steps of a fuzz target
// have: all the small ones, and those around each fraction of the ring's size.
func fuzzLength(i byte, size int) int {
	around := []int{size / 4, size / 2, 3 * size / 4, size, 2 * size}
	if i %= 32; i < 12 {
		return int(i)
	}
	return max(0, around[(i-12)/4]+int((i-12)%4)-2)
}

// FuzzRing lets the ring and a bytes.Buffer do the same. Each byte of ops is a
// step: its low three bits say which, the others how long.
func FuzzRing(f *testing.F) {
	const put, publish, refresh, take, acked, room = 0, 2, 3, 4, 6, 7
	for i := range byte(32) { // every length, from every place around the end of the ring
		for j := range byte(32) {
			f.Add(uint8(j%6), uint64(1<<64-3)>>(j%2*64), []byte{
				put | j<<3, publish, refresh, take | j<<3, acked, room,
				put | i<<3, publish, refresh, take | i<<3, acked, room,
				put | 27<<3, publish, refresh, take | 27<<3,
			})
		}
	}
	f.Add(uint8(0), uint64(1<<64-3), bytes.Repeat([]byte{0x09, 2, 3, 0x35, 6, 7, 5}, 40))
	f.Add(uint8(4), uint64(1<<32-1), bytes.Repeat([]byte{0xf8, 1, 0x62, 2, 0x7f, 3, 4, 6, 0x85, 1, 7}, 40))
	f.Fuzz(func(t *testing.T, shape uint8, start uint64, ops []byte) {
		size := fuzzSizes[int(shape)%len(fuzzSizes)]
		h, data := layouts[shape>>7].make(size)
		p, c := newEnds(h, data, start)
		var (
			model bytes.Buffer // all that was put in and not taken
			put   int          // bytes ever put in
			sent  int          // of them published
			taken int
			acked int
			next  byte
			known = start // the last position of the consumer's that was loaded
		)
		for i, op := range ops {
			n := fuzzLength(op>>3, size)
			switch op & 7 {
			case 0: // Put
				b := make([]byte, n)
				for i := range b {
					b[i] = next
					next++
				}
				free := size - (put - int(known-start))
				m := p.Put(b)
				if want := min(n, free); m != want {
					t.Fatalf("step %d: Put of %d = %d, want %d", i, n, m, want)
				}
				next -= byte(n - m)
				model.Write(b[:m])
				put += m
			case 1: // Span and Skip
				s := p.Span(min(n, p.Free()))
				for i := range s {
					s[i] = next
					next++
				}
				p.Skip(len(s))
				model.Write(s)
				put += len(s)
			case 2:
				p.Publish()
				sent = put
			case 3:
				if m, err := c.Refresh(); m != sent-taken || err != nil {
					t.Fatalf("step %d: the consumer's Refresh() = %d, %v, want %d", i, m, err, sent-taken)
				}
			case 4: // Take
				ready := c.Ready()
				b := make([]byte, n)
				m := c.Take(b)
				if m != min(n, ready) || m > sent-taken {
					t.Fatalf("step %d: Take of %d = %d, ready are %d", i, n, m, ready)
				}
				if want := model.Next(m); !bytes.Equal(b[:m], want) {
					t.Fatalf("step %d: Take = %x, want %x", i, b[:m], want)
				}
				taken += m
			case 5: // Span and Skip
				s := c.Span(min(n, c.Ready()))
				if want := model.Next(len(s)); !bytes.Equal(s, want) {
					t.Fatalf("step %d: Span = %x, want %x", i, s, want)
				}
				c.Skip(len(s))
				taken += len(s)
			case 6:
				c.Publish()
				acked = taken
			case 7:
				if m, err := p.Refresh(); m != size-put+acked || err != nil {
					t.Fatalf("step %d: the producer's Refresh() = %d, %v, want %d", i, m, err, size-put+acked)
				}
				known = start + uint64(acked)
			}
			if c.AckDue() != (taken-acked >= size/4) || c.Acked() != (taken == acked) {
				t.Fatalf("step %d: AckDue() = %v, Acked() = %v, taken %d, acked %d", i, c.AckDue(), c.Acked(), taken, acked)
			}
			if n, want := c.Outstanding(), sent-acked; n != want || p.Outstanding() != want {
				t.Fatalf("step %d: Outstanding() = %d and %d, want %d", i, p.Outstanding(), n, want)
			}
		}
	})
}

// FuzzHostile lets one end work while the other stores whatever it likes.
// Nothing may be believed that cannot be: no count beyond the ring, no position
// that goes back, and no panic. Each step is 9 bytes: what to do, and a number.
func FuzzHostile(f *testing.F) {
	step := func(op byte, v uint64) []byte {
		b := []byte{op}
		for i := range 8 {
			b = append(b, byte(v>>(8*i)))
		}
		return b
	}
	for _, start := range starts {
		for _, v := range []uint64{0, 1, 4, 5, 8, 9, 1 << 31, 1 << 63, 1<<64 - 1} {
			f.Add(uint8(1), start, bytes.Join([][]byte{
				step(0, start+v), step(2, 0), step(3, 0), step(4, v), step(6, 0),
				step(1, start+v), step(5, v), step(7, 0), step(2, 0), step(3, 0), step(4, 1), step(5, 1),
			}, nil))
		}
	}
	f.Fuzz(func(t *testing.T, shape uint8, start uint64, steps []byte) {
		size := fuzzSizes[int(shape)%len(fuzzSizes)]
		h, data := layouts[shape>>7].make(size)
		p, c := newEnds(h, data, start)
		var put, taken uint64 // from start
		for ; len(steps) >= 9; steps = steps[9:] {
			var v uint64
			for i, b := range steps[1:9] {
				v |= uint64(b) << (8 * i)
			}
			n := int(v % uint64(2*size))
			switch steps[0] & 7 {
			case 0:
				h.produced.Store(v) // by a hostile producer
			case 1:
				h.consumed.Store(v) // by a hostile consumer
			case 2:
				checkHostile(t, size, p.Free, p.Refresh)
			case 3:
				checkHostile(t, size, c.Ready, c.Refresh)
			case 4:
				s := p.Span(min(n, p.Free()))
				clear(s)
				put += uint64(p.Put(make([]byte, n)))
			case 5:
				_ = c.Span(min(n, c.Ready()))
				taken += uint64(c.Take(make([]byte, n)))
			case 6:
				p.Publish()
			case 7:
				c.Publish()
			}
			if p.Written() != start+put || c.Consumed() != start+taken {
				t.Fatalf("positions are %d and %d, want %d and %d", p.Written(), c.Consumed(), start+put, start+taken)
			}
			if free, ready := p.Free(), c.Ready(); free < 0 || free > size || ready < 0 || ready > size {
				t.Fatalf("Free() = %d, Ready() = %d with a ring of %d", free, ready, size)
			}
			if n, m := p.Outstanding(), c.Outstanding(); n < 0 || n > size || m < 0 || m > size {
				t.Fatalf("Outstanding() = %d and %d with a ring of %d", n, m, size)
			}
		}
	})
}

// checkHostile looks at the other end's position, and checks that either it is
// one that could be or this end knows as much as before.
func checkHostile(t *testing.T, size int, known func() int, refresh func() (int, error)) {
	t.Helper()
	before := known()
	n, err := refresh()
	if err == nil {
		if n < before || n > size || n != known() {
			t.Fatalf("Refresh() = %d, before it were %d, the ring has %d", n, before, size)
		}
		return
	}
	if v := new(Violation); !errors.As(err, &v) || n != 0 || known() != before {
		t.Fatalf("Refresh() = %d, %v; known were %d, and are %d", n, err, before, known())
	}
}
