//go:build linux

package shmconn

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
	"shmconn/internal/wait"
)

// A listener is what is behind a Listener.
//
// One goroutine takes dialers off the socket, one at a time, and does not take the
// next before Accept has taken the last: so it is the kernel that keeps the backlog.
// A dialer whose message is not there yet gets a goroutine of its own.
type listener struct {
	addr     Addr
	busyPoll time.Duration
	files    *segment.Listener
	logger   *slog.Logger // or nil

	mu      sync.Mutex          // guards the following
	sockets []*net.UnixListener // the last one has the name; see watch
	ready   []result            // for Accept
	busy    map[uint32]int      // introductions under way, by user
	silent  []*dialer           // have said nothing yet, oldest first
	expired bool
	closed  bool

	taken *sync.Cond // ready is empty, or closed

	news chan struct{} // says: look at ready, expired, closed
	done chan struct{} // closed by Close

	deadline   deadline
	goroutines sync.WaitGroup

	// introduction is held while what a dialer has said is dealt with, so that
	// who has dialed after another Dial had returned is accepted after it.
	introduction sync.Mutex
}

// A dialer is the other end of the socket.
type dialer struct {
	c     *net.UnixConn
	raw   syscall.RawConn
	peer  cred
	heard bool // guarded by listener.introduction
}

// A result is what Accept returns.
type result struct {
	s   *stream
	err error
}

// accept is AcceptConn, see there.
func (l *listener) accept() (*Conn, error) {
	for {
		r, ok := l.next()
		if ok {
			if r.err != nil {
				return nil, r.err
			}
			l.files.Accepted()
			return newConn(r.s), nil
		}
		<-l.news
	}
}

// next returns what accept should return, if there is anything yet.
func (l *listener) next() (r result, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		nudge(l.news) // for the next goroutine that waits
		return result{err: net.ErrClosed}, true
	case l.expired:
		nudge(l.news)
		return result{err: os.ErrDeadlineExceeded}, true
	case len(l.ready) == 0:
		return result{}, false
	}
	r = l.ready[0]
	l.ready = slices.Delete(l.ready, 0, 1)
	if len(l.ready) > 0 {
		nudge(l.news)
	} else {
		l.taken.Broadcast()
	}
	return r, true
}

// offer gives r to Accept. It reports false, and does nothing, after Close.
func (l *listener) offer(r result) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.ready = append(l.ready, r)
	nudge(l.news)
	return true
}

// room waits until Accept has taken everything. It reports false after Close.
func (l *listener) room() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ready) > 0 && !l.closed {
		l.taken.Wait()
	}
	return !l.closed
}

// open starts to take dialers off sock. A socket before it, which has lost its name,
// goes on with what waits in its backlog.
func (l *listener) open(sock int) error {
	nl, err := netListener(sock)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		nl.Close()
		return net.ErrClosed
	}
	l.sockets = append(l.sockets, nl)
	l.goroutines.Go(func() { l.serve(nl) })
	return nil
}

// serve takes dialers off a socket until it is closed.
func (l *listener) serve(nl *net.UnixListener) {
	for l.room() {
		c, err := nl.AcceptUnix()
		switch {
		case err == nil:
			l.greet(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			l.offer(result{err: syscallError(err)})
		}
	}
}

// syscallError returns the system call's error that is in err, as package net has it: so
// that it is wrapped once, and says whether it is temporary.
func syscallError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return os.NewSyscallError("accept", errno)
	}
	return err
}

// greet takes the introduction of the dialer behind c, if it is there, and waits for
// it in another goroutine if not.
func (l *listener) greet(c *net.UnixConn) {
	d := &dialer{c: c}
	var err error
	if d.raw, err = c.SyscallConn(); err == nil {
		rawErr := d.raw.Control(func(fd uintptr) { d.peer, err = peerCred(int(fd)) })
		err = cmp.Or(rawErr, err)
	}
	if err != nil {
		l.drop(d, err)
		return
	}
	l.mu.Lock()
	silent := slices.Clone(l.silent)
	l.mu.Unlock()
	for _, earlier := range silent {
		l.hear(earlier)
	}
	// A dialer speaks as soon as it has connected. Mostly our having been woken up by that
	// is what keeps it from doing so.
	for start := wait.Now(); !l.hear(d); wait.Yield() {
		if wait.Now()-start > promptness {
			l.wait(d)
			return
		}
	}
}

