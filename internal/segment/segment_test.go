//go:build linux

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ringSize = 64 << 10 // a power of two and no less than a page anywhere

var named, anonymous = Geometry{RingSize: ringSize}, Geometry{RingSize: ringSize, Anonymous: true}

// somebody is a user that nobody is.
const somebody = 12345

// openDir opens a directory, and fails the test if in the end there are other
// descriptors or mappings than now, or files in it.
func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	before := inUse(t)
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if after := inUse(t); after != before {
			t.Errorf("%d descriptors and mappings of segments are there, %d were before", after, before)
		}
		if left := list(t, path); len(left) > 0 {
			t.Errorf("files are left: %q", left)
		}
	})
	return d
}

func tempDir(t *testing.T) *Dir {
	t.Helper()
	return openDir(t, t.TempDir())
}

// inUse counts descriptors, and mappings that can be of segments.
func inUse(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return len(list(t, "/proc/self/fd")) + strings.Count(string(maps), "/"+Prefix) + strings.Count(string(maps), "/#") +
		strings.Count(string(maps), "memfd:")
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func create(t *testing.T, d *Dir, g Geometry) (*Segment, ID, int) {
	t.Helper()
	s, id, err := Create(t.Context(), d, "feed", g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, id, s.File()
}

// createNamed makes a segment as dialers do that give it a name, and lock it.
func createNamed(t *testing.T, d *Dir, id ID) (path string, fd int) {
	t.Helper()
	path = filepath.Join(d.path, connName("feed", id))
	create0(t, path, oldConn(id))
	t.Cleanup(func() { os.Remove(path) })
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := lock(fd); err != nil {
		t.Fatal(err)
	}
	return path, fd
}

// oldConn is a segment without its listener's name in it.
func oldConn(id ID) []byte {
	b := header(connMagic, ringSize, 0, append([]byte{0, 0, 0, 0}, id[:]...)...)
	return append(b, make([]byte, PageSize+2*ringSize-len(b))...)
}

// dev returns the file system of d.
func (d *Dir) dev(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Dev)
}

func announce(t *testing.T, d *Dir, base string) (*Listener, int) {
	t.Helper()
	l, sock, err := Announce(d, base, named, 0o600, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(sock)
		l.Close()
	})
	return l, sock
}

// needRoot skips what only root can do.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("not root: cannot %s", what)
	}
}

