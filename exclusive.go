package shmconn

import "shmconn/internal/stream"

// Produce calls f while the calling goroutine alone has the writing half of c,
// and returns f's error; if that is nil, the error of [Producer.Flush]. A
// [Producer] does what c does, but without the lock and the fault guard that
// each call on c needs because any goroutine may make it.
//
//   - Produce waits for other calls that write, and until f returns, other
//     calls wait for it. So a call to c itself from f waits for its deadline,
//     or for ever.
//   - Close, CloseWrite, Abort and deadlines do not wait for f. The next call
//     on the Producer returns their error. The memory stays mapped until f
//     returns.
//   - If the segment was truncated, a panic that Produce recovers ends f, and
//     the error is a [*CorruptError].
func (c *Conn) Produce(f func(p *Producer) error) error {
	p := &Producer{c: c}
	var err error
	if own := c.opError("write", c.s.Produce(&p.p, func() { err = f(p) })); err == nil {
		return own
	}
	return err
}

// A Producer is the writing half of a [Conn], for the goroutine that has called
// [Conn.Produce] and no other. After f has returned, each call is an error.
type Producer struct {
	c *Conn
	p stream.Producer
}

// Write is [Conn.Write]. It also publishes what Put has put in before.
func (p *Producer) Write(b []byte) (int, error) {
	n, err := p.p.Write(b)
	return n, p.c.opError("write", err)
}

// Put is Write that does not publish b: the peer sees b after the next Flush,
// Write or Commit, when the ring is full, or when f returns. Groups of small
// messages are several times faster so, because the two processors exchange a
// cache line for a group, not for each message. b may be reused when Put
// returns.
func (p *Producer) Put(b []byte) (int, error) {
	n, err := p.p.Put(b)
	return n, p.c.opError("write", err)
}

// Flush publishes what Put has put in. It never waits.
func (p *Producer) Flush() error { return p.c.opError("write", p.p.Flush()) }

// Reserve is [Conn.Reserve].
func (p *Producer) Reserve(n int) ([]byte, error) {
	b, err := p.p.Reserve(n)
	return b, p.c.opError("write", err)
}

// Commit is [Conn.Commit].
func (p *Producer) Commit(n int) error { return p.c.opError("write", p.p.Commit(n)) }

// Consume calls f while the calling goroutine alone has the reading half of c,
// and returns f's error. It is to reading what [Conn.Produce] is to writing.
func (c *Conn) Consume(f func(r *Consumer) error) error {
	r := &Consumer{c: c}
	var err error
	if own := c.opError("read", c.s.Consume(&r.r, func() { err = f(r) })); err == nil {
		return own
	}
	return err
}

// A Consumer is the reading half of a [Conn], for the goroutine that has called
// [Conn.Consume] and no other. After f has returned, each call is an error.
//
// While the peer writes small messages without a pause, a Consumer checks for
// more every 2 us at most, a Conn every 0.5 us. That raises the rate of both,
// and delays a message in the middle of such a burst by as much.
type Consumer struct {
	c *Conn
	r stream.Consumer
}

// Read is [Conn.Read].
func (r *Consumer) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	return n, r.c.opError("read", err)
}

// Peek is [Conn.Peek].
func (r *Consumer) Peek(n int) ([]byte, error) {
	b, err := r.r.Peek(n)
	return b, r.c.opError("read", err)
}

// PeekAtLeast is [Conn.PeekAtLeast].
func (r *Consumer) PeekAtLeast(n int) ([]byte, error) {
	b, err := r.r.PeekAtLeast(n)
	return b, r.c.opError("read", err)
}

// Discard is [Conn.Discard].
func (r *Consumer) Discard(n int) (int, error) {
	n, err := r.r.Discard(n)
	return n, r.c.opError("read", err)
}
