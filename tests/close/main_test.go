//go:build linux

// Package close closes connections and listeners: before, during and after each
// call, at either end, by Close, CloseWrite, CloseRead and Abort; and it looks
// at what Done says of it.
package close

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"closeend": closeEndHelper,
	})
}
