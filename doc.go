// Package shmconn connects processes of one machine over shared memory. A
// [Listener] is a [net.Listener] and a [Conn] is a [net.Conn], so bufio,
// net/http, gRPC and TLS work over them unchanged.
//
//	l, err := shmconn.Listen("feed")     // one process
//	c, err := l.Accept()
//
//	c, err := shmconn.Dial("feed")       // another
//
// A connection is a segment of shared memory that holds two rings of bytes, one
// for each direction, each with one producer and one consumer. A Unix socket
// introduces the two processes to each other and is closed; no byte of the
// stream and no wake-up goes through a socket. That is on Linux; see "Other
// systems".
//
// # By task
//
//   - Listen and dial: [Listen], [Dial]; options in [ListenConfig], [Dialer].
//     Before anybody listens: Dialer.Wait. For an [http.Transport] or gRPC:
//     [Dialer.DialContext].
//   - Restart a server and refuse nobody: TakeOver of [ListenConfig];
//     [Listener.File], [FileListener].
//   - Read and write: [Conn.Read], [Conn.Write], [Conn.WriteBuffers]. End one
//     direction: [Conn.CloseWrite]. End a stream that is incomplete:
//     [Conn.Abort]. Select on the end of the peer: [Conn.Done].
//   - Without a wait: [Conn.TryRead], [Conn.TryWrite], [Conn.TryWriteAll].
//   - Without a copy: [Conn.Peek], [Conn.Reserve], [Conn.CommitReserve],
//     [Conn.Guard]; from files and to sockets, [io.Copy].
//   - From one goroutine alone, faster: [Conn.Produce], [Conn.Consume].
//   - Look inside: [Conn.Stats]; package shmconn/stats for all connections of a
//     program; Logger of [ListenConfig] for refused dialers.
//
// # Waiting
//
// A call that has to wait spins for about a microsecond. Then it polls, letting
// other goroutines run, for as long as BusyPoll says. Then it parks: it sleeps
// until the peer writes a byte into a pipe. Waits that turn out longer than
// BusyPoll park from the start, so an idle connection costs nothing. With
// BusyPoll < 0 a wait never parks. At most GOMAXPROCS/2 goroutines, at least
// one, and two of two or three while few wait, poll at a time, for all
// connections together. A wait yields to a peer on its own processor, and polls
// for one on another, even if GOMAXPROCS is 1.
//
// # Errors
//
// Every error but [io.EOF] is a [*net.OpError]. What [errors.Is] finds in it:
//
//	own end closed; second Close                           net.ErrClosed
//	deadline passed (n counts what was handed over)        os.ErrDeadlineExceeded
//	peer closed or half-closed, all was read               io.EOF, bare
//	write after the peer closed or died, or own CloseWrite syscall.EPIPE
//	peer's process died, all it had written was read       syscall.ECONNRESET
//	peer called Abort                                      as if it had died
//	nobody listens on the name                             syscall.ECONNREFUSED, with the path
//	the same, and Timeout or the context ended Wait        its error and ECONNREFUSED
//	somebody already listens                               syscall.EADDRINUSE
//	not permitted, or not the listener one expects         fs.ErrPermission
//	no room in the directory                               syscall.ENOSPC
//	short of descriptors, mappings, memory, ...            the system's error, Temporary
//	another version of the format                          a text with both, from Dial
//	the segment was damaged                                a *CorruptError, with errors.As
//
// The errors of Listen and Dial name the file or directory that they are about.
// A connection whose listener closes or dies before accepting it behaves as if
// its peer had died.
//
// # Unlike a Unix socket
//
// Everything else is as with a [net.UnixConn] but for this:
//
//   - A peer that closes while bytes we wrote are unread gives io.EOF, not
//     ECONNRESET.
//   - A process that returns from main without Close has died: its peer gets
//     ECONNRESET after the last byte, not io.EOF.
//   - A write that has room returns EPIPE at once after the peer has closed. If
//     the peer was killed, it returns EPIPE once this process has noticed: at
//     once in a call that parks, within a few milliseconds in one that polls,
//     at every 64th call of TryRead or TryWrite that moves nothing, and once
//     every quarter ring in a writer that never waits, on a connection from
//     which nobody reads.
//   - There is no SyscallConn and no File, and descriptors cannot be passed.
//
// # Other systems
//
// On macOS, Windows and the BSDs, and on Linux with the build tag
// shmconn_sockets, the same API goes over Unix sockets, for development: plain
// and slow. Names, errors, deadlines, half close and the order of all these are
// the same. [Addr.Network] and [Stats] say "unix" there. The two kinds do not
// connect with each other. What differs:
//
//   - Names without a slash live in [os.TempDir] (with the tag in /dev/shm) or
//     in $SHMCONN_DIR. A path has 100 bytes at most. A name is still taken over
//     from a listener that died, and never from one that lives; files that are
//     removed from under a listener are not put back.
//   - Dial waits for the listener's process, not for Accept, so not while that
//     is stopped: Timeout counts. Wait looks every 20 ms.
//   - A call that hands something over waits until the peer's process has taken
//     it in, TryWrite and Close, too: for a second at most, where that is
//     stopped. What it has not taken in then is lost if this process is killed.
//   - Peek and Reserve return private memory, so there is no CorruptError.
//     BusyPoll, Anonymous, SpareBytes, SpareTime and TakeOver mean nothing, and
//     calls allocate. All waits sleep at once, and are counted as ParksAlways.
//   - [Conn.PeerCred] has no process on FreeBSD. On Windows, NetBSD, OpenBSD
//     and DragonFly it has nothing: all is 0, and a dial with AllowUID returns
//     [errors.ErrUnsupported]. Mode does what the system makes of it, which is
//     nothing on Windows; between creation and chmod the umask counts.
//
// On Solaris, AIX, js and wasip1 everything compiles, and Listen and Dial
// return [errors.ErrUnsupported].
//
// # Trust
//
// A process that may open the listener's files, by [ListenConfig.Mode], is a
// peer; no other can attach, read, write or take over anything. A hostile peer
// can garble or stop its own stream. It cannot crash the other end, hang it
// past a deadline, or read its memory, with two exceptions:
//
//   - Slices of Peek and Reserve are shared memory. Touch them only if you
//     trust the peer, or inside [Conn.Guard].
//   - A peer that can make the kernel wait at a page fault, by a FUSE mount or
//     as root by userfaultfd, can hold up a call that parks or rings.
package shmconn