func create0(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts another file into the place of path, and removes it at the end.
func replace(t *testing.T, path string) {
	t.Helper()
	create0(t, path+".new", []byte("another"))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// bindSocket makes a socket that nobody listens on.
func bindSocket(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

func wantAnother(t *testing.T, path string) {
	t.Helper()
	if b, err := os.ReadFile(path); string(b) != "another" {
		t.Errorf("somebody else's file was touched: %q, %v", b, err)
	}
}

func TestParseName(t *testing.T) {
	wd, _ := os.Getwd()
	long := strings.Repeat("n", maxName)
	for _, tt := range []struct {
		env, name string
		dir, base string // dir "" means that it is an error
	}{
		{"", "feed", "/dev/shm", "feed"},
		{"/run/x", "feed", "/run/x", "feed"},
		{"/run/x/", "feed", "/run/x", "feed"},
		{"rel", "feed", "rel", "feed"},
		{"/run/x", "/vol/feed", "/vol", "feed"},
		{"", "/vol/a/feed", "/vol/a", "feed"},
		{"", "/vol//a/../feed", "/vol", "feed"},
		{"", "/feed", "/", "feed"},
		{"", "./feed", ".", "feed"},
		{"", "a/feed", "a", "feed"},
		{"", "../feed", "..", "feed"},
		{"", wd + "/feed", wd, "feed"},
		{"", "/a b@c/feed", "/a b@c", "feed"}, // any directory that there is
		{"", "azAZ09._-", "/dev/shm", "azAZ09._-"},
		{"", "a..b", "/dev/shm", "a..b"},
		{"", "-", "/dev/shm", "-"},
		{"", "_.", "/dev/shm", "_."},
		{"", "0", "/dev/shm", "0"},
		{"", long, "/dev/shm", long},
		{"", "/vol/" + long, "/vol", long},

		{"", "", "", ""},
		{"", "/", "", ""},
		{"", "/vol/", "", ""},
		{"", ".", "", ""},
		{"", "..", "", ""},
		{"", ".feed", "", ""},
		{"", "/vol/.feed", "", ""},
		{"", "/vol/..", "", ""},
		{"", long + "n", "", ""},
		{"", "/vol/" + long + "n", "", ""},
		{"", "feed@sock", "", ""},
		{"", "@", "", ""},
		{"", "fe ed", "", ""},
		{"", "feed\n", "", ""},
		{"", "feed\x00", "", ""},
		{"", "/vol\x00/feed", "", ""},
		{"", "feed:1", "", ""},
		{"", "fééd", "", ""},
		{"", "feed\xff", "", ""},
		{"", "feed*", "", ""},
		{"", "feed\\", "", ""},
		{"", "~", "", ""},
	} {
		t.Run(fmt.Sprintf("%.20q", tt.name), func(t *testing.T) {
			t.Setenv("SHMCONN_DIR", tt.env)
			dir, base, err := ParseName(tt.name)
			if dir != tt.dir || base != tt.base || (err == nil) != (tt.dir != "") {
				t.Errorf("SHMCONN_DIR=%q: ParseName(%q) = %q, %q, %v, want %q, %q", tt.env, tt.name, dir, base, err, tt.dir, tt.base)
			}
		})
	}
}

func TestCheckRingSize(t *testing.T) {
	for _, tt := range []struct {
		n  int
		ok bool
	}{
		{0, false}, {1, false}, {-4096, false}, {PageSize / 2, false}, {PageSize - 1, false}, {PageSize, true},
		{PageSize + 1, false}, {3 * PageSize, false}, {2 * PageSize, true}, {MaxRing / 2, true}, {MaxRing, true},
		{MaxRing + 1, false}, {MaxRing * 3 / 2, false}, {-1 << 31, false},
	} {
		if err := CheckRingSize(tt.n); (err == nil) != tt.ok {
			t.Errorf("CheckRingSize(%d) = %v, want ok %v", tt.n, err, tt.ok)
		}
	}
}

// diff says where got differs from want, a golden copy of format 1 that is not
// to be changed.
func diff(t *testing.T, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// TestGoldenConnection compares every byte of a new connection segment with
// what format 1 says.
func TestGoldenConnection(t *testing.T) {
	for _, g := range []Geometry{named, anonymous} {
		t.Run(fmt.Sprintf("anonymous=%v", g.Anonymous), func(t *testing.T) {
			_, id, fd := create(t, tempDir(t), g)
			if id == (ID{}) {
				t.Error("the id is not random")
			}
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				t.Fatal(err)
			}
			if want := int64(PageSize + 2*ringSize); st.Size != want || st.Blocks*512 < want && !g.Anonymous {
				t.Errorf("%d bytes, of which %d are there, want %d", st.Size, st.Blocks*512, want)
			}
			got := make([]byte, st.Size)
			if err := pread(fd, got); err != nil {
				t.Fatal(err)
			}
			want := make([]byte, len(got))
			e := binary.NativeEndian
			e.PutUint64(want[0:], 0x0a6e6e6f636d6873)
			e.PutUint32(want[8:], 1)
			e.PutUint32(want[12:], uint32(PageSize))
			e.PutUint64(want[16:], ringSize)
			if g.Anonymous {
				e.PutUint32(want[24:], 1)
			}
			copy(want[32:], id[:])
			copy(want[64:], "feed")
			diff(t, got, want)
			if e.Uint16([]byte{1, 0}) == 1 && string(got[:8]) != "shmconn\n" {
				t.Errorf("the file begins with %q", got[:8])
			}
		})
	}
}

// TestGoldenListener does the same with a listener segment.
func TestGoldenListener(t *testing.T) {
	for _, g := range []Geometry{named, anonymous} {
		t.Run(fmt.Sprintf("anonymous=%v", g.Anonymous), func(t *testing.T) {
			d := tempDir(t)
			l, sock, err := Announce(d, "feed", g, 0o600, 8)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			defer unix.Close(sock)
			for range 3 {
				l.Accepted()
			}
			l.Refused()
			got, err := os.ReadFile(filepath.Join(d.path, "shmconn.feed"))
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, PageSize)
			e := binary.NativeEndian
			e.PutUint64(want[0:], 0x0a6e7473696c6873)
			e.PutUint32(want[8:], 1)
			e.PutUint32(want[12:], uint32(PageSize))
			e.PutUint64(want[16:], ringSize)
			if g.Anonymous {
				e.PutUint32(want[24:], 1)
			}
			e.PutUint32(want[28:], uint32(os.Getpid()))
			e.PutUint64(want[64:], 3)
			e.PutUint64(want[72:], 1)
			diff(t, got, want)
			if e.Uint16([]byte{1, 0}) == 1 && string(got[:8]) != "shlistn\n" {
				t.Errorf("the file begins with %q", got[:8])
			}
			info, err := Lookup(d, "feed")
			if want := (Info{g, uint32(os.Geteuid()), os.Getpid(), 3, 1, true, false, d.path + "/shmconn.feed"}); info != want || err != nil {
				t.Errorf("Lookup = %+v, %v, want %+v", info, err, want)
			}
		})
	}
}

// geometries are the kinds of segments that tests map.
var geometries = []Geometry{named, anonymous, {RingSize: PageSize}, {RingSize: PageSize, Anonymous: true}, {RingSize: 1 << 20}}

func (g Geometry) String() string {
	return fmt.Sprintf("ring=%d,anonymous=%v", g.RingSize, g.Anonymous)
}

// TestCreateAttach makes a segment, attaches it, and looks from each mapping,
// and from the file, at what the other one stores.
func TestCreateAttach(t *testing.T) {
	for _, g := range geometries {
		t.Run(g.String(), func(t *testing.T) {
			d := tempDir(t)
			a, id, fd := create(t, d, g)
			if files := list(t, d.path); len(files) > 0 {
				t.Errorf("files: %q", files)
			}
			b, err := Attach(fd, d.dev(t), g, id)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()

			header := func(h, _ []byte) []byte { return h }
			data := func(_, d []byte) []byte { return d }
			for _, tt := range []struct {
				name      string
				a, b      []byte // of ring A or B in each mapping
				off, size int    // in the file
			}{
				{"header of A", header(a.Ring(RingA)), header(b.Ring(RingA)), 512, 512},
				{"header of B", header(a.Ring(RingB)), header(b.Ring(RingB)), 1024, 512},
				{"A", data(a.Ring(RingA)), data(b.Ring(RingA)), PageSize, g.RingSize},
				{"B", data(a.Ring(RingB)), data(b.Ring(RingB)), PageSize + g.RingSize, g.RingSize},
			} {
				if len(tt.a) != tt.size || len(tt.b) != tt.size || cap(tt.a) != tt.size && tt.size > 512 {
					t.Fatalf("%s has %d and %d bytes, want %d", tt.name, len(tt.a), len(tt.b), tt.size)
				}
				for i, at := range []int{0, 1, tt.size / 2, tt.size - 1} {
					tt.a[at] = byte(0x10 + i)
					tt.b[at] ^= 0x80 // at the other end
					want := byte(0x90 + i)
					var file [1]byte
					if _, err := unix.Pread(fd, file[:], int64(tt.off+at)); err != nil {
						t.Fatal(err)
					}
					for where, got := range map[string]byte{
						"in the file": file[0], "at one end": tt.a[at], "at the other end": tt.b[at],
					} {
						if got != want {
							t.Errorf("byte %d of %s is %#x %s, want %#x", at, tt.name, got, where, want)
						}
					}
				}
			}

			for _, s := range []*Segment{a, b} {
				first := reflect.ValueOf(s.mem).Pointer()
				wantHolds(t, s, false, 0, ^uintptr(0))
				if doubles() { // if not, there is a mirror, perhaps next to it
					wantHolds(t, s, false, first-1, first+uintptr(len(s.mem)))
				}
				wantHolds(t, s, true, first, first+uintptr(PageSize+2*g.RingSize-1))
			}
			if b.Linked() {
				t.Error("it is said to have a name")
			}
			b.Close()
			if b.Holds(0) || b.Holds(^uintptr(0)) {
				t.Error("a closed segment holds addresses")
			}
			data(a.Ring(RingA))[0] = 1 // the other end goes on
		})
	}
}

func wantHolds(t *testing.T, s *Segment, want bool, addrs ...uintptr) {
	t.Helper()
	for _, addr := range addrs {
		if s.Holds(addr) != want {
			t.Errorf("Holds(first%+d) = %v", int64(addr-reflect.ValueOf(s.mem).Pointer()), !want)
		}
	}
}

// TestMirror stores over the end of each ring at both ends, and counts what is
// mapped: the whole once, and a mirror when it is asked for. There is no
// descriptor any more when that happens.
func TestMirror(t *testing.T) {
	for _, g := range geometries {
		t.Run(g.String(), func(t *testing.T) {
			before := mapped(t)
			d := tempDir(t)
			a, id, fd := create(t, d, g)
			b, err := Attach(fd, d.dev(t), g, id)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			a.forget()
			wantMapped := func(n int) {
				t.Helper()
				if !doubles() {
					t.Logf("not counted: the mappings; mremap makes none here")
				} else if got := mapped(t) - before; got != n {
					t.Errorf("%d mappings, want %d", got, n)
				}
			}
			wantMapped(2)
			half := max(g.RingSize/2, PageSize)
			for i, r := range []Ring{RingB, RingA} {
				_, here := a.Ring(r)
				_, there := b.Ring(r)
				copy(here[g.RingSize-3:], "abc")
				copy(here, "def")
				m, err := a.Mirror(r)
				if err != nil {
					t.Fatal(err)
				}
				wantMapped([]int{3, 5}[i]) // one more for B, two for A
				if len(m) != 2*half || cap(m) != len(m) || string(m[half-3:][:6]) != "abcdef" {
					t.Fatalf("ring %d has a mirror of %d bytes, with %q in the middle", r, len(m), m[half-3:][:6])
				}
				copy(m[half-3:], "ghijkl") // over the end of the ring at once
				if got := string(there[g.RingSize-3:]) + string(there[:3]); got != "ghijkl" {
					t.Errorf("ring %d at the other end: %q", r, got)
				}
				m[0], m[len(m)-1] = 'x', 'y'
				if there[g.RingSize-half] != 'x' && g.RingSize > half || there[half-1] != 'y' {
					t.Errorf("ring %d: its mirror begins or ends elsewhere", r)
				}
				if again, err := a.Mirror(r); err != nil || &again[0] != &m[0] {
					t.Errorf("the second Mirror(%d): another one, %v", r, err)
				}
				first := reflect.ValueOf(m).Pointer()
				wantHolds(t, a, true, first, first+uintptr(len(m)-1))
			}
			wantMapped(5)
			b.Mirror(RingA) // which the kernel may join with the other end's
			b.Mirror(RingB)
			b.Close()
			wantMapped(4)
			a.Close()
			wantMapped(0)
			if a.Holds(0) || a.Holds(^uintptr(0)) {
				t.Error("a closed segment holds addresses")
			}
		})
	}
}

// mapped counts the mappings that can be of segments.
func mapped(t *testing.T) int {
	t.Helper()
	return inUse(t) - len(list(t, "/proc/self/fd"))
}

// TestNames checks that the names of segments are removed, where they have one,
// and not those of others.
func TestNames(t *testing.T) {
	t.Run("RemoveName", func(t *testing.T) {
		d := tempDir(t)
		id := ID{1, 2}
		_, fd := createNamed(t, d, id)
		s, err := Attach(fd, d.dev(t), named, id)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if !s.Linked() {
			t.Error("it is not said to have a name")
		}
		RemoveName(d, "feed", id, fd)
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("files: %q", left)
		}
	})
	t.Run("Abandon", func(t *testing.T) {
		d := tempDir(t)
		s, _, _ := create(t, d, named)
		var spans [][]byte
		for _, r := range []Ring{RingA, RingB} {
			_, span := s.Ring(r)
			span[0], span[ringSize-1] = 1, 1
			mirror, err := s.Mirror(r)
			if err != nil {
				t.Fatal(err)
			}
			spans = append(spans, span, mirror)
		}
		s.Abandon()
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("files: %q", left)
		}
		for i, span := range spans {
			if !bytes.Equal(span, make([]byte, len(span))) {
				t.Errorf("abandoned span %d is not zero", i)
			}
		}
		spans[0][ringSize-1] = 1 // is nobody's any more
		if m := spans[1]; m[len(m)/2-1] != 0 {
			t.Error("an abandoned span is still mirrored")
		}
	})
	t.Run("RemoveName after another has the name", func(t *testing.T) {
		d := tempDir(t)
		path, fd := createNamed(t, d, ID{1})
		replace(t, path)
		RemoveName(d, "feed", ID{1}, fd)
		wantAnother(t, path)
	})
	t.Run("ids", func(t *testing.T) {
		d := tempDir(t)
		_, a, _ := create(t, d, named)
		_, b, _ := create(t, d, named)
		if a == b {
			t.Error("two segments have the same id")
		}
	})
}

