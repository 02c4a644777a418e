//go:build linux

package close

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A closeCall is a row of the matrix of TestCloseMatrix: one call that an end
// makes, and what comes of it.
type closeCall struct {
	name string

	// What it does to the streams: an end that reads and one that writes cannot
	// both be waiting.
	reads, writes           bool
	stopsReads, stopsWrites bool
	held                    bool // it waits in somebody else's hands: a Reader, a Writer, a function

	inbound int // bytes that the other end has written before it
	waiting int // the same before the call that waits

	prepare func(e *closeEnd)
	once    func(e *closeEnd) (int, error)              // does not wait
	wait    func(e *closeEnd, u *underway) (int, error) // waits; nil if the call never does
	late    func(e *closeEnd) (int, error)              // once, after a close, if that is another
	loop    string                                      // the outcome of once, repeated, before the close: for those that never wait
	fits    func(room int) int                          // what wait writes

	// The outcomes of once before any close; of wait, or once repeated, when
	// the own end closes, and when the other does; of once after these. N is
	// what fitted, P what the other end had written.
	before                 string
	duringOwn, duringOther string
	afterOwn, afterOther   string
	afterBytes             string // afterOther, when the other end had written
}

func pieces(room int) int { return room / (closeRing / 4) * (closeRing / 4) }

// kernel is what a call writes that has the kernel copy. Over Unix sockets
// there is none: that is a Write.
func kernel(room int) int {
	if shmtest.Sockets {
		return pieces(room)
	}
	return room
}

func nothing(int) int { return 0 }

const closeRing = 4096

