//go:build linux && !shmconn_sockets

package stream

import (
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"shmconn/internal/doorbell"
	"shmconn/internal/ring"
	"shmconn/internal/segment"
	"shmconn/internal/turn"
	"shmconn/internal/wait"
)

// Network is the name of the network in addresses and errors.
const Network = "shm"

// A Stream is what is behind a Conn: one end of two rings in one segment.
//
// Its methods are those of a Conn, and described there.
type Stream struct {
	cred     Cred
	size     int           // of a ring
	chunk    int           // bytes of a long Read or Write that are published at once
	whole    int           // bytes of a Write that is not a long one
	busyPoll time.Duration // 0 and above: then park
	within   bool          // the peer is this process
	cpu      atomic.Uint32 // as the peer knows it; see place
	gen      uint32        // which connection over the segment this is, from 1

	reuse bool          // the peer may keep its end of the parts for another stream
	keep  func(*Spare)  // takes what can be used again; nil: it is closed
	fate  atomic.Uint32 // of what is left

	seg    *segment.Segment
	in     segment.Ring    // which of the two this end reads
	bell   *doorbell.Bell  // rung by the peer
	ringer doorbell.Ringer // rings the peer

	rx readHalf
	tx writeHalf

	ending  ending // see Done
	closed  atomic.Bool
	aborted atomic.Bool  // hang up without storing closed
	open    atomic.Int32 // halves that are not released
	corrupt atomic.Pointer[ring.Violation]
}

// A Cred is what the kernel reports about a process.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// Trusted reports whether the process belongs to our own user or root, who can
// do anything to this process anyway. A user that has no number in our user
// namespace is neither.
func (c Cred) Trusted() bool {
	return c.UID == 0 || c.UID == uint32(os.Geteuid()) && c.UID != NoUID
}

// NoUID is a user that has no number: kernel.overflowuid.
const NoUID = 65534

const maxChunk = 128 << 10

// self is this process.
var self = os.Getpid()

// New makes a stream from its parts, which it owns once Connect has returned
// nil. Until then only KeepFor may be called. busyPoll is how long its waits
// poll: less than 0 means for ever.
func New(c Cred, seg *segment.Segment, size int, bell *doorbell.Bell, ringer doorbell.Ringer, busyPoll time.Duration) *Stream {
	s := &Stream{cred: c, size: size, seg: seg, bell: bell, ringer: ringer, busyPoll: busyPoll, gen: 1}
	s.within = int(c.PID) == self
	if c.Trusted() {
		bell.Trust()
		ringer.Trust()
	}
	s.chunk = min(size/4, maxChunk)
	s.whole = min(size/2, maxChunk)
	s.open.Store(2)
	return s
}

// Cred returns what the kernel reports about the peer.
func (s *Stream) Cred() Cred { return s.cred }

// RingSize returns how many bytes each direction holds.
func (s *Stream) RingSize() int { return s.size }

// Connect gives the stream its rings, and says which of the two it reads. The
// peer can have truncated them already.
func (s *Stream) Connect(in segment.Ring) (err error) {
	err = s.truncated()
	defer s.ignoreFault(debug.SetPanicOnFault(true))
	s.in = in
	header, data := s.seg.Ring(in)
	rx := ring.NewConsumer(ring.At(header), data, 0)
	header, data = s.seg.Ring(in.Other())
	s.connect(rx, ring.NewProducer(ring.At(header), data, 0))
	return nil
}

func (s *Stream) connect(in ring.Consumer, out ring.Producer) {
	s.rx.ring, s.tx.ring = in, out
	s.tx.reserved = -1
	s.rx.pauses = connPauses
	s.rx.total, s.tx.total = s.rx.ring.Consumed, s.tx.ring.Written
	s.rx.init(s, &s.tx.half, &s.rx, s.rx.ring.Own, s.rx.ring.Peer)
	s.tx.init(s, &s.rx.half, &s.tx, s.tx.ring.Own, s.tx.ring.Peer)
	if !s.within {
		wait.Join(int(s.cred.PID))
	}
}

// Close is Conn.Close.
func (s *Stream) Close() error { return s.end(false) }

// Abort is Conn.Abort. It ends the stream as the end of this process would: the
// peer finds it gone, and not closed.
func (s *Stream) Abort() error { return s.end(true) }

// end is Close, or, if mute, Abort. The first call decides which.
func (s *Stream) end(mute bool) error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	if mute {
		s.aborted.Store(true) // before any half can hang up because of this call
	}
	for _, h := range s.halves() {
		h.deadline.Stop()
		h.interrupt(stopClosed)
	}
	s.ending.stop()
	s.flush()
	turn.Close(&s.tx.turn, &s.rx.turn)
	for _, h := range s.halves() {
		h.turn.AwaitShut()
	}
	// No call rings any more. A Guard under way keeps the memory for as long as
	// it runs, but not the end of the doorbell, by which the peer notices. If
	// there is no Guard, and the parts may be used again, the last call to
	// leave, which is on its way, decides.
	if s.keep == nil || mute || s.rx.turn.Referenced() || s.tx.turn.Referenced() {
		s.discard()
	}
	return nil
}

// Drop closes s unless it is closed, on a goroutine of its own: the garbage
// collector's next cleanup need not wait for the peer's doorbell.
func (s *Stream) Drop() {
	if !s.closed.Load() {
		go s.Close()
	}
}

func (s *Stream) CloseRead() error { return s.shut(&s.rx.half) }

func (s *Stream) CloseWrite() error { return s.shut(&s.tx.half) }

func (s *Stream) shut(h *half) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	h.interrupt(stopShut)
	h.turn.RequestShut()
	h.turn.AwaitShut()
	return nil
}

func (s *Stream) SetDeadline(t time.Time, read, write bool) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	if read {
		s.rx.setDeadline(t)
	}
	if write {
		s.tx.setDeadline(t)
	}
	return nil
}

func (s *Stream) halves() [2]*half { return [...]*half{&s.tx.half, &s.rx.half} }

// discard gives up the end of the peer's doorbell, unless another stream has it
// by now.
func (s *Stream) discard() {
	if s.fate.CompareAndSwap(undecided, discarded) {
		s.ringer.Close()
	}
}

// release is called for each half when no call is in it any more, nor can get
// in.
func (s *Stream) release() {
	if s.open.Add(-1) > 0 {
		return
	}
	if !s.within {
		wait.Leave(int(s.cred.PID))
	}
	if s.spare() {
		return
	}
	s.fate.Store(discarded)
	if s.rx.leased || s.tx.leased {
		s.seg.Abandon()
	} else {
		s.seg.Close()
	}
	s.bell.Close()
	s.ringer.Close()
}
