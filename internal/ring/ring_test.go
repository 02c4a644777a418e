package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

// These tests have the ring on the heap, where the race detector sees it. There
// it has no mirror, so that spans are clipped at its end.

// layouts are the ways to have a ring on the heap.
var layouts = []struct {
	name string
	make func(size int) (*Header, []byte)
}{
	{"apart", func(size int) (*Header, []byte) { return new(Header), make([]byte, size) }},
	{"together", func(size int) (*Header, []byte) {
		b := aligned(HeaderSize + size)
		return At(b), b[HeaderSize:]
	}},
}

// starts are positions at which a ring begins: a connection does so at 0, and
// one that has been in use for long is anywhere.
var starts = []uint64{0, 1<<32 - 3, 1<<63 - 3, 1<<64 - 3}

// newEnds returns both ends of a ring that begins at the position start.
func newEnds(h *Header, data []byte, start uint64) (*Producer, *Consumer) {
	p, c := NewProducer(h, data, 0), NewConsumer(h, data, 0)
	h.produced.Store(start)
	h.consumed.Store(start)
	p.pos, p.cachedPeer = start, start
	c.pos, c.cachedPeer, c.published = start, start, start
	return &p, &c
}

func newRing(size int) (*Producer, *Consumer) {
	h, data := layouts[0].make(size)
	return newEnds(h, data, 0)
}

// pattern returns n bytes that depend on their place in the stream.
func pattern(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		x := uint32(off+i) * 2654435761
		b[i] = byte(x>>24) ^ byte(x>>11)
	}
	return b
}

func mustRefresh(t testing.TB, end interface{ Refresh() (int, error) }, want int) {
	t.Helper()
	if n, err := end.Refresh(); n != want || err != nil {
		t.Fatalf("%T.Refresh() = %d, %v, want %d", end, n, err, want)
	}
}

// move takes n bytes through the ring.
func move(t testing.TB, p *Producer, c *Consumer, n int) {
	t.Helper()
	size := int(p.size)
	for n > 0 {
		m := p.Put(make([]byte, min(n, size)))
		p.Publish()
		mustRefresh(t, c, m)
		c.Skip(m)
		c.Publish()
		mustRefresh(t, p, size)
		n -= m
	}
}

// TestBoundaries puts in and takes out lengths around the ring's size, at
// places around its end, and looks at all that both ends say on the way.
func TestBoundaries(t *testing.T) {
	for _, size := range []int{4, 64, 4096} {
		lengths := []int{0, 1, 2, 3, size/4 - 1, size / 4, size / 2, size - 2, size - 1, size, size + 1, 2 * size, 2*size + 1}
		slices.Sort(lengths)
		for _, n := range slices.Compact(lengths) {
			t.Run(fmt.Sprintf("len=%d,cap=%d", n, size), func(t *testing.T) {
				for _, at := range []int{0, 1, size/2 - 1, size / 2, size - 3, size - 2, size - 1} {
					for _, start := range starts {
						for _, l := range layouts {
							h, data := l.make(size)
							p, c := newEnds(h, data, start)
							move(t, p, c, at)
							boundary(t, p, c, n)
							if t.Failed() {
								t.Fatalf("at %d, start %d, header %s", at, start, l.name)
							}
						}
					}
				}
			})
		}
	}
}

