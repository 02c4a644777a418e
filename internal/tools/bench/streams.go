//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
)

// A producer sends messages until its quota is used up; what it reports is what
// the consumer has confirmed.
func produce(q quota, size int, send func(head uint64) error, confirmed func() (uint64, error)) (r Result, err error) {
	c, mask := newClock(q), last(size)-1
	for n := c.next(); n > 0; n = c.next() {
		for range n {
			if err := send(r.Ops & mask); err != nil {
				return r, err
			}
			r.Ops++
		}
	}
	if err := send(r.Ops&mask | last(size)); err != nil {
		return r, err
	}
	r.Ops++
	got, err := confirmed()
	if err == nil && got != r.Ops {
		err = fmt.Errorf("bench: sent %d messages, the peer has received %d", r.Ops, got)
	}
	r.Elapsed, r.AllOps = c.elapsed(), r.Ops
	return r, err
}

// readCount reads what a consumer says that it has received.
func readCount(r io.Reader) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return Head(b[:]), err
}

func writeCount(w io.Writer, n uint64) error {
	var b [8]byte
	PutHead(b[:], n)
	_, err := w.Write(b[:])
	return err
}

// write writes small messages, each by one Write.
func write(e *end, q quota) (Result, error) {
	rw, err := e.stream()
	if err != nil {
		return Result{}, err
	}
	b := make([]byte, e.spec.Size)
	send := func(head uint64) error {
		PutHead(b, head)
		_, err := rw.Write(b)
		return err
	}
	return produce(q, e.spec.Size, send, func() (uint64, error) { return readCount(rw) })
}

// writeBuffered writes small messages through a bufio.Writer.
func writeBuffered(e *end, q quota) (Result, error) {
	rw, err := e.stream()
	if err != nil {
		return Result{}, err
	}
	w, b := bufio.NewWriter(rw), make([]byte, e.spec.Size)
	send := func(head uint64) error {
		PutHead(b, head)
		_, err := w.Write(b)
		return err
	}
	return produce(q, e.spec.Size, send, func() (uint64, error) {
		if err := w.Flush(); err != nil {
			return 0, err
		}
		return readCount(rw)
	})
}

// bulk is the size of a consumer's buffer for small messages.
const bulk = 64 << 10

// readBulk reads as much as there is and looks at each message in it.
func readBulk(e *end, _ quota) (Result, error) { return readWith(e, bulk) }

func readWith(e *end, size int) (Result, error) {
	rw, err := e.stream()
	if err != nil {
		return Result{}, err
	}
	b, k := make([]byte, size), newChecker(e.spec.Size)
	for !k.done() {
		n, err := rw.Read(b)
		if err := k.feed(b[:n]); err != nil {
			return Result{}, err
		}
		if err != nil {
			return Result{}, err
		}
	}
	return Result{Ops: k.seen, AllOps: k.seen}, writeCount(rw, k.seen)
}

// writeStream writes large messages. A contender that has something better than
// Write uses that.
func writeStream(e *end, q quota) (Result, error) {
	if _, ok := e.conns[0].(Messenger); ok {
		return sendMessages(e, q)
	}
	return write(e, q)
}

// readStream reads into a buffer of the size of a message.
func readStream(e *end, q quota) (Result, error) {
	if _, ok := e.conns[0].(Messenger); ok {
		return receiveMessages(e, q)
	}
	return readWith(e, e.spec.Size)
}

// sendMessages sends messages one by one.
func sendMessages(e *end, q quota) (Result, error) {
	m, size := e.msgs[0], e.spec.Size
	send := func(head uint64) error { return m.Send(size, head) }
	return produce(q, size, send, func() (uint64, error) { return m.Receive(8) })
}

// receiveMessages receives messages one by one, as a whole each.
func receiveMessages(e *end, _ quota) (r Result, err error) {
	m, size := e.msgs[0], e.spec.Size
	for k := newChecker(size); !k.done(); {
		head, err := m.Receive(size)
		if err == nil {
			err = k.check(head)
		}
		if err != nil {
			return r, err
		}
		r.Ops++
	}
	r.AllOps = r.Ops
	return r, m.Send(8, r.Ops)
}
