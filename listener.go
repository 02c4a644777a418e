package shmconn

import (
	"cmp"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"shmconn/internal/handshake"
)

// These values replace options that are 0.
const (
	DefaultRingSize   = 256 << 10 // bytes
	DefaultBacklog    = 128       // connections
	DefaultBusyPoll   = 300 * time.Microsecond
	DefaultSpareBytes = 8 << 20 // the spares of 15 connections with rings of DefaultRingSize
	DefaultSpareTime  = 5 * time.Second
)

// A ListenConfig holds the options of a listener. The zero ListenConfig is
// ready to use.
type ListenConfig struct {
	// RingSize is how many bytes each of a connection's two rings holds, one
	// for each direction: a power of two from one page to 1 GiB (64 MiB where
	// addresses have 32 bits). 0 means [DefaultRingSize]. Three quarters of it
	// are always free for a writer: the peer reports what it has read a
	// quarter at a time, and before it waits.
	RingSize int

	// Backlog is how many connections may wait for Accept. 0 means
	// [DefaultBacklog]. The kernel caps it at net.core.somaxconn.
	Backlog int

	// Mode says who may dial, as permission bits on the listener's files. 0
	// means 0o600: the caller's own user, and root. 0o660 adds the group (in a
	// set-group-ID directory, the directory's), and 0o666 everybody. A dialer
	// needs the bits for reading and writing; those for executing mean nothing.
	// A mode without both for the caller's own user is an error, and so is one
	// that lets others write and not read.
	//
	// Whoever may dial is a peer and can write to the connection's memory;
	// nobody else can. A dialer need not be allowed to write to the directory.
	Mode fs.FileMode

	// Anonymous makes connections of sealed anonymous memory instead of files
	// in the directory of the name. Nobody can truncate it, and it does not
	// count against the size of /dev/shm. It takes memory as it is used: an
	// idle connection has one page, and where the machine has no memory left,
	// the kernel ends a process, not Dial with an error.
	Anonymous bool

	// BusyPoll is [Dialer.BusyPoll] for accepted connections. Accept polls as
	// long while dialers come one sooner after the other than that, but
	// [DefaultBusyPoll] if it is less than 0.
	BusyPoll time.Duration

	// Logger, if not nil, gets a record of every dialer that is refused: its
	// process, user and group, and the reason. Anybody who may dial can fill
	// the log. While its handler runs, other dialers may have to wait.
	Logger *slog.Logger

	// SpareBytes and SpareTime are [Dialer.SpareBytes] and [Dialer.SpareTime]
	// for accepted connections. Both ends of a spare keep the same memory.
	SpareBytes int
	SpareTime  time.Duration

	// TakeOver has Listen take a name over from a living listener of the same
	// user that has set TakeOver, too, and lets a later Listen take it over
	// from this one. No dialer is refused or reset: the new listener goes on
	// with the backlog, and the old one, which has to be in Accept for that,
	// ends as if it had called Close, with its connections open: its Accept
	// gives out those that it has taken, and then returns [net.ErrClosed]. Its
	// own first Close does nothing.
	//
	// Both are shared then, as [Listener.File] says, and rings and Mode stay as
	// they are: to ask for other rings is an error, as for [FileListener].
	TakeOver bool
}

// Listen announces name with the zero [ListenConfig].
func Listen(name string) (*Listener, error) { return new(ListenConfig).Listen(name) }

