//go:build linux && !shmconn_sockets

package stream

import (
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"syscall"

	"shmconn/internal/ring"
)

// A writeHalf is the half that writes.
type writeHalf struct {
	half
	ring     ring.Producer
	checked  int // bytes written since the last look whether the peer is alive
	reserved int // bytes of the reservation, -1 if there is none
}

// Write is Conn.Write.
func (s *Stream) Write(b []byte) (n int, err error) {
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return 0, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	err = h.write(b, &n)
	return n, err
}

// write writes b, and counts in n, which is 0, the bytes handed over, even if b
// faults.
func (h *writeHalf) write(b []byte, n *int) error {
	h.cancel()
	for {
		if err := h.checkWrite(); err != nil {
			return err
		}
		piece := b[*n : *n+h.s.piece(len(b)-*n)]
		switch fits, err := h.hasRoom(len(piece)); {
		case err != nil:
			return err
		case !fits:
			h.s.await(&h.half)
			continue
		}
		h.ring.Put(piece)
		h.publish(len(piece))
		if *n == 0 && len(b) > 0 {
			h.calls++
		}
		if *n += len(piece); *n == len(b) {
			return nil
		}
	}
}

// piece returns how many of n bytes to publish next: all of them, if they are
// sure to fit at once sooner or later; otherwise few enough that the peer can
// read them while we go on. Up to half a ring is sure to fit: a peer that waits
// for more than there is, in Peek, waits for half a ring at most, so the other
// half is free.
func (s *Stream) piece(n int) int {
	if n <= s.whole {
		return n
	}
	return s.chunk
}

// checkWrite returns the error that Write returns now, if there is one.
func (h *writeHalf) checkWrite() error {
	if h.stop.Load() != 0 {
		return h.StopErr()
	}
	if h.peer.ClosedIn(h.gen) { // sync: closed
		return syscall.EPIPE
	}
	return nil
}

// hasRoom reports whether there is room for n bytes. It loads the peer's
// position only if its copy says that there is not.
func (h *writeHalf) hasRoom(n int) (bool, error) {
	if h.ring.Free() >= n {
		return true, nil
	}
	free, err := h.ring.Refresh()
	if err != nil {
		return false, h.s.corrupted(err)
	}
	return free >= n, nil
}

// publish hands n bytes that were put in over to the peer.
func (h *writeHalf) publish(n int) {
	if n == 0 {
		return
	}
	raceRelease()
	h.ring.Publish()
	h.ringPeer()
	h.ring.Prefetch(uint64(n))
	h.checkSometimes(n)
}

// checkSometimes checks whether the peer is alive, every quarter ring, when n
// bytes more were published: a call that waits learns of a death, but one that
// never waits would not.
func (h *writeHalf) checkSometimes(n int) {
	if h.checked += n; h.checked >= h.s.size/4 {
		h.checked = 0
		h.s.checkPeer()
	}
}

