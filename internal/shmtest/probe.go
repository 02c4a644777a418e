//go:build linux

package shmtest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shmconn"
)

// Outcomes are what came of many calls, of many goroutines.
type Outcomes struct {
	T     testing.TB
	calls atomic.Int64
	over  atomic.Int64 // nanoseconds that a call has outlasted its deadline, at the most

	mu   sync.Mutex
	Ends map[string]int // how often a direction of a connection has ended how
}

// final are the errors after which a connection, or a direction of it, is of no
// more use.
var final = []string{"closed", "EOF", "EPIPE", "ECONNRESET", "corrupt"}

// ended fails unless err is one of those that a peer may cause, and reports
// whether there is nothing more to come. It counts the first such error.
func (y *Outcomes) ended(what string, err error, first bool) bool {
	if err == nil {
		return false
	}
	Outcome(y.T, Network, err)
	c, _, _ := strings.Cut(Class(err), " ")
	if !slices.Contains(final, c) {
		if c != "timeout" {
			y.T.Errorf("%s: %v", what, err)
		}
		return false
	}
	if first {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.Ends[c]++
	}
	return true
}

func (y *Outcomes) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var ends []string
	for _, c := range final {
		ends = append(ends, fmt.Sprintf("%s %d", c, y.Ends[c]))
	}
	return fmt.Sprintf("%d calls; directions ended: %s; %v after the deadline at the most",
		y.calls.Load(), strings.Join(ends, ", "), time.Duration(y.over.Load()).Round(10*time.Microsecond))
}

// A prober makes all the calls that a Conn has, in one direction, at random,
// and holds what they return against what is so whatever the peer does.
type prober struct {
	*Outcomes
	c    *shmconn.Conn
	rnd  *rand.Rand
	file *os.File // a regular one, to copy from or to
	size int      // of a ring
}

// timed calls f after it has set a deadline, mostly, and looks whether f keeps
// it.
func (p *prober) timed(set func(time.Time) error, f func() error) error {
	var deadline time.Time
	if p.rnd.IntN(4) > 0 {
		deadline = time.Now().Add(time.Duration(p.rnd.IntN(2000)) * time.Microsecond)
	}
	if err := set(deadline); err != nil {
		return err
	}
	p.calls.Add(1)
	err := f()
	if over := time.Since(deadline); !deadline.IsZero() && over > 0 {
		if over > 10*time.Second {
			p.T.Errorf("a call outlasted its deadline by %v", over)
		}
		for old := p.over.Load(); int64(over) > old && !p.over.CompareAndSwap(old, int64(over)); old = p.over.Load() {
		}
	}
	return err
}

// count fails unless n is from 0 to most.
func (p *prober) count(what string, n, most int, err error) {
	if n < 0 || n > most {
		p.T.Errorf("%s of %d = %d, %v", what, most, n, err)
	}
}

const (
	MostConns = 300 // that serveEcho serves at a time

	canary = 0xA5 // what is in buffers beyond their end
	more   = 4    // calls that a prober makes when nothing more is to come
)

// reads makes calls that read until there is nothing more to come, and some
// more.
func (p *prober) reads() {
	for left := more; left > 0; {
		k := 1 + p.rnd.IntN(p.size/2)
		buf := bytes.Repeat([]byte{canary}, k+16)
		err := p.timed(p.c.SetReadDeadline, func() (err error) {
			var n int
			switch p.rnd.IntN(9) {
			case 0, 1:
				n, err = p.c.Read(buf[:k])
				p.count("Read", n, k, err)
			case 2:
				n, err = p.c.TryRead(buf[:k])
				p.count("TryRead", n, k, err)
			case 3:
				var span []byte
				span, err = p.c.Peek(k)
				p.count("Peek", len(span), k, err)
				if err == nil {
					err = p.c.Guard(func() { copy(buf[:k], span) })
				}
				if err == nil {
					n, err = p.c.Discard(len(span))
					p.count("Discard", n, k, err)
				}
			case 4:
				n, err = p.c.Discard(k)
				p.count("Discard", n, k, err)
			case 5:
				_, err = p.c.WriteTo(io.Discard)
			case 6:
				p.file.Seek(0, io.SeekStart)
				_, err = p.c.WriteTo(p.file)
			case 7:
				p.count("Buffered", p.c.Buffered(), p.size, nil)
				p.count("RingSize", p.c.Stats().RingSize, p.size, nil)
			case 8:
				err = p.c.Consume(func(r *shmconn.Consumer) error { return p.consumes(r, buf[:k]) })
			}
			return err
		})
		if i := slices.IndexFunc(buf[k:], func(b byte) bool { return b != canary }); i >= 0 {
			p.T.Errorf("byte %d of a buffer of %d was written to", k+i, k)
		}
		if p.ended("a call that reads", err, left == more) {
			left--
		}
	}
}

