package shmconn

import (
	"errors"
	"io"
	"net"
	"runtime"
	"time"

	"shmconn/internal/ring"
	"shmconn/internal/stream"
)

// A Conn is one end of a connection over shared memory. It is a [net.Conn],
// and does what a [net.UnixConn] does wherever the package comment does not
// say otherwise.
//
// Any number of goroutines may call any of its methods at the same time.
// Methods that read take turns, and so do methods that write; the two
// directions do not wait for each other.
//
// Every error but [io.EOF] is a [*net.OpError].
type Conn struct {
	// The handle is all that a user holds. The stream behind it is also held
	// by timers and by other goroutines, so it could not tell by itself that
	// the user has dropped it: see newConn.
	s *stream.Stream

	local, remote Addr

	_ noCopy
}

// noCopy makes go vet report a copy of what it is a field of: the garbage
// collector would close the original under the copy's feet.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// newConn makes the handle of s. A handle that is dropped without Close is
// closed by the garbage collector, as a net.Conn's descriptor is.
func newConn(s *stream.Stream, local, remote Addr) *Conn {
	c := &Conn{s: s, local: local, remote: remote}
	runtime.AddCleanup(c, (*stream.Stream).Drop, s)
	return c
}

// opError wraps err for the caller of the exported method op. Each method ends
// with it, also because a use of c keeps the garbage collector from closing it
// under the call.
func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF { // bare, as io.Reader asks
		return err
	}
	return c.wrap(op, err)
}

func (c *Conn) wrap(op string, err error) error {
	if v, ok := errors.AsType[*ring.Violation](err); ok {
		err = (*CorruptError)(v)
	}
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

// Read copies bytes the peer has written into b and returns how many. It waits
// until there is at least one, and does not wait to fill b.
//
// It looks, in this order, at: Close having been called on c; the read deadline
// having passed; bytes waiting, which are returned; CloseRead, or the peer's
// Close or CloseWrite ([io.EOF]); the peer's process being gone
// ([syscall.ECONNRESET]). So bytes written before the peer closed or died are
// always delivered, and the error comes after them. An empty b returns 0
// without a look at the deadline or the peer.
//
// The bytes are copied: b is not kept, and does not alias shared memory. When b
// faults, as a mapped file does that was truncated, the error is
// [syscall.EFAULT] and n counts the bytes before that; with
// [debug.SetPanicOnFault] it is a panic.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.s.Read(b)
	return n, c.opError("read", err)
}

// Write copies b into the ring for the peer to read. It waits while the ring
// is full, until all of b has been copied or an error stops it, and returns
// how many bytes were handed over; these the peer can read whatever the error.
//
// Errors are [net.ErrClosed] after Close, [os.ErrDeadlineExceeded] once the
// write deadline has passed, and [syscall.EPIPE] after CloseWrite, at once when
// the peer has closed its end or its reading side, and when its process is
// known to be gone: see "Unlike a Unix socket" in the package comment.
//
// The bytes of one Write are never interleaved with another's. Up to half of
// the ring, 128 KiB at most, are published by one store, once there is room for
// all of them; a longer b is published in pieces, while the peer reads. A Write
// cut short by the death of this process leaves a prefix of b. b is not kept.
// When b faults, that is as for Read, and of the piece that faults nothing is
// handed over.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.s.Write(b)
	return n, c.opError("write", err)
}

// Close closes both directions. Calls that wait on c return [net.ErrClosed],
// and Close waits for them, and for calls that are copying, to let go of c:
// once Close has returned, the peer finds the end. The peer can still read what
// was written before; then its Read returns [io.EOF], and its Write returns
// [syscall.EPIPE].
//
// The memory is unmapped by Close, or, when a [Conn.Guard] is under way, by the
// last of them to return. A second Close returns [net.ErrClosed]. A Conn that
// is dropped without Close is closed by the garbage collector.
func (c *Conn) Close() error {
	return c.opError("close", c.s.Close())
}