// TestAttachRefuses hands over what an acceptor must not map.
func TestAttachRefuses(t *testing.T) {
	poke := func(off int, b ...byte) func(t *testing.T, fd int) int {
		return func(t *testing.T, fd int) int {
			if _, err := unix.Pwrite(fd, b, int64(off)); err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	size := func(n int) func(t *testing.T, fd int) int {
		return func(t *testing.T, fd int) int {
			if err := unix.Ftruncate(fd, int64(n)); err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	// instead hands over what f returns, and not the segment.
	instead := func(f func() (int, error)) func(t *testing.T, fd int) int {
		return func(t *testing.T, _ int) int {
			fd, err := f()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			return fd
		}
	}
	again := func(flags int) func(t *testing.T, fd int) int {
		return func(t *testing.T, fd int) int {
			return instead(func() (int, error) {
				return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC, 0)
			})(t, fd)
		}
	}
	socket := func(typ int) func(t *testing.T, fd int) int {
		return instead(func() (int, error) { return unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0) })
	}
	// memory returns a copy of the segment in memory with other seals.
	memory := func(add int) func(t *testing.T, fd int) int {
		return func(t *testing.T, fd int) int {
			b := make([]byte, PageSize+2*ringSize)
			if err := pread(fd, b); err != nil {
				t.Fatal(err)
			}
			return instead(func() (int, error) {
				fd, err := unix.MemfdCreate("copy", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
				if err != nil {
					return -1, err
				}
				if _, err := unix.Write(fd, b); err != nil {
					return fd, err
				}
				_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, add)
				return fd, err
			})(t, fd)
		}
	}
	disk := func(t *testing.T, fd int) int {
		return instead(func() (int, error) {
			path := filepath.Join(t.TempDir(), "copy")
			b := make([]byte, PageSize+2*ringSize)
			if err := pread(fd, b); err != nil {
				return -1, err
			}
			create0(t, path, b)
			return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		})(t, fd)
	}
	whole := PageSize + 2*ringSize
	type kind struct {
		name string
		make func(t *testing.T, fd int) int
		want string // in the error's text
	}
	both := []kind{
		{"no magic number", poke(0, 0), "magic"},
		{"a listener's magic number", poke(0, []byte("shlistn\n")...), "magic"},
		{"version 0", poke(8, 0, 0, 0, 0), "version 0, this is version 1"},
		{"version 2", poke(8, 2, 2, 2, 2), fmt.Sprintf("version %d, this is version 1", 0x02020202)},
		{"another header size", poke(12, 1), "geometry"},
		{"another ring size", poke(16, 1), "geometry"},
		{"another ring size, in the high word", poke(20, 1), "geometry"},
		{"other flags", poke(24, 0x82), "geometry"},
		{"another id", func(t *testing.T, fd int) int {
			last := make([]byte, 1) // of the id, which is random
			if _, err := unix.Pread(fd, last, 47); err != nil {
				t.Fatal(err)
			}
			return poke(47, last[0]^1)(t, fd)
		}, "id"},
		{"a directory", instead(func() (int, error) { return unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0) }), "regular"},
		{"a device", instead(func() (int, error) { return unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0) }), "regular"},
		{"a stream socket", socket(unix.SOCK_STREAM), "regular"},
		{"a datagram socket", socket(unix.SOCK_DGRAM), "regular"},
		{"a pipe", instead(func() (int, error) {
			var fd [2]int
			err := unix.Pipe2(fd[:], unix.O_CLOEXEC)
			unix.Close(fd[1])
			return fd[0], err
		}), "regular"},
		{"nothing", func(*testing.T, int) int { return -1 }, "cannot be examined"},
		{"an opening to read", again(unix.O_RDONLY), "mmap"},
		{"an opening to write", again(unix.O_WRONLY), "cannot be read"},
		{"an opening to do nothing", again(unix.O_PATH), ""},
	}
	for _, tt := range []struct {
		g     Geometry
		kinds []kind
	}{
		{named, append([]kind{
			{"nothing in it", size(0), fmt.Sprintf("0 bytes, not %d", whole)},
			{"a byte less", size(whole - 1), fmt.Sprintf("%d bytes, not %d", whole-1, whole)},
			{"a byte more", size(whole + 1), "bytes"},
			{"a page less", size(whole - PageSize), "bytes"},
			{"a ring more", size(whole + ringSize), "bytes"},
			{"memory without seals", memory(0), "file system"},
			{"memory that could be cut", memory(unix.F_SEAL_GROW | unix.F_SEAL_SEAL), "file system"},
			{"memory that could lose its seals", memory(unix.F_SEAL_SHRINK | unix.F_SEAL_GROW), "file system"},
		}, both...)},
		{anonymous, append([]kind{
			{"no seals", memory(0), "sealed"},
			{"a seal against growing", memory(unix.F_SEAL_GROW | unix.F_SEAL_SEAL), "sealed"},
			{"a seal against shrinking", memory(unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL), "sealed"},
			{"no seal against seals", memory(unix.F_SEAL_SHRINK | unix.F_SEAL_GROW), "sealed"},
			{"a seal against writing", memory(seals | unix.F_SEAL_WRITE), "mmap"},
			{"a file", disk, "sealed"},
		}, both...)},
	} {
		for _, k := range tt.kinds {
			t.Run(fmt.Sprintf("anonymous=%v/%s", tt.g.Anonymous, strings.ReplaceAll(k.name, " ", "_")), func(t *testing.T) {
				d := tempDir(t)
				_, id, fd := create(t, d, tt.g)
				got := k.make(t, fd)
				before := inUse(t)
				s, err := Attach(got, d.dev(t), tt.g, id)
				if err == nil {
					s.Close()
					t.Fatal("Attach took it")
				}
				if !strings.Contains(err.Error(), k.want) {
					t.Errorf("Attach: %v, want it to say %q", err, k.want)
				}
				if after := inUse(t); after != before {
					t.Errorf("%d descriptors and mappings, %d before", after, before)
				}
			})
		}
	}

	t.Run("sealed memory in the place of a file", func(t *testing.T) { // is what a dialer has that may make none
		d := tempDir(t)
		_, id, fd := create(t, d, named)
		s, err := Attach(memory(seals)(t, fd), d.dev(t)+1, named, id)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
	t.Run("another kind than the listener's", func(t *testing.T) {
		d := tempDir(t)
		_, id, fd := create(t, d, named)
		if s, err := Attach(fd, d.dev(t), anonymous, id); err == nil {
			s.Close()
			t.Error("an anonymous listener took a file")
		}
		_, id, fd = create(t, d, anonymous)
		if s, err := Attach(fd, d.dev(t), named, id); err == nil {
			s.Close()
			t.Error("a listener of files took memory that says it is of an anonymous one's")
		}
	})
	t.Run("another file system", func(t *testing.T) {
		d := mustOpen(t, t.TempDir())
		shm := shmDir(t)
		if d.dev(t) == shm.dev(t) {
			t.Skip("the temporary directory is on /dev/shm's file system")
		}
		_, id, fd := create(t, shm, named)
		s, err := Attach(fd, d.dev(t), named, id)
		if err == nil {
			s.Close()
			t.Fatal("Attach took it")
		}
		if !strings.Contains(err.Error(), "file system") {
			t.Errorf("Attach: %v", err)
		}
	})
}

// shmDir opens a directory of the test's own in /dev/shm.
func shmDir(t *testing.T) *Dir {
	t.Helper()
	path, err := os.MkdirTemp(DefaultDir, "shmconn-test-")
	if err != nil {
		t.Skipf("no directory can be made in %s: %v", DefaultDir, err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	return openDir(t, path)
}

// smallDir mounts a file system of size bytes.
func smallDir(t *testing.T, size int) *Dir {
	t.Helper()
	path := t.TempDir()
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return openDir(t, path)
}

// TestNoRoom makes segments where there is no room for them.
func TestNoRoom(t *testing.T) {
	need := PageSize + 2*ringSize
	wantNoRoom := func(t *testing.T, d *Dir, err error, need int) {
		t.Helper()
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf(" %d bytes", need)) {
			t.Errorf("got %v, want ENOSPC and that %d bytes are needed", err, need)
		}
	}
	t.Run("connection", func(t *testing.T) {
		d := smallDir(t, need-PageSize)
		for range 3 {
			before := inUse(t)
			_, _, err := Create(t.Context(), d, "feed", named)
			wantNoRoom(t, d, err, need)
			if after := inUse(t); after != before {
				t.Errorf("%d descriptors and mappings, %d before", after, before)
			}
			if left := list(t, d.path); len(left) > 0 {
				t.Errorf("files: %q", left)
			}
		}
		create(t, d, anonymous) // needs no room there
	})
	t.Run("the second connection", func(t *testing.T) {
		d := smallDir(t, 2*need-PageSize)
		s, _, _ := create(t, d, named)
		_, _, err := Create(t.Context(), d, "feed", named)
		wantNoRoom(t, d, err, need)
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("files: %q", left)
		}
		s.Close()
		create(t, d, named)
	})
	t.Run("listener", func(t *testing.T) {
		d := smallDir(t, need)
		s, _, _ := create(t, d, named)
		if l, sock, err := Announce(d, "feed", named, 0o600, 8); err == nil {
			unix.Close(sock)
			l.Close()
			t.Error("there was room for a listener")
		} else {
			wantNoRoom(t, d, err, PageSize)
		}
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("files: %q", left)
		}
		s.Close()
		announce(t, d, "feed")
	})
}

// TestAnnounce looks at the files of a listener.
func TestAnnounce(t *testing.T) {
	for _, tt := range []struct{ mode, page, sock fs.FileMode }{
		{0o600, 0o600, 0o600},
		{0o660, 0o640, 0o660},
		{0o666, 0o644, 0o666},
		{0o777, 0o644, 0o666},
		{0o400, 0o600, 0o400},
		{0o620, 0o600, 0o620},
	} {
		t.Run(fmt.Sprintf("mode=%#o", tt.mode), func(t *testing.T) {
			defer unix.Umask(unix.Umask(0o077))
			d := tempDir(t)
			l, sock, err := Announce(d, "feed", named, tt.mode, 8)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			defer unix.Close(sock)
			if got := list(t, d.path); !slices.Equal(got, []string{"shmconn.feed", "shmconn.feed@sock"}) {
				t.Errorf("files: %q", got)
			}
			for name, want := range map[string]fs.FileMode{"shmconn.feed": tt.page, "shmconn.feed@sock": tt.sock | fs.ModeSocket} {
				info, err := os.Lstat(filepath.Join(d.path, name))
				if err != nil || info.Mode() != want {
					t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
				}
			}
			if tt.mode&0o200 != 0 || os.Geteuid() == 0 { // or its own user may not
				connect(t, d, "feed")
			}
			unix.Close(sock)
			l.Close()
			l.Close()
			if got := list(t, d.path); len(got) > 0 {
				t.Errorf("after Close: %q", got)
			}
		})
	}
}

// connect fails unless somebody listens on the socket of base.
func connect(t *testing.T, d *Dir, base string) {
	t.Helper()
	sock, err := d.OpenSocket(base)
	if err != nil {
		t.Error(err)
		return
	}
	defer sock.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: sock.Address()}); err != nil {
		t.Errorf("connect: %v", err)
	}
}

