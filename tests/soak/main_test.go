//go:build linux

// Package soak does one thing very often, and counts: messages, closes in the
// very moment of a Write, dials, connections open at once. Each test ends with
// a line "figure:".
package soak

import (
	"testing"

	"shmconn/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Main(m, shmtest.Roles{
		"closer":    closer,
		"conns":     manyConns,
		"exchanger": exchanger,
	})
}
