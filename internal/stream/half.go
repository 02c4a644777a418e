//go:build linux && !shmconn_sockets

package stream

import (
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"shmconn/internal/deadline"
	"shmconn/internal/ring"
	"shmconn/internal/sema"
	"shmconn/internal/turn"
	"shmconn/internal/wait"
)

// Why a call that waits, or wants to, has to look up. The bits of half.stop.
const (
	stopGone     = 1 << iota // the peer's process is gone
	stopDeadline             // the deadline has passed
	stopShut                 // CloseRead or CloseWrite
	stopClosed               // Close
	stopCorrupt              // the segment is corrupt
)

// A half is what the two directions of a stream have in common: the turn that
// calls take, the deadline, and what a wait needs.
type half struct {
	s     *Stream
	other *half

	turn turn.Turn // who may act

	// What to look up for.
	stop     atomic.Uint32
	deadline deadline.Deadline

	// Waiting. Owned by who has the half.
	own, peer *ring.End
	gen       uint32 // which connection over the segment this is
	epoch     uint64 // the last number stored into own.Parked
	rung      uint64 // the peer's epoch that we last rang for
	cond      wait.Condition
	waiter    *wait.Waiter
	pace      wait.Pace
	token     sema.Sema // says: look again

	idles  uint          // calls that found nothing to do and did not wait
	leased bool          // a span is in a caller's hands; owned by the holder of the turn
	final  atomic.Uint64 // bytes that went through, once the half is released
	total  func() uint64 // the same so far; owned by the holder

	calls        uint64        // that moved bytes; owned by the holder
	counted      atomic.Uint64 // calls, as of the last wait or look
	looked       atomic.Uint64 // bytes, as of the last look
	blocked      stopwatch     // in waits
	waits, rings atomic.Uint64
	causes       [wait.Causes]atomic.Uint64 // of going to sleep
}

func (h *half) init(s *Stream, other *half, cond wait.Condition, own, peer *ring.End) {
	h.s, h.other = s, other
	h.cond = cond
	h.waiter = wait.NewWaiter(cond)
	h.own, h.peer = own, peer
	h.gen = s.gen
	h.turn.Init(h)
}

// ringPeer rings the doorbell of the peer if it has parked, once each time that
// it has: the number it stores is another each time.
func (h *half) ringPeer() {
	if e := h.peer.Parked.Load(); e&1 == 1 && e != h.rung { // sync: park
		h.rung = e
		h.rings.Add(1)
		h.s.place()
		h.s.ringer.Ring()
	}
}

// StopErr returns the error that the flags of a half stand for by themselves,
// nil if there is none.
func (h *half) StopErr() error {
	switch flags := h.stop.Load(); {
	case flags&stopClosed != 0:
		return net.ErrClosed
	case flags&stopDeadline != 0:
		return os.ErrDeadlineExceeded
	case flags&stopCorrupt != 0:
		return h.s.corrupt.Load()
	case flags&(stopShut|stopGone) != 0 && h == &h.s.tx.half:
		return syscall.EPIPE
	}
	return nil
}

// closedErr returns net.ErrClosed once Close was called.
func (h *half) closedErr() error {
	if h.stop.Load()&stopClosed != 0 {
		return net.ErrClosed
	}
	return nil
}

// HangUp stores this end's last position, if the peer does not know it yet, and
// then closed. The call that holds the half does it when it gives the half
// back: so no Close overtakes a Write that will say that it has written, nor a
// Read.
func (h *half) HangUp() {
	if h.s.aborted.Load() {
		return
	}
	defer h.s.ignoreFault(debug.SetPanicOnFault(true))
	if rx := &h.s.rx; h == &rx.half && !rx.ring.Acked() {
		rx.ring.Publish()
	}
	h.own.Close(h.gen) // sync: closed
	if h.peer.Parked.Load()&1 == 1 {
		h.rings.Add(1)
		h.s.ringer.Ring()
	}
}

// interrupt sets bits of stop and makes all calls that wait on the half look at
// them.
func (h *half) interrupt(stop uint32) {
	h.stop.Or(stop) // sync: bell
	h.turn.Interrupt()
	h.token.Notify()
	h.s.bell.Break()
}

func (h *half) setDeadline(t time.Time) {
	h.deadline.Set(t, func(expired bool) {
		if expired {
			h.interrupt(stopDeadline)
		} else {
			h.stop.And(^uint32(stopDeadline))
		}
	})
}

// idle looks, once in a while, whether the peer is alive, for a caller who does
// not wait and is not told.
func (h *half) idle() bool {
	if h.idles++; h.idles%patience != 0 {
		return false
	}
	h.s.checkPeer()
	return true
}

// patience is how many calls in vain it is to the next look whether the peer is
// alive.
const patience = 64

// gone makes both halves know that the peer's process is gone.
func (s *Stream) gone() {
	s.rx.stop.Or(stopGone)
	s.tx.stop.Or(stopGone)
}

// checkPeer looks whether the peer is alive, for those who do not park.
func (s *Stream) checkPeer() {
	if s.bell.Gone() {
		s.gone()
	}
}

// Passing is called when the turn goes from hand to hand, so that no look of
// Stats finds it free: it leaves what they report.
func (h *half) Passing() { h.counted.Store(h.calls) }

// Finish leaves what Stats reports when nobody acts any more.
func (h *half) Finish() {
	h.final.Store(h.total())
	h.counted.Store(h.calls)
}

// Release is called when nobody is in the half any more and nobody gets in.
func (h *half) Release() { h.s.release() }