func boundary(t *testing.T, p *Producer, c *Consumer, n int) {
	size, before, was := int(p.size), p.Written(), c.Consumed()
	in := pattern(int(before), n)
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s = %d, want %d", what, got, want)
		}
	}
	fits := min(n, size)
	check("Free", p.Free(), size)
	check("Put", p.Put(in), fits)
	check("Free after Put", p.Free(), size-fits)
	check("Written", int(p.Written()-before), fits)
	check("Published before Publish", int(p.Published()-before), 0)
	if c.Moved() {
		t.Error("the consumer sees bytes that were not published")
	}
	mustRefresh(t, c, 0)

	p.Publish()
	check("Published", int(p.Published()-before), fits)
	check("the producer's Outstanding", p.Outstanding(), fits)
	check("the consumer's Outstanding", c.Outstanding(), fits)
	check("Moved", btoi(c.Moved()), btoi(fits > 0))
	check("Ready before Refresh", c.Ready(), 0)
	mustRefresh(t, c, fits)
	check("Ready", c.Ready(), fits)
	check("Moved after Refresh", btoi(c.Moved()), 0)
	more := p.Put(in)
	check("Put into what is left", more, min(n, size-fits))

	// Two thirds, and the rest with room to spare.
	first := fits * 2 / 3
	out := make([]byte, n+8)
	check("Take of a part", c.Take(out[:first]), first)
	check("Ready after it", c.Ready(), fits-first)
	check("Take", c.Take(out[first:]), fits-first)
	if !bytes.Equal(out[:fits], in[:fits]) {
		t.Error("other bytes came out than went in")
	}
	check("Take from the empty ring", c.Take(out), 0)
	check("Consumed", int(c.Consumed()-was), fits)

	check("the consumer's Published before Publish", int(c.Published()-was), 0)
	check("Acked", btoi(c.Acked()), btoi(fits == 0))
	check("AckDue", btoi(c.AckDue()), btoi(fits >= size/4))
	if p.Moved() {
		t.Error("the producer sees room that was not published")
	}
	mustRefresh(t, p, size-fits-more)
	c.Publish()
	check("the consumer's Published", int(c.Published()-was), fits)
	check("Acked after Publish", btoi(c.Acked()), 1)
	check("the producer's Moved", btoi(p.Moved()), btoi(fits > 0))
	check("Free before Refresh", p.Free(), size-fits-more)
	mustRefresh(t, p, size-more)
	check("Outstanding at the end", p.Outstanding(), 0)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestWrapAround goes round the ring many times in every length of step, so
// that each byte of the ring is once the first and once the last of a step.
func TestWrapAround(t *testing.T) {
	const size = 64
	for step := 1; step <= size; step++ {
		t.Run(fmt.Sprintf("len=%d,cap=%d", step, size), func(t *testing.T) {
			p, c := newRing(size)
			out := make([]byte, step)
			for off := 0; off < step*size; off += step {
				if n := p.Put(pattern(off, step)); n != step {
					t.Fatalf("Put = %d", n)
				}
				p.Publish()
				mustRefresh(t, c, step)
				if n := c.Take(out); n != step || !bytes.Equal(out, pattern(off, step)) {
					t.Fatalf("Take at %d = %d, %x, want %x", off, n, out, pattern(off, step))
				}
				c.Publish()
				mustRefresh(t, p, size)
			}
		})
	}
}

// TestStress streams through the ring between two goroutines. Under -race it
// tells whether the positions order the accesses to the bytes.
func TestStress(t *testing.T) {
	for _, size := range []int{4, 64, 4096, 1 << 16} {
		for _, l := range layouts {
			t.Run(fmt.Sprintf("cap=%d,header=%s", size, l.name), func(t *testing.T) {
				total := min(1024*size, 2<<20)
				seed := rand.Uint64()
				t.Logf("seed %#x", seed)
				h, data := l.make(size)
				p, c := newEnds(h, data, starts[seed%uint64(len(starts))])
				var wg sync.WaitGroup
				var failed error
				stop := make(chan struct{})
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, 1))
					for off := 0; off < total; {
						b := pattern(off, min(1+r.IntN(size), total-off))
						n := p.Put(b)
						if m := min(p.Free(), len(b)-n); m > 0 { // the rest by another way
							switch r.IntN(4) {
							case 0:
								m = copy(p.Span(m), b[n:])
								p.Skip(m)
								n += m
							case 1:
								first, second := p.Pieces(m)
								copy(second, b[n+copy(first, b[n:]):])
								p.Skip(m)
								n += m
							}
						}
						off += n
						p.Publish()
						if n > 0 {
							continue
						}
						if _, err := p.Refresh(); err != nil {
							t.Error(err)
							return
						}
						select {
						case <-stop:
							return
						default:
							runtime.Gosched()
						}
					}
				})
				wg.Go(func() {
					defer close(stop)
					r := rand.New(rand.NewPCG(seed, 2))
					buf := make([]byte, size)
					for off := 0; off < total; {
						n, err := c.Refresh()
						if err != nil {
							failed = err
							return
						}
						if n == 0 {
							if !c.Acked() {
								c.Publish()
							}
							runtime.Gosched()
							continue
						}
						b := buf[:1+r.IntN(size)]
						switch r.IntN(4) {
						case 0:
							b = c.Span(min(n, len(b)))
							c.Skip(len(b))
						case 1:
							first, second := c.Pieces(min(n, len(b)))
							b = b[:copy(b, first)+copy(b[len(first):], second)]
							c.Skip(len(b))
						default:
							b = b[:c.Take(b)]
						}
						if !bytes.Equal(b, pattern(off, len(b))) {
							failed = fmt.Errorf("wrong bytes from %d on, %d of them", off, len(b))
							return
						}
						off += len(b)
						if c.AckDue() {
							c.Publish()
						}
					}
				})
				wg.Wait()
				if failed != nil {
					t.Error(failed)
				}
			})
		}
	}
}

