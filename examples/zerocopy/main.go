// Command zerocopy sends messages of a fixed size to another process without a
// copy and without an allocation: they are built where the peer reads them, and
// read where they were built. Each end is one goroutine's, and so has a handle
// for its half of the connection. A power of two as the size makes each message
// lie whole cache lines from the next.
//
//	go run ./examples/zerocopy
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"shmconn"
	"shmconn/examples/internal/again"
)

// A quote is a message as it lies in the ring.
//
//	offset  size  field
//	     0     8  sequence
//	     8     8  price, in 1/10000
//	    16     8  volume
//	    24     8  symbol, padded by spaces
type quote []byte

const quoteSize = 32

func (q quote) set(sequence, price, volume uint64, symbol string) {
	_ = q[quoteSize-1]
	binary.LittleEndian.PutUint64(q, sequence)
	binary.LittleEndian.PutUint64(q[8:], price)
	binary.LittleEndian.PutUint64(q[16:], volume)
	copy(q[24:quoteSize], "        ")
	copy(q[24:quoteSize], symbol)
}

func (q quote) sequence() uint64 { return binary.LittleEndian.Uint64(q) }
func (q quote) price() uint64    { return binary.LittleEndian.Uint64(q[8:]) }
func (q quote) volume() uint64   { return binary.LittleEndian.Uint64(q[16:]) }

// batch is how many messages are published at once, at most.
const batch = 64

// send sends n quotes, the first with that sequence number.
func send(p *shmconn.Producer, first, n uint64) error {
	for n > 0 {
		now := min(n, batch)
		room, err := p.Reserve(int(now) * quoteSize)
		if err != nil {
			return err
		}
		for i := range now {
			seq := first + i
			quote(room[i*quoteSize:]).set(seq, 1_000_000+seq%100, seq%7, "GOOG")
		}
		if err := p.Commit(len(room)); err != nil {
			return err
		}
		first, n = first+now, n-now
	}
	return nil
}

// A total is what the receiver makes of quotes.
type total struct{ count, volume, value uint64 }

// receive adds up the quotes that come until n have, or the peer's end.
func (t *total) receive(r *shmconn.Consumer, n uint64) error {
	for end := t.count + n; t.count < end; {
		// One has to be there; what has come with it is taken in the same go.
		b, err := r.PeekAtLeast(quoteSize)
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		ready := min(len(b)/quoteSize, int(end-t.count))
		for i := range ready {
			q := quote(b[i*quoteSize:])
			if q.sequence() != t.count {
				return fmt.Errorf("quote %d follows %d", q.sequence(), t.count)
			}
			t.count++
			t.volume += q.volume()
			t.value += q.volume() * q.price()
		}
		// After this, b is not valid.
		if _, err := r.Discard(ready * quoteSize); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "zerocopy:", err)
		os.Exit(1)
	}
}

const quotes = 1_000_000

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("zerocopy", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: zerocopy [name]\n\nWithout a name it receives, and runs itself again as the sender.")
	}
	flags.Parse(args)
	switch args := flags.Args(); len(args) {
	case 0:
		return serve(ctx, fmt.Sprintf("zerocopy-%d", os.Getpid()), stdout)
	case 1:
		c, err := shmconn.Dial(flags.Arg(0))
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Produce(func(p *shmconn.Producer) error { return send(p, 0, quotes) })
	}
	return errors.New("usage: zerocopy [name]")
}

// serve receives what the other process sends.
func serve(ctx context.Context, name string, stdout io.Writer) error {
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- again.Run(ctx, stdout, name)
		l.Close() // where it has failed before it dialed
	}()
	c, err := l.AcceptConn()
	if err != nil {
		return errors.Join(err, <-sent)
	}
	defer c.Close()
	var t total
	start := time.Now()
	if err := c.Consume(func(r *shmconn.Consumer) error { return t.receive(r, quotes) }); err != nil {
		return err
	}
	elapsed := time.Since(start)
	fmt.Fprintf(stdout, "%d quotes, volume %d at %.4f on average, %.1f million/s\n",
		t.count, t.volume, float64(t.value)/float64(t.volume)/1e4, quotes/elapsed.Seconds()/1e6)
	return <-sent
}
