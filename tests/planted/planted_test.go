//go:build linux

package planted

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A plantedFile is something that somebody has put where the library has its
// files.
type plantedFile struct {
	name    string
	foreign bool // it is another user's
	make    func(path string) error
}

func plantFile(mode fs.FileMode) func(path string) error {
	return func(path string) error {
		return errors.Join(os.WriteFile(path, bytes.Repeat([]byte("planted "), 512), 0o600), os.Chmod(path, mode))
	}
}

func plantLink(target string) func(path string) error {
	return func(path string) error { return os.Symlink(target, path) }
}

func plantFifo(path string) error { return unix.Mkfifo(path, 0o600) }

func plantSocket(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	at, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_CLOEXEC, 0) // the path may be too long
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", at, filepath.Base(path))})
}

// plantedFiles are those that must not be taken for a file of the library's, at
// whatever name.
var plantedFiles = []plantedFile{
	{"a link to a file", false, plantLink("../target")},
	{"a link to a listener's file", false, plantLink("shmconn.genuine")},
	{"a link to nothing", false, plantLink("../nowhere")},
	{"a link to a directory", false, plantLink("..")},
	{"a link to itself", false, func(path string) error { return os.Symlink(filepath.Base(path), path) }},
	{"a fifo", false, plantFifo},
	{"a directory", false, func(path string) error { return os.Mkdir(path, 0o700) }},
	{"a directory with something in it", false, func(path string) error {
		return errors.Join(os.Mkdir(path, 0o700), os.WriteFile(path+"/file", nil, 0o600))
	}},
	{"a device", false, func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }},
	{"a file that all can write", false, plantFile(0o666)},
	{"a file that others can write", false, plantFile(0o602)},
	{"a file that the group can write", false, plantFile(0o620)},
	{"another user's file", true, plantFile(0o600)},
	{"another user's file that all can write", true, plantFile(0o666)},
	{"another user's fifo", true, plantFifo},
	{"another user's link", true, plantLink("../target")},
	{"another user's directory", true, func(path string) error { return os.Mkdir(path, 0o777) }},
}

// put makes the plantedFile, and returns what to compare later. It is to be
// removed by the caller. Who is not root cannot make all of them: then the test
// is skipped.
func (p plantedFile) put(t testing.TB, path string) (before string) {
	t.Helper()
	err := p.make(path)
	if err == nil && p.foreign {
		err = os.Lchown(path, shmtest.OtherUser, shmtest.OtherUser)
	}
	if errors.Is(err, fs.ErrPermission) {
		os.RemoveAll(path)
		t.Skipf("not root: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return describe(t, path)
}

// describe says all there is to say of a file.
func describe(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("what was planted is gone: %v", err)
		return ""
	}
	link, _ := os.Readlink(path)
	var content []byte
	var entries []string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, _ = os.ReadFile(path)
	case unix.S_IFDIR:
		entries = shmtest.ListDir(path)
	}
	return fmt.Sprintf("inode %d, mode %o, owner %d:%d, links %d, size %d, changed %d.%09d, link %q, content %.20q, entries %q",
		st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Ctim.Sec, st.Ctim.Nsec, link, content, entries)
}

func wantUntouched(t testing.TB, path, before string) {
	t.Helper()
	if now := describe(t, path); now != before {
		t.Errorf("what was planted is now\n%s\nand was\n%s", now, before)
	}
}

// wantRefused fails unless err says what is wrong: that there is no permission,
// or with which file something is.
func wantRefused(t testing.TB, what string, err error, file string) {
	t.Helper()
	shmtest.Outcome(t, "shm", err)
	if err == nil || !errors.Is(err, fs.ErrPermission) && !strings.Contains(err.Error(), file+" is not a ") {
		t.Errorf("%s: got %v, want it to refuse %s", what, err, file)
	}
}

