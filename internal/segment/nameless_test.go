//go:build linux

package segment

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoTmpfile makes segments on file systems that have no files without a
// name: the name is gone as soon as they are there.
func TestNoTmpfile(t *testing.T) {
	defer func(f func(int) (int, error)) { openTmpfile = f }(openTmpfile)
	for _, err := range []error{unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL} {
		openTmpfile = func(int) (int, error) { return -1, err }
		d := tempDir(t)
		_, id, fd := create(t, d, named)
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("%v: files: %q", err, left)
		}
		target, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if want := filepath.Join(d.path, connName("feed", id)) + " (deleted)"; target != want {
			t.Errorf("%v: the file is %s, want %s", err, target, want)
		}
		s, err := Attach(fd, d.dev(t), named, id)
		if err != nil {
			t.Fatal(err)
		}
		if s.Linked() {
			t.Error("it is said to have a name")
		}
		s.Close()
	}
}

// TestNoFiles makes segments in directories in which no file may be made.
func TestNoFiles(t *testing.T) {
	defer func(f func(int) (int, error)) { openTmpfile = f }(openTmpfile)
	for _, err := range []error{unix.EACCES, unix.EPERM, unix.EROFS} {
		openTmpfile = func(int) (int, error) { return -1, err }
		d := tempDir(t)
		s, id, fd := create(t, d, named)
		b, err := Attach(fd, d.dev(t), named, id)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		if have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); have != seals || err != nil {
			t.Errorf("seals %#x, %v", have, err)
		}
		s.HandedOver()
		if s.File() != -1 {
			t.Error("the descriptor is still there")
		}
	}
	for _, err := range []error{unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EIO} {
		openTmpfile = func(int) (int, error) { return -1, err }
		d := tempDir(t)
		_, _, got := Create(t.Context(), d, "feed", named)
		if !errors.Is(got, err) || !strings.Contains(got.Error(), d.path) {
			t.Errorf("Create: %v, want %v and %s", got, err, d.path)
		}
	}
}

// TestMemory says how much memory a new connection takes: a file all of it, so
// that there is no lack of it later, and anonymous memory the header.
func TestMemory(t *testing.T) {
	for _, tt := range []struct {
		g           Geometry
		least, most int64
	}{
		{Geometry{RingSize: 1 << 20}, 2 << 20, 2<<20 + 64<<10},
		{Geometry{RingSize: 1 << 20, Anonymous: true}, 1, 64 << 10},
	} {
		_, _, fd := create(t, tempDir(t), tt.g)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if n := st.Blocks * 512; n < tt.least || n > tt.most {
			t.Errorf("%+v: it takes %d bytes, want %d to %d", tt.g, n, tt.least, tt.most)
		}
	}
}

// interrupted is the fallocate of a kernel that a signal interrupts each time
// that more than most bytes are asked for: nothing is allocated then.
func interrupted(t *testing.T, most int64) (calls *int) {
	t.Cleanup(func() { fallocate = unix.Fallocate })
	calls = new(int)
	fallocate = func(fd int, mode uint32, off, n int64) error {
		*calls++
		if n > most {
			return unix.EINTR
		}
		return unix.Fallocate(fd, mode, off, n)
	}
	return calls
}

// TestInterrupted allocates while signals come in.
func TestInterrupted(t *testing.T) {
	large := Geometry{RingSize: 4 << 20}
	for _, most := range []int64{int64(PageSize), 64 << 10, 1 << 20} {
		calls := interrupted(t, most)
		_, _, fd := create(t, tempDir(t), large)
		size := int64(PageSize + 2*large.RingSize)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != size || st.Blocks*512 < size {
			t.Errorf("%d bytes, of which %d are there, %v", st.Size, st.Blocks*512, err)
		}
		if want := int(size/most) + 10; *calls > want {
			t.Errorf("at most %d at a time: %d calls, want %d", most, *calls, want)
		}
	}
	t.Run("for ever", func(t *testing.T) {
		interrupted(t, -1)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, _, err := Create(ctx, tempDir(t), "feed", large); err != context.DeadlineExceeded {
			t.Errorf("Create: %v", err)
		}
	})
	t.Run("at once", func(t *testing.T) {
		calls := interrupted(t, 1<<40)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := Create(ctx, tempDir(t), "feed", large); err != context.Canceled || *calls > 0 {
			t.Errorf("Create: %v after %d calls", err, *calls)
		}
	})
}

// TestNoFallocate writes what cannot be allocated ahead.
func TestNoFallocate(t *testing.T) {
	t.Cleanup(func() { fallocate = unix.Fallocate })
	fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	_, id, fd := create(t, tempDir(t), named)
	size := int64(PageSize + 2*ringSize)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != size || st.Blocks*512 < size {
		t.Errorf("%d bytes, of which %d are there, %v", st.Size, st.Blocks*512, err)
	}
	if _, err := check(fd, named, id); err != nil {
		t.Error(err)
	}
	d := smallDir(t, PageSize+ringSize)
	if _, _, err := Create(t.Context(), d, "feed", named); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), d.path) {
		t.Errorf("Create where there is no room: %v", err)
	}
}
