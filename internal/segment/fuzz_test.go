//go:build linux

package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// header returns the first bytes of a segment, as FORMAT.md has them.
func header(magic uint64, ring int, flags uint32, rest ...byte) []byte {
	b := binary.NativeEndian.AppendUint64(nil, magic)
	b = binary.NativeEndian.AppendUint32(b, 1)
	b = binary.NativeEndian.AppendUint32(b, uint32(PageSize))
	b = binary.NativeEndian.AppendUint64(b, uint64(ring))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return append(b, rest...)
}

// damaged gives b to f as it is, cut anywhere, and with each byte changed.
func damaged(b []byte, f func(b []byte)) {
	f(b)
	for i := range b {
		f(b[:i])
		c := bytes.Clone(b)
		c[i] ^= 1 << (i % 8)
		f(c)
	}
}

// touch reads and writes a byte of each page, and reports whether that can be
// done.
func touch(spans ...[]byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { ok = recover() == nil }()
	for _, s := range spans {
		for i := 0; i < len(s); i += 512 {
			s[i]++
		}
		s[len(s)-1]++
	}
	return true
}

// FuzzAttach attaches a file of any content and any length, whatever its seals.
// It is mapped if and only if it is what the format says, and then all of it is
// there.
func FuzzAttach(f *testing.F) {
	id := ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	total := int64(PageSize + 2*PageSize)
	for flags := range uint32(2) {
		good := header(connMagic, PageSize, flags, append(make([]byte, 4), id[:]...)...)
		damaged(good, func(b []byte) { f.Add(b, total, flags == 1, uint8(seals)) })
		for _, size := range []int64{0, 1, 511, int64(PageSize) - 1, int64(PageSize), total - 1, total + 1, 2 * total} {
			f.Add(good, size, flags == 1, uint8(seals))
		}
		for s := range uint8(64) {
			f.Add(good, total, flags == 1, s)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte, size int64, anonymous bool, sealed uint8) {
		g := Geometry{RingSize: PageSize, Anonymous: anonymous}
		size = (size%(4*total) + 4*total) % (4 * total)
		content = content[:min(int64(len(content)), size)]
		fd, err := unix.MemfdCreate("shmconn-fuzz", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := pwrite(fd, content); err != nil {
			t.Fatal(err)
		}
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
		sealed &= unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, int(sealed)); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}

		want := header(connMagic, PageSize, g.flags())
		whole := append(bytes.Clone(content), make([]byte, 64)...) // beyond the content there are zeros
		valid := size == total && bytes.HasPrefix(whole, want) && bytes.Equal(whole[32:48], id[:]) &&
			sealed&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) == 0
		if anonymous {
			valid = valid && sealed&uint8(seals) == uint8(seals)
		}
		s, err := Attach(fd, uint64(st.Dev), g, id)
		if (err == nil) != valid || (s != nil) != valid {
			t.Fatalf("Attach: %v, of %d bytes that begin with\n%x\nwith seals %#x, want success %t", err, size, whole[:64], sealed, valid)
		}
		if err != nil {
			return
		}
		ha, a := s.Ring(RingA)
		hb, b := s.Ring(RingB)
		if len(ha) != 512 || len(hb) != 512 || len(a) != PageSize || len(b) != PageSize {
			t.Errorf("headers of %d and %d bytes, rings of %d and %d", len(ha), len(hb), len(a), len(b))
		}
		ma, errA := s.Mirror(RingA)
		mb, errB := s.Mirror(RingB)
		if errA != nil || errB != nil || len(ma) != 2*PageSize || len(mb) != 2*PageSize {
			t.Errorf("mirrors of %d and %d bytes, %v, %v", len(ma), len(mb), errA, errB)
		}
		if !touch(ha, hb, a, b, ma, mb) {
			t.Error("not all of it is there")
		}
		s.Close()
		s, err = Attach(fd, uint64(st.Dev)+1, g, id)
		if (err == nil) != (sealed&uint8(seals) == uint8(seals)) {
			t.Errorf("Attach from another file system: %v", err)
		}
		if err == nil {
			s.Close()
		}
	})
}

