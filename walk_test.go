//go:build linux

package shmconn_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// TestWalk makes calls at random on a connection and on a Unix socket, the same
// on both, and compares what they return. The Unix socket has Read and Write;
// what stands for them over shared memory is drawn, too. What would wait either
// has its end among the next calls, or is left out. The connections of a walk
// come one after the other from the same listener, so that most use memory
// again.
func TestWalk(t *testing.T) {
	shapes := []shmtest.Shape{
		{Ring: 4096},
		shmtest.Shape{Ring: 4096, Anonymous: true, Swap: true}.Poll(shmtest.PollNever),
		shmtest.Shape{Ring: 4096, Swap: true}.Poll(shmtest.PollAlways),
		{Ring: 4096, Spares: -1},
	}
	walks := 150
	if *shmtest.Long {
		walks = 20_000
	}
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			seed := shmtest.Seeded(t).Uint64()
			shm, unix := s.MustListen(t, shmtest.NewName()), shmtest.UnixShape.MustListen(t, shmtest.NewName())
			for i := range walks {
				w := &walk{t: t, r: rand.New(rand.NewPCG(seed, uint64(i)))}
				w.nets[0].open(t, s, shm)
				w.nets[1].open(t, shmtest.UnixShape, unix)
				w.run()
				if t.Failed() {
					t.Fatalf("walk %d:\n%s", i, strings.Join(w.trace, "\n"))
				}
			}
		})
	}
}

// A walk is one connection on each network, and what the calls so far have made
// of the two.
type walk struct {
	t     *testing.T
	r     *rand.Rand
	nets  [2]walkNet // the library, a Unix socket
	ends  [2]walkEnd
	trace []string
}

// A walkNet is a connection on one network.
type walkNet struct {
	network       string
	conns         [2]shmtest.Conn
	written, read [2]int // bytes, ever, by each end
}

// A walkEnd is what is so of one end on both networks.
type walkEnd struct {
	queued                    int // bytes that it can read
	writes                    int // that made them
	closed, noRead, noWrite   bool
	readExpired, writeExpired bool
	lost                      bool              // the peer closed with bytes unread: a Unix socket says so once
	reading                   func() [2]outcome // ends the Read that waits; nil: none does
	way                       string            // of that
	done                      <-chan struct{}
}

// An outcome is what a call returned.
type outcome struct {
	n   int
	err error
}

func (n *walkNet) open(t *testing.T, s shmtest.Shape, l shmtest.Listener) {
	n.network = s.Network()
	a := s.MustDial(t, shmtest.NameOf(l))
	b := shmtest.MustAccept(t, l)
	if s.Swap {
		a, b = b, a
	}
	n.conns = [2]shmtest.Conn{a, b}
}

func (w *walk) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// run makes calls until both ends are closed.
func (w *walk) run() {
	for range 10 + w.r.IntN(60) {
		w.step(w.r.IntN(2))
		if w.t.Failed() {
			break
		}
	}
	for e := range w.ends {
		if !w.t.Failed() && w.r.IntN(8) == 0 && !w.ends[e].closed {
			w.abort(e)
		}
	}
	for e := range w.ends {
		w.close(e)
		w.settleAll()
	}
}

// step makes a call at the end e.
func (w *walk) step(e int) {
	switch k := w.r.IntN(100); {
	case k < 35:
		w.write(e)
	case k < 70:
		w.readSome(e)
	case k < 82:
		w.deadline(e)
	case k < 86:
		w.look(e)
	case k < 90:
		w.long(e)
	case k < 91:
		w.watch(e)
	case k < 94:
		w.half(e, "CloseRead", shmtest.Conn.CloseRead, &w.ends[e].noRead)
	case k < 97:
		w.half(e, "CloseWrite", shmtest.Conn.CloseWrite, &w.ends[e].noWrite)
	case k < 98:
		w.close(e)
	}
	w.settleAll()
}

// both makes a call on both networks and compares.
func (w *walk) both(what string, e int, f func(n *walkNet, c shmtest.Conn) outcome) (out [2]outcome) {
	for i := range w.nets {
		out[i] = f(&w.nets[i], w.nets[i].conns[e])
	}
	w.compare(what, e, out, true)
	return out
}

