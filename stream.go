//go:build linux

package shmconn

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"shmconn/internal/doorbell"
	"shmconn/internal/ring"
	"shmconn/internal/segment"
	"shmconn/internal/wait"
)

// A stream is what is behind a Conn: one end of two rings in one segment.
//
// This file is the data path. What a Read and a Write do when there is nothing to
// read and no room is in park.go, who may act in side.go.
type stream struct {
	addr     Addr
	cred     cred
	size     int           // of a ring
	chunk    int           // bytes of a long Read or Write that are published at once
	whole    int           // bytes of a Write that is not a long one
	busyPoll time.Duration // 0 and above: then park

	seg    *segment.Segment
	bell   *doorbell.Bell  // rung by the peer
	ringer doorbell.Ringer // rings the peer

	rx rx
	tx tx

	closed  atomic.Bool
	mute    atomic.Bool  // hang up without a word
	open    atomic.Int32 // sides that are not retired
	corrupt atomic.Pointer[CorruptError]
}

// cred is what the kernel says of a process.
type cred struct {
	pid      int32
	uid, gid uint32
}

// rx is the side that reads.
type rx struct {
	side
	ring      ring.Consumer
	streaming bool   // the last looks found something new
	answered  uint64 // what this end had written by then
}

// tx is the side that writes.
type tx struct {
	side
	ring     ring.Producer
	checked  int // bytes written since the last look whether the peer is alive
	reserved int // bytes of the reservation, -1 if there is none
}

// newStream makes a stream of its parts, which it owns from now on. It is of use after
// connect.
func newStream(addr Addr, c cred, seg *segment.Segment, size int, bell *doorbell.Bell, ringer doorbell.Ringer, busyPoll time.Duration) *stream {
	s := &stream{addr: addr, cred: c, size: size, seg: seg, bell: bell, ringer: ringer, busyPoll: busyPoll}
	if busyPoll == 0 {
		s.busyPoll = DefaultBusyPoll
	}
	s.chunk = min(size/4, maxChunk)
	s.whole = min(size/2, maxChunk)
	s.open.Store(2)
	return s
}

// connect gives the stream its rings. The peer can have truncated them already.
func (s *stream) connect(in, out ringMem) (err error) {
	err = s.truncated()
	defer s.tolerate(debug.SetPanicOnFault(true))
	s.rx.ring = ring.NewConsumer(ring.At(in.header), in.data, s.size)
	s.tx.ring = ring.NewProducer(ring.At(out.header), out.data, s.size)
	s.tx.reserved = -1
	s.rx.total, s.tx.total = s.rx.ring.Consumed, s.tx.ring.Written
	s.rx.init(s, &s.tx.side, &s.rx, s.rx.ring.Own, s.rx.ring.Peer)
	s.tx.init(s, &s.rx.side, &s.tx, s.tx.ring.Own, s.tx.ring.Peer)
	return nil
}

// ringMem is the memory of a ring.
type ringMem struct{ header, data []byte }

const maxChunk = 128 << 10