var closeCalls = []*closeCall{
	{
		name: "Read", reads: true, inbound: 5,
		once:   func(e *closeEnd) (int, error) { return e.read(e.c.Read) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.read(e.c.Read) },
		before: "5 ok", duringOwn: "0 read closed", duringOther: "0 EOF",
		afterOwn: "0 read closed", afterOther: "0 EOF", afterBytes: "8 ok",
	},
	{
		name: "Peek", reads: true, inbound: 5, waiting: 3,
		once:   func(e *closeEnd) (int, error) { return e.peek(5) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.peek(5) },
		before: "5 ok", duringOwn: "0 read closed", duringOther: "3 EOF",
		afterOwn: "0 read closed", afterOther: "0 EOF", afterBytes: "5 ok",
	},
	{
		name: "Discard", reads: true, inbound: 5, waiting: 3,
		once:   (*closeEnd).discard,
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.discard() },
		before: "5 ok", duringOwn: "3 read closed", duringOther: "3 EOF",
		afterOwn: "0 read closed", afterOther: "0 EOF", afterBytes: "5 ok",
	},
	{
		name: "WriteTo", reads: true, inbound: 5, waiting: 3,
		once:   func(e *closeEnd) (int, error) { return e.writeTo(&sinkOf{end: e, enough: 5}) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.writeTo(&sinkOf{end: e}) },
		before: "5 enough", duringOwn: "3 writeto closed", duringOther: "3 ok",
		afterOwn: "0 writeto closed", afterOther: "0 ok", afterBytes: "P enough",
	},
	{
		name: "WriteTo_file", reads: true, waiting: 3,
		once: func(e *closeEnd) (int, error) {
			e.c.SetReadDeadline(shmtest.Past)
			defer e.c.SetReadDeadline(shmtest.NoDeadline)
			return e.writeToFile()
		},
		late:   (*closeEnd).writeToFile,
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.writeToFile() },
		before: "0 writeto timeout", duringOwn: "3 writeto closed", duringOther: "3 ok",
		afterOwn: "0 writeto closed", afterOther: "0 ok", afterBytes: "P ok",
	},
	{
		name: "WriteTo_sink", reads: true, held: true, inbound: 5, waiting: 5, // it waits in its Writer
		once:   func(e *closeEnd) (int, error) { return e.writeTo(&sinkOf{end: e, enough: 5}) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.writeTo(&sinkOf{end: e, u: u}) },
		before: "5 enough", duringOwn: "5 writeto closed", duringOther: "5 ok",
		afterOwn: "0 writeto closed", afterOther: "0 ok", afterBytes: "P enough",
	},
	{
		name: "TryRead", reads: true, inbound: 5, loop: "0 ok",
		once:   func(e *closeEnd) (int, error) { return e.read(e.c.TryRead) },
		before: "5 ok", duringOwn: "0 ok, 0 read closed", duringOther: "0 ok, 0 EOF",
		afterOwn: "0 read closed", afterOther: "0 EOF", afterBytes: "8 ok",
	},
	{
		name: "Write", writes: true, fits: pieces,
		once:   func(e *closeEnd) (int, error) { return e.write(5) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.write(shmtest.TapePiece) },
		before: "5 ok", duringOwn: "N write closed", duringOther: "N write EPIPE",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "Write_short", writes: true, fits: nothing, // which is published by one store
		once: func(e *closeEnd) (int, error) { return e.write(200) },
		wait: func(e *closeEnd, u *underway) (int, error) {
			e.write(closeRing / 2)
			e.write(closeRing/2 - 100)
			return e.write(200)
		},
		before: "200 ok", duringOwn: "0 write closed", duringOther: "0 write EPIPE",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "WriteBuffers", writes: true, fits: pieces,
		once:   func(e *closeEnd) (int, error) { return e.writeBuffers(1, 4) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.writeBuffers(100, 20_000) },
		before: "5 ok", duringOwn: "N write closed", duringOther: "N write EPIPE",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "Reserve", writes: true, fits: nothing,
		once: func(e *closeEnd) (int, error) { return e.reserve(5) },
		wait: func(e *closeEnd, u *underway) (int, error) {
			e.write(closeRing / 2) // not TryWrite, which does nothing while Stats looks
			e.write(closeRing / 2)
			return e.reserve(1)
		},
		before: "5 ok", duringOwn: "0 write closed", duringOther: "0 write EPIPE",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "Commit", writes: true, prepare: func(e *closeEnd) { e.reserve(5) },
		once: func(e *closeEnd) (int, error) {
			err := e.c.Commit(5)
			if err == nil {
				e.sent += 5
			}
			return 0, err
		},
		before:   "0 ok",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "CommitReserve", writes: true, prepare: func(e *closeEnd) { e.reserve(5) },
		once: func(e *closeEnd) (int, error) {
			b, err := e.c.CommitReserve(5, 3)
			if err == nil {
				e.sent += 5
			}
			return len(b), err
		},
		before:   "3 ok",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name: "ReadFrom", writes: true, fits: pieces,
		once: func(e *closeEnd) (int, error) { return e.readFrom(bytes.NewReader(shmtest.TapeAt(e.sent, 5))) },
		wait: func(e *closeEnd, u *underway) (int, error) {
			return e.readFrom(bytes.NewReader(shmtest.TapeAt(e.sent, shmtest.TapePiece)))
		},
		before: "5 ok", duringOwn: "N readfrom closed", duringOther: "N readfrom EPIPE",
		afterOwn: "0 readfrom closed", afterOther: "0 readfrom EPIPE",
	},
	{
		name: "ReadFrom_file", writes: true, fits: kernel,
		once:   func(e *closeEnd) (int, error) { return e.readFromFile(5) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.readFromFile(shmtest.TapePiece) },
		before: "5 ok", duringOwn: "N readfrom closed", duringOther: "N readfrom EPIPE",
		afterOwn: "0 readfrom closed", afterOther: "0 readfrom EPIPE",
	},
	{
		name: "ReadFrom_source", held: true, fits: nothing, // it waits in its Reader
		once:   func(e *closeEnd) (int, error) { return e.readFrom(strings.NewReader("")) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return e.readFrom(&sourceOf{end: e, u: u}) },
		before: "0 ok", duringOwn: "0 readfrom closed", duringOther: "0 readfrom EPIPE",
		afterOwn: "0 ok", afterOther: "0 ok", // for nothing was to be written
	},
	{
		name: "TryWrite", writes: true, loop: "0 ok", // once the ring is full
		once:   func(e *closeEnd) (int, error) { return e.tryWrite(64) },
		before: "64 ok", duringOwn: "64 ok, 0 ok, 0 write closed", duringOther: "64 ok, 0 ok, 0 write EPIPE",
		afterOwn: "0 write closed", afterOther: "0 write EPIPE",
	},
	{
		name:   "Guard",
		once:   func(e *closeEnd) (int, error) { return 0, e.c.Guard(func() {}) },
		wait:   func(e *closeEnd, u *underway) (int, error) { return 0, e.c.Guard(u.hold) },
		held:   true,
		before: "0 ok", duringOwn: "0 ok", duringOther: "0 ok",
		afterOwn: "0 guard closed", afterOther: "0 ok",
	},
	{
		name: "Stats", inbound: 5, waiting: 5, loop: "5 ok",
		prepare: func(e *closeEnd) { e.discard() },
		once:    func(e *closeEnd) (int, error) { return int(e.c.Stats().BytesRead), nil },
		before:  "5 ok", duringOwn: "5 ok", duringOther: "5 ok",
		afterOwn: "5 ok", afterOther: "5 ok",
	},
	{
		name: "Buffered", reads: true, inbound: 5, waiting: 5, loop: "5 ok", // reads nothing, but sees what comes
		once:   func(e *closeEnd) (int, error) { return e.c.Buffered(), nil },
		before: "5 ok", duringOwn: "5 ok, 0 ok", duringOther: "5 ok",
		afterOwn: "0 ok", afterOther: "0 ok", afterBytes: "P ok",
	},
	{
		name: "Available", writes: true, loop: strconv.Itoa(closeRing) + " ok",
		once:   func(e *closeEnd) (int, error) { return e.c.Available(), nil },
		before: "4096 ok", duringOwn: "4096 ok, 0 ok", duringOther: "4096 ok, 0 ok",
		afterOwn: "0 ok", afterOther: "0 ok",
	},
	{
		name: "SetDeadline", loop: "0 ok",
		once:   func(e *closeEnd) (int, error) { return 0, e.c.SetDeadline(time.Now().Add(time.Hour)) },
		before: "0 ok", duringOwn: "0 ok, 0 set closed", duringOther: "0 ok",
		afterOwn: "0 set closed", afterOther: "0 ok",
	},
	{
		name: "CloseRead", stopsReads: true, loop: "0 ok",
		once:   func(e *closeEnd) (int, error) { return 0, e.c.CloseRead() },
		before: "0 ok", duringOwn: "0 ok, 0 close closed", duringOther: "0 ok",
		afterOwn: "0 close closed", afterOther: "0 ok",
	},
	{
		name: "CloseWrite", stopsWrites: true, loop: "0 ok",
		once:   func(e *closeEnd) (int, error) { return 0, e.c.CloseWrite() },
		before: "0 ok", duringOwn: "0 ok, 0 close closed", duringOther: "0 ok",
		afterOwn: "0 close closed", afterOther: "0 ok",
	},
}

