//go:build linux

// Package container connects processes that share one directory and nothing
// else: neither processes nor mounts, network or root.
package container

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"container": container,
	})
}