// Listen announces name and returns a listener for connections to it.
//
// A name without a slash lives in /dev/shm, or in $SHMCONN_DIR if that is set.
// A name with a slash says the directory, too: "/shared/feed" is the name
// "feed" in /shared. The last element has at most 128 letters, digits, ".", "_"
// and "-", and does not start with ".". Any other name is an error before any
// file is touched. A name that a dead listener has left is taken over.
//
//   - [syscall.EADDRINUSE]: the caller's user listens on name, in this process
//     or another; or another user does, and lets the caller see that. With
//     TakeOver: the listener does not let itself be taken over, or did not
//     answer for 5 s; it listens on.
//   - [fs.ErrPermission]: the name is another user's.
//   - A file at the name that no listener can have left is an error, and stays
//     as it is. Without /proc, Listen always fails.
//   - [errors.ErrUnsupported]: 64-bit atomics are not the processor's own
//     (mips, GOARM < 7).
//
// For systems other than Linux see "Other systems" in the package comment.
func (lc *ListenConfig) Listen(name string) (*Listener, error) {
	l, err := handshake.Listen(name, lc.options())
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: Addr{Name: name}, Err: err}
	}
	return newListener(l, Addr{Name: name}), nil
}

// options returns lc with what its zeros stand for.
func (lc *ListenConfig) options() handshake.ListenOptions {
	return handshake.ListenOptions{
		RingSize:  cmp.Or(lc.RingSize, DefaultRingSize),
		AnyRing:   lc.RingSize == 0,
		Backlog:   cmp.Or(lc.Backlog, DefaultBacklog),
		Mode:      cmp.Or(lc.Mode, 0o600),
		Anonymous: lc.Anonymous,
		BusyPoll:  busyPoll(lc.BusyPoll),
		Logger:    lc.Logger,
		TakeOver:  lc.TakeOver,

		SpareBytes: max(0, cmp.Or(lc.SpareBytes, DefaultSpareBytes)),
		SpareTime:  cmp.Or(lc.SpareTime, DefaultSpareTime),
	}
}

// FileListener returns a listener on the socket behind f. It is
// new([ListenConfig]).FileListener(f).
func FileListener(f *os.File) (*Listener, error) { return new(ListenConfig).FileListener(f) }

// FileListener returns a listener on the socket behind f, which another process
// has made: one whose [Listener.File] it is, or a service manager, which
// listens (SOCK_SEQPACKET) on the file shmconn.NAME@sock in the name's
// directory. It has the backlog of that socket, and no dialer is refused
// meanwhile. f stays the caller's, who closes it.
//
// The name is that of the socket. Where its directory has a path of more than
// 65 bytes, the socket does not say, and f.Name has to be the name, as it is
// of the File.
//
// The listener is shared, as [Listener.File] says of that one. Rings are of
// the size, and of the memory, that the name has: to ask for others, by
// RingSize or Anonymous, is an error. Where the name has none yet, lc says.
// From now on it is this process that dialers see as their peer, whichever
// accepts them.
//
// The error is [syscall.EADDRINUSE] when another process listens on the name by
// another socket. f that is no such socket, or whose name was removed, is an
// error.
func (lc *ListenConfig) FileListener(f *os.File) (*Listener, error) {
	l, name, err := handshake.FileListener(f, lc.options())
	if err != nil {
		if name == "" {
			name = f.Name()
		}
		return nil, &net.OpError{Op: "listen", Net: network, Addr: Addr{Name: name}, Err: err}
	}
	return newListener(l, Addr{Name: name}), nil
}

// busyPoll returns how long waits poll.
func busyPoll(d time.Duration) time.Duration { return cmp.Or(d, DefaultBusyPoll) }

// A Listener accepts connections on a name. It is a [net.Listener]. Any number
// of goroutines may call its methods at the same time.
type Listener struct {
	l    *handshake.Listener // which its goroutines hold, too: see newListener
	addr Addr

	_ noCopy
}

// newListener makes the handle of l. The garbage collector closes a handle that
// is dropped without Close, on a goroutine of its own, so that the next cleanup
// need not wait for a file system.
func newListener(l *handshake.Listener, addr Addr) *Listener {
	h := &Listener{l: l, addr: addr}
	runtime.AddCleanup(h, func(l *handshake.Listener) {
		go func() {
			l.Close()
			l.Close() // nobody is left to Accept what the first may have left
		}()
	}, l)
	return h
}