// TryWrite is Conn.TryWrite.
func (s *Stream) TryWrite(b []byte) (n int, err error) {
	h := &s.tx
	if !h.turn.TryLock() {
		return 0, h.closedErr()
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.cancel()
	if err := h.checkWrite(); err != nil {
		return 0, err
	}
	if _, err := h.hasRoom(len(b)); err != nil {
		return 0, err
	}
	n = h.ring.Put(b)
	h.publish(n)
	switch {
	case n > 0:
		h.calls++
	case h.idle():
		return 0, h.checkWrite()
	}
	return n, nil
}

// TryWriteAll is Conn.TryWriteAll.
func (s *Stream) TryWriteAll(b []byte) (ok bool, err error) {
	if len(b) > s.size/2 {
		return false, fmt.Errorf("message of %d bytes is longer than half the ring size, %d: it might never fit", len(b), s.size/2)
	}
	h := &s.tx
	if !h.turn.TryLock() {
		return false, h.closedErr()
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.cancel()
	if err := h.checkWrite(); err != nil {
		return false, err
	}
	switch fits, err := h.hasRoom(len(b)); {
	case err != nil:
		return false, err
	case !fits && h.idle():
		return false, h.checkWrite()
	case !fits:
		return false, nil
	}
	h.ring.Put(b)
	h.publish(len(b))
	if len(b) > 0 {
		h.calls++
	}
	return true, nil
}

// Available is Conn.Available.
func (s *Stream) Available() (n int) {
	h := &s.tx
	if h.stop.Load()&^stopDeadline != 0 {
		return 0
	}
	if !h.turn.Incref() {
		return 0
	}
	defer h.turn.Decref()
	defer s.ignoreFault(debug.SetPanicOnFault(true))
	if !h.peer.ClosedIn(h.gen) {
		n = s.size - h.ring.Outstanding()
	}
	return n
}

// Reserve is Conn.Reserve.
func (s *Stream) Reserve(n int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return nil, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	return h.reserve(n)
}

// reserve waits for room for n bytes and returns it.
func (h *writeHalf) reserve(n int) ([]byte, error) {
	h.cancel()
	for {
		if err := h.checkWrite(); err != nil {
			return nil, err
		}
		fits, err := h.hasRoom(n)
		if err != nil {
			return nil, err
		}
		if fits {
			return h.room(n)
		}
		h.s.await(&h.half)
	}
}

// room reserves n bytes, for which there is room.
func (h *writeHalf) room(n int) ([]byte, error) {
	b := h.ring.Span(n)
	if len(b) < n {
		if err := h.mirror(); err != nil {
			h.cancel()
			return nil, err
		}
		b = h.ring.Span(n)
	}
	h.reserved, h.leased = n, n > 0
	return b[:n:n], nil
}

// mirror makes spans contiguous that wrap, from the first such span on.
func (h *writeHalf) mirror() error {
	m, err := h.s.seg.Mirror(h.s.in.Other())
	if err == nil {
		h.ring.Mirror(m)
	}
	return err
}

// cancel ends a reservation.
func (h *writeHalf) cancel() { h.reserved, h.leased = -1, false }

// Commit is Conn.Commit.
func (s *Stream) Commit(n int) (err error) {
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	return h.commit(n)
}

// commit hands over the first n of the bytes that are reserved.
func (h *writeHalf) commit(n int) error {
	if err := h.checkWrite(); err != nil {
		if err != os.ErrDeadlineExceeded {
			h.cancel() // no later call can commit it
		}
		return err
	}
	if n < 0 || n > h.reserved {
		return fmt.Errorf("commit of %d bytes, but %d are reserved", n, max(h.reserved, 0))
	}
	h.cancel()
	h.ring.Skip(n)
	h.publish(n)
	if n > 0 {
		h.calls++
	}
	return nil
}

// CommitReserve is Conn.CommitReserve.
func (s *Stream) CommitReserve(n, next int) (b []byte, err error) {
	if err := s.checkSpan(next); err != nil {
		return nil, err
	}
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return nil, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	if err := h.commit(n); err != nil {
		return nil, err
	}
	if fits, err := h.hasRoom(next); err != nil || !fits {
		return nil, err
	}
	b, _ = h.room(next) // Reserve returns the error: what was committed stays so
	return b, nil
}

// WriteBuffers is Conn.WriteBuffers.
func (s *Stream) WriteBuffers(v *net.Buffers) (n int64, err error) {
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return 0, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.cancel()
	var left int64
	for _, b := range *v {
		left += int64(len(b))
	}
	for {
		if err := h.checkWrite(); err != nil {
			return n, err
		}
		piece := s.piece(int(min(left, int64(s.size))))
		switch fits, err := h.hasRoom(piece); {
		case err != nil:
			return n, err
		case !fits:
			s.await(&h.half)
			continue
		}
		h.copyIn(v, piece)
		h.publish(piece)
		if n == 0 && piece > 0 {
			h.calls++
		}
		n += int64(piece)
		if left -= int64(piece); left == 0 {
			*v = (*v)[len(*v):] // those that are empty
			return n, nil
		}
	}
}

// copyIn puts n bytes from the front of v into the ring and removes them from
// v: all, or, if v's memory faults, none.
func (h *writeHalf) copyIn(v *net.Buffers, n int) {
	room, front := h.ring.Pieces(n)
	for i := 0; len(room) > 0; i++ {
		b := (*v)[i]
		m := copy(room, b)
		if room = room[m:]; len(room) == 0 {
			room, front = front, nil
			room = room[copy(room, b[m:]):]
		}
	}
	h.ring.Skip(n)
	for n > 0 {
		b := &(*v)[0]
		m := min(n, len(*b))
		n -= m
		if *b = (*b)[m:]; len(*b) == 0 {
			*b = nil
			*v = (*v)[1:]
		}
	}
}