// plantDir returns a directory with a file beside it that links may point to,
// and a genuine listener in it.
func plantDir(t testing.TB) (dir string, check func()) {
	t.Helper()
	parent := t.TempDir()
	dir = filepath.Join(parent, "dir")
	target := filepath.Join(parent, "target")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.WriteFile(target, []byte("target"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l := shmtest.Shape{Ring: 4096}.MustListen(t, dir+"/genuine")
	before := describe(t, target)
	return dir, func() {
		t.Helper()
		if now := describe(t, target); now != before {
			t.Errorf("what a link points to is now\n%s\nand was\n%s", now, before)
		}
		if _, err := os.Lstat(filepath.Join(parent, "nowhere")); err == nil {
			t.Error("what a link to nothing points to is there now")
		}
		c := shmtest.Shape{}.MustDial(t, dir+"/genuine")
		shmtest.MustAccept(t, l).Close()
		c.Close()
	}
}

// TestPlanted listens and dials where something is that is not the library's.
func TestPlanted(t *testing.T) {
	cells := 0
	for _, file := range []string{"", "@sock"} {
		for _, p := range append(slices.Clone(plantedFiles), plantedFile{"another user's socket", true, plantSocket}, plantedFile{"a socket", false, plantSocket}) {
			if file == "@sock" && p.name == "a socket" {
				continue // that can be what a listener has left
			}
			t.Run("shmconn.NAME"+file+"/"+strings.ReplaceAll(p.name, " ", "_"), func(t *testing.T) {
				dir, check := plantDir(t)
				name := dir + "/feed"
				own := "shmconn.feed" + file
				path := filepath.Join(dir, own)
				before := p.put(t, path)
				files := shmtest.ListDir(dir)

				l, err := shmconn.Listen(name)
				if err == nil {
					l.Close()
				}
				wantRefused(t, "Listen", err, own)
				wantUntouched(t, path, before)
				if got := shmtest.ListDir(dir); !slices.Equal(got, files) {
					t.Errorf("Listen has left %q, there were %q", got, files)
				}
				cells++

				// A dialer looks at the socket only where a listener's file is.
				if file == "@sock" {
					if err := os.Rename(path, path+".away"); err != nil {
						t.Fatal(err)
					}
					l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(name)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
					if err := errors.Join(os.RemoveAll(path), os.Rename(path+".away", path)); err != nil {
						t.Fatal(err)
					}
					before = describe(t, path)
				}
				c, err := shmconn.Dial(name)
				if err == nil {
					c.Close()
				}
				if p.name == "another user's socket" && shmtest.Class(err) == "ECONNREFUSED" {
					// Nobody listens on it. If somebody did, see TestSquatter.
				} else {
					wantRefused(t, "Dial", err, own)
				}
				wantUntouched(t, path, before)
				check()
				cells++
			})
		}
	}
	t.Logf("figure: planted: %d kinds x {listener's file, socket}, %d calls of Listen and Dial refused, all left as they were", len(plantedFiles)+2, cells)
}

// TestPlantedLater puts something into the place of a listener's files while it
// listens. Accept says so, and when it is gone the name is put back.
func TestPlantedLater(t *testing.T) {
	t.Parallel()
	type place struct {
		what, dir, own, path, before string
		check                        func()
		l                            shmtest.Listener
		a, b                         *shmconn.Conn
	}
	s := shmtest.Shape{Ring: 4096}
	var places []*place
	for _, file := range []string{"", "@sock"} {
		for _, p := range plantedFiles {
			t.Run("shmconn.NAME"+file+"/"+strings.ReplaceAll(p.name, " ", "_"), func(sub *testing.T) {
				// All are there at a time, as each takes a second or two.
				at := &place{what: p.name + " at shmconn.NAME" + file, own: "shmconn.feed" + file}
				at.dir, at.check = plantDir(t)
				at.path = filepath.Join(at.dir, at.own)
				at.l = s.MustListen(t, at.dir+"/feed")
				at.a = s.MustDial(t, at.dir+"/feed").(*shmconn.Conn)
				at.b = shmtest.MustAccept(t, at.l).(*shmconn.Conn)
				p.put(sub, at.path+".new")
				err := unix.Renameat2(unix.AT_FDCWD, at.path+".new", unix.AT_FDCWD, at.path, unix.RENAME_EXCHANGE)
				if err := errors.Join(err, os.Remove(at.path+".new")); err != nil {
					sub.Fatal(err)
				}
				at.before = describe(sub, at.path)
				places = append(places, at)
			})
		}
	}
	for _, at := range places {
		_, err := at.l.Accept()
		wantRefused(t, at.what+": Accept", err, at.own)
		wantUntouched(t, at.path, at.before)
		shmtest.WantSound(t, at.a, at.b)
		if err := os.RemoveAll(at.path); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range places {
		var c shmtest.Conn
		shmtest.Eventually(func() (ok bool) {
			var err error
			c, err = s.Dial(at.dir + "/feed")
			return err == nil
		})
		defer c.Close()
		for { // an error that was on its way may come first
			d, err := at.l.Accept()
			if err == nil {
				d.Close()
				break
			}
			wantRefused(t, at.what+": Accept", err, at.own)
		}
		at.check()
	}
	t.Logf("figure: planted later: %d of them in the place of a listener's files, Accept said so, connections went on, the name came back", len(places))
}

// TestPlantedSegments has things at names of connection segments when a name is
// taken, which is when what was left there is swept away, and when a dialer
// says such a name.
func TestPlantedSegments(t *testing.T) {
	dir, check := plantDir(t)
	t.Setenv("SHMCONN_DIR", dir)
	s := shmtest.Shape{Ring: 4096}
	var paths, before []string
	for i, p := range append(slices.Clone(plantedFiles), plantedFile{"a socket", false, plantSocket}) {
		t.Run(strings.ReplaceAll(p.name, " ", "_"), func(t *testing.T) {
			path := filepath.Join(dir, fmt.Sprintf("shmconn.feed@%032x", i))
			before = append(before, p.put(t, path))
			paths = append(paths, path)
		})
	}
	stale := filepath.Join(dir, fmt.Sprintf("shmconn.feed@%032x", 1<<20))
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := s.MustListen(t, "feed")
	if _, err := os.Lstat(stale); err == nil {
		t.Error("what a dialer has left is still there, so nothing was swept")
	}
	shmtest.WantServed(t, s, l)
	for i, path := range paths {
		wantUntouched(t, path, before[i])
		// The descriptor is good, and the name is not of what is behind it.
		p := shmtest.RawDialer(t, "feed", s)
		hex.Decode(p.ID[:], []byte(path[len(path)-2*len(p.ID):]))
		p.Write(32, p.ID[:])
		p.Handshake()
		shmtest.MustAccept(t, l).Close()
		p.Dropped()
	}
	l.Close()
	for i, path := range paths {
		wantUntouched(t, path, before[i])
	}
	check()
	t.Logf("figure: planted at the names of connection segments: %d kinds, each swept past and named by a dialer, all left as they were", len(paths))
}

// somebodyElse starts a helper as another user, who needs a copy of this binary
// that he may run.
func somebodyElse(t *testing.T) func(t *testing.T, s shmtest.Shape) *shmtest.Helper {
	t.Helper()
	start := shmtest.OtherUsers(t)
	return func(t *testing.T, s shmtest.Shape) *shmtest.Helper {
		return start(t, "agent", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, s)
	}
}

// TestSomebodyElse has connections between two users end in all ways: it leaves
// nothing, though neither may remove the other's files.
func TestSomebodyElse(t *testing.T) {
	start := somebodyElse(t)
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			h := start(t, s)
			name := shmtest.NewName()
			h.Do("listenmode %s %d", name, 0o666)
			d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { return uid == shmtest.OtherUser }}
			dial := func() *shmconn.Conn {
				t.Helper()
				c, err := d.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			files := func() (n int) {
				for _, f := range shmtest.ListDir(os.Getenv("SHMCONN_DIR")) {
					if strings.HasPrefix(f, "shmconn."+name+"@") {
						n++
					}
				}
				return n
			}

			closed := dial()
			h.Do("accept")
			closed.Write(shmtest.Pattern(0, 3000))
			h.Do("read 0 3000")
			h.Do("write 0 3000")
			h.Do("close 0")
			got, err := io.ReadAll(closed)
			if len(got) != 3000 || err != nil {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			shmtest.CheckPattern(t, got, 0)
			if pid, uid, gid := closed.PeerCred(); pid != h.PID || uid != shmtest.OtherUser || gid != shmtest.OtherUser {
				t.Errorf("PeerCred() = %d, %d, %d", pid, uid, gid)
			}
			closed.Close()
			if n := files(); n != 1 { // the socket
				t.Errorf("%d files", n)
			}

			killed, waiting := dial(), dial()
			h.Do("accept")
			h.Do("write 1 100")
			done := shmtest.Blocked(waiting, func() {
				_, err := waiting.Read(make([]byte, 8))
				shmtest.WantErr(t, "Read of who was in the backlog", err, "read ECONNRESET")
			})
			h.Kill()
			<-done
			if got, err := io.ReadAll(killed); len(got) != 100 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			_, err = killed.Write([]byte("x"))
			shmtest.WantErr(t, "Write", err, "write EPIPE")
			killed.Close()
			waiting.Close()

			// What he has left is not ours to take.
			_, err = d.Dial(name)
			shmtest.WantErr(t, "Dial of a stale name", err, "dial ECONNREFUSED")
			_, err = shmconn.Dial(name)
			shmtest.WantErr(t, "Dial of another user's name", err, "dial permission")
			_, err = shmconn.Listen(name)
			shmtest.WantErr(t, "Listen on another user's name", err, "listen permission")
			if n := files(); n != 1 {
				t.Errorf("%d files", n)
			}
			// It is his.
			h = start(t, s)
			h.Do("listen %s", name)
			h.Do("unlisten")
			if n := files(); n != 0 {
				t.Errorf("%d files", n)
			}
		})
	}
	t.Run("a name in use", func(t *testing.T) {
		h := start(t, shmtest.Shape{Ring: 4096})
		name := shmtest.NewName()
		h.Do("listen %s", name)
		_, err := shmconn.Listen(name)
		if got := shmtest.Class(err); got != "EADDRINUSE" && got != "permission" {
			t.Errorf("Listen: %s", got)
		}
		h.Do("unlisten")

		l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
		if got := h.Call("listen %s", name); got != "permission" && got != "EADDRINUSE" {
			t.Errorf("another user's Listen: %s", got)
		}
		shmtest.WantServed(t, shmtest.Shape{Ring: 4096}, l)
	})
	t.Run("modes", func(t *testing.T) { // so that others may not do by hand what Dial refuses
		name := shmtest.NewName()
		l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
		for _, file := range []string{"", "@sock"} {
			info, err := os.Stat(shmtest.UnixShape.Path("shmconn." + name + file))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("shmconn.NAME%s: %v, %v", file, info.Mode(), err)
			}
		}
		shmtest.WantServed(t, shmtest.Shape{Ring: 4096}, l)
	})
}