// Abort closes c as the death of this process would. The peer can still read
// what was written before; then its Read returns [syscall.ECONNRESET] where
// Close would give it [io.EOF], and its Write returns [syscall.EPIPE]. So the
// peer cannot take a stream that was cut short for a whole one. A direction
// that CloseWrite has ended before has come to its end in order, and stays so.
//
// The peer notices as it notices a death: at once in a call that is parked,
// within some milliseconds in one that polls, at one of the next 64 calls of
// TryRead or TryWrite.
//
// On this end Abort does what [Conn.Close] does: calls that wait on c return
// [net.ErrClosed], and Abort waits for them to let go of c. Of Close and Abort,
// also at the same time, the first to come counts; all later ones return
// [net.ErrClosed].
func (c *Conn) Abort() error {
	return c.opError("close", c.s.Abort())
}

// Done returns a channel that is closed when the peer has closed its end,
// called Abort or died, and by Close or Abort of this one: something to select
// on without a goroutine that reads. Each call returns the same channel.
//
// The peer's end shows within some milliseconds, whether or not bytes are left
// to read, which still can be: then Read returns [io.EOF] or
// [syscall.ECONNRESET], and says which it was. From then on TryRead and
// TryWrite know of it, too. The peer's CloseWrite or CloseRead alone does not
// close the channel, nor does damage to the segment.
//
// The first call starts a goroutine and opens a descriptor, until the channel
// is closed; where none is left, the goroutine looks every 20 ms. Without a
// call Done costs nothing. Done takes no turn: other goroutines read and write
// meanwhile. The channel does not keep c: when c is dropped without Close, the
// garbage collector closes both.
func (c *Conn) Done() <-chan struct{} {
	ch := c.s.Done()
	runtime.KeepAlive(c)
	return ch
}

// CloseRead closes the reading direction: the peer's Write returns
// [syscall.EPIPE], and Reads, those that wait now too, return what was written
// before and then [io.EOF]. The peer sees how much was read by then.
func (c *Conn) CloseRead() error {
	return c.opError("close", c.s.CloseRead())
}

// CloseWrite closes the writing direction: the peer's Read returns [io.EOF]
// after all that was written before, and later Writes on c return
// [syscall.EPIPE]. Reading goes on.
func (c *Conn) CloseWrite() error {
	return c.opError("close", c.s.CloseWrite())
}

// LocalAddr returns the name of the connection, an [Addr]. It is the same at
// both ends, and equal to the listener's.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the peer, an [Addr].
//
// As with TCP, the dialer's end has the listener's address there, which can be
// dialed, and the end that was accepted has one that tells the dialers of a
// listener apart, also those of one process: its text is
// feed#17(pid=4711,uid=1000) for the 17th connection that the listener on feed
// has accepted. So the errors and logs of a server, net/http's among them, say
// which client they are about. It is for people: a program takes the fields of
// the Addr, or [Conn.PeerCred].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the read and the write deadline, as described at
// [net.Conn]. A time in the past makes waiting calls return at once; the zero
// time means that there is none. A connection can be used on after its deadline
// has passed and a new one has been set.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, true, true))
}

// SetReadDeadline sets the deadline of calls that read, those that wait now
// included.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, true, false))
}

// SetWriteDeadline sets the deadline of calls that write, those that wait now
// included.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, false, true))
}

// TryRead is Read without the wait: where there is nothing to read now, or
// another call has the reading side for the moment, it returns 0 and no error.
// That the peer was killed it notices at every 64th call in vain.
func (c *Conn) TryRead(b []byte) (int, error) {
	n, err := c.s.TryRead(b)
	return n, c.opError("read", err)
}

// TryWrite is Write without the wait: it hands over as many bytes of b as fit
// now and returns how many. That is none while another goroutine's call has the
// writing side: a Write under way, or for a moment a Stats.
func (c *Conn) TryWrite(b []byte) (int, error) {
	n, err := c.s.TryWrite(b)
	return n, c.opError("write", err)
}