// read is Read, see there.
func (s *stream) read(b []byte) (n int, err error) {
	d := &s.rx
	if err := d.lock(); err != nil {
		return 0, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	if len(b) == 0 {
		return 0, d.closedError()
	}
	if d.ring.Ready() == 0 {
		d.holdBack()
	}
	for {
		if err := d.look(1); err != nil {
			return 0, err
		}
		if d.ring.Ready() > 0 {
			n := d.take(b)
			d.streaming = d.streaming && n < manySmall
			return n, nil
		}
		d.streaming = false
		s.await(&d.side)
	}
}

// manySmall is how many bytes a Read can return at the most if they are to count as a
// row of small Writes.
const manySmall = 4 << 10

// holdBack lets half a microsecond pass before a look at the producer's position, if
// the looks before had always found something new, and this end has written nothing
// meanwhile that the peer might be answering. Each look takes the line from under the
// producer, who then has to wait for it: so with small Writes in a row it is better
// for both to look less often and find more.
func (d *rx) holdBack() {
	if answered := d.s.tx.ring.Published(); !d.streaming || answered != d.answered {
		d.streaming, d.answered = true, answered
		return
	}
	wait.Pause()
}

// look returns nil when there are n bytes to read or nothing to say, and the error
// that Read returns now if not.
//
// What the peer does last it does in the order position, closed, gone. So these are
// sampled the other way round and then judged in that order: had gone been
// sampled after the position, what was published in between would be lost.
func (d *rx) look(n int) error {
	flags := d.flags.Load()
	if flags&^(flagGone|flagShut) != 0 {
		return d.refusal()
	}
	if d.ring.Ready() >= n {
		return nil
	}
	closed := d.peer.Closed.Load() // sync: closed
	ready, err := d.ring.Refresh()
	switch {
	case err != nil:
		return d.s.damaged(err)
	case ready >= n:
		return nil
	case closed != 0, flags&flagShut != 0:
		return io.EOF
	case flags&flagGone != 0:
		return syscall.ECONNRESET
	}
	return nil
}

// take copies what there is into b. A long copy gives room back on the way, so that
// the peer can go on.
func (d *rx) take(b []byte) (n int) {
	d.out = false
	for n < len(b) && d.ring.Ready() > 0 {
		n += d.ring.Take(b[n:min(n+d.s.chunk, len(b))])
		if d.ring.Owes() {
			d.publish()
		}
	}
	if n > 0 {
		d.calls++
	}
	raceAcquire()
	return n
}

// publish gives the room of what was read back to the peer.
func (d *rx) publish() {
	d.ring.Publish()
	d.ringPeer()
}

// write is Write, see there.
func (s *stream) write(b []byte) (n int, err error) {
	d := &s.tx
	if err := d.lock(); err != nil {
		return 0, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.cancel()
	for {
		if err := d.look(); err != nil {
			return n, err
		}
		piece := b[n : n+s.piece(len(b)-n)]
		switch fits, err := d.fits(len(piece)); {
		case err != nil:
			return n, err
		case !fits:
			s.await(&d.side)
			continue
		}
		d.ring.Put(piece)
		d.publish(len(piece))
		if n == 0 && len(b) > 0 {
			d.calls++
		}
		if n += len(piece); n == len(b) {
			return n, nil
		}
	}
}

// piece returns how many of n bytes to write are published next: all, if they are sure to
// fit at once some time, and else so many that the peer can read them while we go on.
// Up to half a ring is sure to fit: a peer that waits for more than it has, in Peek, waits
// for half a ring at most, so that the other half is free.
func (s *stream) piece(n int) int {
	if n <= s.whole {
		return n
	}
	return s.chunk
}

// look returns the error that Write returns now, if there is one.
func (d *tx) look() error {
	if d.flags.Load() != 0 {
		return d.refusal()
	}
	if d.peer.Closed.Load() != 0 { // sync: closed
		return syscall.EPIPE
	}
	return nil
}

// fits reports whether there is room for n bytes. It looks at the peer's position
// only when its copy says that there is not.
func (d *tx) fits(n int) (bool, error) {
	if d.ring.Free() >= n {
		return true, nil
	}
	free, err := d.ring.Refresh()
	if err != nil {
		return false, d.s.damaged(err)
	}
	return free >= n, nil
}

// publish hands n bytes that were put in over to the peer. Once in a while it looks
// whether there still is one: who waits is told, but who never waits is not.
func (d *tx) publish(n int) {
	if n == 0 {
		return
	}
	raceRelease()
	d.ring.Publish()
	d.ringPeer()
	if d.checked += n; d.checked >= d.s.size/4 {
		d.checked = 0
		d.s.checkPeer()
	}
}

// ringPeer rings the doorbell of the peer if it has parked, once each time that it
// has: the number it stores is another each time.
func (d *side) ringPeer() {
	if e := d.peer.Parked.Load(); e&1 == 1 && e != d.rung { // sync: park
		d.rung = e
		d.rings.Add(1)
		d.s.ringer.Ring()
	}
}

// refusal returns the error that the flags of a side stand for by themselves, nil if
// there is none.
func (d *side) refusal() error {
	switch flags := d.flags.Load(); {
	case flags&flagClosed != 0:
		return net.ErrClosed
	case flags&flagExpired != 0:
		return os.ErrDeadlineExceeded
	case flags&flagBroken != 0:
		return d.s.corrupt.Load()
	case flags&(flagShut|flagGone) != 0 && d == &d.s.tx.side:
		return syscall.EPIPE
	}
	return nil
}

// closedError returns net.ErrClosed once Close was called.
func (d *side) closedError() error {
	if d.flags.Load()&flagClosed != 0 {
		return net.ErrClosed
	}
	return nil
}

// damaged makes the connection useless because of err.
func (s *stream) damaged(err error) error {
	var v *ring.Violation
	if errors.As(err, &v) {
		return s.damage((*CorruptError)(v))
	}
	return err
}

func (s *stream) damage(c *CorruptError) error {
	s.corrupt.CompareAndSwap(nil, c)
	s.mute.Store(true) // what the peer has read may not be all: it is not to find an end in order
	s.rx.interrupt(flagBroken)
	s.tx.interrupt(flagBroken)
	return s.corrupt.Load()
}

// done ends a call that has the side d: it is deferred, with what SetPanicOnFault
// returned at the start. A fault at an address of the segment, which somebody has
// truncated, becomes the call's error; any other panic goes on.
func (s *stream) done(d *side, panicOnFault bool, err *error) {
	debug.SetPanicOnFault(panicOnFault)
	if p := recover(); p != nil {
		c := s.fault(p)
		if c == nil {
			d.unlock()
			panic(p)
		}
		*err = s.damage(c)
	}
	d.unlock()
}

// fault returns the error for a panic that is a fault in the segment, nil for others.
func (s *stream) fault(p any) *CorruptError {
	f, ok := p.(interface{ Addr() uintptr })
	if !ok || !s.seg.Holds(f.Addr()) {
		return nil
	}
	return s.truncated()
}

func (s *stream) truncated() *CorruptError {
	return &CorruptError{What: "the size of the segment's memory (it was truncated, or a hole was made in it)", Seen: 0, Allowed: uint64(segment.PageSize + 2*s.size)}
}

// tolerate is deferred, like done, by what is done the same whether or not the segment
// is whole: it ends the caller at a fault in the segment, with what its named results
// are by then.
func (s *stream) tolerate(panicOnFault bool) {
	debug.SetPanicOnFault(panicOnFault)
	if p := recover(); p != nil && s.fault(p) == nil {
		panic(p)
	}
}

// close is Close, see there.
func (s *stream) close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	for _, d := range s.sides() {
		d.deadline.stop()
		d.interrupt(flagClosed)
	}
	s.flush()
	for _, d := range s.sides() {
		d.ask(wordShut) // without regard to guests, who can be there for long
		d.ask(wordClosed)
	}
	return nil
}

func (s *stream) sides() [2]*side { return [...]*side{&s.tx.side, &s.rx.side} }

// reset closes a stream that nobody has seen as the end of its process would: the
// peer finds that it is gone, and not that it has closed.
func (s *stream) reset() {
	s.mute.Store(true)
	s.close()
}

// flush tells the peer of all that was read, unless a call is reading now.
func (s *stream) flush() {
	d := &s.rx
	if !d.tryLock() {
		return
	}
	var err error
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.tell()
}

// tell gives the room of all that was read back to the peer, who may wait for it while we
// wait, or ask again and again, for what it writes next.
func (d *rx) tell() {
	if !d.ring.Told() {
		d.publish()
	}
}

func (s *stream) closeRead() error  { return s.shut(&s.rx.side) }
func (s *stream) closeWrite() error { return s.shut(&s.tx.side) }

func (s *stream) shut(d *side) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	d.interrupt(flagShut)
	d.ask(wordShut)
	return nil
}

// retire is called by each side when nobody is in it any more and nobody gets in.
func (s *stream) retire() {
	if s.open.Add(-1) > 0 {
		return
	}
	if s.rx.out || s.tx.out {
		s.seg.Abandon()
	} else {
		s.seg.Close()
	}
	s.bell.Close()
	s.ringer.Close()
}

func (s *stream) setDeadline(t time.Time, read, write bool) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	if read {
		s.rx.setDeadline(t)
	}
	if write {
		s.tx.setDeadline(t)
	}
	return nil
}
