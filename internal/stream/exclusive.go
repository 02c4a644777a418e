//go:build linux && !shmconn_sockets

package stream

import (
	"cmp"
	"errors"
	"runtime/debug"
)

// errReturned is what a handle returns once its function has returned.
var errReturned = errors.New("used after the function that it was passed to has returned")

// exclusive calls f with the half h in the hands of this goroutine alone. It
// guards f against faults in the segment, once for all calls that f makes.
func (s *Stream) exclusive(h *half, f func()) (err error) {
	if err := h.turn.Lock(); err != nil {
		return err
	}
	defer h.turn.Unlock()
	h.turn.Lend()
	defer h.turn.Reclaim()
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			if addr, ok := faultAddress(p); !ok || !s.seg.Holds(addr) {
				panic(p)
			}
			err = s.setCorrupt(s.truncated())
		}
	}()
	f()
	return nil
}

// A Producer is the writing half in the hands of one goroutine. Its methods are
// those of shmconn.Producer.
//
// A call that stores a position is between Enter and Leave. Put and Reserve,
// which touch nothing that others load, are not.
type Producer struct {
	h   *writeHalf // nil before and after
	put int        // bytes by Put since the last that were published
}

// Produce is Conn.Produce. It makes p, which f uses, the handle.
func (s *Stream) Produce(p *Producer, f func()) error {
	var flushed error
	err := s.exclusive(&s.tx.half, func() {
		p.h = &s.tx
		defer func() { p.h = nil }()
		f()
		if flushed = p.Flush(); flushed != nil {
			p.h.ring.Unput(p.put) // nothing will publish it
		}
	})
	return cmp.Or(err, flushed)
}

// Write is Producer.Write.
func (p *Producer) Write(b []byte) (int, error) {
	h := p.h
	if h == nil {
		return 0, errReturned
	}
	h.turn.Enter()
	if !h.fits(len(b)) || h.peer.ClosedIn(h.gen) {
		return p.writeSlow(b)
	}
	h.cancel()
	h.ring.PutAll(b)
	h.calls++
	raceRelease() // publish, written out: a call of it takes 1 to 2 ns
	h.ring.Publish()
	h.ringPeer()
	h.ring.Prefetch(uint64(p.put + len(b)))
	h.checkSometimes(p.put + len(b))
	p.put = 0
	h.turn.Leave()
	return len(b), nil
}

// writeSlow is Write after Enter.
func (p *Producer) writeSlow(b []byte) (n int, err error) {
	if err = p.flush(); err == nil {
		err = p.h.write(b, &n)
	}
	p.h.turn.Leave()
	return n, err
}

// Put is Producer.Put.
func (p *Producer) Put(b []byte) (int, error) {
	if h := p.h; h != nil && h.fits(len(b)) {
		h.cancel()
		h.ring.PutAll(b)
		h.calls++
		p.put += len(b)
		return len(b), nil
	}
	return p.Write(b)
}

// fits reports whether b can be put into the ring as it is, without a look at
// the peer's words.
func (h *writeHalf) fits(n int) bool {
	return h.stop.Load() == 0 && n <= min(h.ring.Free(), h.s.whole) && n > 0
}

// Flush is Producer.Flush.
func (p *Producer) Flush() (err error) {
	h := p.h
	if h == nil {
		return errReturned
	}
	h.turn.Enter()
	err = p.flush()
	h.turn.Leave()
	return err
}

// flush publishes what Put has put in. The deadline does not keep it from that:
// there is nothing to wait for.
func (p *Producer) flush() error {
	h := p.h
	if p.put == 0 {
		return nil
	}
	if h.stop.Load()&^stopDeadline != 0 || h.peer.ClosedIn(h.gen) {
		return h.checkWrite()
	}
	h.publish(p.put)
	p.put = 0
	return nil
}

// Reserve is Producer.Reserve.
func (p *Producer) Reserve(n int) (b []byte, err error) {
	h := p.h
	if h == nil {
		return nil, errReturned
	}
	if h.fits(n) && n <= h.s.size/2 {
		return h.room(n)
	}
	if err := h.s.checkSpan(n); err != nil {
		return nil, err
	}
	h.turn.Enter()
	if err = p.flush(); err == nil { // the peer makes no room for bytes that it does not know of
		b, err = h.reserve(n)
	}
	h.turn.Leave()
	return b, err
}

// Commit is Producer.Commit.
func (p *Producer) Commit(n int) (err error) {
	h := p.h
	if h == nil {
		return errReturned
	}
	h.turn.Enter()
	if 0 < n && n <= h.reserved && h.stop.Load() == 0 && !h.peer.ClosedIn(h.gen) {
		h.cancel()
		h.ring.Skip(n)
		h.calls++
		h.publish(p.put + n)
		p.put = 0
	} else {
		err = h.commit(n) // fails, or n is 0
	}
	h.turn.Leave()
	return err
}

// A Consumer is the reading half in the hands of one goroutine. Its methods are
// those of shmconn.Consumer.
type Consumer struct{ h *readHalf } // nil before and after

// Consume is Conn.Consume. It makes c, which f uses, the handle.
func (s *Stream) Consume(c *Consumer, f func()) error {
	return s.exclusive(&s.rx.half, func() {
		c.h = &s.rx
		s.rx.pauses = consumerPauses
		defer func() { c.h, s.rx.pauses = nil, connPauses }()
		f()
	})
}

// Read is Consumer.Read.
func (c *Consumer) Read(b []byte) (n int, err error) {
	h := c.h
	if h == nil {
		return 0, errReturned
	}
	h.turn.Enter()
	if n = len(b); h.has(n) {
		h.leased = false
		h.ring.TakeAll(b)
		h.calls++
		h.took()
		h.turn.Leave()
		return n, nil
	}
	n = 0
	err = h.read(b, &n)
	h.turn.Leave()
	return n, err
}

// has reports whether n bytes, a few, are there without a look at the peer's
// words.
func (h *readHalf) has(n int) bool {
	return h.stop.Load() == 0 && n <= min(h.ring.Ready(), manySmall) && n > 0
}

// took ends a call that removed bytes from the ring.
func (h *readHalf) took() {
	raceAcquire()
	if h.ring.AckDue() {
		h.publish()
	}
}

// Peek is Consumer.Peek.
func (c *Consumer) Peek(n int) ([]byte, error) { return c.peek(n, n) }

// PeekAtLeast is Consumer.PeekAtLeast.
func (c *Consumer) PeekAtLeast(n int) ([]byte, error) {
	if c.h == nil {
		return nil, errReturned
	}
	return c.peek(n, c.h.s.size/2)
}

func (c *Consumer) peek(n, most int) (b []byte, err error) {
	h := c.h
	if h == nil {
		return nil, errReturned
	}
	if n == most && h.has(n) {
		return h.span(n)
	}
	if err := h.s.checkSpan(n); err != nil {
		return nil, err
	}
	h.turn.Enter()
	b, err = h.peek(n, most)
	h.turn.Leave()
	return b, err
}

// Discard is Consumer.Discard.
func (c *Consumer) Discard(n int) (done int, err error) {
	h := c.h
	if h == nil {
		return 0, errReturned
	}
	if n < 0 {
		return 0, errNegative
	}
	h.turn.Enter()
	if h.has(n) {
		h.leased = false
		h.ring.Skip(n)
		h.calls++
		h.took()
		h.turn.Leave()
		return n, nil
	}
	err = h.discard(n, &done)
	h.turn.Leave()
	return done, err
}
