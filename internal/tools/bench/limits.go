//go:build linux

package bench

import "fmt"

// lastInt is the bit that marks the last integer of a slice.
const lastInt = 1 << 31

func intsUncached(e *end, q quota) (Result, error) { return produceInts(e, q, (*memory).putInts) }
func intsCached(e *end, q quota) (Result, error)   { return produceInts(e, q, (*memory).putIntsCached) }

func produceInts(e *end, q quota, put func(m *memory, v uint32, n uint64)) (r Result, err error) {
	m := e.conns[0].(*memory)
	c := newClock(q)
	for n := c.next(); n > 0; n = c.next() {
		put(m, uint32(r.Ops), n)
		r.Ops += n
	}
	put(m, uint32(r.Ops)|lastInt, 1)
	r.Ops++
	err = m.confirm(r.Ops)
	r.Elapsed, r.AllOps = c.elapsed(), r.Ops
	return r, err
}

// putInts stores n integers, v and following, into the ring, and loads the
// consumer's position before each.
func (m *memory) putInts(v uint32, n uint64) {
	ring, pos := m.ints, m.pos
	size, mask := uint64(len(ring)), uint64(len(ring)-1)
	for range n {
		for i := 1; pos-m.consumed.Load() == size; i++ {
			pause()
			stuck(i)
		}
		ring[pos&mask] = v
		v++
		pos++
		m.produced.Store(pos)
	}
	m.pos = pos
}

// putIntsCached does the same with a copy of the consumer's position, loaded
// again only when by the copy the ring is full.
func (m *memory) putIntsCached(v uint32, n uint64) {
	ring, pos, consumed := m.ints, m.pos, m.other
	size, mask := uint64(len(ring)), uint64(len(ring)-1)
	for range n {
		for i := 1; pos-consumed == size; i++ {
			consumed = m.consumed.Load()
			pause()
			stuck(i)
		}
		ring[pos&mask] = v
		v++
		pos++
		m.produced.Store(pos)
	}
	m.pos, m.other = pos, consumed
}

func takeIntsUncached(e *end, _ quota) (Result, error) { return consumeInts(e, (*memory).takeInts) }
func takeIntsCached(e *end, _ quota) (Result, error) {
	return consumeInts(e, (*memory).takeIntsCached)
}

func consumeInts(e *end, take func(m *memory) (uint64, error)) (r Result, err error) {
	m := e.conns[0].(*memory)
	r.Ops, err = take(m)
	r.AllOps = r.Ops
	return r, err
}

// takeInts takes integers until the last of the slice, and checks each. It
// loads the producer's position before each.
func (m *memory) takeInts() (uint64, error) {
	ring, pos := m.ints, m.pos
	mask := uint64(len(ring) - 1)
	for want := uint32(0); ; want++ {
		for i := 1; m.produced.Load() == pos; i++ {
			pause()
			stuck(i)
		}
		v := ring[pos&mask]
		pos++
		if v != want {
			return m.took(v, want, pos)
		}
		m.consumed.Store(pos)
	}
}

// takeIntsCached does the same with a copy of the producer's position, loaded
// again only when by the copy the ring is empty.
func (m *memory) takeIntsCached() (uint64, error) {
	ring, pos, produced := m.ints, m.pos, m.other
	mask := uint64(len(ring) - 1)
	for want := uint32(0); ; want++ {
		for i := 1; produced == pos; i++ {
			produced = m.produced.Load()
			pause()
			stuck(i)
		}
		v := ring[pos&mask]
		pos++
		if v != want {
			m.other = produced
			return m.took(v, want, pos)
		}
		m.consumed.Store(pos)
	}
}

// took ends a slice: v came where want was to come, and is the last, or wrong.
func (m *memory) took(v, want uint32, pos uint64) (uint64, error) {
	if v != want|lastInt {
		return 0, fmt.Errorf("bench: integer %#x came as %#x", want, v)
	}
	n := uint64(want) + 1
	m.confirmed.Store(n)
	m.pos = pos
	m.consumed.Store(pos)
	return n, nil
}

// piece is how many bytes memory-copy publishes at once, at most.
const piece = 64 << 10

// copyIn copies large messages into the ring, piece by piece.
func copyIn(e *end, q quota) (r Result, err error) {
	m, b := e.conns[0].(*memory), make([]byte, e.spec.Size)
	size := uint64(len(m.ring))
	send := func(head uint64) error {
		PutHead(b, head)
		for rest := b; len(rest) > 0; {
			p := rest[:min(len(rest), piece)]
			for n := 1; m.pos+uint64(len(p))-m.other > size; n++ {
				m.other = m.consumed.Load()
				stuck(n)
			}
			// Sizes are powers of two, so that a piece does not wrap.
			copy(m.ring[m.pos&(size-1):], p)
			m.pos += uint64(len(p))
			m.produced.Store(m.pos)
			rest = rest[len(p):]
		}
		return nil
	}
	return produce(q, e.spec.Size, send, func() (uint64, error) {
		for n := 1; m.consumed.Load() != m.pos; n++ {
			stuck(n)
		}
		return m.confirmed.Load(), nil
	})
}

// copyOut copies large messages out of the ring, piece by piece.
func copyOut(e *end, _ quota) (r Result, err error) {
	m, b := e.conns[0].(*memory), make([]byte, e.spec.Size)
	size, k := uint64(len(m.ring)), newChecker(e.spec.Size)
	for !k.done() {
		for rest := b; len(rest) > 0; {
			p := rest[:min(len(rest), piece)]
			for n := 1; m.other-m.pos < uint64(len(p)); n++ {
				m.other = m.produced.Load()
				stuck(n)
			}
			copy(p, m.ring[m.pos&(size-1):])
			m.pos += uint64(len(p))
			rest = rest[len(p):]
			if len(rest) == 0 {
				if err := k.feed(b); err != nil {
					return r, err
				}
				m.confirmed.Store(k.seen)
			}
			m.consumed.Store(m.pos)
		}
	}
	return Result{Ops: k.seen, AllOps: k.seen}, nil
}