func closeCallOf(name string) *closeCall {
	for _, k := range closeCalls {
		if k.name == name {
			return k
		}
	}
	panic("no call " + name)
}

// A closeEnd is one end of a cell, in this process or another. What it is told,
// and what it says, are lines.
type closeEnd struct {
	c         *shmconn.Conn
	sent, got int
	u         *underway
}

// An underway is a call that waits.
type underway struct {
	outcome string
	done    chan struct{}
	stop    atomic.Bool   // for a loop
	entered chan struct{} // for a call of something else than the connection: it waits there,
	release chan struct{} // for this
}

// hold waits in the hands of somebody else.
func (u *underway) hold() {
	close(u.entered)
	<-u.release
}

// A sinkOf takes bytes that an end has read: says that it is enough after some,
// or waits at the first.
type sinkOf struct {
	end    *closeEnd
	enough int
	u      *underway
}

func (w *sinkOf) Write(b []byte) (int, error) {
	if w.u != nil {
		w.u.hold()
		w.u = nil
	}
	if w.end.took(b); w.enough > 0 && len(b) >= w.enough {
		return len(b), shmtest.ErrEnough
	}
	return len(b), nil
}

// A sourceOf waits before it gives five bytes.
type sourceOf struct {
	end *closeEnd
	u   *underway
}

func (r *sourceOf) Read(b []byte) (int, error) {
	if r.u == nil {
		return 0, io.EOF
	}
	r.u.hold()
	r.u = nil
	return copy(b, shmtest.TapeAt(r.end.sent, 5)), nil
}

// took counts bytes that were read.
func (e *closeEnd) took(b []byte) {
	if len(b) == 0 {
		return // and nobody else has to know
	}
	if !bytes.Equal(b, shmtest.TapeAt(e.got, len(b))) {
		panic(fmt.Sprintf("%d bytes from the %d. on are wrong", len(b), e.got))
	}
	e.got += len(b)
}

func (e *closeEnd) read(f func([]byte) (int, error)) (int, error) {
	b := make([]byte, 8)
	n, err := f(b)
	e.took(b[:n])
	return n, err
}

func (e *closeEnd) peek(n int) (int, error) {
	b, err := e.c.Peek(n)
	return len(b), err
}

func (e *closeEnd) discard() (int, error) {
	n, err := e.c.Discard(5)
	e.got += n
	return n, err
}

func (e *closeEnd) writeTo(w io.Writer) (int, error) {
	n, err := e.c.WriteTo(w)
	return int(n), err
}

func (e *closeEnd) writeToFile() (int, error) {
	f, err := shmtest.MemoryFile()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := e.writeTo(f)
	e.got += n
	return n, err
}

func (e *closeEnd) wrote(n int, err error) (int, error) {
	if n > 0 {
		e.sent += n
	}
	return n, err
}

func (e *closeEnd) write(n int) (int, error) { return e.wrote(e.c.Write(shmtest.TapeAt(e.sent, n))) }

func (e *closeEnd) tryWrite(n int) (int, error) {
	return e.wrote(e.c.TryWrite(shmtest.TapeAt(e.sent, n)))
}

func (e *closeEnd) writeBuffers(n, m int) (int, error) {
	b := shmtest.TapeAt(e.sent, n+m)
	k, err := e.c.WriteBuffers(&net.Buffers{b[:n], b[n:]})
	return e.wrote(int(k), err)
}

