package shmconn

import (
	"io"
	"net"
	"runtime"
	"time"
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
	*stream
}

// newConn makes the handle of s. A handle that is dropped without Close is
// closed by the garbage collector, as a net.Conn's descriptor is.
func newConn(s *stream) *Conn {
	c := &Conn{s}
	runtime.AddCleanup(c, func(s *stream) { s.close() }, s)
	return c
}

// Read copies bytes the peer has written into b and returns how many. It waits
// until there is at least one, and does not wait to fill b.
//
// It looks, in this order, at: Close having been called on c; the read deadline
// having passed; bytes waiting, which are returned; CloseRead, or the peer's Close or
// CloseWrite ([io.EOF]); the peer's process being gone ([syscall.ECONNRESET]). So bytes written before the peer closed or died are
// always delivered, and the error comes after them. An empty b returns 0 without
// a look at the deadline or the peer.
//
// The bytes are copied: b is not kept, and does not alias shared memory.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil {
		err = c.opError("read", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Write copies b into the ring for the peer to read. It waits while the ring
// is full, until all of b has been copied or an error stops it, and returns
// how many bytes were handed over; these the peer can read whatever the error.
//
// Errors are [net.ErrClosed] after Close, [os.ErrDeadlineExceeded] once the write
// deadline has passed, and [syscall.EPIPE] after CloseWrite, at once when the peer
// has closed its end or its reading side, and when its process is known to be gone:
// see "Unlike a Unix socket" in the package comment.
//
// The bytes of one Write are never interleaved with another's. Up to half of
// the ring, 128 KiB at most, are published by one store, once there is room for all
// of them; a longer b is published in pieces, while the peer reads. A Write cut
// short by the death of this process leaves a prefix of b. b is not kept.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.write(b)
	if err != nil {
		err = c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Close closes both directions and returns at once. Calls that wait on c
// return [net.ErrClosed]. The peer can still read what was written before;
// then its Read returns [io.EOF], and its Write returns [syscall.EPIPE].
//
// The memory is unmapped by Close, or, when calls are under way, by the last of
// them to return. A second Close returns [net.ErrClosed]. A Conn that is dropped
// without Close is closed by the garbage collector.
func (c *Conn) Close() error {
	err := c.close()
	if err != nil {
		err = c.opError("close", err)
	}
	runtime.KeepAlive(c)
	return err
}

// CloseRead closes the reading direction: the peer's Write returns [syscall.EPIPE],
// and Reads, those that wait now too, return what was written before and then
// [io.EOF].
func (c *Conn) CloseRead() error {
	err := c.closeRead()
	if err != nil {
		err = c.opError("close", err)
	}
	runtime.KeepAlive(c)
	return err
}

// CloseWrite closes the writing direction: the peer's Read returns [io.EOF]
// after all that was written before, and later Writes on c return
// [syscall.EPIPE]. Reading goes on.
func (c *Conn) CloseWrite() error {
	err := c.closeWrite()
	if err != nil {
		err = c.opError("close", err)
	}
	runtime.KeepAlive(c)
	return err
}

// LocalAddr returns the name of the connection, an [Addr]. Both ends have the
// same one.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr returns the name of the connection, an [Addr].
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline sets the read and the write deadline, as described at
// [net.Conn]. A time in the past makes waiting calls return at once; the zero
// time means that there is none. A connection can be used on after its deadline
// has passed and a new one has been set.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.setDeadline(t, true, true)
	if err != nil {
		err = c.opError("set", err)
	}
	runtime.KeepAlive(c)
	return err
}

// SetReadDeadline sets the deadline of calls that read, those that wait now
// included.
func (c *Conn) SetReadDeadline(t time.Time) error {
	err := c.setDeadline(t, true, false)
	if err != nil {
		err = c.opError("set", err)
	}
	runtime.KeepAlive(c)
	return err
}

// SetWriteDeadline sets the deadline of calls that write, those that wait now
// included.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	err := c.setDeadline(t, false, true)
	if err != nil {
		err = c.opError("set", err)
	}
	runtime.KeepAlive(c)
	return err
}

