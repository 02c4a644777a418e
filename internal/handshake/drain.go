//go:build linux && !shmconn_sockets

package handshake

import (
	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/sockdiag"
)

// drain begins the end of a shared listener: it takes no more dialers off its
// socket, and Accept gives out those that were taken. It returns when the
// socket is closed here. The caller has l.closing, and l.mu, which is unlocked.
func (l *Listener) drain() {
	l.draining = true
	if l.watcher != nil {
		l.watcher.Stop()
	}
	sockets := l.sockets
	l.sockets = nil
	l.wake()
	l.mu.Unlock()
	l.spares.close()
	spares.sweep()
	for _, s := range sockets {
		s.Close() // waits until Accept has let go of it
	}
	// The names go with the socket, if no other process has that.
	_, err := sockdiag.Queue(sockets[len(sockets)-1].inode)
	l.files.Release(err == unix.ENOENT)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
	l.leaveToSuccessor()
	l.endDrain()
}

// endDrain closes a listener that drains, once Accept has given out all that it
// had taken off its sockets. The caller has l.mu.
func (l *Listener) endDrain() {
	if !l.released || l.closed || l.taken > 0 || len(l.acceptQueue) > 0 {
		return
	}
	l.closed = true
	l.files.Close()
	l.wake()
	bubble.Go(l.deadline.Stop) // which can be waiting for l.mu
	if l.users--; l.users == 0 {
		l.files.Dir.Close()
	}
}
