//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/deadline"
	"shmconn/internal/segment"
	"shmconn/internal/sema"
	"shmconn/internal/stream"
)

// A Listener is what is behind a shmconn.Listener.
//
// Accept takes dialers off the socket, one at a time: so it is the kernel that
// keeps the backlog. A dialer whose message is not there yet gets a goroutine
// of its own. All of this is outside the bubble that a caller may be in.
type Listener struct {
	name     string
	busyPoll time.Duration
	files    *segment.Listener
	logger   *slog.Logger // or nil
	spares   pool
	most     int           // bytes of spares; 0: there are none
	spareFor time.Duration // is how long they are kept
	takeOver bool          // another process may

	successorTimeout time.Duration // for a successor to confirm

	mu          sync.Mutex     // guards the following
	sockets     []*socket      // the last one has the name; see watch
	acceptQueue []result       // for Accept
	busy        map[uint32]int // handshakes under way, by user
	halfOpens   []*halfOpen    // have sent nothing yet, oldest first
	short       []*halfOpen    // this end was short of what their handshakes take
	taken       int            // dialers that are off the socket, and neither in acceptQueue nor refused
	waiting     *socket        // that Accept waits on
	woken       atomic.Bool    // by a deadline of the socket; stored with mu
	running     int            // goroutines that Close waits for: all but handshakes and handlers of the Logger
	users       int            // goroutines, and one more until Close: the last closes the directory
	watcher     *time.Timer    // calls watch
	expired     bool
	closed      bool
	shared      bool      // other processes may have the socket: see share.go
	draining    bool      // Close was called, and Accept gives out what was taken
	released    bool      // and has let go of the socket and the names
	successor   *halfOpen // that has asked for the socket, and is neither in its place nor given up
	ceded       bool      // a successor has closed the listener, and the caller has not
	starved     time.Time // when Accept was last short of something; zero once it has got on

	accepting sync.Mutex // held by the Accept that serves dialers
	arrival   *arrival   // what that waits for
	news      sema.Sema  // has an Accept look again that has no socket any more

	sharing sync.Mutex // guards ready
	ready   bool       // other processes may take dialers off the socket

	closing sync.Mutex // of the first Close, which the second one waits for

	idle sema.Sema // says: running is 0 since Close

	deadline deadline.Deadline

	// handshake is held while a dialer's message is handled, so that
	// connections are accepted in the order in which their Dials have returned.
	handshake sync.Mutex
}

// A socket is one that dialers connect to.
type socket struct {
	*os.File
	raw   syscall.RawConn // of the same
	inode uint32
	looks int // of watch since it lost the name
}

// A result is what Accept returns.
type result struct {
	s   *stream.Stream
	err error
}

// Listen announces name. The error is not wrapped yet.
func Listen(name string, lc ListenOptions) (*Listener, error) {
	if !lockFree {
		return nil, errors.ErrUnsupported
	}
	register()
	dirPath, base, err := segment.ParseName(name)
	if err != nil {
		return nil, err
	}
	if err := lc.check(); err != nil {
		return nil, err
	}
	if lc.TakeOver {
		return lc.listenOrTakeOver(name, dirPath, base)
	}
	return lc.announce(name, dirPath, base)
}

// announce listens on a name that nobody has.
func (lc *ListenOptions) announce(name, dirPath, base string) (*Listener, error) {
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		return nil, temporary(err)
	}
	files, sock, err := segment.Announce(dir, base, lc.geometry(), lc.Mode, lc.Backlog)
	if err != nil {
		dir.Close()
		return nil, temporary(err)
	}
	return lc.begin(name, files, sock, false, func() error { return nil })
}

// check returns an error if the options are wrong.
func (lc *ListenOptions) check() error {
	if err := segment.CheckRingSize(lc.RingSize); err != nil {
		return err
	}
	if lc.Backlog < 0 {
		return fmt.Errorf("backlog %d is negative", lc.Backlog)
	}
	if lc.Mode&^fs.ModePerm != 0 {
		return fmt.Errorf("mode %v is more than permission bits", lc.Mode)
	}
	return checkMode(lc.Mode)
}