// TestViolation stores into the shared words what the other end may not.
func TestViolation(t *testing.T) {
	const size = 4096
	const put, taken, acked = 3000, 2000, 1024 // 1,024 are acknowledged, then 976 more were taken
	for _, start := range starts {
		for _, tt := range []struct {
			name    string
			shared  uint64 // less start
			allowed int    // bytes ready, or -1
		}{
			{"the same", put, put - taken},
			{"one on", put + 1, put + 1 - taken},
			{"as far as may be", acked + size, acked + size - taken},
			{"one too far", acked + size + 1, -1},
			{"one back", put - 1, -1},
			{"back to what was taken", taken, -1},
			{"before what was taken", taken - 1, -1},
			{"back to the start", 0, -1},
			{"before the start", 1<<64 - 1, -1},
			{"far ahead", put + 1<<32, -1},
			{"half way round", put + 1<<63, -1},
		} {
			t.Run(fmt.Sprintf("produced/%s/start=%d", strings.ReplaceAll(tt.name, " ", "_"), start), func(t *testing.T) {
				h, data := layouts[0].make(size)
				p, c := newEnds(h, data, start)
				p.Put(pattern(0, put))
				p.Publish()
				mustRefresh(t, c, put)
				c.Skip(acked)
				c.Publish()
				c.Skip(taken - acked)
				h.produced.Store(start + tt.shared)
				if want := tt.shared != put; c.Moved() != want {
					t.Errorf("Moved() = %v, want %v", c.Moved(), want)
				}
				n, err := c.Refresh()
				checkRefresh(t, n, err, tt.allowed, start+tt.shared, start+acked+size, "producer")
				if tt.allowed < 0 && c.Ready() != put-taken {
					t.Errorf("after the violation Ready() = %d, want %d", c.Ready(), put-taken)
				}
				if n := c.Outstanding(); n < 0 || n > size {
					t.Errorf("Outstanding() = %d of %d", n, size)
				}
			})
		}
		for _, tt := range []struct {
			name    string
			shared  uint64
			allowed int // bytes free, or -1
		}{
			{"the same", acked, size - put + acked},
			{"one on", acked + 1, size - put + acked + 1},
			{"as far as may be", put, size},
			{"one too far", put + 1, -1},
			{"one back", acked - 1, -1},
			{"back to the start", 0, -1},
			{"before the start", 1<<64 - 1, -1},
			{"a ring too far", put + size, -1},
			{"half way round", acked + 1<<63, -1},
		} {
			t.Run(fmt.Sprintf("consumed/%s/start=%d", strings.ReplaceAll(tt.name, " ", "_"), start), func(t *testing.T) {
				h, data := layouts[0].make(size)
				p, _ := newEnds(h, data, start)
				p.Put(pattern(0, put))
				p.Publish()
				h.consumed.Store(start + acked)
				mustRefresh(t, p, size-put+acked)
				h.consumed.Store(start + tt.shared)
				if want := tt.shared != acked; p.Moved() != want {
					t.Errorf("Moved() = %v, want %v", p.Moved(), want)
				}
				n, err := p.Refresh()
				checkRefresh(t, n, err, tt.allowed, start+tt.shared, start+put, "consumer")
				if tt.allowed < 0 && p.Free() != size-put+acked {
					t.Errorf("after the violation Free() = %d, want %d", p.Free(), size-put+acked)
				}
				if n := p.Outstanding(); n < 0 || n > size {
					t.Errorf("Outstanding() = %d of %d", n, size)
				}
			})
		}
	}
}

