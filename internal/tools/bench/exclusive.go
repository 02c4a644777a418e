//go:build linux && !without_exclusive

package bench

import (
	"io"

	"shmconn"
)

func init() {
	Register(Network{"shm-exclusive", listenExclusive, dialExclusive})
	Register(Network{"shm-exclusive-zerocopy", listenExclusive, dialExclusive})
	Register(Network{"shm-groups", listenExclusive, dialExclusive})
}

// group is how many Puts of shm-groups are flushed at once.
const group = 8

// An exclusive is a connection whose loop has both halves for itself, by
// Produce and Consume.
type exclusive struct {
	conn *shmconn.Conn
	p    *shmconn.Producer
	r    *shmconn.Consumer
	put  int // since the last Flush
}

// hold calls f with both halves.
func (x *exclusive) hold(f func()) error {
	return x.conn.Produce(func(p *shmconn.Producer) error {
		return x.conn.Consume(func(r *shmconn.Consumer) error {
			x.p, x.r = p, r
			f()
			return nil
		})
	})
}

func (x *exclusive) Write(b []byte) (int, error) { return x.p.Write(b) }
func (x *exclusive) Read(b []byte) (int, error)  { return x.r.Read(b) }
func (x *exclusive) Close() error                { return x.conn.Close() }

// grouped puts messages, and flushes each eighth, and before it waits.
type grouped struct{ *exclusive }

func (g grouped) Write(b []byte) (int, error) {
	n, err := g.p.Put(b)
	if g.put++; g.put%group == 0 && err == nil {
		err = g.p.Flush()
	}
	return n, err
}

func (g grouped) Read(b []byte) (int, error) {
	if err := g.p.Flush(); err != nil {
		return 0, err
	}
	return g.r.Read(b)
}

// placed is a Messenger that works in the ring.
type placed struct{ *exclusive }

func (z placed) Send(size int, head uint64) error {
	b, err := z.p.Reserve(size)
	if err != nil {
		return err
	}
	PutHead(b, head)
	return z.p.Commit(size)
}

func (z placed) Receive(size int) (uint64, error) {
	b, err := z.r.Peek(size)
	if err != nil {
		return 0, err
	}
	head := Head(b)
	_, err = z.r.Discard(size)
	return head, err
}

func newExclusive(s Spec, c io.Closer) io.Closer {
	x := &exclusive{conn: c.(*shmconn.Conn)}
	switch s.Net {
	case "shm-groups":
		return grouped{x}
	case "shm-exclusive-zerocopy":
		return placed{x}
	}
	return x
}

type exclusiveListener struct {
	Listener
	spec Spec
}

func (l exclusiveListener) Accept() (io.Closer, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newExclusive(l.spec, c), nil
}

func listenExclusive(s Spec) (Listener, error) {
	l, err := listenShm(s)
	return exclusiveListener{l, s}, err
}

func dialExclusive(s Spec, addr string) (io.Closer, error) {
	c, err := dialShm(s, addr)
	if err != nil {
		return nil, err
	}
	return newExclusive(s, c), nil
}
