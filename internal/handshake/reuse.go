//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"slices"
	"time"

	"shmconn/internal/segment"
	"shmconn/internal/stream"
)

// finishReuse makes a connection from a spare that d has taken. It makes no
// system call that could block.
func (l *Listener) finishReuse(d *halfOpen, id segment.ID, generation uint32) error {
	left := l.spares.introduced(id, generation, d.peer)
	if left == nil {
		return errors.New("there is no such segment to use again")
	}
	d.letGo()
	s := left.Stream(l.busyPoll, l.keepFor(id))
	if !l.enqueue(result{s: s}) {
		s.Abort()
	}
	return nil
}

// keepFor keeps a stream's spare for the dialer's next connection.
func (l *Listener) keepFor(id segment.ID) func(*stream.Spare) {
	return l.spares.keepFor(spare{id: id}, l.most, l.spareFor)
}

// awaited reports whether a dialer may be on its way to Accept. While Accept is
// short of something it gets to nobody, and dialers that have taken spares may
// be what it waits for: then they are not awaited.
func (l *Listener) awaited() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.starved) < starvation {
		return false
	}
	return l.taken > 0 || len(l.acceptQueue) > 0 || slices.ContainsFunc(l.sockets, (*socket).pending)
}

// starvation is for how long an error of Accept says that it is short of
// something. A server tries again before: net/http after a second at most.
const starvation = 1500 * time.Millisecond

// purge gives up spares for what this process is short of. It reports whether
// that may have helped.
func (l *Listener) purge() bool {
	own, dialed := l.spares.purge(), spares.purge()
	return own || dialed
}
