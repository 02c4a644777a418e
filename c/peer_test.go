//go:build linux

package c_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"shmconn"
)

// This file is testdata/peer.c in Go: one end of a connection, which does what
// it reads on standard input, and answers each command by a line.

// goPeer runs until standard input ends.
func goPeer(args []string) {
	var p end
	answer(p.open(args))
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		p.command(strings.Fields(in.Text()))
	}
	if p.c != nil {
		p.c.Close()
	}
	if p.l != nil {
		p.l.Close()
	}
}

func answer(err error) {
	if err == nil {
		fmt.Println("ok")
		return
	}
	fmt.Println(errorName(err))
}

// errorName names err as the C peer does.
func errorName(err error) string {
	for _, e := range []syscall.Errno{syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EADDRINUSE} {
		if errors.Is(err, e) {
			return map[syscall.Errno]string{
				syscall.EPIPE: "EPIPE", syscall.ECONNRESET: "ECONNRESET",
				syscall.ECONNREFUSED: "ECONNREFUSED", syscall.EADDRINUSE: "EADDRINUSE",
			}[e]
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "ETIMEDOUT"
	}
	if _, corrupt := errors.AsType[*shmconn.CorruptError](err); corrupt {
		return "EPROTO"
	}
	return err.Error()
}

type end struct {
	l *shmconn.Listener
	c *shmconn.Conn
}

// open has the arguments of the C peer: listen|dial NAME RING FLAGS.
func (p *end) open(args []string) (err error) {
	if args[0] == "listen" {
		ring, _ := strconv.Atoi(args[2])
		p.l, err = (&shmconn.ListenConfig{RingSize: ring, Anonymous: args[3] == "1"}).Listen(args[1])
		return err
	}
	p.c, err = (&shmconn.Dialer{Timeout: 10 * time.Second}).Dial(args[1])
	return err
}

func (p *end) command(f []string) {
	var n [6]int
	for i, s := range f[1:] {
		n[i], _ = strconv.Atoi(s)
	}
	switch f[0] {
	case "accept":
		p.l.SetDeadline(time.Now().Add(10 * time.Second))
		c, err := p.l.AcceptConn()
		p.c = c
		answer(err)
	case "unlisten":
		answer(p.l.Close())
		p.l = nil
	case "close":
		answer(p.c.Close())
		p.c = nil
	case "shut":
		answer(p.c.CloseWrite())
	case "available":
		fmt.Println(p.c.Available())
	case "spin":
		answer(nil) // only C can be told to sleep at once
	case "parks":
		fmt.Println(p.c.Stats().Parks)
	case "send":
		answer(newFlow(p.c, n[0], n[1:]).sendAll(n[4]))
	case "receive":
		answer(newFlow(p.c, n[0], n[1:]).receiveAll())
	case "duplex":
		sent := make(chan error)
		go func() { sent <- newFlow(p.c, n[0], n[2:]).sendAll(n[5]) }()
		err := newFlow(p.c, n[1], n[2:]).receiveAll()
		answer(errors.Join(<-sent, err))
	case "alternate":
		answer(alternate(newFlow(p.c, n[1], n[2:]), newFlow(p.c, n[0], n[2:]), n[5]))
	case "read":
		answerRead(p.c, n[0], n[1])
	case "write":
		answerWrite(p.c, n[0], n[1])
	default:
		fmt.Println("unknown command")
	}
}

func deadline(ms int) time.Time {
	if ms < 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(ms) * time.Millisecond)
}

func answerRead(c *shmconn.Conn, ms, size int) {
	fmt.Println("reading")
	start := time.Now()
	c.SetReadDeadline(deadline(ms))
	n, err := c.Read(make([]byte, size))
	if err == io.EOF {
		err = nil
	}
	answerCount(n, err, start)
}

// answerWrite tells of a Write as C does: by the count, and by the error if
// that is 0.
func answerWrite(c *shmconn.Conn, size, ms int) {
	start := time.Now()
	c.SetWriteDeadline(deadline(ms))
	n, err := c.Write(make([]byte, size))
	if n > 0 {
		err = nil
	}
	answerCount(n, err, start)
}

func answerCount(n int, err error, start time.Time) {
	ms := time.Since(start).Milliseconds()
	if err != nil {
		fmt.Println(errorName(err), ms)
	} else {
		fmt.Println(n, ms)
	}
}

// A flow is a row of messages in one direction.
type flow struct {
	c               *shmconn.Conn
	seed            uint64
	count, max, big int
	state           uint64
	i               int
	offset          uint64
	buf             []byte
}

// newFlow takes the count, the largest size, and the largest of each 1000th
// message from n.
func newFlow(c *shmconn.Conn, seed int, n []int) *flow {
	return &flow{c: c, seed: uint64(seed), state: uint64(seed), count: n[0], max: n[1], big: n[2], buf: make([]byte, max(n[1], n[2]))}
}

func mix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// next returns the memory for the next message.
func (f *flow) next() []byte {
	a, b := mix(&f.state), mix(&f.state)
	size := 1 + a%(1<<(b%uint64(bits.Len(uint(f.max)))))
	if f.i%1000 == 999 {
		size = 1 + a%uint64(f.big)
	}
	f.i++
	return f.buf[:size]
}

func pattern(seed, offset uint64) byte { return byte((offset + seed) * 0x9e3779b97f4a7c15 >> 56) }

func (f *flow) send() error {
	b := f.next()
	for j := range b {
		b[j] = pattern(f.seed, f.offset+uint64(j))
	}
	f.offset += uint64(len(b))
	if n, err := f.c.Write(b); err != nil {
		return fmt.Errorf("message %d: %d of %d bytes written: %w", f.i, n, len(b), err)
	}
	return nil
}

func (f *flow) receive() error {
	b := f.next()
	if n, err := io.ReadFull(f.c, b); err != nil {
		return fmt.Errorf("message %d: %d of %d bytes read: %w", f.i, n, len(b), err)
	}
	for j, c := range b {
		if c != pattern(f.seed, f.offset+uint64(j)) {
			return fmt.Errorf("message %d: byte %d is wrong", f.i, j)
		}
	}
	f.offset += uint64(len(b))
	return nil
}

func (f *flow) sendAll(idle int) error {
	for f.i < f.count {
		time.Sleep(time.Duration(idle) * time.Millisecond)
		if err := f.send(); err != nil {
			return err
		}
	}
	return nil
}

func (f *flow) receiveAll() error {
	for f.i < f.count {
		if err := f.receive(); err != nil {
			return err
		}
	}
	return nil
}

func alternate(in, out *flow, idle int) error {
	for in.i < in.count {
		time.Sleep(time.Duration(idle) * time.Millisecond)
		if err := in.receive(); err != nil {
			return err
		}
		if err := out.send(); err != nil {
			return err
		}
	}
	return nil
}
