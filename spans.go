//go:build linux

package shmconn

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
)

// This file has the calls that never wait, and those that work in the ring itself.

func (s *stream) tryRead(b []byte) (n int, err error) {
	d := &s.rx
	if !d.tryLock() {
		return 0, d.closedError()
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	if len(b) == 0 {
		return 0, d.closedError()
	}
	if err := d.look(1); err != nil {
		return 0, err
	}
	if n := d.take(b); n > 0 {
		return n, nil
	}
	if d.idle() {
		return 0, d.look(1)
	}
	return 0, nil
}

// idle looks, once in a while, whether the peer is alive, for a caller who does not
// wait and is not told.
func (d *side) idle() bool {
	if d.idles++; d.idles%patience != 0 {
		return false
	}
	d.s.checkPeer()
	return true
}

// patience is how many calls in vain it is to the next look whether the peer is alive.
const patience = 64

func (s *stream) tryWrite(b []byte) (n int, err error) {
	d := &s.tx
	if !d.tryLock() {
		return 0, d.closedError()
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.cancel()
	if err := d.look(); err != nil {
		return 0, err
	}
	if _, err := d.fits(len(b)); err != nil {
		return 0, err
	}
	n = d.ring.Put(b)
	d.publish(n)
	switch {
	case n > 0:
		d.calls++
	case d.idle():
		return 0, d.look()
	}
	return n, nil
}

func (s *stream) buffered() (n int) {
	d := &s.rx
	if d.flags.Load()&(flagClosed|flagBroken) != 0 {
		return 0
	}
	var err error
	if d.tryLock() {
		defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
		d.tell()
		if n, err := d.ring.Refresh(); err == nil {
			return n
		}
		return 0
	}
	if !d.enter() {
		return 0
	}
	defer d.exit()
	defer s.tolerate(debug.SetPanicOnFault(true))
	return d.ring.Outstanding()
}

func (s *stream) available() (n int) {
	d := &s.tx
	if d.flags.Load()&^flagExpired != 0 {
		return 0
	}
	if !d.enter() {
		return 0
	}
	defer d.exit()
	defer s.tolerate(debug.SetPanicOnFault(true))
	if d.peer.Closed.Load() == 0 {
		n = s.size - d.ring.Outstanding()
	}
	return n
}

func (s *stream) stats() Stats {
	s.flush()
	st := Stats{
		RingSize: s.size,
	}
	st.BytesRead, st.ReadCalls = s.rx.count(s.rx.ring.Published)
	st.BytesWritten, st.WriteCalls = s.tx.count(s.tx.ring.Published)
	st.ReadWait, st.WriteWait = s.rx.blocked.sum(), s.tx.blocked.sum()
	for _, d := range s.sides() {
		st.Waits += d.waits.Load()
		st.Parks += d.parks.Load()
		st.Rings += d.rings.Load()
	}
	return st
}

// count returns how many bytes went through, and by how many calls: by what this end knows, or,
// while a call has the side, by what it has published.
func (d *side) count(published func() uint64) (bytes, calls uint64) {
	if d.tryLock() {
		defer d.unlock()
		d.counted.Store(d.calls) // so that a later look does not find less
		d.looked.Store(d.total())
		return d.total(), d.calls
	}
	if !d.enter() {
		<-d.retired
		return d.final, d.counted.Load()
	}
	defer d.exit()
	defer d.s.tolerate(debug.SetPanicOnFault(true))
	bytes, calls = d.looked.Load(), d.counted.Load()
	bytes = max(bytes, published())
	return bytes, calls
}

// checkSpan says what is wrong with the length of a span.
func (s *stream) checkSpan(n int) error {
	if n < 0 || n > s.size/2 {
		return fmt.Errorf("length %d of a span is not from 0 to half the ring size, %d", n, s.size/2)
	}
	return nil
}

func (s *stream) peek(n int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	d := &s.rx
	if err := d.lock(); err != nil {
		return nil, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.out = false
	for {
		if err := d.look(n); err != nil {
			if d.flags.Load()&(flagClosed|flagBroken) != 0 {
				return nil, err
			}
			d.tell()
			d.ring.Refresh() // which a deadline has kept look from
			return d.span(min(n, d.ring.Ready())), err
		}
		if d.ring.Ready() >= n {
			return d.span(n), nil
		}
		s.await(&d.side)
	}
}

func (d *rx) span(n int) []byte {
	raceAcquire()
	d.out = n > 0
	b := d.ring.Span(n)
	return b[:len(b):len(b)]
}

func (s *stream) discard(n int) (done int, err error) {
	if n < 0 {
		return 0, errors.New("negative count")
	}
	d := &s.rx
	if err := d.lock(); err != nil {
		return 0, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.out = false
	for done < n {
		if err := d.look(1); err != nil {
			return done, err
		}
		m := min(n-done, d.ring.Ready())
		if m == 0 {
			s.await(&d.side)
			continue
		}
		d.ring.Skip(m)
		if done == 0 {
			d.calls++
		}
		done += m
		if d.ring.Owes() {
			d.publish()
		}
	}
	return done, d.closedError()
}

func (s *stream) reserve(n int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	d := &s.tx
	if err := d.lock(); err != nil {
		return nil, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.cancel()
	for {
		if err := d.look(); err != nil {
			return nil, err
		}
		fits, err := d.fits(n)
		if err != nil {
			return nil, err
		}
		if fits {
			d.reserved, d.out = n, n > 0
			b := d.ring.Span(n)
			return b[:n:n], nil
		}
		s.await(&d.side)
	}
}

// cancel ends a reservation.
func (d *tx) cancel() { d.reserved, d.out = -1, false }

func (s *stream) commit(n int) (err error) {
	d := &s.tx
	if err := d.lock(); err != nil {
		return err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	if err := d.look(); err != nil {
		return err // and the reservation stays, for when it was the deadline
	}
	if n < 0 || n > d.reserved {
		return fmt.Errorf("commit of %d bytes, reserved are %d", n, max(d.reserved, 0))
	}
	d.cancel()
	d.ring.Skip(n)
	d.publish(n)
	if n > 0 {
		d.calls++
	}
	return nil
}

func (s *stream) guard(f func()) (err error) {
	if !s.rx.enter() {
		return net.ErrClosed
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		defer s.rx.exit()
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			c := s.fault(p)
			if c == nil {
				panic(p)
			}
			err = s.damage(c)
		}
	}()
	f()
	return nil
}

func (s *stream) writeBuffers(v *net.Buffers) (n int64, err error) {
	d := &s.tx
	if err := d.lock(); err != nil {
		return 0, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.cancel()
	var left int64
	for _, b := range *v {
		left += int64(len(b))
	}
	for {
		if err := d.look(); err != nil {
			return n, err
		}
		piece := s.piece(int(min(left, int64(s.size))))
		switch fits, err := d.fits(piece); {
		case err != nil:
			return n, err
		case !fits:
			s.await(&d.side)
			continue
		}
		d.gather(v, piece)
		d.publish(piece)
		if n == 0 && piece > 0 {
			d.calls++
		}
		n += int64(piece)
		if left -= int64(piece); left == 0 {
			*v = (*v)[len(*v):] // those that are empty
			return n, nil
		}
	}
}

// gather puts n bytes from the front of v into the ring and takes them off v.
func (d *tx) gather(v *net.Buffers, n int) {
	for n > 0 {
		b := &(*v)[0]
		m := d.ring.Put((*b)[:min(n, len(*b))])
		n -= m
		if *b = (*b)[m:]; len(*b) == 0 {
			*b = nil
			*v = (*v)[1:]
		}
	}
}