// TryWriteAll is [Conn.TryWrite] for a message: it hands over all of b, by one
// store, and returns true, or hands over nothing and returns false, with an
// error if there is one. Without an error there was no room now, or another
// goroutine's call had the writing side. So a message is never cut, and a feed
// can leave out one that a slow consumer has no room for.
//
// b is at most half the ring size, in bytes: a longer one could wait for room
// for ever, and is an error. Otherwise the errors are those of [Conn.Write].
func (c *Conn) TryWriteAll(b []byte) (bool, error) {
	ok, err := c.s.TryWriteAll(b)
	return ok, c.opError("write", err)
}

// Buffered returns how many bytes the peer has written that have not been
// read yet. It never waits. On a closed or damaged connection it is 0.
func (c *Conn) Buffered() int {
	n := c.s.Buffered()
	runtime.KeepAlive(c)
	return n
}

// Available returns how many bytes can be written now without a wait. It never
// waits. The peer tells of what it has read a quarter of the ring at a time,
// and before it waits: so Available can be up to a quarter of the ring behind.
// On a closed or damaged connection it is 0.
func (c *Conn) Available() int {
	n := c.s.Available()
	runtime.KeepAlive(c)
	return n
}

// WriteBuffers writes the contents of v, one buffer after the other, as if they
// were joined for one [Conn.Write]: published by one store if they are not more
// than that does at once, and with no other Write in between. Like
// [net.Buffers.WriteTo] it takes what was written off v, and returns how many
// bytes that were.
func (c *Conn) WriteBuffers(v *net.Buffers) (int64, error) {
	n, err := c.s.WriteBuffers(v)
	return n, c.opError("write", err)
}

// ReadFrom writes to c what it reads from r until [io.EOF], and returns how
// many bytes that were. It implements [io.ReaderFrom], for [io.Copy].
//
// The result is the same as by Read and Write. A regular file, an [*os.File] or
// an [io.LimitedReader] of one, is read by the kernel straight into the ring
// where that cannot wait: on tmpfs, and where the kernel has what is read in
// memory and can promise not to wait (RWF_NOWAIT: ext4, XFS and Btrfs, among
// others). Everything else goes through a private buffer: a Reader may use the
// slice it is given as it likes, and memory that the peer can change is no
// place for that. While r blocks, other Writes on c go on. When c fails, at
// most one buffer of 64 KiB that was read from r is lost, and in the kernel's
// case nothing.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.s.ReadFrom(r)
	return n, c.opError("readfrom", err)
}

// WriteTo writes to w what it reads from c until [io.EOF], and returns how many
// bytes that were. It implements [io.WriterTo], for [io.Copy].
//
// The result is the same as by Read and Write. Where w is a [*net.TCPConn], a
// [*net.UnixConn] or an [*os.File], and is a stream socket or a pipe, but not
// standard output or error, the kernel copies straight from the ring.
// Everything else goes through a private buffer, and so do pipes if the kernel
// cannot be told not to wait for them. While w blocks, other Reads on c go on.
//
// An error of w ends WriteTo. Bytes that w did not take in the kernel's case
// are still there to be read, and at most one buffer of 64 KiB is lost in the
// other. EAGAIN of an [*os.File] that others have made non-blocking is no
// error: WriteTo waits.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.s.WriteTo(w)
	return n, c.opError("writeto", err)
}

// Peek waits until n bytes can be read and returns them where they are, in the
// ring, without copying and without taking them off; [Conn.Discard] does that.
// n is at most half the ring size. When the connection ends or the deadline
// passes before that, Peek returns the bytes there are, with the error that
// [Conn.Read] would give after them.
//
// The slice is valid until the next call that reads from c, or Close. It does
// not keep c: when c is used no more, the garbage collector closes it, and the
// slice turns to zeros. A [runtime.KeepAlive](c) after its last use prevents
// that.
//
// The slice is shared memory: a hostile peer can change it after it was looked
// at, or truncate the segment, so that touching it faults; see [Conn.Guard].
// The caller must not write to it: the peer does not see such bytes, but a
// later Peek does.
func (c *Conn) Peek(n int) ([]byte, error) {
	b, err := c.s.Peek(n)
	return b, c.opError("read", err)
}

