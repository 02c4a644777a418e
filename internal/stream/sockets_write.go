//go:build !linux || shmconn_sockets

package stream

import (
	"fmt"
	"net"
	"os"
)

// broken reports whether nothing can be written any more.
func (s *Stream) broken() bool {
	return s.closed || s.tx.shut || s.tx.ended || s.gone
}

// awaitRoom waits until n bytes can be written, as the call that writes.
func (s *Stream) awaitRoom(n int) error {
	defer s.tx.awaited()
	for {
		if err := s.stopErr(&s.tx); err != nil || s.free() >= n {
			return err
		}
		s.giveRoom() // the peer may wait for it before it reads
		s.await(&s.tx)
	}
}

// free returns how many bytes the peer has room for.
func (s *Stream) free() int { return s.size - s.tx.flight - len(s.tx.held) }

// Write is Conn.Write.
func (s *Stream) Write(b []byte) (n int, err error) {
	v := net.Buffers{b}
	m, err := s.WriteBuffers(&v)
	return int(m), err
}

// WriteBuffers is Conn.WriteBuffers.
func (s *Stream) WriteBuffers(v *net.Buffers) (n int64, err error) {
	err = s.call(&s.tx, func() (err error) {
		n, err = s.write(v)
		return err
	})
	return n, err
}

func (s *Stream) write(v *net.Buffers) (n int64, err error) {
	s.tx.reserved = nil
	s.flush()
	var left int64
	for _, b := range *v {
		left += int64(len(b))
	}
	defer func() {
		if n > 0 {
			s.tx.calls++
		}
		s.settle()
	}()
	for {
		piece := s.piece(int(min(left, int64(s.size))))
		if err := s.awaitRoom(piece); err != nil {
			return n, err
		}
		data := make([]byte, 0, piece)
		if _, err := copied(func() int {
			for i := 0; len(data) < piece; i++ {
				b := (*v)[i]
				data = append(data, b[:min(len(b), piece-len(data))]...)
			}
			return piece
		}); err != nil {
			return n, err
		}
		s.put(data)
		consume(v, piece)
		n += int64(piece)
		if left -= int64(piece); left == 0 {
			*v = (*v)[len(*v):] // those that are empty
			return n, nil
		}
	}
}

// consume takes n bytes off v.
func consume(v *net.Buffers, n int) {
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

// piece returns how many of n bytes are sent next: all, if they are sure to fit
// at once some time, and else what the peer can read while we go on.
func (s *Stream) piece(n int) int {
	const most = 128 << 10
	if n <= min(s.size/2, most) {
		return n
	}
	return min(s.size/4, most)
}

// put sends b, for which there is room.
func (s *Stream) put(b []byte) {
	if len(b) == 0 {
		return
	}
	s.frame(frameData, len(b))
	s.out = append(s.out, b...)
	s.tx.flight += len(b)
	s.tx.moved += uint64(len(b))
}

// flush sends what Put has put in.
func (s *Stream) flush() {
	if len(s.tx.held) > 0 && !s.broken() {
		held := s.tx.held
		s.tx.held = nil
		s.put(held)
	}
}

// TryWrite is Conn.TryWrite.
func (s *Stream) TryWrite(b []byte) (n int, err error) {
	err = s.try(&s.tx, func() (err error) {
		if len(b) > 0 && s.free() == 0 {
			s.idle(&s.tx)
		}
		n, err = s.writeOne(b[:min(len(b), s.free())])
		return err
	})
	return n, err
}

// TryWriteAll is Conn.TryWriteAll.
func (s *Stream) TryWriteAll(b []byte) (ok bool, err error) {
	if len(b) > s.size/2 {
		return false, fmt.Errorf("message of %d bytes is longer than half the ring size, %d: it might never fit", len(b), s.size/2)
	}
	err = s.try(&s.tx, func() (err error) {
		if len(b) > s.free() {
			s.idle(&s.tx)
		}
		if ok = len(b) <= s.free(); !ok {
			b = nil
		}
		_, err = s.writeOne(b)
		ok = ok && err == nil
		return err
	})
	return ok, err
}

// writeOne is write for one buffer.
func (s *Stream) writeOne(b []byte) (int, error) {
	n, err := s.write(&net.Buffers{b})
	return int(n), err
}

// Available is Conn.Available.
func (s *Stream) Available() int {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	if s.broken() {
		return 0
	}
	return s.free()
}

// Reserve is Conn.Reserve.
func (s *Stream) Reserve(n int) (b []byte, err error) {
	if err := s.checkSpan(n); err != nil {
		return nil, err
	}
	err = s.call(&s.tx, func() (err error) {
		b, err = s.reserve(n)
		return err
	})
	return b, err
}

func (s *Stream) reserve(n int) ([]byte, error) {
	s.tx.reserved = nil
	if err := s.awaitRoom(n); err != nil {
		return nil, err
	}
	s.tx.reserved = make([]byte, n)
	return s.tx.reserved, nil
}

// Commit is Conn.Commit.
func (s *Stream) Commit(n int) error {
	return s.call(&s.tx, func() error { return s.commit(n) })
}

// CommitReserve is Conn.CommitReserve.
func (s *Stream) CommitReserve(n, next int) (b []byte, err error) {
	if err := s.checkSpan(next); err != nil {
		return nil, err
	}
	err = s.call(&s.tx, func() error {
		if err := s.commit(n); err != nil {
			return err
		}
		if next <= s.free() {
			s.tx.reserved = make([]byte, next)
			b = s.tx.reserved
		}
		return nil
	})
	return b, err
}

func (s *Stream) commit(n int) error {
	b := s.tx.reserved
	if err := s.stopErr(&s.tx); err != nil {
		if err != os.ErrDeadlineExceeded {
			s.tx.reserved = nil // no later call can commit it
		}
		return err
	}
	if b == nil || n < 0 || n > len(b) {
		return fmt.Errorf("commit of %d bytes, but %d are reserved", n, len(b))
	}
	_, err := s.write(&net.Buffers{b[:n]})
	return err
}
