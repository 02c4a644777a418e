//go:build !linux || shmconn_sockets

package stream

import (
	"net"
	"runtime/debug"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/deadline"
	"shmconn/internal/sema"
)

// Network is the name of the network in addresses and errors.
const Network = "unix"

// A Stream is what is behind a Conn where there is no shared memory: one end of
// a Unix socket, for development. It is plain and slow.
//
// Frames (sockets_frames.go) say over the socket what the words in shared
// memory say. The ring that this end reads from is a private buffer, and the
// peer sends no more than there is room for in it. Two goroutines serve the
// socket, and nothing but these touches it. A call changes what mu guards,
// leaves a frame for the goroutine that sends, and waits until the peer's
// process has taken it in. So what a call has done is there for the peer when
// the call returns, as it is with shared memory.
//
// Its methods are those of a Conn, and described there.
type Stream struct {
	conn net.Conn
	cred Cred
	size int // of a ring

	cond sema.Cond // its L guards the following

	in   []byte // received and not read
	room int    // bytes read since the peer was told
	out  []byte // frames to be sent

	sent, taken   uint32 // frames: sent, and of them taken in by the peer
	heard, echoed uint32 // frames: of the peer's, and of them told it
	late          bool   // the peer did not take in a frame for patience

	rx, tx half

	closed   bool // by Close or Abort
	gone     bool // nothing more comes
	hangUp   bool // the socket is to be closed once all is sent
	serving  int  // goroutines
	done     chan struct{}
	doneShut bool
}

// A half is one direction.
type half struct {
	busy     bool // a call has the half
	shut     bool // CloseRead or CloseWrite
	ended    bool // the peer has ended it
	expired  bool // the deadline has passed
	deadline deadline.Deadline

	idles               uint64 // calls that did not wait and moved nothing
	moved, calls, waits uint64
	waited              time.Duration // but for the wait under way
	since               time.Time     // when that began; zero: there is none

	flight   int    // tx: bytes that the peer has not made room for
	held     []byte // tx: by Put, not sent yet
	reserved []byte // tx: of Reserve, nil if there is none
}

// A Cred is what the system says of a process. 0 stands for what it does not
// say.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// patience is for how long a call waits for a peer's process to take in what
// the call has sent. One that is stopped does not: then the call returns, and
// so do the next ones, at once, until the peer has caught up.
const patience = time.Second

// New makes a stream of a socket, which it owns from now on, with rings of size
// bytes.
func New(conn net.Conn, c Cred, size int) *Stream {
	s := &Stream{conn: conn, cred: c, size: size, serving: 2}
	bubble.Go(s.receive)
	bubble.Go(s.send)
	return s
}

// Cred returns what the system says of the peer.
func (s *Stream) Cred() Cred { return s.cred }

// RingSize returns how many bytes each direction holds.
func (s *Stream) RingSize() int { return s.size }

// lock takes the half h for a call, once no other call has it. The caller has
// cond.L.
func (s *Stream) lock(h *half) error {
	for h.busy {
		if err := s.stopErr(h); err != nil {
			return err
		}
		s.cond.Wait()
	}
	if s.closed {
		return net.ErrClosed
	}
	h.busy = true
	return nil
}

// unlock gives h back.
func (s *Stream) unlock(h *half) {
	h.busy = false
	s.cond.Broadcast()
}

// call calls f with h in the hands of this call alone.
func (s *Stream) call(h *half, f func() error) error {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if err := s.lock(h); err != nil {
		return err
	}
	defer s.unlock(h)
	return f()
}

// try is call for what does not wait: it does nothing while another call has h.
func (s *Stream) try(h *half, f func() error) error {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if h.busy {
		return s.closedErr()
	}
	h.busy = true
	defer s.unlock(h)
	return f()
}

// await waits for a change, as a call that has h.
func (s *Stream) await(h *half) {
	if h.since.IsZero() {
		h.waits++
		h.since = time.Now()
	}
	s.cond.Wait()
}

