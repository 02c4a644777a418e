// Package copied copies a Conn and a Listener, which go vet has to report: see
// TestVetCopies.
package copied

import "shmconn"

func conn(c *shmconn.Conn) {
	d := *c
	_ = d
}

func listener(l *shmconn.Listener) {
	m := *l
	_ = m
}
