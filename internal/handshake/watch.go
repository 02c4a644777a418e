//go:build linux && !shmconn_sockets

package handshake

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// watchEvery is the time between a listener's checks that its files are still
// there.
const watchEvery = time.Second

// watch checks whether the listener's files are still there, and puts them back
// if not.
func (l *Listener) watch() {
	sock, err := l.files.Restore()
	if err == nil && sock >= 0 {
		if err = l.open(sock); err != nil {
			l.files.Unserved() // and try again in a second
		}
	}
	l.lookAhead()
	l.mu.Lock()
	if err != nil && !l.closed && !l.draining && len(l.acceptQueue) == 0 {
		l.acceptQueue = append(l.acceptQueue, result{err: temporary(err)})
	}
	if len(l.acceptQueue) > 0 || len(l.sockets) > 1 {
		l.wake() // for those who have connected to a socket without a name
	}
	drained := l.removeDrained()
	if !l.closed && !l.draining {
		l.watcher.Reset(watchEvery)
	}
	l.mu.Unlock()
	for _, s := range drained { // waits for accept, which waits for l.mu
		s.Close()
	}
}

// removeDrained removes from sockets, and returns, those that have lost their
// name and have an empty backlog. A dialer that has found a socket by its name
// connects within microseconds. From the second check on, only a dialer that
// was stopped can still be on its way: it will find the socket closed and dial
// anew. The caller has l.mu.
func (l *Listener) removeDrained() (drained []*socket) {
	if l.closed {
		return nil
	}
	last := len(l.sockets) - 1
	l.sockets = slices.DeleteFunc(l.sockets, func(s *socket) bool {
		if s == l.sockets[last] {
			return false
		}
		s.looks++
		if s.looks < 2 || s.pending() {
			return false
		}
		drained = append(drained, s)
		return true
	})
	return drained
}

// pending reports whether a dialer waits in the backlog; in doubt, true.
func (s *socket) pending() (pending bool) {
	err := s.raw.Control(func(fd uintptr) { pending = readable(fd) })
	return pending || err != nil
}

// readable reports whether a dialer waits in the backlog of the socket fd; in
// doubt, true.
func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}
