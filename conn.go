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

// A Conn is one end of a connection over shared memory: a [net.Conn] that does
// what a [net.UnixConn] does unless the package comment says otherwise. Its
// errors are those of the table there.
//
// Any number of goroutines may call its methods at the same time. Calls that
// read take turns, and so do calls that write; the two directions do not wait
// for each other.
type Conn struct {
	// Timers and other goroutines hold the stream, so it cannot find out itself
	// that the user has dropped the handle: see newConn.
	s *stream.Stream

	local, remote Addr

	_ noCopy
}

// noCopy makes go vet report a copy of the struct that has it: the garbage
// collector would close the original while the copy is in use.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// newConn makes the handle of s. The garbage collector closes a handle that is
// dropped without Close, as it closes a net.Conn's descriptor.
func newConn(s *stream.Stream, local, remote Addr) *Conn {
	c := &Conn{s: s, local: local, remote: remote}
	runtime.AddCleanup(c, (*stream.Stream).Drop, s)
	return c
}

// opError wraps err for the caller of the exported method op. Each method ends
// with it; that use of c also keeps the garbage collector from closing c under
// the call.
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

// Read waits until there is at least one byte to read, copies what there is
// into b, and returns how many bytes. It checks, in this order: Close of c; the
// read deadline; bytes, which it returns; CloseRead, and the peer's Close or
// CloseWrite ([io.EOF]); the death of the peer ([syscall.ECONNRESET]). So bytes
// written before a close or a death are always delivered first. With an empty b
// it returns 0 and checks neither the deadline nor the peer.
//
// b belongs to the caller again when Read returns. If b faults, as a mapped
// file does that was truncated, the error is [syscall.EFAULT], and n counts the
// bytes before the fault; under [debug.SetPanicOnFault] it is a panic.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.s.Read(b)
	return n, c.opError("read", err)
}

// Write copies b into the ring. It waits while the ring is full, until all of b
// is copied or an error stops it, and returns how many bytes were handed over.
// The peer can read those, whatever the error.
//
// Bytes of two Writes are never interleaved. Up to half of the ring, 128 KiB at
// most, are published by one store, once there is room for all of them. A
// longer b is published in pieces, while the peer reads. If this process dies
// in a Write, the peer gets a prefix of b.
//
// b belongs to the caller again when Write returns. If b faults, the error is
// as for Read, and nothing of the piece that faults is handed over.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.s.Write(b)
	return n, c.opError("write", err)
}

// Close closes both directions. Calls that wait on c return [net.ErrClosed].
// Close waits for calls to let go of c; when it returns, the peer finds the
// end: after what was written before, its Read returns [io.EOF], and its Write
// [syscall.EPIPE]. Close unmaps the memory; if a [Conn.Guard] is under way, the
// last Guard to return does. A second Close returns [net.ErrClosed]. The
// garbage collector closes a Conn that is dropped without Close.
func (c *Conn) Close() error {
	return c.opError("close", c.s.Close())
}

// Abort is Close but for what the peer sees, which is that this process died:
// after what was written before, its Read returns [syscall.ECONNRESET], so it
// cannot take a stream that was cut short for a whole one. A direction that
// CloseWrite has ended stays ended in order. The first Close or Abort counts;
// all later ones return [net.ErrClosed].
func (c *Conn) Abort() error {
	return c.opError("close", c.s.Abort())
}

// Done returns a channel to select on. It is closed when the peer closes its
// end, aborts or dies, and by Close or Abort of this end; but not by CloseWrite
// or CloseRead of the peer alone, nor by damage to the segment. Each call
// returns the same channel.
//
// The end of the peer shows within some milliseconds, even while bytes are left
// to read. After them, Read returns [io.EOF] or [syscall.ECONNRESET]. TryRead
// and TryWrite know of the end from then on.
//
// The first call starts a goroutine and opens a descriptor, until the channel
// is closed. Without a free descriptor, the goroutine checks every 20 ms. Done
// does not wait for calls that read or write. The channel does not keep c: if c
// is dropped without Close, the garbage collector closes both.
func (c *Conn) Done() <-chan struct{} {
	ch := c.s.Done()
	runtime.KeepAlive(c)
	return ch
}

// CloseRead closes the reading direction. The peer's Write returns
// [syscall.EPIPE]. Reads, even those that wait now, return what was written
// before and then [io.EOF]. The peer sees how much was read by then.
func (c *Conn) CloseRead() error {
	return c.opError("close", c.s.CloseRead())
}