// TestLongPath listens in a directory whose path is too long for a socket's
// address.
func TestLongPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	base := strings.Repeat("n", maxName)
	d := openDir(t, path)
	announce(t, d, base)
	connect(t, d, base)
}

// TestInUse announces a name that somebody has.
func TestInUse(t *testing.T) {
	d := tempDir(t)
	l, _ := announce(t, d, "feed")
	l.Accepted()
	before, err := Lookup(d, "feed")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		start := time.Now()
		l2, sock, err := Announce(d, "feed", anonymous, 0o666, 8)
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Announce: %v, want EADDRINUSE", err)
		}
		if err == nil {
			unix.Close(sock)
			l2.Close()
		}
		// A child between fork and exec may have the lock for a while.
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Errorf("it was given up after %v", took)
		}
	}
	if after, err := Lookup(d, "feed"); after != before || err != nil {
		t.Errorf("Lookup = %+v, %v, want %+v", after, err, before)
	}
	connect(t, d, "feed")
	announce(t, d, "feed2")
	announce(t, d, "fee")
}

// TestAnnounceRace announces and closes the same name in many goroutines. There
// is never more than one that has it, and what the last one leaves is nothing.
func TestAnnounceRace(t *testing.T) {
	d := tempDir(t)
	var holders, wins atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for wins.Load() < 300 {
				l, sock, err := Announce(d, "feed", named, 0o600, 8)
				if err != nil {
					if !errors.Is(err, syscall.EADDRINUSE) {
						t.Errorf("Announce: %v", err)
						return
					}
					continue
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d have the name", n)
				}
				wins.Add(1)
				if _, err := Lookup(d, "feed"); err != nil {
					t.Errorf("who has the name does not find it: %v", err)
				}
				connect(t, d, "feed")
				holders.Add(-1)
				unix.Close(sock)
				l.Close()
			}
		})
	}
	wg.Wait()
}

