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

// Why a call that waits, or is about to, has to stop. The bits of half.stop.
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

	turn turn.Turn // which call may act

	// Why calls have to stop: stop bits.
	stop     atomic.Uint32
	deadline deadline.Deadline

	// Waiting. Owned by the call that has the half.
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

// ringPeer rings the doorbell of the peer if it has parked, once for each park:
// every park stores a new number.
func (h *half) ringPeer() {
	if e := h.peer.Parked.Load(); e&1 == 1 { // sync: park
		h.ringParked(e)
	}
}

// ringParked is ringPeer where the peer has parked with the epoch e.
func (h *half) ringParked(e uint64) {
	if e == h.rung {
		return
	}
	h.rung = e
	h.rings.Add(1)
	h.s.place()
	h.s.ringer.Ring()
}

// StopErr returns the error that the stop bits of a half mean by themselves, or
// nil.
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
// then closed. The call that holds the half does this when it gives the half
// back, so no Close overtakes a Write or a Read that will return success.
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

// interrupt sets bits of stop and makes all calls that wait on the half check
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

// idle checks at every idleCallsPerCheck-th call whether the peer is alive, for
// a call that does not wait, which no doorbell would wake.
func (h *half) idle() bool {
	if h.idles++; h.idles%idleCallsPerCheck != 0 {
		return false
	}
	h.s.checkPeer()
	return true
}

// idleCallsPerCheck is how many calls that move nothing there are from one
// check of the peer to the next.
const idleCallsPerCheck = 64

// gone tells both halves that the peer's process is gone.
func (s *Stream) gone() {
	s.rx.stop.Or(stopGone)
	s.tx.stop.Or(stopGone)
}

// checkPeer checks whether the peer is alive, for calls that do not park.
func (s *Stream) checkPeer() {
	if s.bell.Gone() {
		s.gone()
	}
}

// Passing is called when one call hands the turn to another, so that Stats
// never finds it free. It leaves the figures that Stats reports.
func (h *half) Passing() { h.counted.Store(h.calls) }

// Finish leaves the figures that Stats reports once no call acts any more.
func (h *half) Finish() {
	h.final.Store(h.total())
	h.counted.Store(h.calls)
}

// Release is called when no call is in the half any more, nor can get in.
func (h *half) Release() { h.s.release() }