// CloseWrite closes the writing direction. The peer's Read returns [io.EOF]
// after all that was written before; later Writes on c return [syscall.EPIPE].
// Reading goes on.
func (c *Conn) CloseWrite() error {
	return c.opError("close", c.s.CloseWrite())
}

// LocalAddr returns the name of the connection, an [Addr]: the same at both
// ends, and equal to the listener's.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the peer, an [Addr]. For the dialer that is
// the listener's, which can be dialed. For the end that was accepted it also
// identifies the dialer, so that a server's logs say which client they are
// about: feed#17(pid=4711,uid=1000) is the 17th connection that the listener on
// feed has accepted.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the read and the write deadline, as described at [net.Conn],
// also for calls that wait now. A time in the past ends these at once; the zero
// time means no deadline. After a deadline has passed, c can be used again once
// a new one is set.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, true, true))
}

// SetReadDeadline sets the deadline of calls that read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, true, false))
}

// SetWriteDeadline sets the deadline of calls that write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.s.SetDeadline(t, false, true))
}

// TryRead is Read without the wait. If there is nothing to read now, or another
// call is reading at the moment, it returns 0 and no error.
func (c *Conn) TryRead(b []byte) (int, error) {
	n, err := c.s.TryRead(b)
	return n, c.opError("read", err)
}

// TryWrite is Write without the wait: it hands over as many bytes of b as fit
// now, and returns how many. That is none while another call is writing or, for
// a moment, a Stats holds the writing side.
func (c *Conn) TryWrite(b []byte) (int, error) {
	n, err := c.s.TryWrite(b)
	return n, c.opError("write", err)
}

// TryWriteAll is [Conn.TryWrite] for a whole message. It hands over all of b,
// by one store, and returns true, or hands over nothing and returns false. If
// the error is nil then, there was no room now, or another call was writing: a
// feed can leave out a message that a slow consumer has no room for. A b longer
// than half the ring size, which might never find room, is an error.
func (c *Conn) TryWriteAll(b []byte) (bool, error) {
	ok, err := c.s.TryWriteAll(b)
	return ok, c.opError("write", err)
}

// Buffered returns how many bytes can be read now. It never waits. On a closed
// or damaged connection it is 0.
func (c *Conn) Buffered() int {
	n := c.s.Buffered()
	runtime.KeepAlive(c)
	return n
}

// Available returns how many bytes can be written now. It never waits. It can
// be up to a quarter of the ring too low, because the peer reports what it has
// read a quarter of the ring at a time, and before it waits. On a closed or
// damaged connection it is 0.
func (c *Conn) Available() int {
	n := c.s.Available()
	runtime.KeepAlive(c)
	return n
}

// WriteBuffers writes the buffers of v as one [Conn.Write] of their joined
// contents. Like [net.Buffers.WriteTo] it removes what was written from v, and
// returns how many bytes that were.
func (c *Conn) WriteBuffers(v *net.Buffers) (int64, error) {
	n, err := c.s.WriteBuffers(v)
	return n, c.opError("write", err)
}

// ReadFrom reads from r until [io.EOF], writes that to c, and returns how many
// bytes there were, with the result of Read and Write. It is [io.ReaderFrom],
// for [io.Copy]. While r blocks, other Writes on c go on.
//
// The kernel reads a regular file (an [*os.File], or an [io.LimitedReader] of
// one) straight into the ring if it can promise not to wait: on tmpfs, and for
// what is in memory already on ext4, XFS, Btrfs and others that have
// RWF_NOWAIT. If c fails then, nothing is lost. Anything else goes through a
// private buffer, because r may use the slice it is given as it likes, and the
// peer can change the ring. If c fails then, at most one buffer of 64 KiB that
// was read from r is lost.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.s.ReadFrom(r)
	return n, c.opError("readfrom", err)
}

// WriteTo reads from c until [io.EOF], writes that to w, and returns how many
// bytes there were, with the result of Read and Write. It is [io.WriterTo], for
// [io.Copy]. While w blocks, other Reads on c go on.
//
// The kernel copies straight from the ring to a [*net.TCPConn], a
// [*net.UnixConn] or an [*os.File] that is a stream socket or a pipe, but not
// to standard output or error. What w did not take if it fails can still be
// read from c. Anything else goes through a private buffer, and so do pipes if
// the kernel cannot be told not to wait for them; at most one buffer of 64 KiB
// is lost if w fails. On EAGAIN of an [*os.File] that others have made
// non-blocking, WriteTo waits.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.s.WriteTo(w)
	return n, c.opError("writeto", err)
}