func (w *walk) compare(what string, e int, out [2]outcome, count bool) {
	var is [2]string
	for i, o := range out {
		is[i] = shmtest.Outcome(w.t, w.nets[i].network, o.err)
		if count {
			is[i] = fmt.Sprintf("%d, %s", o.n, is[i])
		}
	}
	w.log("%d.%s = %s", e, what, is[0])
	if is[0] != is[1] {
		w.t.Errorf("%d.%s = %s, a Unix socket's %s", e, what, is[0], is[1])
	}
}

// ended reports whether a Read at e does not wait.
func (w *walk) ended(e int) bool {
	x, peer := &w.ends[e], &w.ends[1-e]
	return x.queued > 0 || x.closed || x.noRead || x.readExpired || peer.closed || peer.noWrite
}

// broken reports whether a Write at e is an error.
func (w *walk) broken(e int) bool {
	x, peer := &w.ends[e], &w.ends[1-e]
	return x.closed || x.noWrite || x.writeExpired || peer.closed || peer.noRead
}

func (w *walk) write(e int) {
	peer := &w.ends[1-e]
	n := []int{1, 1 + w.r.IntN(100), 1 + w.r.IntN(1024), 1024, 0}[w.r.IntN(5)]
	if !w.broken(e) && (peer.queued+n > 3072 || peer.writes > 40) {
		return
	}
	way := w.r.IntN(len(writeWays))
	if n == 0 {
		way = 0
	}
	out := w.both(fmt.Sprintf("%s(%d)", writeWays[way].name, n), e, func(net *walkNet, c shmtest.Conn) (o outcome) {
		b := shmtest.Pattern(net.written[e], n)
		if s, ok := c.(*shmconn.Conn); ok {
			o.n, o.err = writeWays[way].write(s, b)
		} else {
			o.n, o.err = c.Write(b)
		}
		net.written[e] += o.n
		return o
	})
	if out[0].n > 0 {
		peer.queued += out[0].n
		peer.writes++
	}
}

// writeWays are the calls that write all of b if there is room.
var writeWays = []struct {
	name  string
	write func(c *shmconn.Conn, b []byte) (int, error)
}{
	{"Write", (*shmconn.Conn).Write},
	{"TryWrite", (*shmconn.Conn).TryWrite},
	{"TryWriteAll", func(c *shmconn.Conn, b []byte) (int, error) {
		ok, err := c.TryWriteAll(b)
		if !ok {
			b = nil
		}
		return len(b), err
	}},
	{"WriteBuffers", func(c *shmconn.Conn, b []byte) (int, error) {
		i := len(b) / 3
		n, err := c.WriteBuffers(&net.Buffers{b[:i], nil, b[i:]})
		return int(n), err
	}},
	{"Commit", func(c *shmconn.Conn, b []byte) (int, error) {
		room, err := c.Reserve(len(b) + 7)
		if err == nil {
			copy(room, b)
			err = c.Commit(len(b))
		}
		if err != nil {
			return 0, err
		}
		return len(b), nil
	}},
	{"CommitReserve", func(c *shmconn.Conn, b []byte) (n int, err error) {
		i := len(b) / 2
		room, err := c.Reserve(i)
		if err != nil {
			return 0, err
		}
		copy(room, b[:i])
		if room, err = c.CommitReserve(i, len(b)-i); err != nil {
			return 0, err
		}
		copy(room, b[i:])
		if err := c.Commit(len(b) - i); err != nil {
			return i, err
		}
		return len(b), nil
	}},
	{"ReadFrom", func(c *shmconn.Conn, b []byte) (int, error) {
		n, err := c.ReadFrom(bytes.NewReader(b))
		return int(n), opOf(err, "write")
	}},
	{"Producer.Write", func(c *shmconn.Conn, b []byte) (n int, err error) {
		err = c.Produce(func(p *shmconn.Producer) error {
			n, err = p.Write(b)
			return err
		})
		return n, err
	}},
	{"Producer.Put", func(c *shmconn.Conn, b []byte) (n int, err error) {
		err = c.Produce(func(p *shmconn.Producer) error {
			for err == nil && n < len(b) {
				var m int
				m, err = p.Put(b[n:min(n+1+len(b)/4, len(b))])
				n += m
			}
			return err
		})
		if err != nil {
			n = 0 // what was put in was not handed over
		}
		return n, err
	}},
	{"Producer.Commit", func(c *shmconn.Conn, b []byte) (n int, err error) {
		err = c.Produce(func(p *shmconn.Producer) error {
			i := len(b) / 2
			if n, err = p.Put(b[:i]); err != nil {
				return err
			}
			room, err := p.Reserve(len(b) - i)
			if err != nil {
				return err
			}
			copy(room, b[i:])
			if err = p.Commit(len(b) - i); err == nil {
				n = len(b)
			}
			return err
		})
		if err != nil {
			n = 0
		}
		return n, err
	}},
}

