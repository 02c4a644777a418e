//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/deadline"
	"shmconn/internal/segment"
	"shmconn/internal/sema"
	"shmconn/internal/stream"
)

// A Listener is what is behind a Listener.
//
// One goroutine takes dialers off the socket, one at a time, and does not take
// the next before Accept has taken the last: so it is the kernel that keeps the
// backlog. A dialer whose message is not there yet gets a goroutine of its own.
// All of them are outside the bubble that Listen may have been called in.
type Listener struct {
	name     string
	busyPoll time.Duration
	files    *segment.Listener
	logger   *slog.Logger // or nil
	spares   pool
	most     int           // bytes of spares; 0: there are none
	spareFor time.Duration // is how long they are kept

	mu          sync.Mutex     // guards the following
	sockets     []*socket      // the last one has the name; see watch
	acceptQueue []result       // for Accept
	busy        map[uint32]int // handshakes under way, by user
	halfOpens   []*halfOpen    // have said nothing yet, oldest first
	taken       int            // dialers that are off the socket, and neither in acceptQueue nor refused
	running     int            // goroutines that Close waits for: all but handshakes and handlers of the Logger
	users       int            // goroutines, and one more until Close: the last closes the directory
	watcher     *time.Timer    // calls watch
	expired     bool
	closed      bool

	drained *sync.Cond // ready is empty, or closed

	accepting sync.Mutex // held by the Accept that waits for news
	news      sema.Sema  // says: look at ready, expired, closed

	idle sema.Sema // says: running is 0 since Close

	deadline deadline.Deadline

	// handshake is held while what a dialer has said is dealt with, so that
	// who has dialed after another Dial had returned is accepted after it.
	handshake sync.Mutex
}

// A socket is one that dialers connect to.
type socket struct {
	*os.File
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
	g := segment.Geometry{RingSize: lc.RingSize, Anonymous: lc.Anonymous, Reuse: lc.SpareBytes > 0}
	if err := segment.CheckRingSize(g.RingSize); err != nil {
		return nil, err
	}
	if lc.Backlog < 0 {
		return nil, fmt.Errorf("backlog %d is negative", lc.Backlog)
	}
	if lc.Mode&^fs.ModePerm != 0 {
		return nil, fmt.Errorf("mode %v is more than permission bits", lc.Mode)
	}
	if err := checkMode(lc.Mode); err != nil {
		return nil, err
	}
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		return nil, temporary(err)
	}
	files, sock, err := segment.Announce(dir, base, g, lc.Mode, lc.Backlog)
	if err != nil {
		dir.Close()
		return nil, temporary(err)
	}
	l := &Listener{
		name:     name,
		busyPoll: lc.BusyPoll,
		files:    files,
		logger:   lc.Logger,
		most:     lc.SpareBytes,
		spareFor: lc.SpareTime,
		busy:     make(map[uint32]int),
		users:    1,
	}
	l.drained = sync.NewCond(&l.mu)
	l.spares.awaited = l.awaited
	if err := l.open(sock); err != nil {
		files.Close()
		dir.Close()
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

// Accept waits for the next connection. It returns that and its number, from 1.
func (l *Listener) Accept() (*stream.Stream, uint64, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	for {
		r, ok := l.next()
		if ok {
			if r.err != nil {
				return nil, 0, r.err
			}
			return r.s, l.files.Accepted(), nil
		}
		l.news.Wait()
	}
}

// next returns what Accept should return, if there is anything yet.
func (l *Listener) next() (r result, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return result{err: net.ErrClosed}, true
	case l.expired:
		return result{err: os.ErrDeadlineExceeded}, true
	case len(l.acceptQueue) == 0:
		return result{}, false
	}
	r = l.acceptQueue[0]
	l.acceptQueue = slices.Delete(l.acceptQueue, 0, 1)
	if len(l.acceptQueue) == 0 {
		l.drained.Broadcast()
	}
	return r, true
}

// enqueue gives r to Accept. It reports false, and does nothing, after Close.
func (l *Listener) enqueue(r result) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if r.s != nil {
		l.taken--
	}
	l.acceptQueue = append(l.acceptQueue, r)
	l.news.Notify()
	return true
}

// awaitDrained waits until Accept has taken everything. It reports false after
// Close.
func (l *Listener) awaitDrained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.acceptQueue) > 0 && !l.closed {
		l.drained.Wait()
	}
	return !l.closed
}

// open starts to take dialers off sock. A socket before it, which has lost its
// name, goes on with what waits in its backlog.
func (l *Listener) open(sock int) error {
	s := &socket{File: os.NewFile(uintptr(sock), "listener")}
	raw, err := s.SyscallConn()
	if err == nil {
		err = s.SetDeadline(time.Time{}) // is epoll watching it?
	}
	if err != nil {
		s.Close()
		return fmt.Errorf("wait for dialers: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.Close()
		return net.ErrClosed
	}
	l.sockets = append(l.sockets, s)
	l.start(func() { l.serve(raw) })
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

// Close stops listening. Those that wait for Accept are reset.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	l.files.Close() // before Accept returns, after which the process may end
	if l.watcher != nil {
		l.watcher.Stop()
	}
	sockets, ready := l.sockets, l.acceptQueue
	l.acceptQueue = nil
	for _, d := range l.halfOpens {
		bubble.Go(d.close)
	}
	l.news.Notify()
	l.drained.Broadcast()
	l.mu.Unlock()
	for _, s := range sockets {
		s.Close()
	}
	l.deadline.Stop()
	l.spares.close()
	spares.sweep() // so that nothing is left where it was this process that dialed
	for _, r := range ready {
		if r.s != nil {
			r.s.Abort()
		}
	}
	for l.isRunning() {
		l.idle.Wait()
	}
	l.leave()
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
		l.news.Notify()
	})
	return nil
}
