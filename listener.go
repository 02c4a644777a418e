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

const (
	// DefaultRingSize is the size of a ring, in bytes, where
	// [ListenConfig.RingSize] is 0. A connection has two.
	DefaultRingSize = 256 << 10

	// DefaultBacklog is how many connections may wait for Accept where
	// [ListenConfig.Backlog] is 0.
	DefaultBacklog = 128

	// DefaultBusyPoll is how long a wait polls before it parks where BusyPoll
	// is 0.
	DefaultBusyPoll = 300 * time.Microsecond

	// DefaultSpareBytes is how much memory the spares of a listener, or of a
	// process that dials, may take where SpareBytes is 0: those of 15
	// connections with rings of [DefaultRingSize].
	DefaultSpareBytes = 8 << 20

	// DefaultSpareTime is how long a spare is kept where SpareTime is 0.
	DefaultSpareTime = 5 * time.Second
)

// A ListenConfig holds the options of a listener. The zero ListenConfig is
// ready to use.
type ListenConfig struct {
	// RingSize is how many bytes each direction of a connection holds, a power
	// of two from one page to 1 GiB (64 MiB where addresses have 32 bits). 0
	// means [DefaultRingSize].
	//
	// Three quarters of it are always there for a writer: the peer tells of
	// what it has read a quarter at a time, and before it waits.
	RingSize int

	// Backlog is how many connections may wait for Accept. 0 means
	// [DefaultBacklog]. The kernel caps it at net.core.somaxconn.
	Backlog int

	// Mode says who may dial, as permission bits on the listener's files:
	// 0o600, which 0 stands for, lets in the caller's own user (and root),
	// 0o660 its group, too, 0o666 everybody. In a set-group-ID directory the
	// group is the directory's. To dial takes the bits for reading and for
	// writing; those for executing mean nothing. A mode without both of them
	// for the caller's own user is an error, and so is one that lets others
	// write and not read.
	//
	// Whoever may dial is a peer and can write to the connection's memory;
	// nobody else can. A dialer need not be allowed to write to the directory.
	Mode fs.FileMode

	// Anonymous makes connections of sealed anonymous memory instead of files
	// in the directory of the name. It cannot be truncated by anybody and does
	// not count against the size of /dev/shm.
	Anonymous bool

	// BusyPoll is how long a wait of an accepted connection polls before it
	// parks, as [Dialer.BusyPoll] says for the other end.
	BusyPoll time.Duration

	// Logger, if it is not nil, is told of every dialer that is refused: its
	// process, user and group, and the reason. One who may dial can fill the
	// log. While a handler of it works, others who dial may have to wait.
	Logger *slog.Logger

	// SpareBytes is how much memory the listener keeps of connections that both
	// ends have closed in order, for the next dials by the same processes, as
	// [Dialer.SpareBytes] says for the other end. Both ends keep the same
	// memory. 0 means [DefaultSpareBytes], less than 0 that there are no spares.
	SpareBytes int

	// SpareTime is how long a spare is kept, within a quarter of a second. 0
	// means [DefaultSpareTime].
	SpareTime time.Duration
}

// Listen announces name and returns a listener for connections to it. It is
// new([ListenConfig]).Listen(name).
func Listen(name string) (*Listener, error) { return new(ListenConfig).Listen(name) }

// Listen announces name and returns a listener for connections to it.
//
// A name without a slash lives in /dev/shm, or in $SHMCONN_DIR where that is
// set; a name with a slash says the directory, too: "/shared/feed" is the name
// "feed" in /shared. Its last element is made of letters, digits, ".", "_" and
// "-", at most 128 of them, and does not start with ".". Anything else is an
// error before any file is touched.
//
// The error is [syscall.EADDRINUSE] when the caller's user listens on name,
// whether in this process or another. What a listener that died has left is
// taken over. If the name is another user's, the error is [fs.ErrPermission],
// or EADDRINUSE where that user lets the caller see that somebody listens. A
// file at the name that no listener can have left is an error, and stays as it
// is. Without /proc nobody can listen. On systems other than Linux, and where
// 64-bit atomics are not the processor's own (mips, GOARM < 7), it is
// [errors.ErrUnsupported].
func (lc *ListenConfig) Listen(name string) (*Listener, error) {
	l, err := handshake.Listen(name, lc.options())
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "shm", Addr: Addr{Name: name}, Err: err}
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
// 65 bytes, the socket does not tell, and f.Name has to be the name, as it is
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
		return nil, &net.OpError{Op: "listen", Net: "shm", Addr: Addr{Name: name}, Err: err}
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

// newListener makes the handle of l. A handle that is dropped without Close is
// closed by the garbage collector, on a goroutine of its own: the next cleanup
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
	return &net.OpError{Op: op, Net: "shm", Addr: l.addr, Err: err}
}

// Accept waits for the next connection and returns it, a [*Conn]. Errors are as
// for [Listener.AcceptConn].
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err // and not a net.Conn that holds a nil *Conn
	}
	return c, nil
}

// AcceptConn waits for the next connection and returns it. The error is
// [net.ErrClosed] after Close, [os.ErrDeadlineExceeded] once the deadline has
// passed. When the process or the machine is short of something (descriptors,
// mappings, memory, epoll watches) the error is Temporary, and the connection
// waits for the next call. When the listener's files were removed from outside
// and could not be put back, the error says why.
//
// A dialer that says nothing, or something that is not allowed, is dropped and
// delays nobody; one that sends descriptors that the kernel gets no answer for
// delays the others by 250 ms.
func (l *Listener) AcceptConn() (*Conn, error) {
	s, number, err := l.l.Accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	p := s.Cred()
	return newConn(s, l.addr, Addr{l.addr.Name, int(p.PID), p.UID, number}), nil
}

// Close stops listening and removes the listener's files. A waiting Accept
// returns [net.ErrClosed]. Accepted connections go on; those that wait for
// Accept are reset. A second Close returns [net.ErrClosed].
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

// Addr returns the name that is listened on, an [Addr].
func (l *Listener) Addr() net.Addr { return l.addr }

// Stats returns what the listener has counted. It never waits.
func (l *Listener) Stats() ListenerStats {
	st := ListenerStats(l.l.Stats())
	runtime.KeepAlive(l)
	return st
}

// ListenerStats are the counters of a listener, since it began to listen.
type ListenerStats struct {
	// Pending is how many have connected and were neither accepted nor
	// refused yet. Those that the listener has not taken off its socket are
	// counted by the kernel, by sock_diag(7); where the kernel does not
	// answer, or the process is short of descriptors, they are left out.
	Pending int

	Accepted uint64 // connections that Accept has returned
	Refused  uint64 // dialers that were dropped
	Closed   bool   // Close was called
}

// SetDeadline sets the time after which Accept returns an error that is
// [os.ErrDeadlineExceeded]; the zero time means that there is none.
func (l *Listener) SetDeadline(t time.Time) error {
	return l.opError("set", l.l.SetDeadline(t))
}
