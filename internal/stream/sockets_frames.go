//go:build !linux || shmconn_sockets

package stream

import (
	"bufio"
	"encoding/binary"
	"io"
	"time"
)

// A frame is a byte that says what it is, and a number of 4 bytes, big endian.
// After a frameData come as many bytes of the stream.
const (
	frameData   = 'D' // number: of bytes, which follow
	frameRoom   = 'R' // number: of bytes that were read; 0 only wants a frameTaken
	frameEnd    = 'E' // CloseWrite
	frameNoMore = 'N' // CloseRead
	frameClose  = 'C' // Close: nothing comes after it but frameTaken
	frameTaken  = 'T' // number: of all frames but this kind that were taken in
)

const frameHead = 5

// frame leaves a frame for the goroutine that sends. The caller has cond.L, as
// for all that follows here.
func (s *Stream) frame(kind byte, n int) {
	s.out = appendFrame(s.out, kind, uint32(n))
	s.sent++
	s.cond.Broadcast()
}

func appendFrame(b []byte, kind byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind), n)
}

// giveRoom leaves a frame for the peer about all that was read. The caller
// settles, unless it goes on to wait.
func (s *Stream) giveRoom() {
	if s.room > 0 && !s.gone {
		s.frame(frameRoom, s.room)
		s.room = 0
	}
}

// settleRoom reports all that was read to the peer, for a call that then
// returns.
func (s *Stream) settleRoom() {
	s.giveRoom()
	s.settle()
}

// idle checks at every idleCallsPerCheck-th call whether the peer is alive, for
// a call that does not wait, which may come before receive has seen the end:
// the peer has to answer.
func (s *Stream) idle(h *half) {
	if h.idles++; h.idles%idleCallsPerCheck == 0 && !s.gone && !s.closed {
		s.frame(frameRoom, 0)
		s.settle()
	}
}

// idleCallsPerCheck is how many calls that move nothing there are from one
// check of the peer to the next.
const idleCallsPerCheck = 64

// settle waits until the peer's process has taken in all that was sent, or this
// end was closed.
func (s *Stream) settle() {
	s.settleUnless(func() bool { return false })
}

// settleUnless is settle, but for when ended says that it may end.
func (s *Stream) settleUnless(ended func() bool) {
	if sent := s.sent; !s.late {
		s.late = !s.within(func() bool {
			return int32(s.taken-sent) >= 0 || s.gone || s.closed || ended()
		})
	}
}

// within waits until ok says so, and reports false when it does not within
// patience.
func (s *Stream) within(ok func() bool) bool {
	if ok() {
		return true
	}
	over := false
	timer := time.AfterFunc(patience, func() {
		s.cond.L.Lock()
		defer s.cond.L.Unlock()
		over = true
		s.cond.Broadcast()
	})
	defer timer.Stop()
	for !ok() && !over {
		s.cond.Wait()
	}
	return ok()
}

// send sends what calls leave in out, until the end. It closes the socket.
func (s *Stream) send() {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	for broken := false; ; {
		for len(s.out) == 0 && s.heard == s.echoed && !s.hangUp {
			s.cond.Wait()
		}
		out := s.out
		if s.heard != s.echoed {
			out = appendFrame(out, frameTaken, s.heard)
		}
		s.out, s.echoed = nil, s.heard
		if len(out) == 0 {
			break
		}
		s.cond.L.Unlock()
		if !broken { // the peer is gone: receive finds out after the last byte
			_, err := s.conn.Write(out)
			broken = err != nil
		}
		s.cond.L.Lock()
	}
	s.conn.Close()
	s.serving--
	s.cond.Broadcast()
}

// receive takes in the peer's frames, until the end.
func (s *Stream) receive() {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for s.take(r) {
	}
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	s.gone, s.hangUp = true, true
	s.shutDone()
	s.serving--
	s.cond.Broadcast()
}

// take takes in a frame. It reports false after the last one, and where
// something else comes, as if the peer had died.
func (s *Stream) take(r *bufio.Reader) bool {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false
	}
	kind, n := head[0], binary.BigEndian.Uint32(head[1:])
	var data []byte
	if kind == frameData {
		if int64(n) > int64(s.size) {
			return false
		}
		data = make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return false
		}
	}
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	defer s.cond.Broadcast()
	if kind != frameTaken {
		s.heard++
	}
	switch kind {
	case frameData:
		if len(s.in)+len(data) > s.size {
			return false
		}
		s.in = append(s.in, data...)
	case frameRoom:
		if int64(n) > int64(s.tx.flight) {
			return false
		}
		s.tx.flight -= int(n)
	case frameEnd:
		s.rx.ended = true
	case frameNoMore:
		s.tx.ended = true
	case frameClose:
		s.rx.ended, s.tx.ended = true, true
		return false
	case frameTaken:
		s.taken = n
		s.late = s.late && n != s.sent
	default:
		return false
	}
	return true
}