// opOf returns err with another operation's name.
func opOf(err error, op string) error {
	if e, ok := err.(*net.OpError); ok {
		c := *e
		c.Op = op
		return &c
	}
	return err
}

func (w *walk) readSome(e int) {
	x := &w.ends[e]
	if x.reading != nil {
		return // another would wait for that
	}
	n := []int{1, 1 + w.r.IntN(100), 1 + w.r.IntN(2048), 4000, 0}[w.r.IntN(5)]
	way := w.r.IntN(len(readWays))
	if n == 0 {
		way = 0
	}
	if way >= 2 {
		n = min(n, 2048) // half the ring
	}
	name := fmt.Sprintf("%s(%d)", readWays[way].name, n)
	call := func(net *walkNet, c shmtest.Conn) (o outcome) {
		b := make([]byte, n)
		if s, ok := c.(*shmconn.Conn); ok {
			o.n, o.err = readWays[way].read(s, b)
		} else {
			o.n, o.err = c.Read(b)
		}
		shmtest.CheckPattern(w.t, b[:o.n], net.read[e])
		net.read[e] += o.n
		return o
	}
	if w.ended(e) || n == 0 {
		var out [2]outcome
		for i := range w.nets {
			out[i] = call(&w.nets[i], w.nets[i].conns[e])
		}
		w.took(name, e, out)
		return
	}
	if strings.HasPrefix(name, "Try") {
		if n, err := readWays[way].read(w.nets[0].conns[e].(*shmconn.Conn), make([]byte, n)); n != 0 || err != nil {
			w.t.Errorf("%s = %d, %v, with nothing there", name, n, err)
		}
		return
	}
	var ch [2]chan outcome
	for i := range w.nets {
		ch[i] = make(chan outcome, 1)
		go func() { ch[i] <- call(&w.nets[i], w.nets[i].conns[e]) }()
	}
	w.log("%d.%s begins", e, name)
	x.reading = func() (out [2]outcome) {
		for i, c := range ch {
			select {
			case out[i] = <-c:
			case <-time.After(20 * time.Second):
				w.t.Fatalf("%d.%s waits on network %d:\n%s", e, name, i, strings.Join(w.trace, "\n"))
			}
		}
		return out
	}
	x.way = name
}

func (w *walk) settleAll() {
	for e := range w.ends {
		w.settle(e)
	}
}

// settle ends the Read that waits at e, if it does not wait any more.
func (w *walk) settle(e int) {
	if x := &w.ends[e]; x.reading != nil && w.ended(e) {
		out := x.reading()
		x.reading = nil
		w.took(x.way, e, out)
	}
}

// took compares what two Reads have returned. One over shared memory may return
// less than there is: what its end knew of, or the first part of what the other
// end wrote in two.
func (w *walk) took(what string, e int, out [2]outcome) {
	x, n := &w.ends[e], &w.nets[0]
	if x.lost && shmtest.Class(out[1].err) == "ECONNRESET" {
		x.lost = false
		out[1].n, out[1].err = w.nets[1].conns[e].Read(make([]byte, 1))
	}
	for out[0].n > 0 && out[0].n < out[1].n && out[0].err == nil {
		b := make([]byte, out[1].n-out[0].n)
		m, err := n.conns[e].Read(b)
		shmtest.CheckPattern(w.t, b[:m], n.read[e])
		n.read[e] += m
		out[0].n, out[0].err = out[0].n+m, err
	}
	w.compare(what, e, out, true)
	if x.queued -= out[0].n; x.queued == 0 {
		x.writes = 0
	}
}