// TestStale takes over what a listener that died has left, or what is in its
// place.
func TestStale(t *testing.T) {
	// file writes what a listener has left, cut or made longer to n bytes.
	file := func(n int, b []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { create0(t, path, append(b, make([]byte, n)...)[:n]) }
	}
	page := file(PageSize, header(listenerMagic, 2*ringSize, 1, bytes.Repeat([]byte("garbage"), 50)...))
	for _, tt := range []struct {
		name string
		page func(*testing.T, string)
		sock func(*testing.T, string)
	}{
		{"page", page, nil},
		{"socket", nil, bindSocket},
		{"page and socket", page, bindSocket},
		{"an empty page", file(0, nil), nil},
		{"a page of zeros", file(PageSize, nil), nil},
		{"a page without its magic number", file(PageSize, header(0, 2*ringSize, 1, 1, 2, 3, 4)), nil},
		{"a page of another version", file(PageSize, binary.NativeEndian.AppendUint64(nil, listenerMagic)), nil},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := tempDir(t)
			path := filepath.Join(d.path, "shmconn.feed")
			if tt.page != nil {
				tt.page(t, path)
			}
			if tt.sock != nil {
				tt.sock(t, path+"@sock")
			}
			announce(t, d, "feed")
			info, err := Lookup(d, "feed")
			if want := (Info{named, uint32(os.Geteuid()), os.Getpid(), 0, 0, true, false, path}); info != want || err != nil {
				t.Errorf("Lookup = %+v, %v, want %+v", info, err, want)
			}
			if st, err := os.Stat(path); err != nil || st.Size() != int64(PageSize) || st.Mode() != 0o600 {
				t.Errorf("the page: %v, %v", st, err)
			}
			connect(t, d, "feed")
		})
	}
}