// FuzzListenerFile looks a name up whose file has any content; takes the name
// over, as the one who left it is not there; has the content put in place again
// while it listens; and mends that.
func FuzzListenerFile(f *testing.F) {
	for flags := range uint32(3) {
		damaged(header(listenerMagic, PageSize, flags, make([]byte, 80-28)...), func(b []byte) { f.Add(b) })
	}
	for _, ring := range []int{0, 1, PageSize / 2, PageSize + 1, MaxRing, 2 * MaxRing, -1, -PageSize} {
		f.Add(header(listenerMagic, ring, 0, make([]byte, 100)...))
	}
	f.Add([]byte(nil))
	for _, magic := range []uint64{0, listenerMagic} {
		for _, size := range []int{PageSize - 1, PageSize, PageSize + 1} {
			page := make([]byte, size)
			copy(page, header(magic, PageSize, 0))
			f.Add(slices.Clone(page))
			page[size-1] = 1
			f.Add(page)
		}
	}
	f.Add(make([]byte, PageSize))
	f.Add(make([]byte, 80))
	f.Add(bytes.Repeat([]byte("garbage!"), PageSize/4))
	d, err := OpenDir(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.Close)
	path := filepath.Join(d.path, "shmconn.feed")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := Lookup(d, "feed")
		if valid := validListener(content); (err == nil) != valid {
			t.Fatalf("Lookup = %+v, %v of a file that begins with\n%x\nwant success %t", info, err, content[:min(80, len(content))], valid)
		}
		if err == nil && (CheckRingSize(info.RingSize) != nil || info.Alive) {
			t.Errorf("Lookup = %+v", info)
		}

		l, sock, err := Announce(d, "feed", named, 0o600, 8)
		if !ownListener(content) {
			if err == nil {
				unix.Close(sock)
				l.Close()
				t.Fatalf("Announce took over a file that begins with\n%x", content[:min(80, len(content))])
			}
			if left, err := os.ReadFile(path); !bytes.Equal(left, content) {
				t.Fatalf("Announce changed a file that begins with\n%x\nto %x, %v", content[:min(80, len(content))], left, err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			l, sock, err = Announce(d, "feed", named, 0o600, 8)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		defer unix.Close(sock)
		for range 2 {
			info, err = Lookup(d, "feed")
			if want := (Info{Geometry: named, UID: uint32(os.Geteuid()), PID: os.Getpid(), Alive: true, Path: path}); info != want || err != nil {
				t.Fatalf("Lookup = %+v, %v, want %+v", info, err, want)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if again, err := l.Restore(); again != -1 || err != nil {
				t.Fatalf("Restore = %d, %v", again, err)
			}
		}
		l.Close()
		if left := list(t, d.path); len(left) > 0 {
			t.Errorf("files are left: %q", left)
		}
	})
}

// ownListener reports whether b is what a listener can have left.
func ownListener(b []byte) bool {
	if len(b) != PageSize {
		return len(b) == 0
	}
	whole := slices.Clone(b)
	copy(whole, "shlistn\n")
	made := validListener(whole) && bytes.Equal(b[80:], make([]byte, PageSize-80))
	switch magic := b[:8]; {
	case bytes.Equal(magic, whole[:8]):
		return true
	case bytes.Equal(magic, make([]byte, 8)):
		return made || bytes.Equal(b, make([]byte, PageSize))
	}
	return false
}

// validListener reports whether b begins as a listener segment has to.
func validListener(b []byte) bool {
	if len(b) < 80 {
		return false
	}
	e := binary.NativeEndian
	ring, flags := e.Uint64(b[16:]), e.Uint32(b[24:])
	return e.Uint64(b) == 0x0a6e7473696c6873 && e.Uint32(b[8:]) == 1 && e.Uint32(b[12:]) == uint32(PageSize) &&
		ring >= uint64(PageSize) && ring <= MaxRing && ring&(ring-1) == 0 && flags < 2
}

// FuzzParseName checks of whatever is accepted that its files are in the
// directory that the user said, that their names are legal, and that no two
// names share one.
func FuzzParseName(f *testing.F) {
	for _, name := range []string{
		"feed", "a", "-", "_.", "a..b", "..", ".", "", "/", "//", "/feed", "//feed", "./feed", "../feed", "../../feed", "a/../feed", "/vol/./feed",
		"/vol/..", "/vol/.feed", "feed/", "feed@sock", "@", "feed@00112233445566778899aabbccddeeff", "feed\x00", "/vol\x00/feed", "a/b\x00", "fe ed", "feed\n",
		"fééd", "feed\xff", "ｆeed", "feed\u2215x", "feed\\x", "C:\\feed", "~", "~/feed", "$HOME/feed", "%2e%2e%2ffeed", "feed:1", "*", "feed*",
		strings.Repeat("n", 127), strings.Repeat("n", 128), strings.Repeat("n", 129), "/vol/" + strings.Repeat("n", 128), "/vol/" + strings.Repeat("n", 129),
		strings.Repeat("d/", 3000) + "feed", strings.Repeat("/", 100) + "feed",
	} {
		f.Add(name, "", "feed")
		f.Add(name, "/run/x/", name+"x")
		f.Add("/vol/"+name, "rel/../..", "/vol/feed")
	}
	f.Fuzz(func(t *testing.T, name, env, other string) {
		if strings.IndexByte(env, 0) >= 0 {
			t.Skip("no environment has a zero byte")
		}
		t.Setenv("SHMCONN_DIR", env)
		dir, base, err := ParseName(name)
		if err != nil {
			if dir != "" || base != "" {
				t.Errorf("ParseName(%q) = %q, %q beside the error", name, dir, base)
			}
			return
		}
		want := env
		if want == "" {
			want = "/dev/shm"
		}
		if i := strings.LastIndex(name, "/"); i >= 0 {
			want = name[:i+1]
		}
		if dir != filepath.Clean(want) || !strings.HasSuffix(name, base) {
			t.Errorf("ParseName(%q) = %q, %q with SHMCONN_DIR=%q", name, dir, base, env)
		}
		if strings.Trim(base, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || base == "" || base[0] == '.' || len(base) > 128 {
			t.Errorf("ParseName(%q) accepts the name %q", name, base)
		}
		files := filesOf(base)
		for _, file := range files {
			if path := filepath.Join(dir, file); filepath.Dir(path) != dir || filepath.Base(path) != file || len(file) > 255 || strings.IndexByte(path, 0) >= 0 {
				t.Errorf("ParseName(%q): a file is %q", name, path)
			}
		}
		if d, b, err := ParseName(strings.TrimSuffix(dir, "/") + "/" + base); d != dir || b != base || err != nil {
			t.Errorf("ParseName of %q in %q = %q, %q, %v", base, dir, d, b, err)
		}
		if _, b, err := ParseName(other); err == nil && b != base {
			for _, file := range filesOf(b) {
				if slices.Contains(files, file) {
					t.Errorf("the names %q and %q share the file %q", b, base, file)
				}
			}
		}
	})
}

// filesOf returns the names of files that belong to a name: the listener
// segment, its socket, and a connection segment, of the same id for all.
func filesOf(base string) []string {
	return []string{Prefix + base, socketName(base), Prefix + base + "@" + hex.EncodeToString(make([]byte, len(ID{})))}
}
