//go:build linux && !shmconn_sockets

package handshake

import (
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/sema"
	"shmconn/internal/stream"
)

// Accept waits for the next connection. It returns that and its number, from 1.
//
// The calling goroutine takes dialers off the socket itself, so that the kernel
// keeps the backlog and a connection passes from no goroutine to another.
func (l *Listener) Accept() (s *stream.Stream, number uint64, err error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	if !bubble.In(bubble.Now()) {
		s, err = l.acceptNext()
	} else {
		var done sema.Sema
		bubble.Go(func() {
			s, err = l.acceptNext()
			done.Notify()
		})
		done.Wait()
	}
	if err != nil {
		return nil, 0, err
	}
	return s, l.files.Accepted(), nil
}

// acceptNext serves dialers until there is something for Accept. The caller has
// l.accepting.
func (l *Listener) acceptNext() (*stream.Stream, error) {
	l.run(1)
	defer l.run(-1)
	for {
		r, to := l.next()
		switch {
		case to.short != nil:
			l.finishShort(to.short)
		case to.drained:
			l.news.Wait()
		case to.sock == nil:
			return r.s, r.err
		default:
			fd, err := l.take(to)
			if fd >= 0 {
				l.begin(fd)
			} else if err != nil && !(scarce(err) && l.purge()) {
				l.starve(err)
				return nil, temporary(syscallError(err))
			}
		}
	}
}

// starve notes that Accept returns err. It is for awaited.
func (l *Listener) starve(err error) {
	if scarce(err) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.starved = time.Now()
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// A task is what Accept does while it has nothing to return.
type task struct {
	short   *halfOpen // finish its handshake
	drained bool      // wait for handshakes under way: no more begin
	sock    *socket   // take the next dialer off it
	wait    bool      // wait for one
	shared  bool      // other processes may take dialers off it
}

// next returns what Accept is to return, or what it is to do before.
func (l *Listener) next() (r result, to task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return result{err: net.ErrClosed}, to
	case l.expired:
		return result{err: os.ErrDeadlineExceeded}, to
	case len(l.acceptQueue) > 0:
		r = l.acceptQueue[0]
		l.acceptQueue = slices.Delete(l.acceptQueue, 0, 1)
		l.endDrain()
		return r, to
	case len(l.short) > 0:
		to.short = l.short[0]
		l.short = slices.Delete(l.short, 0, 1)
		return r, to
	case l.draining:
		to.drained = true
		return r, to
	}
	for _, s := range l.sockets[:len(l.sockets)-1] {
		if s.pending() {
			to.sock = s
			return r, to
		}
	}
	to.sock, to.wait, to.shared = l.sockets[len(l.sockets)-1], true, l.shared
	l.waiting = to.sock
	return r, to
}

// take takes a dialer off the kernel's backlog. It returns -1 if there was none
// and, where it was to wait for one, Accept has to look again.
//
// The dialer is counted in taken under the lock that Stats holds when it asks
// the kernel. So it is always in one of the two counts.
func (l *Listener) take(to task) (fd int, err error) {
	fd = -1
	accept := func(listening uintptr) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.draining {
			return true
		}
		for {
			fd, _, err = unix.Accept4(int(listening), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != unix.EINTR && err != unix.ECONNABORTED {
				break
			}
		}
		if err == unix.EAGAIN {
			return false
		}
		if err == nil {
			l.taken++
		}
		return true
	}
	if !to.wait {
		to.sock.raw.Control(func(listening uintptr) { accept(listening) })
	} else {
		l.arrival.begin(to.sock, to.shared)
		to.sock.raw.Read(accept)
		l.arrival.end(fd >= 0)
		l.heed(to.sock)
	}
	if err == unix.EAGAIN {
		err = nil
	}
	return fd, err
}

// wake has the Accept that waits look again. The caller has l.mu.
func (l *Listener) wake() {
	if l.waiting != nil {
		l.waiting.SetReadDeadline(longAgo)
		l.waiting = nil
		l.woken.Store(true)
	}
	if l.draining {
		l.news.Notify()
	}
}

// heed ends a wait on s, and what wake has done to it.
func (l *Listener) heed(s *socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = nil
	if l.woken.Swap(false) {
		s.SetReadDeadline(time.Time{})
	}
}

// enqueue gives r to Accept. After Close it does nothing and reports false.
func (l *Listener) enqueue(r result) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if r.s != nil {
		l.taken--
		l.starved = time.Time{}
	}
	l.acceptQueue = append(l.acceptQueue, r)
	l.wake()
	return true
}

// lookAhead serves the dialers that wait, up to the first that is to be a
// connection, where no Accept does. So one that is to be refused does not keep
// its place in the backlog of a listener whose Accept is seldom called.
func (l *Listener) lookAhead() {
	if !l.accepting.TryLock() {
		return
	}
	defer l.accepting.Unlock()
	l.run(1)
	defer l.run(-1)
	for {
		l.mu.Lock()
		i := slices.IndexFunc(l.sockets, (*socket).pending)
		if l.closed || len(l.acceptQueue) > 0 || len(l.short) > 0 || i < 0 {
			l.mu.Unlock()
			return
		}
		sock := l.sockets[i]
		l.mu.Unlock()
		fd, _ := l.take(task{sock: sock})
		if fd < 0 {
			return // Accept will say why
		}
		l.begin(fd)
	}
}