// TestHardLink has a file of one's own made known by the listener's name, too,
// as others can do where the kernel lets them: it stays as it is, and the name
// is taken.
func TestHardLink(t *testing.T) {
	dir, check := plantDir(t)
	own := filepath.Join(dir, "own")
	if err := os.WriteFile(own, []byte("of value"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(own, filepath.Join(dir, "shmconn.feed")); err != nil {
		t.Fatal(err)
	}
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, dir+"/feed")
	c := s.MustDial(t, dir+"/feed")
	shmtest.MustAccept(t, l).Close()
	c.Close()
	l.Close()
	if b, err := os.ReadFile(own); string(b) != "of value" || err != nil {
		t.Errorf("a file that was linked to a listener's name now has %.20q, %v", b, err)
	}
	check()
}

// TestPlantedLocks has somebody hold locks on a listener's file, from before it
// listens. A lock for reading, which all may have who may dial, keeps nobody
// from listening.
func TestPlantedLocks(t *testing.T) {
	for _, tt := range []struct {
		name string
		lock func(fd int) error
		want string
	}{
		{"for reading", func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
		}, "ok"},
		{"for writing", func(fd int) error {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}, "EADDRINUSE"},
		{"a flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) }, "ok"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			dir, check := plantDir(t)
			path := filepath.Join(dir, "shmconn.feed")
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := tt.lock(int(f.Fd())); err != nil {
				t.Fatal(err)
			}
			before := describe(t, path)
			l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(dir + "/feed")
			if got := shmtest.Class(err); got != tt.want {
				t.Errorf("Listen: %s, want %s", got, tt.want)
			}
			if err != nil {
				wantUntouched(t, path, before)
			} else {
				s := shmtest.Shape{Ring: 4096}
				c := s.MustDial(t, dir+"/feed")
				shmtest.MustAccept(t, l).Close()
				c.Close()
				l.Close()
			}
			check()
		})
	}
}