func checkRefresh(t *testing.T, n int, err error, allowed int, seen, bound uint64, who string) {
	t.Helper()
	if allowed >= 0 {
		if n != allowed || err != nil {
			t.Errorf("Refresh() = %d, %v, want %d", n, err, allowed)
		}
		return
	}
	v, ok := errors.AsType[*Violation](err)
	if !ok || n != 0 {
		t.Fatalf("Refresh() = %d, %v, want a Violation", n, err)
	}
	if v.Seen != seen || v.Allowed != bound || !strings.Contains(v.What, who) {
		t.Errorf("got %+v, want Seen %d, Allowed %d and the %s's position", v, seen, bound, who)
	}
	for _, want := range []string{v.What, fmt.Sprint(v.Seen), fmt.Sprint(v.Allowed)} {
		if !strings.Contains(v.Error(), want) {
			t.Errorf("Error() = %q, which does not say %q", v.Error(), want)
		}
	}
}

// TestNotBeyondTold checks that the producer is held to the room that it was
// told of, not to what the consumer has read without a word.
func TestNotBeyondTold(t *testing.T) {
	const size = 64
	p, c := newRing(size)
	p.Put(make([]byte, size))
	p.Publish()
	mustRefresh(t, c, size)
	c.Skip(size)                              // and no Publish
	c.header.produced.Store(uint64(size) + 1) // which an honest producer cannot know to be free
	if n, err := c.Refresh(); err == nil {
		t.Errorf("Refresh() = %d, nil, want a Violation", n)
	}
}

// TestLazyPublish takes bytes one by one and says when the consumer owes its
// position.
func TestLazyPublish(t *testing.T) {
	for _, size := range []int{4, 64, 4096} {
		t.Run(fmt.Sprintf("cap=%d", size), func(t *testing.T) {
			p, c := newRing(size)
			p.Put(make([]byte, size))
			p.Publish()
			mustRefresh(t, c, size)
			since := 0 // bytes since the last Publish
			for i := range size {
				if c.Acked() != (since == 0) {
					t.Fatalf("byte %d: Acked() = %v, %d since Publish", i, c.Acked(), since)
				}
				c.Take(make([]byte, 1))
				since++
				if c.AckDue() != (since >= size/4) {
					t.Fatalf("byte %d: AckDue() = %v, %d since Publish", i, c.AckDue(), since)
				}
				if p.Moved() != (i+1-since != int(p.cachedPeer)) {
					t.Fatalf("byte %d: Moved() = %v", i, p.Moved())
				}
				if c.AckDue() {
					c.Publish()
					since = 0
					mustRefresh(t, p, i+1)
				}
			}
		})
	}
}

// TestSpan looks at where spans begin and end: at the length asked for, or, if
// they wrap and the mirror is too short, at the end of the ring. Pieces have
// all of them.
func TestSpan(t *testing.T) {
	const size = 64
	for _, half := range []int{0, size / 2, size} { // of the mirror
		for _, at := range []int{0, 1, size / 2, size/2 + 1, size - 1} {
			for _, n := range []int{0, 1, size / 2, size - at - 1, size - at, size - at + 1, size} {
				if n < 0 || n > size {
					continue
				}
				t.Run(fmt.Sprintf("len=%d,cap=%d,at=%d,half=%d", n, size, at, half), func(t *testing.T) {
					h, data := new(Header), make([]byte, size)
					mirror := make([]byte, 2*half) // of other memory, to tell them apart
					prod, cons := NewProducer(h, data, 0), NewConsumer(h, data, 0)
					p, c := &prod, &cons
					if half > 0 {
						p.Mirror(mirror)
						c.Mirror(mirror)
					}
					for range at + 3*size { // where it is in the stream does not matter
						p.Skip(1)
						p.Publish()
						mustRefresh(t, c, 1)
						c.Skip(1)
						c.Publish()
						mustRefresh(t, p, size)
					}
					inMirror := at + half - size
					wraps := at+n > size
					mirrored := wraps && inMirror >= 0 && inMirror+n <= 2*half
					check := func(who string, s, first, second []byte) {
						t.Helper()
						want, begin := n, data[at:]
						switch {
						case mirrored:
							begin = mirror[inMirror:]
						case wraps:
							want = size - at
						}
						if len(s) != want {
							t.Errorf("the %s's Span has %d bytes, want %d", who, len(s), want)
						}
						if want > 0 && &s[0] != &begin[0] {
							t.Errorf("the %s's Span begins elsewhere", who)
						}
						if want := min(n, size-at); len(first) != want || len(second) != n-want {
							t.Errorf("the %s's Pieces have %d and %d bytes, want %d and %d", who, len(first), len(second), want, n-want)
						}
						if len(first) > 0 && &first[0] != &data[at] || len(second) > 0 && &second[0] != &data[0] {
							t.Errorf("the %s's Pieces begin elsewhere", who)
						}
					}
					first, second := p.Pieces(n)
					check("producer", p.Span(n), first, second)
					p.Skip(n)
					p.Publish()
					mustRefresh(t, c, n)
					first, second = c.Pieces(n)
					check("consumer", c.Span(n), first, second)
					if p.Free() != size-n {
						t.Errorf("Free() = %d, want %d", p.Free(), size-n)
					}
				})
			}
		}
	}
}

