//go:build linux

// Package scarce has descriptors, memory, room in the directory and system
// calls fail: all that is scarce comes back as an error that says so, nothing
// leaks, and whoever waits is served once there is enough.
package scarce

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"dialers":    manyDialers,
		"injected":   injected,
		"latedialer": lateDialer,
		"narrow":     narrow,
		"poor":       poor,
	})
}
