//go:build linux

// Package truncate takes the memory away: segments are truncated or punched
// under each call, in io.Copy and in Guard. The connection concerned gets a
// *CorruptError, no process gets a SIGBUS, and others are sound.
package truncate

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, nil)
}