func (e *closeEnd) reserve(n int) (int, error) {
	b, err := e.c.Reserve(n)
	copy(b, shmtest.TapeAt(e.sent, n))
	return len(b), err
}

func (e *closeEnd) readFrom(r io.Reader) (int, error) {
	n, err := e.c.ReadFrom(r)
	return e.wrote(int(n), err)
}

func (e *closeEnd) readFromFile(n int) (int, error) {
	f, err := shmtest.MemoryFile()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Write(shmtest.TapeAt(e.sent, n)); err != nil {
		return 0, err
	}
	if err := shmtest.Rewind(f); err != nil {
		return 0, err
	}
	return e.readFrom(f)
}

// said puts an outcome into words: n, the operation that the error names, its
// class.
func said(n int, err error) string {
	word := shmtest.Class(err)
	if errors.Is(err, shmtest.ErrEnough) {
		word = "enough"
	} else if oe, ok := err.(*net.OpError); ok {
		word = oe.Op + " " + word
	}
	return fmt.Sprint(n, " ", word)
}

// order does what the line says and returns what came of it.
func (e *closeEnd) order(line string) string {
	what, arg, _ := strings.Cut(line, " ")
	n, _ := strconv.Atoi(arg)
	switch what {
	case "write":
		return said(e.write(n))
	case "read": // all of n bytes
		b := make([]byte, n)
		m, err := io.ReadFull(e.c, b)
		e.took(b[:m])
		e.c.Stats() // after which the other end knows
		return said(m, err)
	case "prepare":
		if f := closeCallOf(arg).prepare; f != nil {
			f(e)
			e.c.Stats()
		}
		return "ok"
	case "once":
		defer e.c.Stats()
		return said(closeCallOf(arg).once(e))
	case "late":
		k := closeCallOf(arg)
		if k.late != nil {
			return said(k.late(e))
		}
		return said(k.once(e))
	case "start":
		e.start(closeCallOf(arg))
		return "ok"
	case "result": // of what was started
		e.u.stop.Store(true)
		close(e.u.release)
		<-e.u.done
		return e.u.outcome
	case "close":
		return said(0, e.c.Close())
	case "rest": // of an end that is open
		b, err := io.ReadAll(e.c)
		e.took(b)
		_, werr := e.c.Write(make([]byte, 1))
		return fmt.Sprintf("%d bytes, %s, %s, %s", e.got, said(0, err), said(0, werr), said(0, e.c.Close()))
	case "over": // at an end that is closed
		_, err := e.c.Read(make([]byte, 1))
		_, werr := e.c.Write(make([]byte, 1))
		return fmt.Sprintf("%d bytes, %s, %s, %s", e.sent, said(0, err), said(0, werr), said(0, e.c.Close()))
	}
	return "what?"
}

// start begins a call and returns once it waits.
func (e *closeEnd) start(k *closeCall) {
	u := &underway{done: make(chan struct{}), entered: make(chan struct{}), release: make(chan struct{})}
	e.u = u
	if k.wait == nil {
		go e.repeat(k, u)
		<-u.entered
		return
	}
	waits := e.c.Stats().Waits
	go func() {
		defer close(u.done)
		u.outcome = said(k.wait(e, u))
	}()
	shmtest.Eventually(func() bool {
		select {
		case <-u.entered:
			return true
		case <-u.done:
			if e.c.Stats().Waits > waits {
				return true
			}
			panic(fmt.Sprintf("%s has ended without a wait: %s", k.name, u.outcome))
		default:
			return e.c.Stats().Waits > waits
		}
	})
	e.c.Stats() // after which the other end knows of all that was read
}

// repeat makes a call that never waits again and again, and says what came of
// it, each thing once for all the times in a row.
func (e *closeEnd) repeat(k *closeCall, u *underway) {
	defer close(u.done)
	var outcomes []string
	entered := false
	for {
		stop := u.stop.Load()
		o := said(k.once(e))
		if len(outcomes) == 0 || outcomes[len(outcomes)-1] != o {
			outcomes = append(outcomes, o)
		}
		if !entered && (o == k.loop || len(outcomes) > 10) {
			entered = true
			close(u.entered)
		}
		if stop {
			u.outcome = strings.Join(outcomes, ", ")
			return
		}
	}
}

// closeEndHelper is the other end in another process. Beside the orders to an
// end there are "listen NAME", "dial NAME" and "accept".
func closeEndHelper(s shmtest.Shape, in *bufio.Scanner) {
	e := new(closeEnd)
	var l shmtest.Listener
	for in.Scan() {
		what, arg, _ := strings.Cut(in.Text(), " ")
		var x net.Conn
		var err error
		switch what {
		case "listen":
			l, err = s.Listen(arg)
		case "accept":
			x, err = l.Accept()
		case "dial":
			x, err = s.Dial(arg)
		default:
			fmt.Println(e.order(in.Text()))
			continue
		}
		if err == nil && x != nil {
			e = &closeEnd{c: x.(*shmconn.Conn)}
		}
		fmt.Println(shmtest.Class(err))
	}
	if l != nil {
		l.Close()
	}
}

