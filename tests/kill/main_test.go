//go:build linux

// Package kill kills processes: with SIGKILL, by os.Exit, a panic, an exec or
// SIGSTOP, at either end and at random moments. Every byte whose Write had
// returned is read, in order; then there is an error; and nothing is left.
package kill

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"victim": victim,
	})
}
