package shmconn

import (
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"time"
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
)

// A ListenConfig holds the options of a listener. The zero ListenConfig is
// ready to use.
type ListenConfig struct {
	// RingSize is how many bytes each direction of a connection holds, a power
	// of two from one page to 1 GiB (64 MiB where addresses have 32 bits). 0 means
	// [DefaultRingSize].
	//
	// Three quarters of it are always there for a writer: the peer tells of
	// what it has read a quarter at a time, and before it waits.
	RingSize int

	// Backlog is how many connections may wait for Accept. 0 means
	// [DefaultBacklog]. The kernel caps it at net.core.somaxconn.
	Backlog int

	// Mode says who may dial, as permission bits on the listener's files: 0o600,
	// which 0 stands for, lets in the caller's own user (and root), 0o660 its
	// group, 0o666 everybody. Who may dial is a peer and can write to the
	// connection's memory; nobody else can.
	Mode fs.FileMode

	// Anonymous makes connections of sealed anonymous memory instead of files
	// in the directory of the name. It cannot be truncated by anybody and does
	// not count against the size of /dev/shm.
	Anonymous bool

	// BusyPoll is how long a wait of an accepted connection polls before it
	// parks, as [Dialer.BusyPoll] says for the other end.
	BusyPoll time.Duration

	// Logger, if it is not nil, is told of every dialer that is refused: its process,
	// user and group, and the reason. One who may dial can fill the log. While a handler
	// of it works, others who dial may have to wait.
	Logger *slog.Logger
}

// Listen announces name and returns a listener for connections to it. It is
// new([ListenConfig]).Listen(name).
func Listen(name string) (*Listener, error) { return new(ListenConfig).Listen(name) }

// Listen announces name and returns a listener for connections to it.
//
// A name without a slash lives in /dev/shm, or in $SHMCONN_DIR where that is
// set; a name with a slash says the directory, too: "/shared/feed" is the name "feed"
// in /shared. Its last element is made of
// letters, digits, ".", "_" and "-", at most 128 of them, and does not start with
// ".". Anything else is an error before any file is touched.
//
// The error is [syscall.EADDRINUSE] when the caller's user listens on name, whether in
// this process or another. What a listener that died has left is taken over. If the
// name is another user's, the error is [fs.ErrPermission], or EADDRINUSE where that user
// lets the caller see that somebody listens. On systems other than Linux, and where
// 64-bit atomics are not the processor's own (mips, GOARM < 7), it is
// [errors.ErrUnsupported].
func (lc *ListenConfig) Listen(name string) (*Listener, error) {
	l, err := listen(*lc, name)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "shm", Addr: Addr{name}, Err: err}
	}
	return l, nil
}

// A Listener accepts connections on a name. It is a [net.Listener]. Any number
// of goroutines may call its methods at the same time.
type Listener struct {
	*listener // which its goroutines hold, too: see newListener
}

// newListener makes the handle of l. A handle that is dropped without Close is
// closed by the garbage collector.
func newListener(l *listener) *Listener {
	h := &Listener{l}
	runtime.AddCleanup(h, func(l *listener) { l.close() }, l)
	return h
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
// passed. When the process is out of descriptors the error is Temporary, and
// the connection waits for the next call. When the listener's files were removed
// from outside and could not be put back, the error says why.
//
// A dialer that says nothing, or something that is not allowed, is dropped and delays
// nobody; one that sends descriptors that the kernel gets no answer for delays the
// others by 50 ms.
func (l *Listener) AcceptConn() (*Conn, error) {
	c, err := l.accept()
	runtime.KeepAlive(l)
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "shm", Addr: l.addr, Err: err}
	}
	return c, nil
}

// Close stops listening and removes the listener's files. A waiting Accept
// returns [net.ErrClosed]. Accepted connections go on; those that wait for
// Accept are reset. A second Close returns [net.ErrClosed].
func (l *Listener) Close() error {
	err := l.close()
	runtime.KeepAlive(l)
	if err != nil {
		return &net.OpError{Op: "close", Net: "shm", Addr: l.addr, Err: err}
	}
	return nil
}

// Addr returns the name that is listened on, an [Addr].
func (l *Listener) Addr() net.Addr { return l.addr }

// Stats returns what the listener has counted. It never waits.
func (l *Listener) Stats() ListenerStats {
	st := l.stats()
	runtime.KeepAlive(l)
	return st
}

// ListenerStats are the counters of a listener, since it began to listen.
type ListenerStats struct {
	// Pending is how many have dialed and wait for Accept. The kernel keeps them and is asked, by
	// sock_diag(7); where it does not tell, or the process is short of descriptors, they are not in it.
	Pending int

	Accepted uint64 // connections that Accept has returned
	Refused  uint64 // dialers that were dropped
	Closed   bool   // Close was called
}

// SetDeadline sets the time after which Accept returns an error that is
// [os.ErrDeadlineExceeded]; the zero time means that there is none.
func (l *Listener) SetDeadline(t time.Time) error {
	err := l.setDeadline(t)
	runtime.KeepAlive(l)
	if err != nil {
		return &net.OpError{Op: "set", Net: "shm", Addr: l.addr, Err: err}
	}
	return nil
}
