// Command frames sends messages of any length to another process: a length in
// four bytes, then that many. It does so copied, by Write and bufio, and in
// place, where many are reserved and committed at once and all whole ones that
// are there are read at once.
//
//	go run ./examples/frames
package main

import (
	"bufio"
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

const header = 4

// errTooLong says that a frame is longer than a receiver takes.
var errTooLong = errors.New("frame too long")

// A copier sends and receives frames by Write and Read.
type copier struct {
	w *bufio.Writer
	r *bufio.Reader
	b []byte
}

func newCopier(c io.ReadWriter, longest int) *copier {
	return &copier{bufio.NewWriter(c), bufio.NewReader(c), make([]byte, longest)}
}

func (p *copier) send(b []byte) error {
	var h [header]byte
	binary.LittleEndian.PutUint32(h[:], uint32(len(b)))
	p.w.Write(h[:]) // an error stays, and Write returns it
	_, err := p.w.Write(b)
	return err
}

// flush hands over what was sent.
func (p *copier) flush() error { return p.w.Flush() }

// receive returns the next frame, which is valid until the next call. The error
// is io.EOF after the last whole frame, and io.ErrUnexpectedEOF within one.
func (p *copier) receive() ([]byte, error) {
	var h [header]byte
	if _, err := io.ReadFull(p.r, h[:]); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(h[:]))
	if n > len(p.b) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errTooLong, n, len(p.b))
	}
	if _, err := io.ReadFull(p.r, p.b[:n]); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return p.b[:n], nil
}

// A placer builds frames in the ring.
type placer struct {
	c    *shmconn.Conn
	room []byte // reserved and not committed yet
	used int
}

// batch is how many bytes are reserved at once, at most.
const batch = 16 << 10

// send puts a frame of n bytes, which fill writes, into the ring. flush hands
// it over; a full batch does so, too.
func (p *placer) send(n int, fill func(b []byte)) error {
	if header+n > len(p.room)-p.used {
		next := max(min(batch, p.c.RingSize()/2), header+n)
		var err error
		if p.room != nil {
			p.room, err = p.c.CommitReserve(p.used, next)
			p.used = 0
		}
		if p.room == nil && err == nil { // at first, and when the receiver is behind
			p.room, err = p.c.Reserve(next)
		}
		if err != nil {
			return err
		}
	}
	b := p.room[p.used:]
	binary.LittleEndian.PutUint32(b, uint32(n))
	fill(b[header : header+n])
	p.used += header + n
	return nil
}

func (p *placer) flush() error {
	if p.room == nil {
		return nil
	}
	n := p.used
	p.room, p.used = nil, 0
	return p.c.Commit(n)
}

// receiveAll calls f with each frame as it lies in the ring, until the peer's
// end. A frame is valid until f returns; the peer, if it is hostile, can change
// it under f's eyes.
func receiveAll(c *shmconn.Conn, f func(b []byte) error) error {
	longest := c.RingSize()/2 - header
	for need := header; ; {
		b, err := c.PeekAtLeast(need)
		if err == io.EOF && len(b) > 0 {
			return io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		done := 0
		for need = header; len(b)-done >= header; {
			n := int(binary.LittleEndian.Uint32(b[done:]))
			if n > longest {
				return fmt.Errorf("%w: %d bytes, at most %d", errTooLong, n, longest)
			}
			if len(b)-done < header+n {
				need = header + n // the last one is not whole yet
				break
			}
			if err := f(b[done+header : done+header+n]); err != nil {
				return err
			}
			done += header + n
		}
		if _, err := c.Discard(done); err != nil { // b is not valid any more
			return err
		}
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "frames:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("frames", flag.ExitOnError)
	n := flags.Int("n", 2_000_000, "how many `frames` to send each way of sending")
	dial := flags.String("dial", "", "send to `name` as the other process")
	place := flags.Bool("place", false, "send in place")
	flags.Parse(args)
	if *dial != "" {
		c, err := shmconn.Dial(*dial)
		if err != nil {
			return err
		}
		defer c.Close()
		return send(c, *n, *place)
	}
	for _, place := range []bool{false, true} {
		if err := receive(ctx, *n, place, stdout); err != nil {
			return err
		}
	}
	return nil
}

// length returns how long the i-th frame is: 8 to 71 bytes.
func length(i int) int { return 8 + i*7%64 }

func send(c *shmconn.Conn, n int, place bool) error {
	if place {
		p := &placer{c: c}
		for i := range n {
			if err := p.send(length(i), func(b []byte) { binary.LittleEndian.PutUint64(b, uint64(i)) }); err != nil {
				return err
			}
		}
		return p.flush()
	}
	p, b := newCopier(c, 0), make([]byte, 128)
	for i := range n {
		binary.LittleEndian.PutUint64(b, uint64(i))
		if err := p.send(b[:length(i)]); err != nil {
			return err
		}
	}
	return p.flush()
}

// receive checks the frames that the other process sends.
func receive(ctx context.Context, n int, place bool, stdout io.Writer) error {
	l, err := shmconn.Listen(fmt.Sprintf("frames-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- again.Run(ctx, stdout, "-dial", l.Addr().String(), "-n", fmt.Sprint(n), fmt.Sprintf("-place=%v", place))
		l.Close() // where it has failed before it dialed
	}()
	c, err := l.AcceptConn()
	if err != nil {
		return errors.Join(err, <-sent)
	}
	defer c.Close()
	got, start := 0, time.Now()
	check := func(b []byte) error {
		if len(b) != length(got) || binary.LittleEndian.Uint64(b) != uint64(got) {
			return fmt.Errorf("frame %d is %d bytes long and begins with %x", got, len(b), b[:8])
		}
		got++
		return nil
	}
	how := "copied  "
	if place {
		how = "in place"
		err = receiveAll(c, check)
	} else {
		for p := newCopier(c, 128); err == nil; {
			var b []byte
			if b, err = p.receive(); err == nil {
				err = check(b)
			}
		}
		if err == io.EOF {
			err = nil
		}
	}
	if err == nil && got != n {
		err = fmt.Errorf("%d frames of %d", got, n)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %d frames, %.1f million/s\n", how, got, float64(n)/time.Since(start).Seconds()/1e6)
	return <-sent
}