// TestNotTakenOver announces names where files are that are not a listener's.
func TestNotTakenOver(t *testing.T) {
	live := filepath.Join(t.TempDir(), "live")
	program, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"a symbolic link", func(path string) error {
			return errors.Join(os.WriteFile(path+".target", []byte("another"), 0o600), os.Symlink(path+".target", path))
		}},
		{"a symbolic link to nothing", func(path string) error { return os.Symlink(path+".target", path) }},
		{"a fifo", func(path string) error { return unix.Mkfifo(path, 0o600) }}, // which must not block
		{"somebody's data", func(path string) error { return os.WriteFile(path, []byte("another"), 0o640) }},
		{"data of a page", func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("another\n"), PageSize/8), 0o640)
		}},
		{"data that begins with zeros", func(path string) error {
			return os.WriteFile(path, append(make([]byte, PageSize-1), 1), 0o640)
		}},
		{"more zeros than a page", func(path string) error { return os.WriteFile(path, make([]byte, PageSize+1), 0o640) }},
		{"a page that is ours at first", func(path string) error {
			return os.WriteFile(path, append(header(0, ringSize, 0), bytes.Repeat([]byte{1}, PageSize-28)...), 0o640)
		}},
		{"another program's socket", func(path string) error { return os.Rename(live, path+"@sock") }},
		{"a file that others can write", func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("another"), 0o600), os.Chmod(path, 0o602))
		}},
		{"a file that the group can write", func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("another"), 0o600), os.Chmod(path, 0o660))
		}},
		{"a socket", func(path string) error { bindSocket(t, path); return nil }},
		{"a directory for the socket", func(path string) error { return os.Mkdir(path+"@sock", 0o700) }},
		{"a file for the socket", func(path string) error { return os.WriteFile(path+"@sock", []byte("another"), 0o600) }},
		{"a fifo for the socket", func(path string) error { return unix.Mkfifo(path+"@sock", 0o600) }},
		{"a symbolic link for the socket", func(path string) error { return os.Symlink(path+".target", path+"@sock") }},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := tempDir(t)
			path := filepath.Join(d.path, "shmconn.feed")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			before := list(t, d.path)
			read := func() (b []byte) {
				if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
					b, _ = os.ReadFile(path)
				}
				return b
			}
			content := read()
			var st, after unix.Stat_t
			unix.Lstat(path, &st)
			l, sock, err := Announce(d, "feed", named, 0o600, 8)
			if err == nil {
				unix.Close(sock)
				l.Close()
				t.Error("it was taken over")
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("%v: which file?", err)
			}
			if _, err := RemoveListener(d, "feed", false); err == nil {
				t.Error("it was removed")
			}
			unix.Lstat(path, &after)
			if got := read(); !bytes.Equal(got, content) || after.Mode != st.Mode || after.Ino != st.Ino {
				t.Errorf("it was changed: mode %o, was %o", after.Mode, st.Mode)
			}
			if got := list(t, d.path); !slices.Equal(got, before) {
				t.Errorf("files: %q, before: %q", got, before)
			}
			if b, err := os.ReadFile(path + ".target"); err == nil && string(b) != "another" {
				t.Errorf("what the link points to was changed to %q", b)
			}
			for _, name := range before {
				os.Remove(filepath.Join(d.path, name))
			}
		})
	}
}

// TestSomebodyElses announces names whose files another user has.
func TestSomebodyElses(t *testing.T) {
	needRoot(t, "make files of another user")
	for _, which := range []string{"", "@sock"} {
		t.Run("shmconn.feed"+which, func(t *testing.T) {
			d := tempDir(t)
			path := filepath.Join(d.path, "shmconn.feed"+which)
			create0(t, path, []byte("another"))
			defer os.Remove(path)
			if err := os.Chown(path, somebody, somebody); err != nil {
				t.Fatal(err)
			}
			l, sock, err := Announce(d, "feed", named, 0o600, 8)
			if err == nil {
				unix.Close(sock)
				l.Close()
			}
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Announce: %v, want fs.ErrPermission", err)
			}
			wantAnother(t, path)
			if got := list(t, d.path); len(got) != 1 {
				t.Errorf("files: %q", got)
			}
		})
	}
	t.Run("in use", func(t *testing.T) {
		d := tempDir(t)
		announce(t, d, "feed")
		if err := os.Chown(filepath.Join(d.path, "shmconn.feed"), somebody, somebody); err != nil {
			t.Fatal(err)
		}
		l, sock, err := Announce(d, "feed", named, 0o600, 8)
		if err == nil {
			unix.Close(sock)
			l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Announce: %v, want EADDRINUSE", err)
		}
		if info, err := Lookup(d, "feed"); info.UID != somebody || err != nil {
			t.Errorf("Lookup = %+v, %v", info, err)
		}
	})
}

