//go:build linux

// Package hostile lies to the library: in the shared words, in the handshake,
// by floods of rings and dialers, and by a third process that overwrites both.
// The connection concerned gets an error, and no other one notices.
package hostile

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"liar":    liar,
		"unruly":  unrulyDialers,
		"blocker": blocker,
		"vandal":  vandal,
	})
}
