//go:build linux

package shmtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"shmconn"
)

// KillStatsEnv is the environment of a victim: the path of its KillStats.
const KillStatsEnv = "SHMCONN_TEST_KILLSTATS"

// A Gathered is what somebody has read, until there was an error.
type Gathered struct {
	N     int
	Wrong int // 1 + the place of the first byte that is wrong
	Op    string
	Err   error
	At    time.Time // of the error
	each  func(n int)
}

func (g *Gathered) Write(b []byte) (int, error) {
	if i := FirstDiff(b, g.N); i >= 0 && g.Wrong == 0 {
		g.Wrong = g.N + i + 1
	}
	g.N += len(b)
	if g.each != nil {
		g.each(len(b))
	}
	return len(b), nil
}

// Gather reads from c until there is an error, by whatever call r says, by Read
// alone if r is nil. It tells each, which can be nil, how much it has got.
func Gather(c *shmconn.Conn, r *rand.Rand, each func(n int)) *Gathered {
	g := &Gathered{Op: "read", each: each}
	buf := make([]byte, 64<<10)
	for g.Err == nil {
		how := 0
		if r != nil {
			how = r.IntN(64)
		}
		switch {
		case how == 63:
			g.Op = "writeto"
			_, g.Err = c.WriteTo(g)
		case how >= 48:
			var b []byte
			b, g.Err = c.Peek(1 + r.IntN(100)) // fewer with an error
			g.Write(b)
			if _, err := c.Discard(len(b)); err != nil {
				g.Err = err
			}
		case how >= 32:
			var n int
			n, g.Err = c.TryRead(buf[:1+r.IntN(len(buf))])
			g.Write(buf[:n])
		default:
			part := buf
			if r != nil {
				part = buf[:1+r.IntN(len(buf))]
			}
			var n int
			n, g.Err = c.Read(part)
			g.Write(part[:n])
		}
	}
	g.At = time.Now()
	return g
}

// Feed writes n bytes of the pattern from off on, in pieces, by whatever call r
// says, and tells each how many a call has written. between is called between
// two calls.
func Feed(c *shmconn.Conn, r *rand.Rand, off, n int, each func(n int), between func()) error {
	return feed(func(b []byte) (int, error) { return writeSomehow(c, r, b) }, r, off, n, each, between)
}

func feed(write func(b []byte) (int, error), r *rand.Rand, off, n int, each func(n int), between func()) error {
	for end := off + n; off < end; between() {
		m, err := write(Pattern(off, min(end-off, 1+r.IntN(1<<r.IntN(17)))))
		each(m)
		off += m
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

func writeSomehow(c *shmconn.Conn, r *rand.Rand, b []byte) (int, error) {
	switch r.IntN(8) {
	case 0:
		return c.TryWrite(b)
	case 1:
		two := net.Buffers{b[:len(b)/2], b[len(b)/2:]}
		n, err := c.WriteBuffers(&two)
		return int(n), err
	case 2:
		return writeInPlace(c, b[:min(len(b), 2048)])
	case 3:
		n, err := c.ReadFrom(bytes.NewReader(b))
		return int(n), err
	case 4:
		c.SetWriteDeadline(time.Now().Add(50 * time.Microsecond))
		defer c.SetWriteDeadline(NoDeadline)
		return c.Write(b)
	}
	return c.Write(b)
}

// writeInPlace is Write by Reserve and Commit.
func writeInPlace(w interface {
	Reserve(n int) ([]byte, error)
	Commit(n int) error
}, b []byte) (int, error) {
	room, err := w.Reserve(len(b))
	if err != nil {
		return 0, err
	}
	copy(room, b)
	if err := w.Commit(len(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// GatherExclusive is Gather by the calls of one Consumer.
func GatherExclusive(c *shmconn.Conn, r *rand.Rand, each func(n int)) *Gathered {
	g := &Gathered{Op: "read", each: each}
	g.Err = c.Consume(func(k *shmconn.Consumer) error {
		buf := make([]byte, 64<<10)
		for {
			var b []byte
			var n int
			var err error
			how := 3
			if r != nil {
				how = r.IntN(4)
			}
			switch how {
			case 0:
				b, err = k.Peek(1 + r.IntN(100)) // fewer with an error
			case 1:
				b, err = k.PeekAtLeast(1)
			case 2:
				n, err = k.Read(buf[:1+r.IntN(len(buf))])
			default:
				n, err = k.Read(buf)
			}
			g.Write(buf[:n])
			g.Write(b)
			if len(b) > 0 {
				if _, err := k.Discard(len(b)); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
		}
	})
	g.At = time.Now()
	return g
}

// FeedExclusive is Feed by the calls of one Producer. It tells each how many
// bytes have been published, and not how many Put has put in.
func FeedExclusive(c *shmconn.Conn, r *rand.Rand, off, n int, each func(n int), between func()) error {
	return c.Produce(func(p *shmconn.Producer) error {
		return feed(func(b []byte) (int, error) { return produceSomehow(p, r, b) }, r, off, n, each, between)
	})
}

func produceSomehow(p *shmconn.Producer, r *rand.Rand, b []byte) (int, error) {
	switch r.IntN(3) {
	case 0: // in groups
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(64))
			if _, err := p.Put(rest[:n]); err != nil {
				return 0, err
			}
			rest = rest[n:]
		}
		if err := p.Flush(); err != nil {
			return 0, err
		}
		return len(b), nil
	case 1:
		return writeInPlace(p, b[:min(len(b), 2048)])
	}
	return p.Write(b)
}
