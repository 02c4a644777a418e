package shmconn

import (
	"fmt"
	"net"

	"shmconn/internal/stream"
)

var _ net.Addr = Addr{}

// Addr is the name of a listener and of its connections. The [Conn.RemoteAddr]
// of a connection that was accepted also identifies the dialer.
type Addr struct {
	Name string // as given to Listen or Dial

	// The dialer's process and user, as [Conn.PeerCred] has them, and the
	// number of the connection among those that the listener has accepted, from
	// 1. All are 0 except in the RemoteAddr of an accepted connection.
	PID    int
	UID    uint32
	Number uint64
}

// Network returns "shm", and "unix" where connections go over Unix sockets: see
// "Other systems" in the package comment.
func (a Addr) Network() string { return network }

const network = stream.Network

// String returns the name; for a dialer, with what identifies it, without a
// space, for logs: feed#17(pid=4711,uid=1000).
func (a Addr) String() string {
	if a.Number == 0 {
		return a.Name
	}
	return fmt.Sprintf("%s#%d(pid=%d,uid=%d)", a.Name, a.Number, a.PID, a.UID)
}
