//go:build linux

package shmtest

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
)

// SegmentPair returns a connection and its segment's file, which an end, as
// everybody who was given the segment, can open again and write to or truncate.
func SegmentPair(t testing.TB, s Shape) (a, b *shmconn.Conn, seg *os.File) {
	t.Helper()
	name := NewName()
	l := s.MustListen(t, name)
	defer l.Close()
	x := s.MustDial(t, name)
	y := MustAccept(t, l)
	return x.(*shmconn.Conn), y.(*shmconn.Conn), openSegment(t, s.Path(""), name, nil)
}

// openSegment opens the file of a connection of this process to the listener
// base in dir. It has no name, but /proc has the descriptors, and the file's
// header the listener's name. Of several it is one that has mark in it.
func openSegment(t testing.TB, dir, base string, mark []byte) *os.File {
	t.Helper()
	SkipSockets(t, "there is no segment")
	for _, fd := range ListDir("/proc/self/fd") {
		link := "/proc/self/fd/" + fd
		target, _ := os.Readlink(link)
		if !strings.HasPrefix(target, filepath.Join(dir, "#")) {
			continue
		}
		seg, err := os.OpenFile(link, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 128)
		if _, err := seg.ReadAt(b, 64); err == nil && string(bytes.TrimRight(b, "\x00")) == base && holds(seg, mark) {
			t.Cleanup(func() { seg.Close() })
			return seg
		}
		seg.Close()
	}
	t.Fatal("no way to the segment")
	return nil
}

// A Volume is a small file system of its own, of which all room can be taken.
type Volume struct {
	t      testing.TB
	Dir    string
	filler *os.File
	taken  int64
}

// NewVolume mounts a tmpfs with the options, and skips the test where it may
// not.
func NewVolume(t testing.TB, options string) *Volume {
	t.Helper()
	v := &Volume{t: t, Dir: MountSmall(t, options)}
	var err error
	if v.filler, err = os.Create(filepath.Join(v.Dir, "filler")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.filler.Close() })
	return v
}

// MountSmall mounts a tmpfs with the options for the time of the test, after
// which this process must hold nothing of it. Others may: who looks at the
// connections of the machine, as "shmconn ls" does, maps what is there for a
// moment.
func MountSmall(t testing.TB, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		handshake.DropSpares()
		for target := range Descriptors() {
			if strings.HasPrefix(target, dir+"/") {
				t.Errorf("left open: %s", target)
			}
		}
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(maps)) {
			if strings.Contains(line, " "+dir+"/") {
				t.Errorf("left mapped: %s", line)
			}
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// Take takes all the room there is, but for so many bytes.
func (v *Volume) Take(left int64) {
	for most := int64(math.MaxInt64); ; {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(v.filler.Fd()), &st); err != nil {
			v.t.Fatal(err)
		}
		block := int64(st.Bsize)
		n := min(int64(st.Bavail)*block-left, most)
		if n < block {
			return
		}
		switch err := unix.Fallocate(int(v.filler.Fd()), 0, v.taken, n); err {
		case nil:
			v.taken += n
		case unix.ENOSPC: // somebody else has taken some
			most = n / 2 &^ (block - 1)
		case unix.EINTR:
		default:
			v.t.Fatal(err)
		}
	}
}

// GiveBack ends Take.
func (v *Volume) GiveBack() {
	v.taken = 0
	if err := v.filler.Truncate(0); err != nil {
		v.t.Fatal(err)
	}
}

// SegmentIn is SegmentPair for a name in dir.
func SegmentIn(t testing.TB, dir string, s Shape) (a, b *shmconn.Conn, seg *os.File) {
	t.Helper()
	name := filepath.Join(dir, NewName())
	l := s.MustListen(t, name)
	defer l.Close()
	a = s.MustDial(t, name).(*shmconn.Conn)
	b = MustAccept(t, l).(*shmconn.Conn)
	return a, b, openSegment(t, dir, filepath.Base(name), nil)
}

// SkipRaced skips what takes a header away while somebody looks at it. The race
// detector makes atomic accesses in C, where a fault is the end of the process.
func SkipRaced(t testing.TB) {
	t.Helper()
	if RaceEnabled {
		t.Skip("the race detector cannot do with faults at atomic accesses")
	}
}

// holds reports whether mark is in f.
func holds(f *os.File, mark []byte) bool {
	all, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	return err == nil && bytes.Contains(all, mark)
}

// SegmentWords returns the words of the segment of a connection of this process
// to the listener base, to overwrite. Of several it is one over which mark was
// written.
func SegmentWords(t testing.TB, s Shape, base, mark string) *RawPeer {
	t.Helper()
	seg := openSegment(t, s.Path(""), base, []byte(mark))
	defer seg.Close()
	fd, err := unix.Dup(int(seg.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	p := &RawPeer{t: t, Size: s.RingSize(), Sock: -1, Seg: fd, bell: -1, Ringer: -1, hisRinger: -1, HisBell: -1}
	t.Cleanup(p.Close)
	return p
}