// TestLayout says where the fields of format 1 are. It is not to be changed.
func TestLayout(t *testing.T) {
	var h Header
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"produced", unsafe.Offsetof(h.produced), 0},
		{"consumed", unsafe.Offsetof(h.consumed), 128},
		{"consumer.Parked", unsafe.Offsetof(h.consumer) + unsafe.Offsetof(h.consumer.Parked), 256},
		{"consumer.Closed", unsafe.Offsetof(h.consumer) + unsafe.Offsetof(h.consumer.Closed), 264},
		{"producer.Parked", unsafe.Offsetof(h.producer) + unsafe.Offsetof(h.producer.Parked), 384},
		{"producer.Closed", unsafe.Offsetof(h.producer) + unsafe.Offsetof(h.producer.Closed), 392},
		{"the end", unsafe.Sizeof(h), 512},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is at %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}

// TestGolden compares every byte of a header after a known sequence with what
// format 1 says. It is not to be changed.
func TestGolden(t *testing.T) {
	const size = 64
	mem := aligned(HeaderSize + size)
	p, c := newEnds(At(mem), mem[HeaderSize:], 0)
	if p.Own != c.Peer || p.Peer != c.Own || p.Own == p.Peer {
		t.Fatal("the two ends do not agree on whose words are whose")
	}
	move(t, p, c, 60)
	p.Put([]byte("abcdefghij")) // over the end
	p.Publish()
	p.Put([]byte("unpublished"))
	mustRefresh(t, c, 10)
	c.Skip(4)
	c.Publish()
	c.Skip(3) // and says nothing
	c.Own.Parked.Store(0x0102030405060708)
	c.Own.Closed.Store(1)
	p.Own.Parked.Store(7)
	p.Own.Closed.Store(0x11223344)

	want := make([]byte, HeaderSize+size)
	e := binary.NativeEndian
	e.PutUint64(want[0:], 70)
	e.PutUint64(want[128:], 64)
	e.PutUint64(want[256:], 0x0102030405060708)
	e.PutUint32(want[264:], 1)
	e.PutUint64(want[384:], 7)
	e.PutUint32(want[392:], 0x11223344)
	copy(want[HeaderSize+60:], "abcd")
	copy(want[HeaderSize:], "efghijunpublished")
	for i := range want {
		if mem[i] != want[i] {
			t.Errorf("byte %d is %#x, want %#x", i, mem[i], want[i])
		}
	}
}

// TestAlignment checks what 64-bit atomics need where addresses have 32 bits.
func TestAlignment(t *testing.T) {
	for range 16 {
		for _, l := range layouts {
			h, _ := l.make(64)
			for name, word := range map[string]any{
				"produced":        &h.produced,
				"consumed":        &h.consumed,
				"consumer.Parked": &h.consumer.Parked,
				"producer.Parked": &h.producer.Parked,
			} {
				if a := reflect.ValueOf(word).Pointer(); a%8 != 0 {
					t.Errorf("header %s: %s is at address %#x", l.name, name, a)
				}
			}
		}
	}
}

// TestAtShort checks that a header is not taken from fewer bytes than it has.
func TestAtShort(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("At took a header from too few bytes")
		}
	}()
	At(make([]byte, HeaderSize-1))
}
