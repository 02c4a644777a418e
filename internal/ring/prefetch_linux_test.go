//go:build amd64 || arm64

package ring

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestPrefetchNowhere asks for memory that an access would fault at: of a file
// that was truncated, as a hostile peer can do, and without permission.
func TestPrefetchNowhere(t *testing.T) {
	if !hasPrefetchWrite {
		t.Skip("this processor has no prefetch for writing")
	}
	fd, err := unix.MemfdCreate("truncated", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const page = 1 << 16 // of any size
	for _, prot := range []int{unix.PROT_READ | unix.PROT_WRITE, unix.PROT_READ, unix.PROT_NONE} {
		b, err := unix.Mmap(fd, 0, page, prot, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		prefetchWrite(&b[0])
		if err := unix.Munmap(b); err != nil {
			t.Fatal(err)
		}
		prefetchWrite(&b[0])
	}
}