// A closeCell is a cell of the matrix: the local end makes a call before a
// close, is in it meanwhile, or makes it afterwards; and in all of this the
// remote end waits in another call, or in none.
type closeCell struct {
	local, remote *closeCall // remote is nil if it does nothing
	when          string
	own           bool // the local end closes
}

func (x closeCell) String() string {
	remote, closes := "nothing", "remote"
	if x.remote != nil {
		remote = x.remote.name
	}
	if x.own {
		closes = "local"
	}
	return fmt.Sprintf("local=%s/%s/Close=%s/remote=%s", x.local.name, x.when, closes, remote)
}

// impossible reports whether the cell's state cannot be: one end's call would
// serve the other's, which then would not wait, or the call never waits, and
// does not do so again and again either.
func (x closeCell) impossible() bool {
	l, r := x.local, x.remote
	if x.when == "during" && l.wait == nil && l.loop == "" {
		return true
	}
	if r == nil || x.when == "after" {
		return false
	}
	return r.reads && (l.stopsWrites || x.when == "during" && l.writes) ||
		r.writes && (l.stopsReads || x.when == "during" && l.reads)
}

// closeWaits returns the calls that wait.
func closeWaits() (waits []*closeCall) {
	for _, k := range closeCalls {
		if k.wait != nil {
			waits = append(waits, k)
		}
	}
	return waits
}

// closeCells returns all cells that can be, and how many cannot.
func closeCells() (cells []closeCell, not int) {
	remotes := append([]*closeCall{nil}, closeWaits()...)
	for _, l := range closeCalls {
		for _, when := range []string{"before", "during", "after"} {
			for _, own := range []bool{true, false} {
				for _, r := range remotes {
					if x := (closeCell{l, r, when, own}); x.impossible() {
						not++
					} else {
						cells = append(cells, x)
					}
				}
			}
		}
	}
	return cells, not
}

// run plays the cell with two ends. remote takes the orders of the other end.
func (x closeCell) run(t *testing.T, local *closeEnd, remote func(string) string) {
	ask := func(who string, order func(string) string, line, want string) {
		t.Helper()
		if got := order(line); got != want {
			t.Errorf("%s end, %s: %s, want %s", who, line, got, want)
		}
	}
	l, r := x.local, x.remote
	if n := l.inboundFor(x.when); n > 0 {
		ask("remote", remote, fmt.Sprint("write ", n), fmt.Sprint(n, " ok"))
	}
	ask("local", local.order, "prepare "+l.name, "ok")
	switch x.when {
	case "before":
		ask("local", local.order, "once "+l.name, l.before)
	case "during":
		ask("local", local.order, "start "+l.name, "ok")
	}
	left, rwrote := 0, 0 // bytes that the local end has not read, and that the remote end writes then
	if r != nil {
		if x.when == "before" && local.sent > 0 {
			ask("remote", remote, fmt.Sprint("read ", local.sent), fmt.Sprint(local.sent, " ok"))
		}
		if r.waiting > 0 {
			ask("local", local.order, fmt.Sprint("write ", r.waiting), fmt.Sprint(r.waiting, " ok"))
		}
		ask("remote", remote, "start "+r.name, "ok")
		if r.writes {
			left = l.inboundFor(x.when) - local.got
			rwrote = r.wroteWaiting(closeRing - left)
		}
	}

	closer := remote
	if x.own {
		closer = local.order
	}
	ask("closing", closer, "close", "0 ok")

	wantLocal, wantRemote := l.afterOther, ""
	if x.own {
		wantLocal = l.afterOwn
	} else if rwrote > 0 && l.afterBytes != "" {
		wantLocal = strings.Replace(l.afterBytes, "P", strconv.Itoa(left+rwrote), 1)
	}
	if x.when == "during" {
		wantLocal = fitted(l.during(x.own), l, closeRing)
	}
	if r != nil {
		wantRemote = fitted(r.during(!x.own), r, closeRing-left)
	}
	localResult := func() {
		switch x.when {
		case "during":
			ask("local", local.order, "result", wantLocal)
		case "after":
			ask("local", local.order, "late "+l.name, wantLocal)
		}
	}
	remoteResult := func() {
		if r != nil {
			ask("remote", remote, "result", wantRemote)
		}
	}
	// The call that the close has interrupted comes home first, and then the
	// other end is told for certain. It does not have to wait for one that is
	// in somebody else's hands.
	held := !x.own && r != nil && r.held || x.own && x.when == "during" && l.held
	if x.own != held {
		localResult()
		remoteResult()
	} else {
		remoteResult()
		localResult()
	}

	closed, open := remote, local.order
	if x.own {
		closed, open = local.order, remote
	}
	over := closed("over")
	sent, rest, _ := strings.Cut(over, ", ")
	if rest != "0 read closed, 0 write closed, 0 close closed" {
		t.Errorf("at the closed end: %s", over)
	}
	ask("open", open, "rest", sent+", 0 ok, 0 write EPIPE, 0 ok")
}