// Peek waits until n bytes can be read, n at most half the ring size, and
// returns them in place; [Conn.Discard] removes them. If the connection ends or
// the deadline passes first, it returns the bytes there are, with the error
// that [Conn.Read] would give after them.
//
//   - The slice is valid until the next call that reads from c, or Close. It
//     does not keep c: if c is no longer used, the garbage collector closes it,
//     and the slice turns to zeros, unless a [runtime.KeepAlive](c) follows.
//   - It is shared memory: a hostile peer can change it after it was checked,
//     or truncate the segment, so that touching it faults. See [Conn.Guard].
//   - Do not write to it: a later Peek would see that.
func (c *Conn) Peek(n int) ([]byte, error) {
	b, err := c.s.Peek(n)
	return b, c.opError("read", err)
}

// PeekAtLeast is [Conn.Peek] for everything that is there: it waits until min
// bytes can be read, and returns all that can be read then, up to half the ring
// size. With min 0 it does not wait, and the slice may be empty. With an error
// it may return fewer than min bytes. So a program can process all whole
// messages in place, remove them by one [Conn.Discard], and ask next for as
// many bytes as the message needs that was cut at the end.
func (c *Conn) PeekAtLeast(min int) ([]byte, error) {
	b, err := c.s.PeekAtLeast(min)
	return b, c.opError("read", err)
}

// Discard removes the next n bytes and returns how many that were. Like
// [bufio.Reader.Discard] it waits for n bytes, and returns fewer only with an
// error. After a Peek of n it never waits.
func (c *Conn) Discard(n int) (int, error) {
	n, err := c.s.Discard(n)
	return n, c.opError("read", err)
}

// Reserve waits until n bytes can be written, n at most half the ring size, and
// returns the room for them, in the ring. Its contents are undefined. The
// caller fills it, and [Conn.Commit] publishes it; until then only a hostile
// peer looks there.
//
// The slice is valid until the next call that writes to c, or Close. A Write
// cancels the reservation. Like a slice of [Conn.Peek] it is shared memory and
// does not keep c.
func (c *Conn) Reserve(n int) ([]byte, error) {
	b, err := c.s.Reserve(n)
	return b, c.opError("write", err)
}

// Commit publishes the first n bytes of the reserved slice, by one store, and
// ends the reservation. It waits only for another call that writes. Without a
// reservation of at least n bytes it publishes nothing and returns an error.
// The reservation outlasts [os.ErrDeadlineExceeded] and a wrong n;
// [syscall.EPIPE], [net.ErrClosed] and a [*CorruptError] end it.
func (c *Conn) Commit(n int) error {
	return c.opError("write", c.s.Commit(n))
}

// CommitReserve is Commit of n bytes and then, in the same call, Reserve of the
// next, if there is room for them now. If there is not, the slice is nil, and
// the caller goes on with Reserve, which waits. So a stream of messages in
// place takes one call a message, as by Write.
//
// With an error nothing is published, unless that is a [*CorruptError], and
// what Commit says of the reservation holds; it is an error, too, if next is
// not a length for Reserve. Without one, n bytes are published. The slice is
// valid as long as one of Reserve. With next 0 nothing is reserved any more.
func (c *Conn) CommitReserve(n, next int) ([]byte, error) {
	b, err := c.s.CommitReserve(n, next)
	return b, c.opError("write", err)
}

// Guard calls f on this goroutine, to work on slices of Peek and Reserve, and
// returns nil. If f faults because the segment was truncated, Guard returns a
// [*CorruptError], and the connection is damaged for good. Other panics of f go
// on. Goroutines that f starts are not guarded. While f runs, the memory stays
// mapped even if c is closed. After Close, Guard returns [net.ErrClosed]
// without calling f.
func (c *Conn) Guard(f func()) error {
	return c.opError("guard", c.s.Guard(f))
}

// RingSize returns how many bytes each direction holds, as the listener's
// [ListenConfig] says. It is the same at both ends, never waits, and works
// after Close.
func (c *Conn) RingSize() int { return c.s.RingSize() }

// Stats returns what this end has counted; after Close, the last figures. It
// never waits. The bytes are counted in shared memory, where a hostile peer can
// make them wrong.
func (c *Conn) Stats() Stats {
	st := Stats(c.s.Stats())
	runtime.KeepAlive(c)
	return st
}

// PeerCred returns the process, user and group of the peer, as the kernel
// reported them: those of the dialer when it dialed, of the listener when it
// began to listen. In another PID or user namespace they are translated to the
// caller's; a process that has no number there is 0, and so is what a system
// other than Linux does not report.
func (c *Conn) PeerCred() (pid int, uid, gid uint32) {
	p := c.s.Cred()
	return int(p.PID), p.UID, p.GID
}