// TestSweep checks what goes when a name is taken: the caller's own segments
// that nobody has locked, and sockets that were not ready, of this very name.
func TestSweep(t *testing.T) {
	d := tempDir(t)
	id := strings.Repeat("0123456789abcdef", 2)
	write := func(name string, b []byte) string {
		path := filepath.Join(d.path, name)
		create0(t, path, b)
		t.Cleanup(func() { os.Remove(path) })
		return name
	}
	make := func(name string) string { return write(name, oldConn(ID{7})) }
	var want, gone []string
	gone = append(gone, make("shmconn.feed@"+id), make("shmconn.feed@"+strings.Repeat("f", 32)),
		write("shmconn.feed@"+strings.Repeat("1", 32), nil), // its dialer died before it was more
		write("shmconn.feed@"+strings.Repeat("2", 32), bytes.Repeat([]byte{0}, PageSize+2*ringSize)))
	want = append(want, // is something else
		write("shmconn.feed@"+strings.Repeat("3", 32), []byte("x")),
		write("shmconn.feed@"+strings.Repeat("4", 32), append(bytes.Repeat([]byte{0}, 100), 'x')))
	want = append(want,
		make("shmconn.feed2@"+id),
		make("shmconn.fee@"+id),
		make("shmconn.feed.@"+id),
		make("shmconn.feed@"+id[1:]),
		make("shmconn.feed@"+id+"0"),
		make("shmconn.feed@"+strings.ToUpper(id)),
		make("shmconn.feed@"+strings.Repeat("g", 32)),
		make("shmconn.feed@"),
		make("feed@"+id),
		make("shmconn.feed"+id),
	)
	locked, _ := createNamed(t, d, ID{9})
	want = append(want, filepath.Base(locked))
	link := "shmconn.feed@" + strings.Repeat("a", 32)
	if err := os.Symlink(make("target"), filepath.Join(d.path, link)); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(d.path, link))
	want = append(want, link, "target")
	if os.Geteuid() == 0 {
		other := make("shmconn.feed@" + strings.Repeat("b", 32))
		if err := os.Chown(filepath.Join(d.path, other), somebody, somebody); err != nil {
			t.Fatal(err)
		}
		want = append(want, other)
	} else {
		t.Log("not root: no segment of another user among them")
	}
	socket := func(name string) string {
		path := filepath.Join(d.path, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		t.Cleanup(func() { os.Remove(path) })
		return name
	}
	gone = append(gone, socket(draftPrefix("feed")+"0123456789abcdef"))
	want = append(want,
		socket(draftPrefix("feed2")+"0123456789abcdef"),
		socket(draftPrefix("feed")+"0123456789abcdef0"),
		socket(draftPrefix("feed")+"0123456789abcdeF"),
		make(draftPrefix("feed")+"1123456789abcdef"))
	announce(t, d, "feed")
	got := list(t, d.path)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s is gone", name)
		}
	}
	for _, name := range gone {
		if slices.Contains(got, name) {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestRestore removes a listener's files.
func TestRestore(t *testing.T) {
	for _, tt := range []struct {
		name    string
		removed []string
	}{
		{"nothing", nil},
		{"the page", []string{"shmconn.feed"}},
		{"the socket", []string{"shmconn.feed@sock"}},
		{"both", []string{"shmconn.feed", "shmconn.feed@sock"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := tempDir(t)
			l, _ := announce(t, d, "feed")
			l.Accepted()
			l.Accepted()
			l.Refused()
			before, err := Lookup(d, "feed")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				for _, name := range tt.removed {
					if err := os.Remove(filepath.Join(d.path, name)); err != nil {
						t.Fatal(err)
					}
				}
				sock, err := l.Restore()
				if err != nil || (sock >= 0) != (len(tt.removed) > 0) {
					t.Fatalf("Restore = %d, %v", sock, err)
				}
				if sock >= 0 {
					defer unix.Close(sock)
				}
				if again, err := l.Restore(); again >= 0 || err != nil {
					t.Errorf("Restore again = %d, %v", again, err)
				}
				if after, err := Lookup(d, "feed"); after != before || err != nil {
					t.Errorf("Lookup = %+v, %v, want %+v", after, err, before)
				}
				connect(t, d, "feed")
				if l, sock, err := Announce(d, "feed", named, 0o600, 8); !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("Announce: %v, want EADDRINUSE", err)
					if err == nil {
						unix.Close(sock)
						l.Close()
					}
				}
			}
			l.Accepted()
			if info, err := Lookup(d, "feed"); info.Accepted != 3 || info.Refused != 1 || err != nil {
				t.Errorf("Lookup = %+v, %v, want 3 accepted and 1 refused", info, err)
			}
			l.Close()
			if got := list(t, d.path); len(got) > 0 {
				t.Errorf("after Close: %q", got)
			}
		})
	}
	t.Run("replaced", func(t *testing.T) { // by files of the same user, which nobody has locked
		d := tempDir(t)
		l, _ := announce(t, d, "feed")
		path := filepath.Join(d.path, "shmconn.feed")
		replace(t, path)
		for range 2 {
			if sock, err := l.Restore(); sock >= 0 || err == nil || !strings.Contains(err.Error(), path) {
				t.Fatalf("Restore = %d, %v", sock, err)
			}
			wantAnother(t, path)
		}
		create0(t, path, nil) // nobody's data any more
		os.Remove(filepath.Join(d.path, "shmconn.feed@sock"))
		bindSocket(t, filepath.Join(d.path, "shmconn.feed@sock"))
		sock, err := l.Restore()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(sock)
		if _, err := Lookup(d, "feed"); err != nil {
			t.Error(err)
		}
		connect(t, d, "feed")
	})
	t.Run("the directory is gone", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		d := openDir(t, path)
		l, _ := announce(t, d, "feed")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if sock, err := l.Restore(); sock >= 0 || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Restore = %d, %v, want fs.ErrNotExist", sock, err)
			}
		}
		l.Accepted() // must not crash
	})
	t.Run("somebody has the name", func(t *testing.T) {
		d := tempDir(t)
		l, _ := announce(t, d, "feed")
		for _, name := range list(t, d.path) {
			os.Remove(filepath.Join(d.path, name))
		}
		l2, sock2 := announce(t, d, "feed")
		if sock, err := l.Restore(); sock >= 0 || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Restore = %d, %v, want EADDRINUSE", sock, err)
		}
		connect(t, d, "feed")
		if sock, err := l2.Restore(); sock >= 0 || err != nil {
			t.Errorf("the other one's Restore = %d, %v", sock, err)
		}
		unix.Close(sock2)
		l2.Close()
		// And when it is free again:
		sock, err := l.Restore()
		if err != nil || sock < 0 {
			t.Fatalf("Restore = %d, %v", sock, err)
		}
		unix.Close(sock)
		l.Close()
	})
	t.Run("somebody has the name at Close", func(t *testing.T) {
		d := tempDir(t)
		l, _ := announce(t, d, "feed")
		for _, name := range list(t, d.path) {
			os.Remove(filepath.Join(d.path, name))
		}
		announce(t, d, "feed")
		l.Restore()
		l.Close()
		if _, err := Lookup(d, "feed"); err != nil {
			t.Error(err)
		}
		connect(t, d, "feed")
	})
}

