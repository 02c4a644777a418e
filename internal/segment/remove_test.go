//go:build linux

package segment

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stale leaves on the name base what a listener leaves that is killed.
func stale(t *testing.T, d *Dir, base string) {
	t.Helper()
	l, sock, err := Announce(d, base, named, 0o600, 8)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(sock)
	unix.Close(l.file) // and with it the lock
	l.proc.Close()
}

// TestRemoveListener removes names in all states, and looks what is left.
func TestRemoveListener(t *testing.T) {
	write := func(what string) func(*testing.T, *Dir) {
		return func(t *testing.T, d *Dir) { create0(t, filepath.Join(d.path, "shmconn.feed"), []byte(what)) }
	}
	both := []string{"shmconn.feed@sock", "shmconn.feed"}
	for _, tt := range []struct {
		name string
		make func(t *testing.T, d *Dir)
		gone []string
		is   error
		text string
	}{
		{"nothing", func(*testing.T, *Dir) {}, nil, fs.ErrNotExist, ""},
		{"live", func(t *testing.T, d *Dir) { announce(t, d, "feed") }, nil, syscall.EADDRINUSE, ""},
		{"stale", func(t *testing.T, d *Dir) { stale(t, d, "feed") }, both, nil, ""},
		{"another name is live", func(t *testing.T, d *Dir) { announce(t, d, "feed2"); stale(t, d, "feed") }, both, nil, ""},
		{"without its socket", func(t *testing.T, d *Dir) {
			stale(t, d, "feed")
			os.Remove(filepath.Join(d.path, "shmconn.feed@sock"))
		}, both[1:], nil, ""},
		{"without its segment", func(t *testing.T, d *Dir) {
			announce(t, d, "feed") // which lives, and puts it back
			os.Remove(filepath.Join(d.path, "shmconn.feed"))
		}, nil, fs.ErrNotExist, ""},
		{"died at once", write(""), both[1:], nil, ""},
		{"died while it was made", write(string(make([]byte, PageSize))), both[1:], nil, ""},
		{"something else", write("a log"), nil, nil, "not a listener segment"},
		{"something else of a page", write(strings.Repeat("a log\n\n\n", PageSize/8)), nil, nil, "not a listener segment"},
		{"a page of a later version", func(t *testing.T, d *Dir) {
			stale(t, d, "feed")
			f, err := os.OpenFile(filepath.Join(d.path, "shmconn.feed"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.WriteAt([]byte{2, 0, 0, 0}, 8)
		}, nil, nil, "not a listener segment"},
		{"a symbolic link", func(t *testing.T, d *Dir) {
			target := filepath.Join(t.TempDir(), "target")
			write0 := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, filepath.Join(d.path, "shmconn.feed")))
			if write0 != nil {
				t.Fatal(write0)
			}
		}, nil, syscall.ELOOP, ""},
		{"a directory", func(t *testing.T, d *Dir) {
			if err := os.Mkdir(filepath.Join(d.path, "shmconn.feed"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil, nil, "not a regular file"},
		{"locked for reading", func(t *testing.T, d *Dir) {
			stale(t, d, "feed")
			fd, err := unix.Open(filepath.Join(d.path, "shmconn.feed"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
				t.Fatal(err)
			}
		}, both, nil, ""},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := tempDir(t)
			t.Cleanup(func() {
				for _, name := range list(t, d.path) {
					os.Remove(filepath.Join(d.path, name))
				}
			})
			tt.make(t, d)
			for _, dry := range []bool{true, false} {
				before := list(t, d.path)
				gone, err := RemoveListener(d, "feed", dry)
				if tt.is == nil && tt.text == "" && err != nil || tt.is != nil && !errors.Is(err, tt.is) ||
					tt.text != "" && (err == nil || !strings.Contains(err.Error(), tt.text)) {
					t.Errorf("RemoveListener(dry=%t): %v", dry, err)
				}
				if !slices.Equal(gone, tt.gone) {
					t.Errorf("RemoveListener(dry=%t) = %q, want %q", dry, gone, tt.gone)
				}
				want := before
				if !dry {
					want = slices.DeleteFunc(slices.Clone(before), func(name string) bool { return slices.Contains(gone, name) })
				}
				if got := list(t, d.path); !slices.Equal(got, want) {
					t.Errorf("dry=%t: %q are left, want %q", dry, got, want)
				}
			}
		})
	}
}

// TestRemoveLive checks that a listener that lives is none the worse for an
// attempt.
func TestRemoveLive(t *testing.T) {
	d := tempDir(t)
	announce(t, d, "feed")
	before, err := Lookup(d, "feed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RemoveListener(d, "feed", false); err != unix.EADDRINUSE {
		t.Errorf("RemoveListener: %v", err)
	}
	if after, err := Lookup(d, "feed"); after != before || err != nil {
		t.Errorf("Lookup = %+v, %v, want %+v", after, err, before)
	}
	connect(t, d, "feed")
}

// TestRemoveConns leaves what is locked, and what is another name's.
func TestRemoveConns(t *testing.T) {
	d := tempDir(t)
	id := ID{2}
	createNamed(t, d, id)
	dead := connName("feed", ID{1})
	for name, what := range map[string][]byte{
		dead: oldConn(ID{1}), connName("feed2", ID{1}): oldConn(ID{1}), "shmconn.feed@0123": oldConn(ID{1}),
		connName("feed", ID{3}): []byte("a log"),
	} {
		path := filepath.Join(d.path, name)
		create0(t, path, what)
		t.Cleanup(func() { os.Remove(path) })
	}
	for _, dry := range []bool{true, false} {
		before := list(t, d.path)
		if gone, err := RemoveConns(d, "feed", dry); !slices.Equal(gone, []string{dead}) || err != nil {
			t.Errorf("RemoveConns(dry=%t) = %q, %v", dry, gone, err)
		}
		if dry && !slices.Equal(before, list(t, d.path)) {
			t.Errorf("a dry run left %q of %q", list(t, d.path), before)
		}
	}
	want := []string{"shmconn.feed2@" + hex.EncodeToString(append([]byte{1}, make([]byte, 15)...)), "shmconn.feed@0123", connName("feed", id), connName("feed", ID{3})}
	slices.Sort(want)
	if got := list(t, d.path); !slices.Equal(got, want) {
		t.Errorf("%q are left, want %q", got, want)
	}
}

// TestRemoveOthers removes what belongs to somebody else: only root may.
func TestRemoveOthers(t *testing.T) {
	needRoot(t, "make files of another user")
	d := tempDir(t)
	stale(t, d, "feed")
	conn := connName("feed", ID{1})
	create0(t, filepath.Join(d.path, conn), oldConn(ID{1}))
	for _, name := range list(t, d.path) {
		if err := os.Lchown(filepath.Join(d.path, name), somebody, somebody); err != nil {
			t.Fatal(err)
		}
	}
	if gone, err := RemoveConns(d, "feed", false); len(gone) != 1 || err != nil {
		t.Errorf("RemoveConns = %q, %v", gone, err)
	}
	if gone, err := RemoveListener(d, "feed", false); len(gone) != 2 || err != nil {
		t.Errorf("RemoveListener = %q, %v", gone, err)
	}
}

// TestRemoveRace removes a stale name while a listener takes it over. Whoever
// is first: a listener that was told that it has the name has it.
func TestRemoveRace(t *testing.T) {
	d := tempDir(t)
	var listened, refused, removed int
	for range 300 {
		stale(t, d, "feed")
		var (
			wg              sync.WaitGroup
			l               *Listener
			sock            int
			listenErr, gone error
			start           = make(chan struct{})
			names           []string
		)
		wg.Go(func() { <-start; l, sock, listenErr = Announce(d, "feed", named, 0o600, 8) })
		wg.Go(func() { <-start; names, gone = RemoveListener(d, "feed", false) })
		close(start)
		wg.Wait()
		switch {
		case gone == nil && len(names) > 0:
			removed++
		case gone != nil && !errors.Is(gone, syscall.EADDRINUSE) && !errors.Is(gone, fs.ErrNotExist):
			t.Fatalf("RemoveListener: %v", gone)
		}
		if listenErr != nil {
			// It waits a tenth of a second for the lock, and no longer.
			if !errors.Is(listenErr, syscall.EADDRINUSE) {
				t.Fatalf("Announce: %v", listenErr)
			}
			refused++
			continue
		}
		listened++
		if info, err := Lookup(d, "feed"); err != nil || !info.Alive || info.PID != os.Getpid() {
			t.Fatalf("after Announce: Lookup = %+v, %v; removed were %q", info, err, names)
		}
		connect(t, d, "feed")
		unix.Close(sock)
		l.Close()
	}
	t.Logf("of 300 times the name was taken %d times, refused %d times, and what was stale removed %d times", listened, refused, removed)
	if listened == 0 || removed == 0 {
		t.Error("one of the two never had its turn")
	}
}

func TestParseFile(t *testing.T) {
	id := strings.Repeat("0a", 16)
	for file, want := range map[string]struct {
		kind Kind
		base string
	}{
		"shmconn.feed":                        {ListenerFile, "feed"},
		"shmconn.a.b-c_D":                     {ListenerFile, "a.b-c_D"},
		"shmconn.feed@sock":                   {SocketFile, "feed"},
		"shmconn.feed@" + id:                  {ConnFile, "feed"},
		"shmconn.feed@" + strings.ToUpper(id): {OtherFile, ""},
		"shmconn.feed@" + id[1:]:              {OtherFile, ""},
		"shmconn.feed@" + id + "00":           {OtherFile, ""},
		"shmconn.feed@" + id[1:] + "g":        {OtherFile, ""},
		"shmconn.feed@":                       {OtherFile, ""},
		"shmconn.feed@sock@sock":              {OtherFile, ""},
		"shmconn.@0123456789abcdef":           {OtherFile, ""}, // a socket that is not ready
		"shmconn.":                            {OtherFile, ""},
		"shmconn..feed":                       {OtherFile, ""},
		"shmconn.fe ed":                       {OtherFile, ""},
		"shmconn.fe/ed":                       {OtherFile, ""},
		"shmconn.\x1b[2J":                     {OtherFile, ""},
		"shmconn." + strings.Repeat("x", 129): {OtherFile, ""},
		"feed":                                {OtherFile, ""},
		"":                                    {OtherFile, ""},
	} {
		kind, base, got := ParseFile(file)
		if kind != want.kind || base != want.base || kind == ConnFile && hex.EncodeToString(got[:]) != id {
			t.Errorf("ParseFile(%q) = %v, %q, %x", file, kind, base, got)
		}
	}
}

// TestDecodeConn decodes the header of a real segment, and that with each byte
// changed.
func TestDecodeConn(t *testing.T) {
	d := tempDir(t)
	for _, g := range []Geometry{named, anonymous} {
		s, id, _ := create(t, d, g)
		a, _ := s.Ring(RingA)
		b, _ := s.Ring(RingB)
		a[0], b[128] = 1, 2
		page := slices.Clone(s.mem[:HeaderUsed])
		info, err := DecodeConn(page)
		if err != nil || info.Geometry != g || info.ID != id || info.Name != "feed" || !slices.Equal(info.RingA, a) || !slices.Equal(info.RingB, b) {
			t.Errorf("DecodeConn = %+v, %v, want %+v", info, err, g)
		}
		for n := range HeaderUsed {
			if _, err := DecodeConn(page[:n]); err == nil {
				t.Errorf("DecodeConn of %d bytes: no error", n)
			}
		}
		for i := range 32 { // magic, version, sizes, flags
			bad := slices.Clone(page)
			bad[i] ^= 0x80
			if _, err := DecodeConn(bad); (err == nil) != (i >= 28) {
				t.Errorf("DecodeConn with byte %d changed: %v", i, err)
			}
		}
	}
	if _, err := DecodeConn(make([]byte, HeaderUsed)); err != ErrUnfinished {
		t.Errorf("DecodeConn of zeros: %v", err)
	}
}