// readWays are the calls that read what there is, up to all of b.
var readWays = []struct {
	name string
	read func(c *shmconn.Conn, b []byte) (int, error)
}{
	{"Read", (*shmconn.Conn).Read},
	{"TryRead", (*shmconn.Conn).TryRead},
	{"Peek", func(c *shmconn.Conn, b []byte) (int, error) {
		if _, err := c.Peek(1); err != nil {
			return 0, err
		}
		n := min(len(b), c.Buffered())
		s, err := c.Peek(n)
		if err != nil || len(s) != n {
			return 0, fmt.Errorf("Peek of the %d bytes that are there = %d, %w", n, len(s), err)
		}
		copy(b, s)
		return c.Discard(n)
	}},
	{"PeekAtLeast", func(c *shmconn.Conn, b []byte) (int, error) {
		s, err := c.PeekAtLeast(1)
		if err != nil {
			return 0, err
		}
		return c.Discard(copy(b, s))
	}},
	{"Consumer.Read", func(c *shmconn.Conn, b []byte) (n int, err error) {
		err = c.Consume(func(r *shmconn.Consumer) error {
			n, err = r.Read(b)
			return err
		})
		return n, err
	}},
	{"Consumer.Peek", func(c *shmconn.Conn, b []byte) (n int, err error) {
		err = c.Consume(func(r *shmconn.Consumer) error {
			s, err := r.PeekAtLeast(1)
			if err != nil {
				return err
			}
			n = copy(b, s)
			for left := n; left > 0 && err == nil; {
				var m int
				m, err = r.Discard((left + 1) / 2)
				left -= m
			}
			return err
		})
		return n, err
	}},
}

func (w *walk) deadline(e int) {
	x := &w.ends[e]
	when, past := shmtest.NoDeadline, w.r.IntN(3) == 0
	if past {
		when = shmtest.Past
	} else if w.r.IntN(2) == 0 {
		when = time.Now().Add(time.Hour)
	}
	set, name, read, write := shmtest.Conn.SetDeadline, "SetDeadline", true, true
	switch w.r.IntN(3) {
	case 0:
		set, name, write = shmtest.Conn.SetReadDeadline, "SetReadDeadline", false
	case 1:
		set, name, read = shmtest.Conn.SetWriteDeadline, "SetWriteDeadline", false
	}
	w.both(fmt.Sprintf("%s(%v)", name, past), e, func(_ *walkNet, c shmtest.Conn) outcome { return outcome{err: set(c, when)} })
	if read {
		x.readExpired = past
	}
	if write {
		x.writeExpired = past
	}
}

func (w *walk) half(e int, name string, f func(shmtest.Conn) error, gone *bool) {
	w.both(name, e, func(_ *walkNet, c shmtest.Conn) outcome { return outcome{err: f(c)} })
	*gone = true
}

func (w *walk) close(e int) {
	x, peer := &w.ends[e], &w.ends[1-e]
	w.both("Close", e, func(_ *walkNet, c shmtest.Conn) outcome { return outcome{err: c.Close()} })
	peer.lost = peer.lost || x.queued > 0 && !x.closed
	x.closed = true
	x.queued = 0
	if x.done != nil {
		w.over(e)
	}
	if peer.done != nil {
		w.over(1 - e)
	}
}

// abort ends the connection at e, which a Unix socket does not do.
func (w *walk) abort(e int) {
	x, peer, c := &w.ends[e], &w.ends[1-e], w.nets[0].conns[1-e].(*shmconn.Conn)
	if x.reading != nil || peer.reading != nil || peer.closed {
		return
	}
	c.SetDeadline(shmtest.NoDeadline)
	if err := w.nets[0].conns[e].(*shmconn.Conn).Abort(); err != nil {
		w.t.Errorf("Abort: %v", err)
	}
	w.log("%d.Abort", e)
	want := "read ECONNRESET"
	if x.noWrite || peer.noRead {
		want = "ok" // ReadAll hides EOF
	}
	b, err := io.ReadAll(c)
	shmtest.WantErr(w.t, "Read after Abort", err, want)
	shmtest.CheckPattern(w.t, b, w.nets[0].read[1-e])
	if len(b) != peer.queued {
		w.t.Errorf("after Abort %d bytes were read, %d were there", len(b), peer.queued)
	}
	c.Close()
	w.nets[1].conns[e].Close()
	w.nets[1].conns[1-e].Close()
	x.closed, peer.closed = true, true
	x.queued, peer.queued = 0, 0
}

