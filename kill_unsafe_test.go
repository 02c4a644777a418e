//go:build linux

package shmconn_test

import (
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tally is in a file that a victim and the test have mapped: what the victim has
// stored there stays when it is killed.
type tally struct {
	serial atomic.Uint64 // the connection under way, where there are several
	wrote  atomic.Uint64 // bytes of it that calls had said they wrote
	read   atomic.Uint64 // bytes that were read and are right
	wrong  atomic.Uint64 // 1 + the place of a byte that is not
}

func (y *tally) reset() {
	for _, n := range []*atomic.Uint64{&y.serial, &y.wrote, &y.read, &y.wrong} {
		n.Store(0)
	}
}

// newTally makes the file at path and maps it until the test ends.
func newTally(t testing.TB, path string) *tally {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, unsafe.Sizeof(tally{})), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := mapTally(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return tallyIn(b)
}

func mapTally(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(tally{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func tallyIn(b []byte) *tally { return (*tally)(unsafe.Pointer(unsafe.SliceData(b))) }
