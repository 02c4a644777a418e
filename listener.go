package shmconn

import (
	"cmp"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
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
// is. Without /proc nobody can listen. Where 64-bit atomics are not the
// processor's own (mips, GOARM < 7) it is [errors.ErrUnsupported]. For systems
// other than Linux see "Other systems" in the package comment.
func (lc *ListenConfig) Listen(name string) (*Listener, error) {
	l, err := handshake.Listen(name, handshake.ListenOptions{
		RingSize:  cmp.Or(lc.RingSize, DefaultRingSize),
		Backlog:   cmp.Or(lc.Backlog, DefaultBacklog),
		Mode:      cmp.Or(lc.Mode, 0o600),
		Anonymous: lc.Anonymous,
		BusyPoll:  busyPoll(lc.BusyPoll),
		Logger:    lc.Logger,

		SpareBytes: max(0, cmp.Or(lc.SpareBytes, DefaultSpareBytes)),
		SpareTime:  cmp.Or(lc.SpareTime, DefaultSpareTime),
	})
	if err != nil {
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

// newListener makes the handle of l. A handle that is dropped without Close is
// closed by the garbage collector, on a goroutine of its own: the next cleanup
// need not wait for a file system.
func newListener(l *handshake.Listener, addr Addr) *Listener {
	h := &Listener{l: l, addr: addr}
	runtime.AddCleanup(h, func(l *handshake.Listener) { go l.Close() }, l)
	return h
}

// opError is [Conn.opError] for a listener.
func (l *Listener) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: network, Addr: l.addr, Err: err}
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
func (l *Listener) Close() error {
	return l.opError("close", l.l.Close())
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
