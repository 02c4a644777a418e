//go:build linux

package bench

import (
	"fmt"
	"time"
)

// pingPong stores a number and waits until the other process has stored it too,
// each on a cache line of its own.
func pingPong(e *end, q quota) (Result, error)     { return rally(e, q, 0) }
func pingPongEcho(e *end, q quota) (Result, error) { return returnRally(e, 0) }

// ringPingPong does the same with a message, copied into a ring before the
// number is stored, and out of it after that was seen, with a ring for each
// direction: what a round trip takes without a connection.
func ringPingPong(e *end, q quota) (Result, error)     { return rally(e, q, e.spec.Size) }
func ringPingPongEcho(e *end, q quota) (Result, error) { return returnRally(e, e.spec.Size) }

func rally(e *end, q quota, size int) (r Result, err error) {
	m := e.conns[0].(*memory)
	message := make([]byte, size)
	one := func() {
		m.turn++
		if size > 0 {
			m.put(0, message)
		}
		m.ping.Store(m.turn)
		for n := 1; m.pong.Load() != m.turn; n++ {
			stuck(n)
		}
		if size > 0 && err == nil {
			err = m.take(1, message)
		}
		r.AllOps++
	}
	c := newClock(q.half())
	for n := c.next(); n > 0; n = c.next() {
		for range n {
			one()
		}
	}
	r.Ops, r.Elapsed = r.AllOps, c.elapsed()
	if q.D > 0 {
		for c = newClock(q.half()); c.elapsed() < c.D; {
			t := time.Now()
			one()
			e.record(time.Since(t))
		}
	}
	m.stop.Store(m.turn + 1) // the next one is the last
	one()
	r.AllOps--
	return r, err
}

func returnRally(e *end, size int) (r Result, err error) {
	m := e.conns[0].(*memory)
	message := make([]byte, size)
	for n := 1; ; n++ {
		v := m.ping.Load()
		if v == m.turn {
			stuck(n)
			continue
		}
		if v != m.turn+1 {
			return r, fmt.Errorf("bench: ping %d after %d", v, m.turn)
		}
		end := m.stop.Load() == v // stored before this ping
		m.turn = v
		if size > 0 {
			if err := m.take(0, message); err != nil {
				return r, err
			}
			m.put(1, message)
		}
		m.pong.Store(v)
		if end {
			return r, nil
		}
		r.Ops++
	}
}

// put copies a message, which begins with the number of its turn, into one of
// two rings, and take copies one out and checks the number. Sizes are powers of
// two, so that no message wraps.
func (m *memory) put(ring int, message []byte) {
	message[0] = byte(m.turn)
	copy(m.slot(ring, len(message)), message)
}

func (m *memory) take(ring int, message []byte) error {
	copy(message, m.slot(ring, len(message)))
	if message[0] != byte(m.turn) {
		return fmt.Errorf("bench: message %#x came as %#x", byte(m.turn), message[0])
	}
	return nil
}

func (m *memory) slot(ring, size int) []byte {
	half := len(m.ring) / 2
	at := int(m.turn) * size & (half - 1)
	return m.ring[ring*half+at:][:size]
}