// opError is [Conn.opError] for a listener.
func (l *Listener) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: network, Addr: l.addr, Err: err}
}

// Accept is AcceptConn as [net.Listener] has it; the connection is a [*Conn].
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err // and not a net.Conn that holds a nil *Conn
	}
	return c, nil
}

// AcceptConn waits for the next connection and returns it.
//
//   - [net.ErrClosed] after Close, [os.ErrDeadlineExceeded] after the deadline.
//   - If the process or the machine is short of descriptors, mappings, memory
//     or epoll watches, the error is Temporary, and the connection waits for
//     the next call.
//   - If the listener's files were removed and could not be put back, the error
//     says why.
//
// A dialer that sends nothing, or something that is not allowed, is dropped and
// delays nobody. One of another user that sends descriptors for which the
// kernel gets no answer delays others by at most 250 ms.
func (l *Listener) AcceptConn() (*Conn, error) {
	s, number, err := l.l.Accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	p := s.Cred()
	return newConn(s, l.addr, Addr{l.addr.Name, int(p.PID), p.UID, number}), nil
}

// Close stops listening and removes the listener's files. A waiting Accept
// returns [net.ErrClosed], and so does a second Close. Accepted connections go
// on; those that wait for Accept are reset.
//
// If the listener is shared ([Listener.File]), those that wait for Accept are
// left to the other process. The few that this one has taken off the socket
// are returned by Accept, which returns [net.ErrClosed] after the last of them:
// so a process that restarts goes on to call Accept until then. A second Close
// resets them. The files stay for as long as any process has the socket open.
func (l *Listener) Close() error {
	return l.opError("close", l.l.Close())
}

// File returns a copy of the listener's socket, for another process to listen
// on with [FileListener], as the File of a [net.UnixListener] is: by
// [os/exec.Cmd.ExtraFiles], say. It is the caller's to close, and to close it
// does not affect l.
//
// Before File returns, the listener becomes *shared*, for as long as it lives:
//
//   - Each process takes dialers from the same backlog. No dialer is refused
//     while one of them has the socket open, whether it accepts or not.
//   - Close leaves the backlog and the files to the others, as it says there.
//   - It keeps no spares ([ListenConfig.SpareBytes]). File may wait for dialers
//     that are about to use one, 2 s at most.
//
// The error is [net.ErrClosed] after Close; it is Temporary when the process is
// short of descriptors.
func (l *Listener) File() (*os.File, error) {
	f, err := l.l.File()
	runtime.KeepAlive(l)
	return f, l.opError("file", err)
}

// SyscallConn returns the listener's socket, as that of a [net.UnixListener],
// for Control alone. Like [Listener.File] it makes the listener shared.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	c, err := l.l.SyscallConn()
	if err != nil {
		return nil, l.opError("file", err)
	}
	return c, nil
}

// Addr returns the name that the listener listens on, an [Addr].
func (l *Listener) Addr() net.Addr { return l.addr }

// Stats returns what the listener has counted. It never waits.
func (l *Listener) Stats() ListenerStats {
	st := ListenerStats(l.l.Stats())
	runtime.KeepAlive(l)
	return st
}

// ListenerStats are the counters of a listener, since it began to listen.
type ListenerStats struct {
	// Pending is how many have connected and were neither accepted nor refused
	// yet. The kernel counts those that the listener has not taken off its
	// socket (sock_diag(7)); they are left out if the kernel does not answer,
	// or the process is short of descriptors.
	Pending int

	Accepted uint64 // connections that Accept has returned
	Refused  uint64 // dialers that were dropped
	Closed   bool   // Close was called
}

// SetDeadline sets the time after which Accept returns
// [os.ErrDeadlineExceeded]; the zero time means no deadline.
func (l *Listener) SetDeadline(t time.Time) error {
	return l.opError("set", l.l.SetDeadline(t))
}
