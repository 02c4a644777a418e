//go:build linux

// Package reuse has two processes connect again and again over the same
// segments: what the next connection must not come to know of the last one, and
// what happens when somebody dies, withdraws or is careless in between.
package reuse

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"reuseserver":  reuseServer,
		"reusedialer":  reuseDialer,
		"soakdialers":  soakDialers,
		"stormdialers": stormDialers,
		"stormserver":  serveStorm,
	})
}