// look checks what the library says of the connection.
func (w *walk) look(e int) {
	x, peer, n := &w.ends[e], &w.ends[1-e], &w.nets[0]
	c := n.conns[e].(*shmconn.Conn)
	want := x.queued
	if got := c.Buffered(); got != want && x.reading == nil {
		w.t.Errorf("%d.Buffered() = %d, want %d", e, got, want)
	}
	room := 4096 - peer.queued
	if x.closed || x.noWrite || peer.closed || peer.noRead {
		room = 0
	}
	if got := c.Available(); got > room || room > 0 && got < room-1024 {
		w.t.Errorf("%d.Available() = %d, want %d", e, got, room)
	}
	st := c.Stats()
	if x.reading == nil && (st.BytesRead != uint64(n.read[e]) || st.BytesWritten != uint64(n.written[e])) {
		w.t.Errorf("%d.Stats() = %d read, %d written, want %d, %d", e, st.BytesRead, st.BytesWritten, n.read[e], n.written[e])
	}
	if x.done != nil && !x.closed && !peer.closed {
		select {
		case <-x.done:
			w.t.Errorf("%d.Done is closed, and neither end is", e)
		default:
		}
	}
}

// watch calls Done.
func (w *walk) watch(e int) {
	w.log("%d.Done", e)
	x := &w.ends[e]
	x.done = w.nets[0].conns[e].(*shmconn.Conn).Done()
	if x.closed || w.ends[1-e].closed {
		w.over(e)
	}
}

// over waits for Done.
func (w *walk) over(e int) {
	select {
	case <-w.ends[e].done:
	case <-time.After(20 * time.Second):
		w.t.Fatalf("%d.Done is not closed:\n%s", e, strings.Join(w.trace, "\n"))
	}
}

// long has e write more than there is room for, and ends that in some way. How
// much was written differs, so all of it is read then.
func (w *walk) long(e int) {
	x, peer := &w.ends[e], &w.ends[1-e]
	if w.broken(e) || peer.reading != nil || peer.readExpired {
		return
	}
	const n = 1 << 20
	var ch [2]chan outcome
	for i := range w.nets {
		ch[i] = make(chan outcome, 1)
		go func() {
			var o outcome
			o.n, o.err = w.nets[i].conns[e].Write(shmtest.Pattern(w.nets[i].written[e], n))
			ch[i] <- o
		}()
	}
	if w.r.IntN(2) == 0 {
		time.Sleep(time.Duration(w.r.IntN(1000)) * time.Microsecond)
	}
	w.log("%d.Write(long) begins", e)
	var left [2]int // for the peer to read
	reads := true
	switch w.r.IntN(5) { // a half close wakes no Write on a Unix socket
	case 0:
		w.both("SetWriteDeadline(true)", e, func(_ *walkNet, c shmtest.Conn) outcome { return outcome{err: c.SetWriteDeadline(shmtest.Past)} })
		x.writeExpired = true
	case 1:
		w.close(e)
	case 2:
		peer.queued++ // there is something
		w.close(1 - e)
		reads = false
	default: // the peer reads all of it
		for i := range w.nets {
			left[i] = peer.queued + n
			w.drain(i, 1-e, left[i])
		}
		reads = false
		peer.queued, peer.writes = 0, 0
	}
	var out [2]outcome
	for i, c := range ch {
		select {
		case out[i] = <-c:
		case <-time.After(20 * time.Second):
			w.t.Fatalf("%d.Write waits on network %d:\n%s", e, i, strings.Join(w.trace, "\n"))
		}
		w.nets[i].written[e] += out[i].n
	}
	w.compare("Write(long)", e, out, false)
	if !reads {
		return
	}
	for i := range w.nets {
		w.drain(i, 1-e, peer.queued+out[i].n)
	}
	peer.queued, peer.writes = 0, 0
}

// drain reads n bytes, which are there or come.
func (w *walk) drain(i, e, n int) {
	net := &w.nets[i]
	b := make([]byte, n)
	m, err := io.ReadFull(net.conns[e], b)
	if err != nil {
		w.t.Errorf("network %d: %d of %d bytes came, %v", i, m, n, err)
	}
	shmtest.CheckPattern(w.t, b[:m], net.read[e])
	net.read[e] += m
}
