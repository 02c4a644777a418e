//go:build linux

package shmtest

import (
	"sync"
	"testing"
)

// Pattern returns n bytes that depend on their place in the stream, so that a
// byte that is lost, doubled or moved shows.
func Pattern(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = patternAt(off + i)
	}
	return b
}

func patternAt(i int) byte {
	x := uint32(i) * 2654435761
	return byte(x>>24) ^ byte(x>>11)
}

// CheckPattern fails if got is not what Pattern(off, len(got)) is.
func CheckPattern(t testing.TB, got []byte, off int) {
	t.Helper()
	if i := FirstDiff(got, off); i >= 0 {
		t.Errorf("byte %d of the stream, the %d. of %d here, is %#x, want %#x", off+i, i, len(got), got[i], patternAt(off+i))
	}
}

// FirstDiff returns the place in got, which begins at off of the stream, of the
// first byte that is not the pattern's, or -1.
func FirstDiff(got []byte, off int) int {
	for i, c := range got {
		if c != patternAt(off+i) {
			return i
		}
	}
	return -1
}

// The tape, which TapeAt reads, is an endless pattern of which any piece can be
// had without making it.
const (
	tapePeriod = 65521 // a prime: no power of two is a multiple
	TapePiece  = 64 << 10
)

var tape = sync.OnceValue(func() []byte {
	b := Pattern(0, tapePeriod)
	return append(b, append(b, b...)[:TapePiece]...)
})

// TapeAt returns n bytes, TapePiece at most, of the tape from the place off.
func TapeAt(off, n int) []byte { return tape()[off%tapePeriod:][:n] }
