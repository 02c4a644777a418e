//go:build linux && !shmconn_sockets

package stream

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"syscall"

	"shmconn/internal/ring"
	"shmconn/internal/wait"
)

// A readHalf is the half that reads.
type readHalf struct {
	half
	ring      ring.Consumer
	streaming bool   // the last looks found something new
	pauses    int    // of holdBack
	answered  uint64 // what this end had written by then
	visited   uint64 // how often this end had rung at the last visitNetwork
}

// Read is Conn.Read.
func (s *Stream) Read(b []byte) (n int, err error) {
	h := &s.rx
	if err := h.turn.Lock(); err != nil {
		return 0, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	err = h.read(b, &n)
	return n, err
}

// read waits for bytes and copies them into b. It counts them in n, which is
// 0.
func (h *readHalf) read(b []byte, n *int) error {
	if len(b) == 0 {
		return h.closedErr()
	}
	if h.ring.Ready() == 0 {
		h.holdBack()
		h.visitNetwork()
	}
	for {
		if err := h.checkRead(1); err != nil {
			return err
		}
		if h.ring.Ready() > 0 {
			h.copyOut(b, n)
			h.streaming = h.streaming && *n < manySmall
			return nil
		}
		h.streaming = false
		h.s.await(&h.half)
	}
}

// visitNetwork lets the runtime look after the network, if this end has rung
// for the peer since the last time. Where both ends share a processor, the peer
// runs and answers before ringing returns. Then the next Read finds the answer
// and does not wait, so this goroutine would never come to the scheduler.
func (h *readHalf) visitNetwork() {
	if rings := h.s.tx.rings.Load(); rings != h.visited {
		h.visited = rings
		wait.Visit()
	}
}

// manySmall is the most bytes that a Read or a Peek can return and still count
// as one of many small Writes in a row.
const manySmall = 4 << 10

// holdBack pauses for half a microsecond (a Consumer: two) before a load of the
// producer's position, if the loads before always found something new, and this
// end has since written nothing that the peer might be answering. Each load
// takes the cache line from the producer, which has to wait for it. So many
// small Writes in a row are faster if the reader checks less often.
func (h *readHalf) holdBack() {
	if answered := h.s.tx.ring.Published(); !h.streaming || answered != h.answered {
		h.streaming, h.answered = true, answered
		return
	}
	for range h.pauses {
		wait.Pause()
	}
}

// How often holdBack pauses. For a Consumer of small groups, four times are 1.6
// times the rate of one (DESIGN.md, "Performance notes", 15); with each, a
// message in the middle of a burst may be read later by as much.
const (
	connPauses     = 1
	consumerPauses = 4
)

// checkRead returns nil if there are n bytes to read, or if Read should wait.
// Otherwise it returns the error that Read returns now.
//
// The peer's last steps are in the order position, closed, gone. So these are
// sampled in reverse and then judged in that order: if gone were sampled after
// the position, bytes published in between would be lost.
func (h *readHalf) checkRead(n int) error {
	flags := h.stop.Load()
	if flags&^(stopGone|stopShut) != 0 {
		return h.StopErr()
	}
	if h.ring.Ready() >= n {
		return nil
	}
	closed := h.peer.ClosedIn(h.gen) // sync: closed
	ready, err := h.ring.Refresh()
	switch {
	case err != nil:
		return h.s.corrupted(err)
	case ready >= n:
		return nil
	case closed, flags&stopShut != 0:
		return io.EOF
	case flags&stopGone != 0:
		return syscall.ECONNRESET
	}
	return nil
}

// copyOut copies what there is into b, and counts it in n, which is 0, as it
// goes: b may fault. A long copy publishes on the way, so that the peer can go
// on.
func (h *readHalf) copyOut(b []byte, n *int) {
	h.leased = false
	for *n < len(b) && h.ring.Ready() > 0 {
		*n += h.ring.Take(b[*n:min(*n+h.s.chunk, len(b))])
		if h.ring.AckDue() {
			h.publish()
		}
	}
	if *n > 0 {
		h.calls++
	}
	raceAcquire()
}

// publish gives the peer back the room of what was read.
func (h *readHalf) publish() {
	h.ring.Publish()
	h.ringPeer()
}

// ack gives the peer back the room of all that was read. The peer may need it
// for the very bytes that we wait for, or check for again and again. After
// damage it does nothing.
func (h *readHalf) ack() {
	if !h.ring.Acked() && h.stop.Load()&stopCorrupt == 0 {
		h.publish()
	}
}

// flush reports all that was read to the peer, unless a call is reading now.
func (s *Stream) flush() {
	h := &s.rx
	if !h.turn.TryLock() {
		h.turn.Visit(func() {
			defer s.ignoreFault(debug.SetPanicOnFault(true))
			h.ack()
		})
		return
	}
	var err error
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.ack()
}

// TryRead is Conn.TryRead.
func (s *Stream) TryRead(b []byte) (n int, err error) {
	h := &s.rx
	if !h.turn.TryLock() {
		return 0, h.closedErr()
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	if len(b) == 0 {
		return 0, h.closedErr()
	}
	if err := h.checkRead(1); err != nil {
		return 0, err
	}
	if h.copyOut(b, &n); n > 0 {
		return n, nil
	}
	if h.idle() {
		return 0, h.checkRead(1)
	}
	return 0, nil
}

// Buffered is Conn.Buffered.
func (s *Stream) Buffered() (n int) {
	h := &s.rx
	if h.stop.Load()&(stopClosed|stopCorrupt) != 0 {
		return 0
	}
	var err error
	if h.turn.TryLock() {
		defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
		h.ack()
		if n, err := h.ring.Refresh(); err == nil {
			return n
		}
		return 0
	}
	if !h.turn.Incref() {
		return 0
	}
	defer h.turn.Decref()
	defer s.ignoreFault(debug.SetPanicOnFault(true))
	return h.ring.Outstanding()
}

// checkSpan returns an error if the length of a span is wrong.
func (s *Stream) checkSpan(n int) error {
	if n < 0 || n > s.size/2 {
		return fmt.Errorf("span length %d is not between 0 and half the ring size, %d", n, s.size/2)
	}
	return nil
}

// Peek is Conn.Peek.
func (s *Stream) Peek(n int) ([]byte, error) { return s.peekSpan(n, n) }

// PeekAtLeast is Conn.PeekAtLeast.
func (s *Stream) PeekAtLeast(n int) ([]byte, error) { return s.peekSpan(n, s.size/2) }

// peekSpan waits for n bytes and returns those, and all others that there are
// up to most.
func (s *Stream) peekSpan(n, most int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	h := &s.rx
	if err := h.turn.Lock(); err != nil {
		return nil, err
	}
	if n == most && h.knows(n) {
		b, err = h.span(n)
		h.turn.Unlock()
		return b, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	return h.peek(n, most)
}

// knows reports whether n bytes are there, and more than none, without a look
// at shared memory. A call that touches none needs no guard against faults.
func (h *readHalf) knows(n int) bool {
	return h.stop.Load() == 0 && n <= h.ring.Ready() && n > 0
}

// peek is peekSpan for a caller that holds the half.
func (h *readHalf) peek(n, most int) ([]byte, error) {
	h.leased = false
	if h.ring.Ready() < n {
		h.holdBack()
		h.visitNetwork()
	}
	for {
		if err := h.checkRead(n); err != nil {
			if h.stop.Load()&(stopClosed|stopCorrupt) != 0 {
				return nil, err
			}
			h.ack()
			h.ring.Refresh() // which a deadline has kept checkRead from
			b, mapErr := h.span(min(most, h.ring.Ready()))
			return b, cmp.Or(mapErr, err)
		}
		if h.ring.Ready() >= n {
			if h.ring.Ready() < most {
				if _, err := h.ring.Refresh(); err != nil {
					return nil, h.s.corrupted(err)
				}
			}
			b, err := h.span(min(most, h.ring.Ready()))
			h.streaming = h.streaming && len(b) < manySmall
			return b, err
		}
		h.streaming = false
		h.s.await(&h.half)
	}
}

// span returns the first n bytes that are ready.
func (h *readHalf) span(n int) ([]byte, error) {
	raceAcquire()
	b := h.ring.Span(n)
	if len(b) < n {
		if err := h.mirror(); err != nil {
			h.leased = false
			return nil, err
		}
		b = h.ring.Span(n)
	}
	h.leased = n > 0
	return b[:n:n], nil
}

// mirror makes spans contiguous that wrap, from the first such span on.
func (h *readHalf) mirror() error {
	m, err := h.s.seg.Mirror(h.s.in)
	if err == nil {
		h.ring.Mirror(m)
	}
	return err
}

var errNegative = errors.New("negative count")

// Discard is Conn.Discard.
func (s *Stream) Discard(n int) (done int, err error) {
	if n < 0 {
		return 0, errNegative
	}
	h := &s.rx
	if err := h.turn.Lock(); err != nil {
		return 0, err
	}
	if h.knows(n) && !h.ring.AckDueAfter(n) {
		h.leased = false
		h.ring.Skip(n)
		h.calls++
		h.turn.Unlock()
		return n, nil
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	err = h.discard(n, &done)
	return done, err
}

// discard skips n bytes, and waits for them. It counts them in done, which is
// 0.
func (h *readHalf) discard(n int, done *int) error {
	h.leased = false
	for *done < n {
		if err := h.checkRead(1); err != nil {
			return err
		}
		m := min(n-*done, h.ring.Ready())
		if m == 0 {
			h.s.await(&h.half)
			continue
		}
		h.ring.Skip(m)
		if *done == 0 {
			h.calls++
		}
		*done += m
		if h.ring.AckDue() {
			h.publish()
		}
	}
	return h.closedErr()
}