// PeekAtLeast is [Conn.Peek] for all that is there: it waits until min bytes
// can be read and returns everything that can be read then, in one slice, up to
// half the ring size. With min 0 it does not wait, and the slice may be empty.
//
// So a program that reads messages in place looks once for as many as there
// are: it goes through the whole ones, takes these off by one [Conn.Discard],
// and asks next for as many bytes as the message needs that was cut at the end.
// A message must not be longer than half the ring size. The errors, and how
// long the slice is valid, are as for Peek: with an error come the bytes that
// there are, also fewer than min.
func (c *Conn) PeekAtLeast(min int) ([]byte, error) {
	b, err := c.s.PeekAtLeast(min)
	return b, c.opError("read", err)
}

// Discard takes the next n bytes off the connection and returns how many that
// were. Like [bufio.Reader.Discard] it waits until there were n, and fewer come
// with the error that says why. After a Peek of n it never waits.
func (c *Conn) Discard(n int) (int, error) {
	n, err := c.s.Discard(n)
	return n, c.opError("read", err)
}

// Reserve waits until n bytes can be written and returns the room for them, in
// the ring, to be filled by the caller and published by [Conn.Commit]. n is at
// most half the ring size. Until then the peer, unless it is hostile, does not
// look at them. The contents are undefined.
//
// The slice is valid until the next call that writes to c, or Close. A Write
// cancels the reservation. The slice does not keep c: like a slice of
// [Conn.Peek] it needs a [runtime.KeepAlive](c) where c is not used after it.
// For faults see [Conn.Guard].
func (c *Conn) Reserve(n int) ([]byte, error) {
	b, err := c.s.Reserve(n)
	return b, c.opError("write", err)
}

// Commit publishes the first n bytes of the reserved slice, by one store, and
// ends the reservation. It waits only for another goroutine's call that writes.
// Without a reservation of at least n bytes it is an error and nothing is
// published. After [os.ErrDeadlineExceeded] and after a wrong n the reservation
// is still there; after [syscall.EPIPE], [net.ErrClosed] or a [*CorruptError]
// it has ended.
func (c *Conn) Commit(n int) error {
	return c.opError("write", c.s.Commit(n))
}

// Guard calls f, which works on slices of Peek and Reserve, and returns nil
// when f returns. When f faults because the segment was truncated under it,
// Guard returns a [*CorruptError] and the connection is damaged for good. Any
// other panic of f goes on as it is. f runs on the calling goroutine;
// goroutines that it starts are not guarded. While f runs, the memory stays
// mapped even if c is closed. After Close, f is not called and the error is
// [net.ErrClosed].
func (c *Conn) Guard(f func()) error {
	return c.opError("guard", c.s.Guard(f))
}

// RingSize returns how many bytes each direction of the connection holds, as
// the listener's [ListenConfig] said. It is the same for both ends, never
// waits, and may be called at any time, also after Close. Half of it is the
// longest span of [Conn.Peek] and [Conn.Reserve].
func (c *Conn) RingSize() int { return c.s.RingSize() }

// Stats returns what this end has counted. It never waits. After Close it
// returns the last figures. The bytes are counted in shared memory, where a
// hostile peer can make them wrong.
func (c *Conn) Stats() Stats {
	st := Stats(c.s.Stats())
	runtime.KeepAlive(c)
	return st
}

// PeerCred returns the process, user and group of the peer, as the kernel told
// them: of the dialer when it dialed, of the listener when it began to listen.
// In another PID or user namespace the kernel translates them to the caller's;
// a process that has no number there is 0, and so is what another system than
// Linux does not say.
func (c *Conn) PeerCred() (pid int, uid, gid uint32) {
	p := c.s.Cred()
	return int(p.PID), p.UID, p.GID
}