// inboundFor returns how many bytes the other end writes before the call.
func (k *closeCall) inboundFor(when string) int {
	switch {
	case when == "during":
		return k.waiting
	case when == "after" && k.reads:
		return 0
	}
	return k.inbound
}

// during returns the outcome of the call that waits when its own end closes, or
// the other.
func (k *closeCall) during(own bool) string {
	if own {
		return k.duringOwn
	}
	return k.duringOther
}

// wroteWaiting returns how many bytes an end has written that waits in k for
// room.
func (k *closeCall) wroteWaiting(room int) int {
	switch k.name {
	case "Write_short":
		return closeRing - 100
	case "Reserve":
		return room
	}
	return k.fits(room)
}

func fitted(want string, k *closeCall, room int) string {
	if strings.Contains(want, "N") && k.fits != nil {
		return strings.Replace(want, "N", strconv.Itoa(k.fits(room)), 1)
	}
	return want
}

// TestCloseMatrix closes an end in every state that both can be in: each cell
// has its own name, and the outcome of every call at both ends, with n, is what
// the table says.
func TestCloseMatrix(t *testing.T) {
	cells, not := closeCells()
	start, ran := time.Now(), 0
	play := func(t *testing.T, connect func() (shmtest.Conn, func(string) string)) {
		for _, x := range cells {
			t.Run(x.String(), func(t *testing.T) {
				hangs := watchdog(t.Name())
				defer hangs.Stop()
				c, remote := connect()
				defer c.Close()
				x.run(t, &closeEnd{c: c.(*shmconn.Conn)}, remote)
				ran++
			})
		}
	}
	same := []shmtest.Shape{
		{Ring: closeRing},
		shmtest.Shape{Ring: closeRing, Anonymous: true, Swap: true}.Poll(shmtest.PollAlways),
		shmtest.Shape{Ring: closeRing, Anonymous: true}.Poll(shmtest.PollNever),
	}
	other := []shmtest.Shape{
		shmtest.Shape{Ring: closeRing, Anonymous: true}.Poll(shmtest.PollNever),
		{Ring: closeRing, Swap: true},
	}
	if !*shmtest.Long {
		same, other = same[:2], other[:1]
	}
	for _, s := range same {
		t.Run("process=same/"+s.String(), func(t *testing.T) {
			l := s.MustListen(t, shmtest.NewName())
			play(t, func() (shmtest.Conn, func(string) string) {
				a := s.MustDial(t, shmtest.NameOf(l))
				b := shmtest.MustAccept(t, l)
				if s.Swap {
					a, b = b, a
				}
				return a, (&closeEnd{c: b.(*shmconn.Conn)}).order
			})
		})
	}
	for _, s := range other {
		t.Run("process=other/"+s.String(), func(t *testing.T) {
			h := shmtest.StartHelper(t, "closeend", s)
			remote := func(line string) string { return h.Call("%s", line) }
			name := shmtest.NewName()
			if s.Swap {
				l := s.MustListen(t, name)
				play(t, func() (shmtest.Conn, func(string) string) {
					h.Do("dial %s", name)
					return shmtest.MustAccept(t, l), remote
				})
				return
			}
			h.Do("listen %s", name)
			play(t, func() (shmtest.Conn, func(string) string) {
				c := s.MustDial(t, name)
				h.Do("accept")
				return c, remote
			})
		})
	}
	t.Logf("figure: %d cells (%d calls before, during and after a Close of either end, with the other end in no call or in one of %d; %d combinations cannot be), "+
		"on %d shapes in one process and %d across two: %d runs in %.1f s", len(cells), len(closeCalls), len(closeWaits()), not, len(same), len(other), ran, time.Since(start).Seconds())
}

// watchdog ends the process, with all stacks, if a cell hangs.
func watchdog(name string) *time.Timer {
	return time.AfterFunc(time.Minute, func() {
		debug.SetTraceback("all")
		panic("hangs: " + name)
	})
}

// A closeListening is a listener and what dials it, in a cell of
// TestCloseListenerMatrix.
type closeListening struct {
	t *testing.T
	s shmtest.Shape
	l *shmconn.Listener
}

func (x *closeListening) dial() *shmconn.Conn {
	x.t.Helper()
	return x.s.MustDial(x.t, shmtest.NameOf(x.l)).(*shmconn.Conn)
}