// wait has another goroutine wait for d's introduction.
func (l *listener) wait(d *dialer) {
	l.mu.Lock()
	if len(l.silent) == maxIntroductions {
		eldest := l.silent[0]
		l.silent = slices.Delete(l.silent, 0, 1)
		defer l.dismiss(eldest)
	}
	defer l.mu.Unlock()
	if l.closed {
		go d.c.Close()
		return
	}
	l.silent = append(l.silent, d)
	l.goroutines.Go(func() {
		d.c.SetReadDeadline(time.Now().Add(introductionTimeout))
		for !l.hear(d) {
			if err := d.raw.Read(func(fd uintptr) bool { return readable(int(fd)) }); err != nil {
				l.giveUp(d, err)
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.silent = slices.DeleteFunc(l.silent, func(o *dialer) bool { return o == d })
	})
}

// dismiss ends the wait for d's introduction. Nothing comes in any more, so that d knows
// and can dial again; what has come in before is heard.
func (l *listener) dismiss(d *dialer) {
	d.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	l.hear(d)
}

// readable reports whether a read of fd would not block.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil && err != unix.EINTR
}

// giveUp ends the wait for d's introduction, unless that has been taken meanwhile.
func (l *listener) giveUp(d *dialer, err error) {
	l.introduction.Lock()
	defer l.introduction.Unlock()
	if !d.heard {
		d.heard = true
		l.drop(d, err)
	}
}

// drop closes d's socket. With it go the descriptors that nobody has received, and the
// kernel may wait with their end for as long as the sender has said: so nobody waits
// for this.
func (l *listener) drop(d *dialer, err error) {
	go d.c.Close()
	l.refuse(d, err)
}

// refuse counts a dialer that is not to be a connection, and tells the log why.
func (l *listener) refuse(d *dialer, err error) {
	l.files.Refused()
	if l.logger == nil || errors.Is(err, net.ErrClosed) { // our own Close
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("said nothing in time")
	}
	l.logger.Warn("shmconn: dialer refused", "listener", l.addr.Name,
		"pid", d.peer.pid, "uid", d.peer.uid, "gid", d.peer.gid, "reason", err)
}

// hear takes the introduction of d, if it is there, and gives the connection to Accept.
// It reports whether it was there.
func (l *listener) hear(d *dialer) bool {
	l.introduction.Lock()
	defer l.introduction.Unlock()
	if d.heard {
		return true
	}
	there := false
	d.raw.Control(func(fd uintptr) { there = readable(int(fd)) })
	if !there {
		return false
	}
	d.heard = true
	if !l.begin(d.peer) {
		l.drop(d, errors.New("too many introductions by this user are under way"))
		return true
	}
	// The descriptors may be of a file system that does not answer, even to a close. So
	// this has a goroutine of its own, which is not waited for for long.
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer l.end(d.peer)
		l.introduce(d)
	}()
	late := time.NewTimer(attachPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return true
}

// begin counts an introduction by a user, unless too many are under way.
func (l *listener) begin(peer cred) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.uid] >= maxAttachments {
		return false
	}
	l.busy[peer.uid]++
	return true
}

func (l *listener) end(peer cred) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.uid]--; l.busy[peer.uid] == 0 {
		delete(l.busy, peer.uid)
	}
}

// introduce makes a connection of what d has sent and gives it to Accept. As long as the
// process is short of descriptors, Accept says so and d keeps its place.
func (l *listener) introduce(d *dialer) {
	var h hello
	err := l.insist(func() error {
		var err error
		rawErr := d.raw.Control(func(fd uintptr) { h, err = receive(int(fd)) })
		return cmp.Or(rawErr, err)
	})
	d.c.Close()
	if err != nil {
		l.refuse(d, err)
		return
	}
	var s *stream
	err = l.insist(func() (err error) {
		s, err = h.attach(l, d.peer)
		return err
	})
	h.close()
	if err != nil {
		l.refuse(d, err)
		return
	}
	if !l.offer(result{s: s}) {
		s.reset()
	}
}

// insist calls f again each time that Accept has said that this end is short of what f
// needs.
func (l *listener) insist(f func() error) error {
	for {
		err := f()
		if !scarce(err) || !l.offer(result{err: syscallError(err)}) || !l.room() {
			return err
		}
	}
}

// scarce reports whether err says that this end is short of something.
func scarce(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// watch looks once a second whether the listener's files are still there.
func (l *listener) watch() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-t.C:
		}
		sock, err := l.files.Restore()
		if err == nil && sock >= 0 {
			if err = l.open(sock); err != nil {
				l.files.Unserved() // and try again in a second
			}
		}
		if err != nil && l.room() {
			l.offer(result{err: err})
		}
	}
}

// close is Close, see there.
func (l *listener) close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	l.files.Close() // before Accept returns, after which the process may end
	close(l.done)
	for _, nl := range l.sockets {
		nl.Close()
	}
	for _, d := range l.silent {
		go d.c.Close()
	}
	ready := l.ready
	l.ready = nil
	nudge(l.news)
	l.taken.Broadcast()
	l.mu.Unlock()
	l.deadline.stop()
	for _, r := range ready {
		if r.s != nil {
			r.s.reset()
		}
	}
	l.goroutines.Wait()
	l.files.Dir.Close()
	return nil
}

func (l *listener) setDeadline(t time.Time) error {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	l.deadline.set(t, func(expired bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.expired = expired
		nudge(l.news)
	})
	return nil
}