// caller is a dialer. Its orders are "dial NAME UID", which allows the listener
// to be that user, or whom a Dialer allows by itself if it is "-", and
// "exchange N", which writes so many bytes and reads as many, "cred" and
// "close".
func caller(s shmtest.Shape, in *bufio.Scanner) {
	var c *shmconn.Conn
	for in.Scan() {
		var err error
		switch f := strings.Fields(in.Text()); f[0] {
		case "dial":
			d := new(shmconn.Dialer)
			if uid, err := strconv.Atoi(f[2]); err == nil {
				d.AllowUID = func(u uint32) bool { return u == uint32(uid) }
			}
			c, err = d.Dial(f[1])
		case "exchange":
			n, _ := strconv.Atoi(f[1])
			if _, err = c.Write(shmtest.Pattern(0, n)); err != nil {
				break
			}
			got := make([]byte, n)
			if _, err = io.ReadFull(c, got); err == nil && shmtest.FirstDiff(got, 0) >= 0 {
				err = errors.New("what was read differs")
			}
		case "cred":
			fmt.Println(c.PeerCred())
			continue
		case "close":
			err = c.Close()
		}
		fmt.Println(shmtest.Class(err))
	}
}

// TestGroups has processes of several users and groups dial each other's
// listeners. Who may is let in and served, whatever the privileges of the two;
// the rest are refused.
func TestGroups(t *testing.T) {
	const group = 23456
	type user struct {
		name   string
		cred   syscall.Credential
		member bool // of the group
	}
	listeners := []user{
		{"root", syscall.Credential{Gid: group}, true},
		{"user", syscall.Credential{Uid: shmtest.OtherUser, Gid: group}, true},
	}
	callers := []user{
		{"root", syscall.Credential{}, false},
		{"the same user", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, false},
		{"member", syscall.Credential{Uid: shmtest.OtherUser + 1, Gid: shmtest.OtherUser + 1, Groups: []uint32{1, group}}, true},
		{"member by the first group", syscall.Credential{Uid: shmtest.OtherUser + 2, Gid: group}, true},
		{"stranger", syscall.Credential{Uid: shmtest.OtherUser + 3, Gid: shmtest.OtherUser + 3}, false},
	}
	start := shmtest.OtherUsers(t)
	served, refused := 0, 0
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		var calling []*shmtest.Helper
		for _, d := range callers {
			calling = append(calling, start(t, "caller", d.cred, s))
		}
		for _, l := range listeners {
			for _, mode := range []fs.FileMode{0o600, 0o660, 0o666} {
				h := start(t, "agent", l.cred, s)
				name := shmtest.NewName()
				h.Do("listenmode %s %d", name, mode)
				accepted := 0
				for i, d := range callers {
					for _, allow := range []string{"-", strconv.Itoa(int(l.cred.Uid))} {
						may := d.cred.Uid == 0 || d.cred.Uid == l.cred.Uid || d.member && mode&0o060 != 0 || mode&0o006 != 0
						trusts := allow != "-" || l.cred.Uid == 0 || l.cred.Uid == d.cred.Uid
						want := "permission"
						if may && trusts {
							want = "ok"
						}
						what := fmt.Sprintf("%s: %s dials %s's listener of mode %o, AllowUID %s", s, d.name, l.name, mode, allow)
						if got := calling[i].Call("dial %s %s", name, allow); got != want {
							t.Fatalf("%s: %s, want %s", what, got, want)
						}
						if want != "ok" {
							refused++
							continue
						}
						h.Do("accept")
						calling[i].Send("exchange 1000")
						h.Do("read %d 1000", accepted)
						h.Do("write %d 1000", accepted)
						calling[i].Expect("ok")
						if got, want := calling[i].Call("cred"), fmt.Sprint(h.PID, l.cred.Uid, l.cred.Gid); got != want {
							t.Errorf("%s: the listener is %s, want %s", what, got, want)
						}
						if got, want := h.Call("cred %d", accepted), fmt.Sprint(calling[i].PID, d.cred.Uid, d.cred.Gid); got != want {
							t.Errorf("%s: the dialer is %s, want %s", what, got, want)
						}
						calling[i].Do("close")
						h.Do("close %d", accepted)
						accepted++
						served++
					}
				}
				h.Do("unlisten")
				if left, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn." + name + "*")); len(left) != 0 {
					t.Errorf("left: %q", left)
				}
			}
		}
	}
	t.Logf("figure: users: %d listeners x %d dialers x 3 modes x {default, AllowUID} x {named, anonymous}: %d let in and served, %d refused, 0 otherwise",
		len(listeners), len(callers), served, refused)
}

