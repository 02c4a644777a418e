//go:build linux

// Package restart has a server replaced by its next process again and again,
// under a load of dialers that open a connection for each request: no dial is
// refused or reset, and each connection that was accepted is served to its end.
package restart

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"restartchain":  chain,
		"restartflip":   flip,
		"restartunit":   unit,
		"restartdialer": dialer,

		"restarttakeover": overtake,
		"restarttake":     take,
		"restartask":      askForSocket,
	})
}
