//go:build linux

package handshake

import (
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
)

// drain begins the end of a shared listener: it takes no more dialers off its
// socket, and Accept gives out those that were taken. It returns when the
// socket is closed here. The caller has l.mu, which is unlocked.
func (l *Listener) drain() {
	l.draining = true
	l.watcher.Stop()
	sockets := l.sockets
	l.named = sockets[len(sockets)-1].inode
	l.sockets = nil
	l.drained.Broadcast()
	l.mu.Unlock()
	l.spares.close()
	spares.sweep()
	for _, s := range sockets {
		s.SetReadDeadline(time.Unix(1, 0)) // and the goroutine that serves it closes it
	}
	for l.isServing() {
		l.left.Wait()
	}
}

// awaitTurn waits until the next dialer may be taken off a socket: when Accept
// has taken all that were before. It reports false after Close.
func (l *Listener) awaitTurn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.acceptQueue) > 0 && !l.closed && !l.draining {
		l.drained.Wait()
	}
	return !l.closed && !l.draining
}

// isServing reports whether a goroutine takes dialers off a socket, or may do
// so. One in a handler of the Logger, which may be what closes the listener, is
// not waited for.
func (l *Listener) isServing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.serving > l.handling
}

// handle counts goroutines in a handler of the Logger.
func (l *Listener) handle(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handling += n
	l.left.Notify()
}

// stopped is called when no more dialers are taken off s. The last goroutine of
// a listener that drains lets go of the names: they go with the socket, if no
// other process has that.
func (l *Listener) stopped(s *socket) {
	s.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serving--
	if !l.draining || l.serving > 0 {
		return
	}
	_, err := askSocket(l.named, unixDiagShowRQ, unixDiagRQLen)
	l.files.Release(err == unix.ENOENT)
	if l.closed {
		l.files.Close()
	}
	l.left.Notify()
	l.endDrain()
}

// endDrain closes a listener that drains, once Accept has given out all that it
// had taken off its sockets. The caller has l.mu.
func (l *Listener) endDrain() {
	if !l.draining || l.closed || l.serving > 0 || l.taken > 0 || len(l.acceptQueue) > 0 {
		return
	}
	l.closed = true
	l.files.Close()
	l.news.Notify()
	l.drained.Broadcast()
	bubble.Go(l.deadline.Stop) // which can be waiting for l.mu
	if l.users--; l.users == 0 {
		l.files.Dir.Close()
	}
}
