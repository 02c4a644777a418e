// Command fanout is one feed for any number of strategies. Each has a
// connection, and gets whole messages or none: one that is slow misses some, is
// told how many by their sequence numbers, and holds up neither the feed nor
// the others. One that misses too many in a row is thrown out.
//
//	go run ./examples/fanout
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"shmconn"
	"shmconn/examples/internal/again"
)

// A tick is a sequence number and a price, eight bytes each.
const tickSize = 16

// maxMissed is how many ticks in a row a strategy may miss.
const maxMissed = 1 << 20

// A feed gives each tick to all who are connected.
type feed struct {
	mu    sync.Mutex
	conns map[*shmconn.Conn]int // how many ticks each has missed in a row
}

// publish gives tick to each strategy that has room for it. It never waits.
func (f *feed) publish(tick []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, missed := range f.conns {
		ok, err := c.TryWriteAll(tick)
		switch {
		case ok:
			f.conns[c] = 0
		case err != nil: // it has gone
			f.remove(c)
		case missed == maxMissed:
			f.remove(c)
		default:
			f.conns[c] = missed + 1
		}
	}
}

// remove throws c out: its peer gets what it has room for, and then ECONNRESET,
// so that it does not take the end for the feed's.
func (f *feed) remove(c *shmconn.Conn) {
	delete(f.conns, c)
	c.Abort()
}

// accept lets strategies in until the listener is closed. A shortage, of
// descriptors say, is over some time, and ends nothing.
func (f *feed) accept(l *shmconn.Listener) error {
	for {
		c, err := l.AcceptConn()
		if short, ok := errors.AsType[interface {
			error
			Temporary() bool
		}](err); ok && short.Temporary() {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.conns[c] = 0
		f.mu.Unlock()
	}
}

// close ends the feed in order, for all.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

func (f *feed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// A summary is what a strategy has seen.
type summary struct{ got, missed uint64 }

// follow reads ticks until the feed ends, and rests for pause after each look.
func follow(c *shmconn.Conn, pause time.Duration) (s summary, err error) {
	for next := uint64(0); ; time.Sleep(pause) {
		b, err := c.PeekAtLeast(tickSize)
		if err == io.EOF && len(b) == 0 {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		whole := len(b) - len(b)%tickSize
		for i := 0; i < whole; i += tickSize {
			seq := binary.LittleEndian.Uint64(b[i:])
			if seq < next {
				return s, fmt.Errorf("tick %d comes after %d", seq, next-1)
			}
			s.missed += seq - next
			s.got++
			next = seq + 1
		}
		if _, err := c.Discard(whole); err != nil {
			return s, err
		}
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fanout:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("fanout", flag.ExitOnError)
	ticks := flags.Uint64("ticks", 1_000_000, "how many `ticks` to send")
	name := flags.String("follow", "", "be a strategy that follows the feed `name`")
	pause := flags.Duration("pause", 0, "a strategy's rest after each look")
	flags.Parse(args)
	if *name != "" {
		d := shmconn.Dialer{Wait: 10 * time.Second}
		c, err := d.Dial(*name)
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := follow(c, *pause)
		if err == nil {
			fmt.Fprintf(stdout, "pause %v: %d ticks, %d missed\n", *pause, s.got, s.missed)
		}
		return err
	}
	return serve(ctx, *ticks, stdout)
}

// serve starts strategies, two quick ones and a slow one, and feeds them.
func serve(ctx context.Context, ticks uint64, stdout io.Writer) error {
	lc := shmconn.ListenConfig{RingSize: 64 << 10}
	l, err := lc.Listen(fmt.Sprintf("fanout-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer l.Close()
	f := &feed{conns: make(map[*shmconn.Conn]int)}
	accepted := make(chan error, 1)
	go func() { accepted <- f.accept(l) }()
	pauses := []string{"0s", "0s", "5ms"}
	ended := make(chan error, len(pauses))
	for _, pause := range pauses {
		go func() { ended <- again.Run(ctx, stdout, "-follow", l.Addr().String(), "-pause", pause) }()
	}
	for f.count() < len(pauses) {
		select {
		case err := <-ended: // before it was connected
			return errors.Join(err, errors.New("a strategy has not come"))
		case <-time.After(time.Millisecond):
		}
	}
	tick := make([]byte, tickSize)
	for seq := range ticks {
		binary.LittleEndian.PutUint64(tick, seq)
		binary.LittleEndian.PutUint64(tick[8:], 1_000_000+seq%100)
		f.publish(tick)
	}
	f.close()
	for range pauses {
		err = errors.Join(err, <-ended)
	}
	l.Close()
	return errors.Join(err, <-accepted)
}