// squatter has a socket that it listens on. Its orders are "squat PATH", which
// replaces what is there, and "got", answered by how many have dialed, and how
// many bytes and descriptors they have sent.
func squatter(s shmtest.Shape, in *bufio.Scanner) {
	type catch struct{ dialers, bytes, descriptors int }
	got := make(chan catch)
	for in.Scan() {
		switch f := strings.Fields(in.Text()); f[0] {
		case "squat":
			os.Remove(f[1])
			l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: f[1], Net: "unixpacket"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = os.Chmod(f[1], 0o666)
			}
			if err == nil {
				go func() {
					var all catch
					for {
						c, err := l.AcceptUnix()
						if err != nil {
							got <- all
							return
						}
						all.dialers++
						buf, oob := make([]byte, 4096), make([]byte, 4096)
						n, oobn, _, _, _ := c.ReadMsgUnix(buf, oob)
						all.bytes += n
						if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
							for _, m := range messages {
								fds, _ := unix.ParseUnixRights(&m)
								all.descriptors += len(fds)
							}
						}
						c.Close()
					}
				}()
				defer l.Close()
			}
			fmt.Println(shmtest.Class(err))
			for in.Scan() && in.Text() != "got" {
			}
			l.Close()
			all := <-got
			fmt.Println(all.dialers, all.bytes, all.descriptors)
		}
	}
}

