//go:build !linux || shmconn_sockets

package stream

import (
	"cmp"
	"errors"
)

// errReturned is what a handle returns once its function has returned.
var errReturned = errors.New("used after the function that it was passed to has returned")

// exclusive calls f with the half h in the hands of this goroutine alone.
func (s *Stream) exclusive(h *half, f func()) error {
	s.cond.L.Lock()
	err := s.lock(h)
	s.cond.L.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		s.cond.L.Lock()
		defer s.cond.L.Unlock()
		s.unlock(h)
	}()
	f()
	return nil
}

// A Producer is the writing half in the hands of one goroutine. Its methods are
// those of shmconn.Producer.
type Producer struct{ s *Stream } // nil before and after

// Produce is Conn.Produce. It makes p, which f uses, the handle.
func (s *Stream) Produce(p *Producer, f func()) error {
	var flushed error
	err := s.exclusive(&s.tx, func() {
		p.s = s
		defer func() { p.s = nil }()
		f()
		flushed = p.Flush()
	})
	return cmp.Or(err, flushed)
}

// do calls f for a call of the handle.
func (p *Producer) do(f func(s *Stream) error) error {
	if p.s == nil {
		return errReturned
	}
	p.s.cond.L.Lock()
	defer p.s.cond.L.Unlock()
	return f(p.s)
}

// Write is Producer.Write.
func (p *Producer) Write(b []byte) (n int, err error) {
	err = p.do(func(s *Stream) (err error) {
		n, err = s.writeOne(b)
		return err
	})
	return n, err
}

// Put is Producer.Put.
func (p *Producer) Put(b []byte) (n int, err error) {
	err = p.do(func(s *Stream) (err error) {
		if len(b) == 0 || len(b) > s.free() || s.stopErr(&s.tx) != nil {
			n, err = s.writeOne(b)
			return err
		}
		s.tx.reserved = nil
		n, err = copied(func() int {
			s.tx.held = append(s.tx.held, b...)
			return len(b)
		})
		if err == nil {
			s.tx.calls++
		}
		return err
	})
	return n, err
}

// Flush is Producer.Flush. The deadline does not keep it from sending: there is
// nothing to wait for.
func (p *Producer) Flush() error {
	return p.do(func(s *Stream) error {
		if len(s.tx.held) > 0 && s.broken() {
			return s.stopErr(&s.tx)
		}
		s.flush()
		s.settle()
		return nil
	})
}

// Reserve is Producer.Reserve.
func (p *Producer) Reserve(n int) (b []byte, err error) {
	err = p.do(func(s *Stream) (err error) {
		if err := s.checkSpan(n); err != nil {
			return err
		}
		if n > s.free() { // the peer makes room only for what it knows of
			s.flush()
		}
		b, err = s.reserve(n)
		return err
	})
	return b, err
}

// Commit is Producer.Commit.
func (p *Producer) Commit(n int) error {
	return p.do(func(s *Stream) error { return s.commit(n) })
}

// A Consumer is the reading half in the hands of one goroutine. Its methods are
// those of shmconn.Consumer.
type Consumer struct{ s *Stream } // nil before and after

// Consume is Conn.Consume. It makes c, which f uses, the handle.
func (s *Stream) Consume(c *Consumer, f func()) error {
	return s.exclusive(&s.rx, func() {
		c.s = s
		defer func() { c.s = nil }()
		f()
	})
}

func (c *Consumer) do(f func(s *Stream) error) error {
	if c.s == nil {
		return errReturned
	}
	c.s.cond.L.Lock()
	defer c.s.cond.L.Unlock()
	return f(c.s)
}

// Read is Consumer.Read.
func (c *Consumer) Read(b []byte) (n int, err error) {
	err = c.do(func(s *Stream) (err error) {
		n, err = s.read(b)
		return err
	})
	return n, err
}

// Peek is Consumer.Peek.
func (c *Consumer) Peek(n int) ([]byte, error) { return c.peek(n, false) }

// PeekAtLeast is Consumer.PeekAtLeast.
func (c *Consumer) PeekAtLeast(n int) ([]byte, error) { return c.peek(n, true) }

func (c *Consumer) peek(n int, all bool) (b []byte, err error) {
	err = c.do(func(s *Stream) (err error) {
		if err := s.checkSpan(n); err != nil {
			return err
		}
		most := n
		if all {
			most = s.size / 2
		}
		b, err = s.peek(n, most)
		return err
	})
	return b, err
}

// Discard is Consumer.Discard.
func (c *Consumer) Discard(n int) (done int, err error) {
	err = c.do(func(s *Stream) (err error) {
		if n < 0 {
			return errNegative
		}
		done, err = s.discard(n)
		return err
	})
	return done, err
}