// awaited ends a row of awaits.
func (h *half) awaited() {
	if !h.since.IsZero() {
		h.waited += time.Since(h.since)
		h.since = time.Time{}
	}
}

// closedErr returns net.ErrClosed once Close was called.
func (s *Stream) closedErr() error {
	if s.closed {
		return net.ErrClosed
	}
	return nil
}

// SetDeadline sets the deadlines of the halves.
func (s *Stream) SetDeadline(t time.Time, read, write bool) error {
	s.cond.L.Lock()
	err := s.closedErr()
	s.cond.L.Unlock()
	if err != nil {
		return err
	}
	set := func(h *half) {
		h.deadline.Set(t, func(expired bool) {
			s.cond.L.Lock()
			defer s.cond.L.Unlock()
			h.expired = expired
			s.cond.Broadcast()
		})
	}
	if read {
		set(&s.rx)
	}
	if write {
		set(&s.tx)
	}
	return nil
}

func (s *Stream) CloseRead() error { return s.shut(&s.rx, frameNoMore) }

func (s *Stream) CloseWrite() error { return s.shut(&s.tx, frameEnd) }

func (s *Stream) shut(h *half, kind byte) error {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if !h.shut {
		h.shut = true
		s.giveRoom()
		s.frame(kind, 0)
		s.settle()
	}
	return nil
}

// Close is Conn.Close. The socket is closed when the peer has taken in that it
// was: Close waits for that, and leaves it to the goroutines where the peer's
// process is stopped.
func (s *Stream) Close() error { return s.end(false) }

// Abort is Conn.Abort. It has the socket closed without a word, as the end of
// this process would.
func (s *Stream) Abort() error { return s.end(true) }

func (s *Stream) end(mute bool) error {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	s.giveRoom()
	if mute {
		s.hangUp = true
	} else {
		s.frame(frameClose, 0)
	}
	s.shutDone()
	s.cond.Broadcast()
	s.within(func() bool { return s.serving == 0 })
	s.cond.L.Unlock()
	s.rx.deadline.Stop()
	s.tx.deadline.Stop()
	s.cond.L.Lock()
	return nil
}

// Drop closes s unless it is closed, on a goroutine of its own.
func (s *Stream) Drop() { go s.Close() }

// Done is Conn.Done. The channel is of no bubble.
func (s *Stream) Done() <-chan struct{} {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if s.done != nil {
		return s.done
	}
	var made sema.Sema
	bubble.Outside(func() {
		s.done = make(chan struct{})
		made.Notify()
	})
	made.Wait()
	if s.doneShut {
		close(s.done)
	}
	return s.done
}

// shutDone closes the channel of Done.
func (s *Stream) shutDone() {
	if !s.doneShut && s.done != nil {
		close(s.done)
	}
	s.doneShut = true
}

// Guard is Conn.Guard. Private memory does not fault, but f's own may.
func (s *Stream) Guard(f func()) error {
	s.cond.L.Lock()
	err := s.closedErr()
	s.cond.L.Unlock()
	if err == nil {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		f()
	}
	return err
}

// Stats returns the counters. All waits sleep at once.
func (s *Stream) Stats() Stats {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	s.settleRoom()
	st := Stats{
		Network:  Network,
		RingSize: s.size, BytesRead: s.rx.moved, BytesWritten: s.tx.moved,
		ReadCalls: s.rx.calls, WriteCalls: s.tx.calls,
		ReadWait: s.rx.waiting(), WriteWait: s.tx.waiting(),
		Waits: s.rx.waits + s.tx.waits,
	}
	st.Parks, st.ParksAlways = st.Waits, st.Waits
	return st
}

// waiting returns how long calls have waited until now.
func (h *half) waiting() time.Duration {
	if h.since.IsZero() {
		return h.waited
	}
	return h.waited + time.Since(h.since)
}
