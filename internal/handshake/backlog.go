//go:build linux && !shmconn_sockets

package handshake

import "shmconn/internal/sockdiag"

// Stats returns what the listener has counted. It never waits.
func (l *Listener) Stats() (st Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Accepted, st.Refused = l.files.Counts()
	if st.Closed = l.closed || l.draining; l.closed {
		return st
	}
	st.Pending = l.taken
	for _, r := range l.acceptQueue {
		if r.s != nil {
			st.Pending++
		}
	}
	for _, s := range l.sockets {
		n, _ := sockdiag.Queue(s.inode)
		st.Pending += n
	}
	return st
}