// TestCloseOwnOnly closes a listener whose names others have taken.
func TestCloseOwnOnly(t *testing.T) {
	for _, name := range []string{"shmconn.feed", "shmconn.feed@sock"} {
		t.Run(name, func(t *testing.T) {
			d := tempDir(t)
			l, sock, err := Announce(d, "feed", named, 0o600, 8)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.path, name)
			replace(t, path)
			unix.Close(sock)
			l.Close()
			wantAnother(t, path)
			if got := list(t, d.path); !slices.Equal(got, []string{name}) {
				t.Errorf("files: %q", got)
			}
		})
	}
}

// TestLookup looks up what is not a listener segment.
func TestLookup(t *testing.T) {
	// changed is a listener segment in which something is different.
	changed := func(off int, b ...byte) func(t *testing.T, path string) error {
		return func(t *testing.T, path string) error {
			page := make([]byte, PageSize)
			e := binary.NativeEndian
			e.PutUint64(page, listenerMagic)
			e.PutUint32(page[8:], Version)
			e.PutUint32(page[12:], uint32(PageSize))
			e.PutUint64(page[16:], ringSize)
			copy(page[off:], b)
			return os.WriteFile(path, page, 0o600)
		}
	}
	word := func(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }
	content := func(b []byte) func(t *testing.T, path string) error {
		return func(t *testing.T, path string) error { return os.WriteFile(path, b, 0o600) }
	}
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string) error
		is   error
		text string
	}{
		{"ok", changed(PageSize), nil, ""},
		{"absent", func(*testing.T, string) error { return nil }, fs.ErrNotExist, ""},
		{"empty", content(nil), ErrNoListener, ""},
		{"a byte", content([]byte("s")), ErrNoListener, ""},
		{"short", content([]byte("shlistn\n\x01\x00\x00\x00")), ErrNoListener, ""},
		{"zeros", content(make([]byte, PageSize)), ErrNoListener, ""},
		{"being made", changed(0, make([]byte, 8)...), ErrNoListener, ""},
		{"garbage", content(bytes.Repeat([]byte("garbage!"), PageSize)), nil, "not a listener segment"},
		{"a connection segment", changed(0, []byte("shmconn\n")...), nil, "not a listener segment"},
		{"version 2", changed(8, 2, 0, 0, 0), nil, "version 2, this is version 1"},
		{"version 0", changed(8, 0, 0, 0, 0), nil, "version 0, this is version 1"},
		{"no header", changed(12, 0, 0, 0, 0), nil, "header of 0"},
		{"another header size", changed(12, 1), nil, "header of"},
		{"no ring", changed(16, word(0)...), nil, "rings of 0 bytes"},
		{"a ring of 3 pages", changed(16, word(uint64(3*PageSize))...), nil, "rings of"},
		{"a ring of half a page", changed(16, word(uint64(PageSize/2))...), nil, "rings of"},
		{"a ring of 2 GiB", changed(16, word(1<<31)...), nil, "rings of 2147483648"},
		{"a ring of half of everything", changed(16, word(1<<63)...), nil, "rings of 9223372036854775808"},
		{"a ring of everything", changed(16, word(1<<64-1)...), nil, "rings of 18446744073709551615"},
		{"an unknown flag", changed(24, 2, 0, 0, 0), nil, "rings of"},
		{"a fifo", func(t *testing.T, path string) error { return unix.Mkfifo(path, 0o600) }, nil, "regular"},
		{"a directory", func(t *testing.T, path string) error { return os.Mkdir(path, 0o700) }, nil, "regular"},
		{"a symbolic link", func(t *testing.T, path string) error {
			target := filepath.Join(t.TempDir(), "target")
			return errors.Join(changed(PageSize)(t, target), os.Symlink(target, path))
		}, syscall.ELOOP, ""},
		{"a socket", func(t *testing.T, path string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
		}, syscall.ENXIO, ""},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := tempDir(t)
			path := filepath.Join(d.path, "shmconn.feed")
			if err := tt.make(t, path); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
			info, err := Lookup(d, "feed")
			switch {
			case tt.is == nil && tt.text == "":
				if want := (Info{Geometry: named, UID: uint32(os.Geteuid()), Path: path}); info != want || err != nil {
					t.Errorf("Lookup = %+v, %v, want %+v", info, err, want)
				}
			case err == nil:
				t.Errorf("Lookup = %+v, nil", info)
			case tt.is != nil && !errors.Is(err, tt.is):
				t.Errorf("Lookup: %v, want %v", err, tt.is)
			case tt.is == nil && errors.Is(err, ErrNoListener):
				t.Errorf("Lookup: %v, want another error", err)
			case !strings.Contains(err.Error(), tt.text):
				t.Errorf("Lookup: %v, want it to say %q", err, tt.text)
			}
		})
	}
}

// TestOpenDir opens what is not a directory.
func TestOpenDir(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	create0(t, file, nil)
	for path, want := range map[string]error{
		filepath.Join(dir, "absent"): fs.ErrNotExist,
		file:                         syscall.ENOTDIR,
		file + "/x":                  syscall.ENOTDIR,
	} {
		if d, err := OpenDir(path); !errors.Is(err, want) {
			t.Errorf("OpenDir(%s): %v, want %v", path, err, want)
			if err == nil {
				d.Close()
			}
		}
	}
	t.Chdir(dir)
	d := mustOpen(t, ".")
	if d.path != dir {
		t.Errorf("OpenDir(.) has the path %s, want %s", d.path, dir)
	}
}

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}
