//go:build !linux || shmconn_sockets

package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"syscall"
)

// stopErr returns the error that calls which want the half h return now,
// whatever there is to read.
func (s *Stream) stopErr(h *half) error {
	switch {
	case s.closed:
		return net.ErrClosed
	case h.expired:
		return os.ErrDeadlineExceeded
	case h == &s.tx && s.broken():
		return syscall.EPIPE
	}
	return nil
}

// awaitData waits until n bytes can be read, or never could be, as the call
// that reads.
func (s *Stream) awaitData(n int) error {
	defer s.rx.awaited()
	for {
		if err := s.stopErr(&s.rx); err != nil || len(s.in) >= n {
			return err
		}
		if s.rx.shut || s.rx.ended {
			return io.EOF
		}
		if s.gone {
			return syscall.ECONNRESET
		}
		if s.room > 0 {
			s.giveRoom()
			s.settleUnless(func() bool { return s.rx.expired || len(s.in) >= n })
			continue
		}
		s.await(&s.rx)
	}
}

// took takes n bytes off what was received.
func (s *Stream) took(n int) {
	s.in = s.in[n:]
	s.rx.moved += uint64(n)
	if s.room += n; s.room >= s.size/4 {
		s.giveRoom()
		s.settle()
	}
}

// copied copies between the stream and the caller's memory, by f, which may
// fault: that is EFAULT, or a panic for a caller who has asked for that.
func copied(f func() int) (n int, err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault || old {
				panic(p)
			}
			n, err = 0, syscall.EFAULT
		}
	}()
	return f(), nil
}

// Read is Conn.Read.
func (s *Stream) Read(b []byte) (n int, err error) {
	err = s.call(&s.rx, func() (err error) {
		n, err = s.read(b)
		return err
	})
	return n, err
}

func (s *Stream) read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, s.closedErr()
	}
	if err := s.awaitData(1); err != nil {
		return 0, err
	}
	const piece = 16 << 10 // of which nothing is taken when it faults
	for total := min(len(b), len(s.in)); n < total && err == nil; {
		var m int
		m, err = copied(func() int { return copy(b[n:min(n+piece, total)], s.in[n:]) })
		n += m
	}
	if n > 0 {
		s.rx.calls++
		s.took(n)
	}
	return n, err
}

// TryRead is Conn.TryRead.
func (s *Stream) TryRead(b []byte) (n int, err error) {
	err = s.try(&s.rx, func() (err error) {
		empty := func() bool {
			return len(s.in) == 0 && !s.rx.shut && !s.rx.ended && !s.gone
		}
		if len(b) > 0 && empty() {
			s.settleRoom()
			s.idle(&s.rx)
			if err := s.stopErr(&s.rx); err != nil || empty() {
				return err
			}
		}
		n, err = s.read(b)
		return err
	})
	return n, err
}

// Buffered is Conn.Buffered.
func (s *Stream) Buffered() int {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if s.closed {
		return 0
	}
	s.settleRoom()
	return len(s.in)
}

// checkSpan says what is wrong with the length of a span.
func (s *Stream) checkSpan(n int) error {
	if n < 0 || n > s.size/2 {
		return fmt.Errorf("length %d of a span is not from 0 to half the ring size, %d", n, s.size/2)
	}
	return nil
}

// Peek is Conn.Peek.
func (s *Stream) Peek(n int) ([]byte, error) { return s.peekSpan(n, n) }

// PeekAtLeast is Conn.PeekAtLeast.
func (s *Stream) PeekAtLeast(n int) ([]byte, error) { return s.peekSpan(n, s.size/2) }

func (s *Stream) peekSpan(n, most int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	err = s.call(&s.rx, func() (err error) {
		b, err = s.peek(n, most)
		return err
	})
	return b, err
}

// peek returns what was received where it is. What comes later is appended, and
// changes none of it.
func (s *Stream) peek(n, most int) ([]byte, error) {
	err := s.awaitData(n)
	if s.closed {
		return nil, err
	}
	m := min(most, len(s.in))
	return s.in[:m:m], err
}

var errNegative = errors.New("negative count")

// Discard is Conn.Discard.
func (s *Stream) Discard(n int) (done int, err error) {
	if n < 0 {
		return 0, errNegative
	}
	err = s.call(&s.rx, func() (err error) {
		done, err = s.discard(n)
		return err
	})
	return done, err
}

func (s *Stream) discard(n int) (done int, err error) {
	for done < n {
		if err := s.awaitData(1); err != nil {
			return done, err
		}
		if done == 0 {
			s.rx.calls++
		}
		m := min(n-done, len(s.in))
		s.took(m)
		done += m
	}
	return done, s.closedErr()
}
