package shmconn

import "net"

var _ net.Addr = Addr{}

// Addr is the name of a listener, and of the connections made through it.
type Addr struct {
	Name string // as given to Listen or Dial
}

// Network returns "shm".
func (a Addr) Network() string { return "shm" }

// String returns the name.
func (a Addr) String() string { return a.Name }