// TryRead is Read without the wait: where there is nothing to read now, or
// another call has the reading side for the moment, it returns 0 and no error. That
// the peer was killed it notices at every 64th call in vain.
func (c *Conn) TryRead(b []byte) (int, error) {
	n, err := c.tryRead(b)
	if err != nil {
		err = c.opError("read", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// TryWrite is Write without the wait: it hands over as many bytes of b as fit
// now and returns how many, which may be none; another goroutine's Write under
// way leaves room for none.
func (c *Conn) TryWrite(b []byte) (int, error) {
	n, err := c.tryWrite(b)
	if err != nil {
		err = c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Buffered returns how many bytes the peer has written that have not been
// read yet. It never waits. On a closed or damaged connection it is 0.
func (c *Conn) Buffered() int {
	n := c.buffered()
	runtime.KeepAlive(c)
	return n
}

// Available returns how many bytes can be written now without a wait. It never
// waits. The peer tells of what it has read a quarter of the ring at a time,
// and before it waits: so Available can be up to a quarter of the ring behind.
// On a closed or damaged connection it is 0.
func (c *Conn) Available() int {
	n := c.available()
	runtime.KeepAlive(c)
	return n
}

// WriteBuffers writes the contents of v, one buffer after the other, as if they
// were joined for one [Conn.Write]: published by one store if they are not more than
// that does at once, and with no other Write in between. Like [net.Buffers.WriteTo] it
// takes what was written off v, and returns how many bytes that were.
func (c *Conn) WriteBuffers(v *net.Buffers) (int64, error) {
	n, err := c.writeBuffers(v)
	if err != nil {
		err = c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// ReadFrom writes to c what it reads from r until [io.EOF], and returns how many
// bytes that were. It implements [io.ReaderFrom], for [io.Copy].
//
// A regular file is read by the kernel straight into the ring. Everything else
// goes through a private buffer: a Reader may use the slice it is given as it
// likes, and memory that the peer can change is no place for that. While r
// blocks, other Writes on c go on.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.readFrom(r)
	if err != nil {
		err = c.opError("readfrom", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// WriteTo writes to w what it reads from c until [io.EOF], and returns how many
// bytes that were. It implements [io.WriterTo], for [io.Copy].
//
// Where w is a [*net.TCPConn], a [*net.UnixConn], or an [*os.File] that is a regular
// file or non-blocking, the kernel copies straight from the ring; everything else goes through a private buffer. While
// w blocks, other Reads on c go on. An error of w ends WriteTo; bytes that
// w did not take in the kernel's case are still there to be read, and at most one
// buffer of 64 KiB is lost in the other.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.writeTo(w)
	if err != nil {
		err = c.opError("writeto", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Peek waits until n bytes can be read and returns them where they are, in the
// ring, without copying and without taking them off; [Conn.Discard] does that.
// n is at most half the ring size. When the connection ends or the deadline
// passes before that, Peek returns the bytes there are, with the error that
// [Conn.Read] would give after them.
//
// The slice is valid until the next call that reads from c, or Close. It is
// shared memory: the peer, if it is hostile, can change it after it was looked
// at, or truncate the segment, so that touching it faults; see [Conn.Guard].
// Writing to it is an error of the caller's that only the caller will see.
func (c *Conn) Peek(n int) ([]byte, error) {
	b, err := c.peek(n)
	if err != nil {
		err = c.opError("read", err)
	}
	runtime.KeepAlive(c)
	return b, err
}

// Discard takes the next n bytes off the connection and returns how many that
// were. Like [bufio.Reader.Discard] it waits until there were n, and fewer come
// with the error that says why. After a Peek of n it never waits.
func (c *Conn) Discard(n int) (int, error) {
	n, err := c.discard(n)
	if err != nil {
		err = c.opError("read", err)
	}
	runtime.KeepAlive(c)
	return n, err
}

// Reserve waits until n bytes can be written and returns the room for them, in
// the ring, to be filled by the caller and published by [Conn.Commit]. n is at
// most half the ring size. Until then the peer, unless it is hostile, does not
// look at them. The contents are undefined.
//
// The slice is valid until the next call that writes to c, or Close. A Write
// cancels the reservation. For faults see [Conn.Guard].
func (c *Conn) Reserve(n int) ([]byte, error) {
	b, err := c.reserve(n)
	if err != nil {
		err = c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return b, err
}

// Commit publishes the first n bytes of the reserved slice, by one store, and
// ends the reservation. It never waits. Without a reservation of at least n
// bytes it is an error and nothing is published.
func (c *Conn) Commit(n int) error {
	err := c.commit(n)
	if err != nil {
		err = c.opError("write", err)
	}
	runtime.KeepAlive(c)
	return err
}

// Guard calls f, which works on slices of Peek and Reserve, and returns nil when
// f returns. When f faults because the segment was truncated under it, Guard
// returns a [*CorruptError] and the connection is damaged for good. Any other
// panic of f goes on as it is. f runs on the calling goroutine; goroutines that
// it starts are not guarded. While f runs, the memory stays mapped even if c
// is closed. After Close, f is not called and the error is [net.ErrClosed].
func (c *Conn) Guard(f func()) error {
	err := c.guard(f)
	if err != nil {
		err = c.opError("guard", err)
	}
	runtime.KeepAlive(c)
	return err
}

// Stats returns what this end has counted. It never waits. After Close it
// returns the last figures. The bytes are counted in shared memory, where a
// hostile peer can make them wrong.
func (c *Conn) Stats() Stats {
	st := c.stats()
	runtime.KeepAlive(c)
	return st
}

// PeerCred returns the process, user and group of the peer, as the kernel told them:
// of the dialer when it dialed, of the listener when it began to listen. In another PID or user
// namespace the kernel translates them to the caller's; a process that has no
// number there is 0.
func (c *Conn) PeerCred() (pid int, uid, gid uint32) {
	return int(c.cred.pid), c.cred.uid, c.cred.gid
}

// Stats are the counters of one end of a connection, since it was made.
type Stats struct {
	RingSize     int    // bytes in each direction
	BytesRead    uint64 // bytes taken off the connection by this end
	BytesWritten uint64 // bytes published by this end
	ReadCalls    uint64 // calls of Read, TryRead and Discard that took bytes, and pieces of a WriteTo
	WriteCalls   uint64 // calls of Write, TryWrite, WriteBuffers and Commit that wrote bytes, and pieces of a ReadFrom

	// How long calls waited for something to read, and for room, in waits that the first spin did
	// not end. One that is under way counts until now.
	ReadWait, WriteWait time.Duration

	Waits uint64 // how many such waits
	Parks uint64 // those of them that went to sleep
	Rings uint64 // system calls made to wake the parked peer
}