// writes is reads for the other direction.
func (p *prober) writes() {
	for left := more; left > 0; {
		k := 1 + p.rnd.IntN(p.size/2)
		err := p.timed(p.c.SetWriteDeadline, func() (err error) {
			var n int
			switch p.rnd.IntN(9) {
			case 0, 1:
				n, err = p.c.Write(make([]byte, k))
				p.count("Write", n, k, err)
			case 2:
				n, err = p.c.TryWrite(make([]byte, k))
				p.count("TryWrite", n, k, err)
			case 3:
				var span []byte
				if span, err = p.c.Reserve(k); err != nil {
					break
				}
				if len(span) != k {
					p.T.Errorf("Reserve(%d) returned %d bytes", k, len(span))
				}
				if err = p.c.Guard(func() { clear(span) }); err == nil {
					err = p.c.Commit(p.rnd.IntN(k + 1))
				}
			case 4:
				v := net.Buffers{make([]byte, k), make([]byte, k)}
				var m int64
				m, err = p.c.WriteBuffers(&v)
				p.count("WriteBuffers", int(m), 2*k, err)
			case 5:
				var m int64
				m, err = p.c.ReadFrom(io.LimitReader(Zeros{}, int64(k)))
				p.count("ReadFrom", int(m), k, err)
			case 6:
				p.file.Seek(0, io.SeekStart)
				_, err = p.c.ReadFrom(p.file)
			case 7:
				p.count("Available", p.c.Available(), p.size, nil)
				p.count("RingSize", p.c.Stats().RingSize, p.size, nil)
			case 8:
				err = p.c.Produce(func(w *shmconn.Producer) error { return p.produces(w, k) })
			}
			return err
		})
		if p.ended("a call that writes", err, left == more) {
			left--
		}
	}
}

// consumes makes some calls of a Consumer until one fails. It stores into buf
// and not beyond.
func (p *prober) consumes(r *shmconn.Consumer, buf []byte) (err error) {
	for range 1 + p.rnd.IntN(8) {
		k := 1 + p.rnd.IntN(len(buf))
		var n int
		var span []byte
		switch p.rnd.IntN(4) {
		case 0:
			n, err = r.Read(buf[:k])
			p.count("Consumer.Read", n, k, err)
		case 1:
			span, err = r.Peek(k)
			p.count("Consumer.Peek", len(span), k, err)
			copy(buf, span)
		case 2:
			span, err = r.PeekAtLeast(k)
			p.count("Consumer.PeekAtLeast", len(span), p.size, err)
			copy(buf, span)
		case 3:
			n, err = r.Discard(k)
			p.count("Consumer.Discard", n, k, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// produces makes some calls of a Producer, of k bytes at most, until one fails.
func (p *prober) produces(w *shmconn.Producer, k int) (err error) {
	for range 1 + p.rnd.IntN(8) {
		k := 1 + p.rnd.IntN(k)
		var n int
		switch p.rnd.IntN(4) {
		case 0:
			n, err = w.Write(make([]byte, k))
			p.count("Producer.Write", n, k, err)
		case 1:
			n, err = w.Put(make([]byte, k))
			p.count("Producer.Put", n, k, err)
		case 2:
			var span []byte
			if span, err = w.Reserve(k); err != nil {
				break
			}
			if len(span) != k {
				p.T.Errorf("Producer.Reserve(%d) returned %d bytes", k, len(span))
			}
			clear(span)
			err = w.Commit(p.rnd.IntN(k + 1))
		case 3:
			err = w.Flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Probe has both directions of both ends in use until they have all ended,
// which is when both ends are closed if not before. It closes something after
// so long, or as long as it takes until all has ended by itself if that is
// sooner.
func (y *Outcomes) Probe(a, b *shmconn.Conn, size int, seed uint64, files []*os.File, after time.Duration) {
	var wg sync.WaitGroup
	for i, c := range []*shmconn.Conn{a, b} {
		reader := &prober{y, c, rand.New(rand.NewPCG(seed, uint64(2*i))), files[2*i], size}
		writer := &prober{y, c, rand.New(rand.NewPCG(seed, uint64(2*i+1))), files[2*i+1], size}
		wg.Go(reader.reads)
		wg.Go(writer.writes)
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(after):
		for _, close := range [][]func() error{
			{a.Close, b.Close}, {b.CloseWrite, a.Close}, {a.CloseRead, b.Close}, {b.CloseRead, b.CloseWrite, b.Close},
		}[seed%4] {
			close()
		}
		a.Close()
		b.Close()
		<-over
	}
	a.Close()
	b.Close()
}

// ProbeFiles returns files for probe.
func ProbeFiles(t testing.TB) (files []*os.File) {
	for range 4 {
		files = append(files, TempFile(t, make([]byte, 5000)))
	}
	return files
}

// Control streams to and fro over a connection of its own until stop is called,
// which returns how many bytes that were. They come out as they went in.
func Control(t testing.TB) (stop func() int) {
	a, b := Shape{Ring: 8192}.ShmPair(t)
	var wg sync.WaitGroup
	var over atomic.Bool
	var total int
	wg.Go(func() { // what comes in goes back
		if _, err := io.Copy(b, b); err != nil {
			t.Errorf("the echo of the control connection: %v", err)
		}
		b.CloseWrite()
	})
	wg.Go(func() {
		for n := 1; !over.Load(); n = n*5%(16<<10) + 1 {
			go a.Write(Pattern(total, n))
			got := make([]byte, n)
			if _, err := io.ReadFull(a, got); err != nil {
				t.Errorf("the control connection: %v", err)
				return
			}
			CheckPattern(t, got, total)
			total += n
			time.Sleep(50 * time.Microsecond) // so that it leaves the processors to others
		}
		a.CloseWrite()
	})
	return func() int {
		over.Store(true)
		wg.Wait()
		return total
	}
}

// ServeEcho sends back the first bytes of each connection, of mostConns at a
// time, until l is closed.
func ServeEcho(l Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for free := make(chan bool, MostConns); ; {
		free <- true
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { c.Close(); <-free }()
			buf := make([]byte, 64)
			n, err := c.Read(buf)
			if err == nil {
				c.Write(buf[:n])
			}
		})
	}
}

// Echoed dials and is answered.
func Echoed(s Shape, name string, i int) error {
	c, err := s.Dial(name)
	if err != nil {
		return err
	}
	defer c.Close()
	want := fmt.Sprintf("polite %d", i)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if string(got) != want && err == nil {
		err = fmt.Errorf("answer is %q", got)
	}
	return err
}