func (x *closeListening) accept() *shmconn.Conn {
	x.t.Helper()
	return shmtest.MustAccept(x.t, x.l).(*shmconn.Conn)
}

func (x *closeListening) closes(c io.Closer) {
	x.t.Helper()
	if err := c.Close(); err != nil {
		x.t.Errorf("Close: %v", err)
	}
}

// alive checks that a connection works in both directions.
func (x *closeListening) alive(a, b *shmconn.Conn) {
	x.t.Helper()
	for range 2 {
		if _, err := a.Write([]byte("hello")); err != nil {
			x.t.Error(err)
		}
		x.reads(b, "hello", nil)
		a, b = b, a
	}
}

// reads checks what one Read returns.
func (x *closeListening) reads(c *shmconn.Conn, want string, wantErr error) {
	x.t.Helper()
	b := make([]byte, 8)
	n, err := c.Read(b)
	if string(b[:n]) != want || !errors.Is(err, wantErr) {
		x.t.Errorf("Read = %q, %v, want %q, %v", b[:n], err, want, wantErr)
	}
}

// reset checks that nobody will ever have the other end of c.
func (x *closeListening) reset(c *shmconn.Conn) {
	x.t.Helper()
	x.reads(c, "", syscall.ECONNRESET)
	n, err := c.Write([]byte("x"))
	shmtest.WantErr(x.t, fmt.Sprintf("Write = %d", n), err, "write EPIPE")
}

// acceptFails and dialFails check the error, and that there is no connection
// beside it.
func (x *closeListening) acceptFails(want string) {
	x.t.Helper()
	c, err := x.l.Accept()
	shmtest.WantErr(x.t, "Accept", err, want)
	if c != nil {
		x.t.Errorf("Accept returned %v beside the error", c)
	}
}

func (x *closeListening) dialFails(ctx context.Context, want string) {
	x.t.Helper()
	c, err := x.s.DialContext(ctx, shmtest.NameOf(x.l), 0)
	shmtest.WantErr(x.t, "Dial", err, want)
	if c != nil {
		c.Close()
	}
}

// waitingDial fills the backlog and then dials, in another goroutine. It
// returns once that waits.
func (x *closeListening) waitingDial(ctx context.Context, want string) (queued []*shmconn.Conn, done <-chan struct{}) {
	for {
		d := &shmconn.Dialer{Timeout: 20 * time.Millisecond}
		c, err := d.Dial(shmtest.NameOf(x.l))
		if err != nil {
			shmtest.WantErr(x.t, "Dial beyond the backlog", err, "dial timeout")
			break
		}
		x.t.Cleanup(func() { c.Close() })
		queued = append(queued, c)
	}
	in, state := "handshake.connect(", "[select"
	if shmtest.Sockets { // the kernel's backlog has room, and no hello comes
		in, state = "handshake.Dial(", "[IO wait"
	}
	ch := make(chan struct{})
	go shmtest.BlockedCall(ch, func() { x.dialFails(ctx, want) })
	shmtest.Eventually(func() bool {
		for _, g := range shmtest.Goroutines() {
			if head, _, _ := strings.Cut(g, "\n"); strings.Contains(g, in) && strings.Contains(head, state) {
				return true
			}
		}
		return false
	})
	return queued, ch
}