// TestSquatter has another user listen on a name, by the whole of its files or
// by a socket that he has put into the place of one's own. Nobody talks to him
// who has not said so.
func TestSquatter(t *testing.T) {
	start := shmtest.OtherUsers(t)
	his := syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}
	s := shmtest.Shape{Ring: 4096}
	// A directory in which everybody may remove everything, as /dev/shm is not.
	dir := shmtest.UnixShape.Path("open")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	dialers := map[string]*shmconn.Dialer{
		"default":         {},
		"AllowUID itself": {AllowUID: func(uid uint32) bool { return uid == 0 }},
		"AllowUID nobody": {AllowUID: func(uid uint32) bool { return false }},
	}
	dials := 0
	// refused has all dial name. Who trusts the owner of the listener's file
	// gets want.
	refused := func(t *testing.T, name, want string) {
		t.Helper()
		for who, d := range dialers {
			c, err := d.Dial(name)
			if err == nil {
				c.Close()
			}
			if who == "AllowUID nobody" {
				shmtest.WantErr(t, "Dial, "+who, err, "dial permission")
			} else {
				shmtest.WantErr(t, "Dial, "+who, err, want)
			}
			dials++
		}
	}
	nothing := func(t *testing.T, h *shmtest.Helper, want int) {
		t.Helper()
		var n, bytes, fds int
		fmt.Sscan(h.Call("got"), &n, &bytes, &fds)
		if n != want || bytes > 0 || fds > 0 {
			t.Errorf("%d have connected to him, and sent %d bytes and %d descriptors; want %d, and nothing", n, bytes, fds, want)
		}
	}
	t.Run("a socket in the place of one's own", func(t *testing.T) {
		name := dir + "/" + shmtest.NewName()
		l := s.MustListen(t, name)
		a, b := s.MustDial(t, name).(*shmconn.Conn), shmtest.MustAccept(t, l).(*shmconn.Conn)
		h := start(t, "squatter", his, s)
		socket := filepath.Join(dir, "shmconn."+filepath.Base(name)+"@sock")
		h.Do("squat %s", socket)
		before := describe(t, socket)
		refused(t, name, "dial permission")
		_, err := l.Accept()
		shmtest.WantErr(t, "Accept", err, "accept permission")
		wantUntouched(t, socket, before)
		shmtest.WantSound(t, a, b)
		nothing(t, h, 2) // who connect, to ask the kernel who listens
		os.Remove(socket)
	})
	t.Run("a socket in the place of one that was left", func(t *testing.T) {
		name := dir + "/" + shmtest.NewName()
		h := shmtest.StartHelper(t, "agent", s)
		h.Do("listen %s", name)
		h.Kill()
		h = start(t, "squatter", his, s)
		socket := filepath.Join(dir, "shmconn."+filepath.Base(name)+"@sock")
		h.Do("squat %s", socket)
		before := describe(t, socket)
		refused(t, name, "dial ECONNREFUSED")
		_, err := s.Listen(name)
		shmtest.WantErr(t, "Listen", err, "listen permission")
		wantUntouched(t, socket, before)
		nothing(t, h, 0) // nobody has the listener's file locked: there is nobody to ask
		os.Remove(socket)
	})
	t.Run("a listener", func(t *testing.T) {
		name := shmtest.NewName()
		h := start(t, "agent", his, s)
		h.Do("listenmode %s %d", name, 0o666)
		refused(t, name, "dial permission")
		_, err := s.Listen(name)
		if got := shmtest.Class(err); got != "EADDRINUSE" && got != "permission" {
			t.Errorf("Listen: %v", err)
		}
		d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { return uid == shmtest.OtherUser }}
		c, err := d.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h.Do("accept")
		c.Write(shmtest.Pattern(0, 100))
		h.Do("read 0 100")
		h.Do("unlisten")
	})
	t.Run("a listener's file beside one's own socket", func(t *testing.T) {
		name := dir + "/" + shmtest.NewName()
		l := s.MustListen(t, name)
		file := filepath.Join(dir, "shmconn."+filepath.Base(name))
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(file+".new", page, 0o644), os.Chown(file+".new", shmtest.OtherUser, shmtest.OtherUser), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
		refused(t, name, "dial permission")
		os.Remove(file)
		l.Close()
	})
	t.Logf("figure: squatters: 4 ways, %d dials refused without a byte or a descriptor sent, let in by AllowUID alone", dials)
}
