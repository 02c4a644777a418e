//go:build linux

package shmtest

import (
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KillStats are in a file that a victim and the test have mapped: what the
// victim has stored there stays when it is killed.
type KillStats struct {
	Serial atomic.Uint64 // the connection under way, where there are several
	Wrote  atomic.Uint64 // bytes of it that calls had said they wrote
	Read   atomic.Uint64 // bytes that were read and are right
	Wrong  atomic.Uint64 // 1 + the place of a byte that is not
}

// Reset begins anew.
func (y *KillStats) Reset() {
	for _, n := range []*atomic.Uint64{&y.Serial, &y.Wrote, &y.Read, &y.Wrong} {
		n.Store(0)
	}
}

// NewKillStats makes the file at path and maps it until the test ends.
func NewKillStats(t testing.TB, path string) *KillStats {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, unsafe.Sizeof(KillStats{})), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := MapKillStats(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return KillStatsIn(b)
}

// MapKillStats maps the file at path, in the victim.
func MapKillStats(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(KillStats{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// KillStatsIn returns the KillStats in what MapKillStats has mapped.
func KillStatsIn(b []byte) *KillStats { return (*KillStats)(unsafe.Pointer(unsafe.SliceData(b))) }