var closeListenerCells = []struct {
	name string
	run  func(x *closeListening)
}{
	{"Accept/before/Close=listener", func(x *closeListening) {
		a, b := x.dial(), x.accept()
		x.closes(x.l)
		x.alive(a, b)
	}},
	{"Accept/during/Close=listener", func(x *closeListening) {
		done := shmtest.Accepting(func() { x.acceptFails("accept closed") })
		x.closes(x.l)
		<-done
	}},
	{"Accept/during/Close=listener/backlog=1", func(x *closeListening) {
		// There is always one that waits to be accepted: each is accepted
		// whole, or reset.
		a := x.dial()
		var b net.Conn
		var err error
		done := make(chan bool)
		go func() { defer close(done); b, err = x.l.Accept() }()
		x.closes(x.l)
		if <-done; err == nil {
			defer b.Close()
			x.alive(a, b.(*shmconn.Conn))
			return
		}
		shmtest.WantErr(x.t, "Accept", err, "accept closed")
		x.reset(a)
	}},
	{"Accept/after/Close=listener", func(x *closeListening) {
		x.closes(x.l)
		x.acceptFails("accept closed")
		shmtest.WantErr(x.t, "Close", x.l.Close(), "close closed")
		shmtest.WantErr(x.t, "SetDeadline", x.l.SetDeadline(shmtest.NoDeadline), "set closed")
	}},
	{"Accept/before/Close=dialer", func(x *closeListening) {
		a, b := x.dial(), x.accept()
		a.Write([]byte("hello"))
		x.closes(a)
		x.reads(b, "hello", nil)
		x.reads(b, "", io.EOF)
	}},
	{"Accept/during/Close=dialer", func(x *closeListening) {
		var b *shmconn.Conn
		done := shmtest.Accepting(func() { b = x.accept() })
		a := x.dial()
		a.Write([]byte("hello"))
		x.closes(a)
		<-done
		x.reads(b, "hello", nil)
		x.reads(b, "", io.EOF)
	}},
	{"Accept/after/Close=dialer", func(x *closeListening) {
		a := x.dial()
		a.Write([]byte("hello"))
		x.closes(a)
		b := x.accept()
		x.reads(b, "hello", nil)
		x.reads(b, "", io.EOF)
		n, err := b.Write([]byte("x"))
		shmtest.WantErr(x.t, fmt.Sprintf("Write = %d", n), err, "write EPIPE")
	}},
	{"Accept/during/Close=accepted", func(x *closeListening) {
		a, b := x.dial(), x.accept()
		done := shmtest.Accepting(func() { x.acceptFails("accept closed") })
		x.closes(b)
		x.reads(a, "", io.EOF)
		x.closes(x.l)
		<-done
	}},
	{"Dial/before/Close=listener", func(x *closeListening) {
		a := x.dial()
		x.closes(x.l)
		x.reset(a)
	}},
	{"Dial/before/Close=listener/in_Read", func(x *closeListening) {
		a := x.dial()
		done := shmtest.Blocked(a, func() { x.reset(a) })
		x.closes(x.l)
		<-done
	}},
	{"Dial/before/Close=listener/in_Write", func(x *closeListening) {
		a := x.dial()
		done := shmtest.Blocked(a, func() {
			n, err := a.Write(make([]byte, shmtest.TapePiece))
			shmtest.WantErr(x.t, "Write", err, "write EPIPE")
			if n != closeRing {
				x.t.Errorf("Write = %d, want %d", n, closeRing)
			}
		})
		x.closes(x.l)
		<-done
		x.reset(a)
	}},
	{"Dial/during/Close=listener", func(x *closeListening) {
		queued, done := x.waitingDial(context.Background(), "dial ECONNREFUSED")
		x.closes(x.l)
		<-done
		for _, c := range queued {
			x.reset(c)
		}
	}},
	{"Dial/after/Close=listener", func(x *closeListening) {
		x.closes(x.l)
		x.dialFails(context.Background(), "dial ECONNREFUSED")
	}},
	{"Dial/before/Close=context", func(x *closeListening) {
		ctx, cancel := context.WithCancel(context.Background())
		a, err := x.s.DialContext(ctx, shmtest.NameOf(x.l), 0)
		if err != nil {
			x.t.Fatal(err)
		}
		defer a.Close()
		cancel()
		x.alive(a.(*shmconn.Conn), x.accept())
	}},
	{"Dial/during/Close=context", func(x *closeListening) {
		ctx, cancel := context.WithCancel(context.Background())
		queued, done := x.waitingDial(ctx, "dial canceled")
		cancel()
		<-done
		for _, c := range queued { // the others are not harmed
			x.alive(c, x.accept())
		}
	}},
	{"Dial/after/Close=context", func(x *closeListening) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		x.dialFails(ctx, "dial canceled")
	}},
}

// TestCloseListenerMatrix is TestCloseMatrix for Accept and Dial.
func TestCloseListenerMatrix(t *testing.T) {
	shapes := []shmtest.Shape{{Ring: closeRing}, shmtest.Shape{Ring: closeRing, Anonymous: true}.Poll(shmtest.PollNever), shmtest.Shape{Ring: closeRing}.Poll(shmtest.PollAlways)}
	shmtest.OnShapes(t, shapes, func(t *testing.T, s shmtest.Shape) {
		for _, cell := range closeListenerCells {
			t.Run(cell.name, func(t *testing.T) {
				defer watchdog(t.Name()).Stop()
				lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll, Backlog: 1}
				l, err := lc.Listen(shmtest.NewName())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				cell.run(&closeListening{t, s, l})
			})
		}
	})
	t.Logf("figure: %d cells of Accept and Dial, on %d shapes", len(closeListenerCells), len(shapes))
}

// TestVetCopies checks that go vet reports a copy of a Conn and of a Listener,
// under whose feet the garbage collector would close the original.
func TestVetCopies(t *testing.T) {
	out, err := exec.Command("go", "vet", "./testdata/copied").CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Fatalf("go vet: %v\n%s", err, out)
	}
	for _, name := range []string{"shmconn.Conn", "shmconn.Listener"} {
		if !strings.Contains(string(out), "copies lock value") || !strings.Contains(string(out), name+" contains shmconn.noCopy") {
			t.Errorf("go vet does not report the copy of a %s:\n%s", name, out)
		}
	}
}