func (lc *ListenOptions) geometry() segment.Geometry {
	return segment.Geometry{RingSize: lc.RingSize, Anonymous: lc.Anonymous, Reuse: lc.SpareBytes > 0}
}

// begin makes the listener that takes dialers off sock, the socket of files. It
// calls ready when there is nothing left that can fail, and before it takes
// any. Both are closed when it, or ready, fails.
func (lc *ListenOptions) begin(name string, files *segment.Listener, sock int, shared bool, ready func() error) (*Listener, error) {
	l := &Listener{
		name:     name,
		busyPoll: lc.BusyPoll,
		files:    files,
		logger:   lc.Logger,
		most:     lc.SpareBytes,
		spareFor: lc.SpareTime,
		takeOver: lc.TakeOver,
		busy:     make(map[uint32]int),
		users:    1,
		shared:   shared,

		successorTimeout: takeOverTimeout,
	}
	l.spares.awaited = l.awaited
	l.arrival = newArrival(l)
	err := l.open(sock)
	if err == nil {
		if err = ready(); err != nil {
			l.sockets[0].Close()
		}
	}
	if err != nil {
		files.Release(!shared)
		files.Close()
		files.Dir.Close()
		return nil, err
	}
	bubble.Outside(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.watcher = time.AfterFunc(watchEvery, l.watch)
		}
	})
	return l, nil
}

// open has Accept take dialers off sock. A socket before it, which has lost its
// name, is looked at first: some may wait in its backlog.
func (l *Listener) open(sock int) error {
	s := &socket{File: os.NewFile(uintptr(sock), "listener")}
	var err error
	if s.raw, err = s.SyscallConn(); err == nil {
		err = s.SetDeadline(time.Time{}) // is epoll watching it?
	}
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstat(sock, &st)
		s.inode = uint32(st.Ino)
	}
	if err != nil {
		s.Close()
		return fmt.Errorf("wait for dialers: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.draining {
		s.Close()
		return net.ErrClosed
	}
	l.sockets = append(l.sockets, s)
	l.wake()
	return nil
}

// start starts a goroutine for f. The caller has l.mu, and knows that the
// listener is not closed or has a goroutine.
func (l *Listener) start(f func()) {
	l.users++
	l.running++
	bubble.Go(func() {
		defer l.leave()
		defer l.run(-1)
		f()
	})
}

// run counts n more goroutines that Close waits for.
func (l *Listener) run(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running += n; l.running == 0 && l.closed {
		l.idle.Notify()
	}
}

// leave ends the use of the directory by a goroutine, or by the listener
// itself.
func (l *Listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users == 0 {
		l.files.Dir.Close()
	}
}

// Close stops listening. Connections that wait for Accept are reset, unless
// other processes may have the socket: then Accept goes on to give out those
// that were taken off it, and a second Close resets them.
func (l *Listener) Close() error {
	l.closing.Lock()
	defer l.closing.Unlock()
	l.mu.Lock()
	if l.ceded {
		l.ceded = false
		l.mu.Unlock()
		return nil
	}
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	if l.shared && !l.draining {
		l.drain()
		return nil
	}
	again := l.draining
	l.closed = true
	l.files.Close() // before Accept returns, after which the process may end
	l.wake()
	if l.watcher != nil {
		l.watcher.Stop()
	}
	sockets, ready := l.sockets, l.acceptQueue
	l.acceptQueue = nil
	for _, d := range l.halfOpens {
		bubble.Go(d.close)
	}
	for _, d := range l.short {
		bubble.Go(d.abandon)
	}
	l.mu.Unlock()
	for _, s := range sockets {
		s.Close()
	}
	l.deadline.Stop()
	l.spares.close()
	spares.sweep() // so that nothing is left if this process dialed
	for _, r := range ready {
		if r.s != nil {
			r.s.Abort()
		}
	}
	for l.isRunning() {
		l.idle.Wait()
	}
	l.leave()
	if again {
		return net.ErrClosed
	}
	return nil
}

func (l *Listener) isRunning() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running > 0
}

// SetDeadline sets the deadline of Accept.
func (l *Listener) SetDeadline(t time.Time) error {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	l.deadline.Set(t, func(expired bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.expired = expired
		l.wake()
	})
	return nil
}
