//go:build linux

// Package planted puts other things where the library has its files: links,
// FIFOs, directories, files of other users, locks. It removes files under a
// listener, and lets other users in, or not.
package planted

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"caller":   caller,
		"mortal":   mortal,
		"rootless": rootless,
		"squatter": squatter,
	})
}
