//go:build linux

package planted

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// mortal dials, writes and closes, again and again, until it is killed. Its
// orders are "dial NAME", which is answered and then gone on with, and "keep
// NAME N", which leaves N connections open.
func mortal(s shmtest.Shape, in *bufio.Scanner) {
	d := &shmconn.Dialer{AllowUID: func(uint32) bool { return true }}
	var kept []*shmconn.Conn
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch f[0] {
		case "dial":
			fmt.Println("ok")
			for {
				c, err := d.Dial(f[1])
				if err != nil {
					fmt.Println(err)
					return
				}
				c.Write([]byte("x"))
				c.Close()
			}
		case "keep":
			n, _ := strconv.Atoi(f[2])
			var err error
			for range n {
				var c *shmconn.Conn
				if c, err = d.Dial(f[1]); err != nil {
					break
				}
				kept = append(kept, c)
			}
			fmt.Println(shmtest.Class(err))
		case "os.Exit":
			os.Exit(3)
		}
	}
	for _, c := range kept {
		c.Close()
	}
}

// stickyVolume mounts a small file system of its own, as open as /dev/shm.
func stickyVolume(t *testing.T, size string) string {
	t.Helper()
	dir := shmtest.MountSmall(t, "mode=1777,size="+size)
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// taken returns the names in dir, and how many blocks of its file system are in
// use.
func taken(t *testing.T, dir string) (names []string, blocks uint64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return shmtest.ListDir(dir), st.Blocks - st.Bfree
}

// TestStrangersKilled kills dialers of another user than the listener's at
// random moments, in a directory in which neither may remove what is the
// other's.
func TestStrangersKilled(t *testing.T) {
	start := shmtest.OtherUsers(t)
	dir := stickyVolume(t, "64m") // as a container's /dev/shm
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	const kills = 150 // of which 127 would fill it
	name := filepath.Join(dir, "feed")
	lc := &shmconn.ListenConfig{Mode: 0o666}
	l, err := lc.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	names, blocks := taken(t, dir)
	if want := []string{"shmconn.feed", "shmconn.feed@sock"}; !slices.Equal(names, want) {
		t.Fatalf("names: %q", names)
	}
	served := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			c, err := l.Accept()
			if err != nil {
				served <- n
				return
			}
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	for i := range kills {
		h := start(t, "mortal", syscall.Credential{Uid: shmtest.OtherUser + uint32(i%3), Gid: shmtest.OtherUser}, shmtest.Shape{})
		h.Do("dial %s", name)
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		h.Kill()
		if names, _ := taken(t, dir); len(names) != 2 {
			t.Fatalf("after %d kills there are %q", i+1, names)
		}
	}
	shmtest.Eventually(func() bool { _, now := taken(t, dir); return now == blocks })
	l.Close()
	t.Logf("figure: %d dialers of other users killed at random, %d connections served: no name and no block left", kills, <-served)
}

// TestNobodyAccepted ends processes of another user with dials that nobody has
// accepted, and without Close.
func TestNobodyAccepted(t *testing.T) {
	start := shmtest.OtherUsers(t)
	for _, end := range []string{"killed", "os.Exit"} {
		t.Run(end, func(t *testing.T) {
			dir := stickyVolume(t, "64m")
			name := filepath.Join(dir, "feed")
			// Without spares: each connection is to show how it is made.
			l, err := (&shmconn.ListenConfig{Mode: 0o666, SpareBytes: -1}).Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			names, blocks := taken(t, dir)
			h := start(t, "mortal", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, shmtest.Shape{})
			h.Do("keep %s 60", name)
			if _, now := taken(t, dir); now < blocks+60*2*64 {
				t.Errorf("60 connections take %d blocks: do they count?", now-blocks)
			}
			if end == "killed" {
				h.Kill()
			} else {
				h.Fail("os.Exit")
			}
			if now, _ := taken(t, dir); !slices.Equal(now, names) {
				t.Errorf("names: %q", now)
			}
			l.Close() // and what was in its backlog is dropped
			shmtest.Eventually(func() bool { now, n := taken(t, dir); return len(now) == 0 && n == 0 })
		})
	}
}

// TestOldKind has a dialer give its segment a name, as all did once: it is
// accepted, and the name removed.
func TestOldKind(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	p := shmtest.RawDialer(t, shmtest.NameOf(l), s)
	if left, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn." + shmtest.NameOf(l) + "@*")); len(left) != 2 {
		t.Fatalf("names: %q", left)
	}
	p.Handshake()
	c := shmtest.MustAccept(t, l)
	if left, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn." + shmtest.NameOf(l) + "@*")); len(left) != 1 {
		t.Errorf("names: %q", left)
	}
	c.Close()
}

// TestSealedInstead dials in directories in which the dialer may make no files.
func TestSealedInstead(t *testing.T) {
	start := shmtest.OtherUsers(t)
	dir := shmtest.MountSmall(t, "mode=755,size=1m")
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "feed")
	// Without spares: each connection is to show how it is made.
	l, err := (&shmconn.ListenConfig{Mode: 0o666, SpareBytes: -1}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Run("of the listener's", func(t *testing.T) {
		h := start(t, "agent", syscall.Credential{Uid: shmtest.OtherUser, Gid: shmtest.OtherUser}, shmtest.Shape{})
		h.Do("dial %s", name)
		c := shmtest.MustAccept(t, l)
		defer c.Close()
		if !slices.ContainsFunc(shmtest.Mappings(), func(m string) bool { return strings.Contains(m, "/memfd:shmconn.feed") }) {
			t.Errorf("it is no memory: %q", shmtest.Mappings())
		}
		c.Write(shmtest.Pattern(0, 3000))
		h.Do("read 0 3000")
		h.Do("write 0 3000")
		got := make([]byte, 3000)
		io.ReadFull(c, got)
		shmtest.CheckPattern(t, got, 0)
		if st := c.(*shmconn.Conn).Stats(); st.BytesRead != 3000 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		ro := t.TempDir()
		if err := syscall.Mount(dir, ro, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(ro, syscall.MNT_DETACH)
		if err := syscall.Mount("", ro, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		c, err := shmconn.Dial(filepath.Join(ro, "feed"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := shmtest.MustAccept(t, l)
		defer b.Close()
		shmtest.BothSay(t, c, b)

		_, err = shmconn.Listen(filepath.Join(ro, "feed2"))
		if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), filepath.Join(ro, "shmconn.feed2")) {
			t.Errorf("Listen: %v", err)
		}
	})
	t.Run("a listener of another file system takes no file", func(t *testing.T) {
		// A dialer that may make files is not to hide them in memory.
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := shmtest.MustAccept(t, l)
		defer b.Close()
		shmtest.BothSay(t, c, b)
		if slices.ContainsFunc(shmtest.Mappings(), func(m string) bool { return strings.Contains(m, "/memfd:shmconn.feed") }) {
			t.Errorf("it is memory: %q", shmtest.Mappings())
		}
	})
}

// TestRamfs listens and dials on a file system that cannot allocate ahead.
func TestRamfs(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Skipf("cannot mount a ramfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	for _, anonymous := range []bool{false, true} {
		l, err := (&shmconn.ListenConfig{Anonymous: anonymous}).Listen(filepath.Join(dir, "feed"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := shmconn.Dial(filepath.Join(dir, "feed"))
		if err != nil {
			t.Fatal(err)
		}
		b := shmtest.MustAccept(t, l)
		shmtest.BothSay(t, a, b)
		a.Close()
		b.Close()
		l.Close()
	}
	if left := shmtest.ListDir(dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestModes listens with modes that let nobody in, or not whoever they seem to.
func TestModes(t *testing.T) {
	for mode, ok := range map[fs.FileMode]bool{
		0o600: true, 0o660: true, 0o666: true, 0o606: true, 0o640: true, 0o644: true, 0o700: true, 0o777: true, 0: true,
		0o400: false, 0o200: false, 0o060: false, 0o006: false, 0o066: false, 0o440: false, 0o444: false, 0o222: false,
		0o100: false, 0o620: false, 0o602: false, 0o622: false, 0o646: true,
	} {
		name := shmtest.NewName()
		l, err := (&shmconn.ListenConfig{Mode: mode}).Listen(name)
		if (err == nil) != ok {
			t.Errorf("mode %#o: %v", uint32(mode), err)
		}
		if err == nil {
			c, err := shmconn.Dial(name)
			if err != nil {
				t.Errorf("mode %#o: Dial: %v", uint32(mode), err)
			} else {
				c.Close()
			}
			l.Close()
		} else if text := err.Error(); !strings.Contains(text, fmt.Sprintf("mode %#o", uint32(mode))) || !strings.Contains(text, "0600 lets in") {
			t.Errorf("mode %#o: %v", uint32(mode), err)
		}
	}
}

// TestSetGroupID listens with 0660 in a directory that gives its group to what
// is made in it.
func TestSetGroupID(t *testing.T) {
	start := shmtest.OtherUsers(t)
	const group, own = 54321, 54322
	dir := shmtest.UnixShape.Path("group")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, shmtest.OtherUser, group), os.Chmod(dir, 0o775|fs.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "feed")
	h := start(t, "agent", syscall.Credential{Uid: shmtest.OtherUser, Gid: own, Groups: []uint32{group}}, shmtest.Shape{})
	h.Do("listenmode %s %d", name, 0o660)
	dialer := func(gid uint32) string {
		return start(t, "caller", syscall.Credential{Uid: shmtest.OtherUser + 1, Gid: gid}, shmtest.Shape{}).Call("dial %s %d", name, shmtest.OtherUser)
	}
	if got := dialer(group); got != "ok" {
		t.Errorf("of the directory's group: %s", got)
	}
	if got := dialer(own); got != "permission" {
		t.Errorf("of the listener's first group: %s", got)
	}
	h.Do("unlisten")
}

// TestWhere checks that errors say where it was looked, and why that is nobody.
func TestWhere(t *testing.T) {
	dir := shmtest.MountSmall(t, "size=256k,nr_inodes=6")
	dial := func(name string) error {
		c, err := (&shmconn.Dialer{Timeout: 10 * time.Second}).Dial(name)
		if err == nil {
			c.Close()
		}
		return err
	}
	want := func(what string, err error, is error, texts ...string) {
		t.Helper()
		if !errors.Is(err, is) {
			t.Errorf("%s: %v, want %v", what, err, is)
			return
		}
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want it to say %q", what, err, text)
			}
		}
		t.Logf("%s: %v", what, err)
	}
	feed := filepath.Join(dir, "feed")
	page := filepath.Join(dir, "shmconn.feed")

	want("no directory", dial(filepath.Join(dir, "nowhere/feed")), syscall.ECONNREFUSED, filepath.Join(dir, "nowhere"), "no such directory")
	t.Setenv("SHMCONN_DIR", filepath.Join(dir, "nowhere"))
	want("a wrong SHMCONN_DIR", dial("feed"), syscall.ECONNREFUSED, filepath.Join(dir, "nowhere"), "no such directory")
	want("nobody", dial(feed), syscall.ECONNREFUSED, page, "nobody listens")
	h := shmtest.StartHelper(t, "agent", shmtest.Shape{Ring: 4096})
	h.Do("listen %s", feed)
	h.Kill()
	want("died", dial(feed), syscall.ECONNREFUSED, page, "died")
	os.Remove(page)
	os.WriteFile(page, nil, 0o600)
	want("died at once", dial(feed), syscall.ECONNREFUSED, page, "died")
	os.Remove(page)
	os.Remove(page + "@sock")
	want("a file for the directory", dial("/proc/self/exe/feed"), syscall.ENOTDIR, "/proc/self/exe")
	os.WriteFile(page, []byte("somebody's data"), 0o640)
	_, err := shmconn.Listen(feed)
	if err == nil || !strings.Contains(err.Error(), page) {
		t.Errorf("Listen on somebody's data: %v", err)
	}
	if b, _ := os.ReadFile(page); string(b) != "somebody's data" {
		t.Errorf("it is %q now", b)
	}
	os.Remove(page)

	l, err := (&shmconn.ListenConfig{RingSize: 256 << 10}).Listen(feed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want("no bytes", dial(feed), syscall.ENOSPC, dir, strconv.Itoa(512<<10+os.Getpagesize())+" bytes", "smaller rings", "Anonymous")
	// It has its socket's name no more: that can be put back, and is waited for
	// for a moment.
	os.Remove(page + "@sock")
	l.Close()
	l, err = (&shmconn.ListenConfig{RingSize: 4096}).Listen(feed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 10 {
		os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600)
	}
	err = dial(feed)
	want("no inodes", err, syscall.ENOSPC, dir, "inode", "nr_inodes")
	if strings.Contains(fmt.Sprint(err), "smaller") {
		t.Errorf("smaller rings do not help: %v", err)
	}
	_, err = shmconn.Listen(filepath.Join(dir, "feed2"))
	want("no inodes for a listener", err, syscall.ENOSPC, dir, "inode", "nr_inodes")
}

// rootless changes its root. Its orders are "listen NAME", "dial NAME", "chroot
// DIR", "hide", which puts an empty directory into the place of /proc,
// "accept", "exchange" and "close".
func rootless(s shmtest.Shape, in *bufio.Scanner) {
	var l *shmconn.Listener
	var c *shmconn.Conn
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "listen":
			l, err = (&shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous}).Listen(f[1])
		case "dial":
			c, err = shmconn.Dial(f[1])
		case "chroot":
			err = errors.Join(syscall.Chroot(f[1]), syscall.Chdir("/"))
		case "hide":
			err = errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""), syscall.Mount("tmpfs", "/proc", "tmpfs", 0, ""))
		case "accept":
			c, err = l.AcceptConn()
		case "exchange":
			b := make([]byte, 5)
			if _, err = io.ReadFull(c, b); err == nil {
				_, err = c.Write(b)
			}
		case "close":
			err = c.Close()
		}
		fmt.Println(shmtest.Class(err))
	}
	if l != nil {
		l.Close()
	}
}

// TestWithoutProc listens, and dials, where there is no /proc.
func TestWithoutProc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot change the root")
	}
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run("listener/"+s.String(), func(t *testing.T) {
			h := shmtest.StartHelper(t, "rootless", s)
			name := shmtest.NewName()
			h.Do("listen %s", name)
			h.Do("chroot %s", t.TempDir())
			for range 3 {
				a := s.MustDial(t, name)
				h.Do("accept")
				a.Write([]byte("hello"))
				h.Do("exchange")
				b := make([]byte, 5)
				if _, err := io.ReadFull(a, b); string(b) != "hello" || err != nil {
					t.Fatalf("ReadFull = %q, %v", b, err)
				}
				h.Do("close")
				a.Close()
			}
		})
		t.Run("dialer/"+s.String(), func(t *testing.T) {
			dir := shmtest.MountSmall(t, "size=8m")
			l := s.MustListen(t, filepath.Join(dir, "feed"))
			h := shmtest.StartHelper(t, "rootless", s)
			h.Do("chroot %s", dir)
			h.Do("dial /feed")
			b := shmtest.MustAccept(t, l)
			b.Write([]byte("hello"))
			h.Do("exchange")
			h.Do("close")
			if got, err := io.ReadAll(b); string(got) != "hello" || err != nil {
				t.Errorf("ReadAll = %q, %v", got, err)
			}
			// Nobody listens, and that is what it says.
			if got := h.Call("dial /feed2"); got != "ECONNREFUSED" {
				t.Errorf("nobody: %s", got)
			}
			if got := h.Call("listen /feed2"); !strings.Contains(got, "/proc") {
				t.Errorf("Listen: %s", got)
			}
			if left := shmtest.ListDir(dir); len(left) != 2 {
				t.Errorf("left: %q", left)
			}
		})
	}
	t.Run("hidden", func(t *testing.T) { // as in another mount namespace
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		s := shmtest.Shape{Ring: 4096}
		l := s.MustListen(t, shmtest.NewName())
		long := filepath.Join(os.Getenv("SHMCONN_DIR"), strings.Repeat("d", 120))
		if err := os.Mkdir(long, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(long)
		l2 := s.MustListen(t, filepath.Join(long, "feed"))
		cmd := exec.Command(exe)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		h := shmtest.StartCommand(t, cmd, "rootless", s)
		h.Do("hide")
		h.Do("dial %s", shmtest.NameOf(l))
		b := shmtest.MustAccept(t, l)
		b.Write([]byte("hello"))
		h.Do("exchange")
		b.Close()
		if got := h.Call("dial %s", l2.Addr()); !strings.Contains(got, "/proc") || !strings.Contains(got, long) || strings.Contains(got, "refused") {
			t.Errorf("a path that is too long: %s", got)
		}
	})
}

// TestBeginAnew dials while the listener's page is being put right, and while
// its socket is another's.
func TestBeginAnew(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	page := shmtest.UnixShape.Path("shmconn." + shmtest.NameOf(l))
	f, err := os.OpenFile(page, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	mended := make(chan error)
	for what, damage := range map[string]func() error{
		"without its magic number": func() error { _, err := f.WriteAt(make([]byte, 8), 0); return err },
		"empty":                    func() error { return f.Truncate(0) },
		"without its socket":       func() error { return os.Rename(page+"@sock", page+"@sock.away") },
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(20 * time.Millisecond)
				_, err := f.WriteAt(whole[8:], 8)
				_, err2 := f.WriteAt(whole[:8], 0)
				if what == "without its socket" {
					err = errors.Join(err, os.Rename(page+"@sock.away", page+"@sock"))
				}
				mended <- errors.Join(err, err2)
			}()
			c, err := s.Dial(shmtest.NameOf(l))
			if err := <-mended; err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			b := shmtest.MustAccept(t, l)
			shmtest.BothSay(t, c, b)
			c.Close()
			b.Close()
		})
	}
	t.Run("for too long", func(t *testing.T) {
		// Nobody mends it but the listener, once a second.
		if _, err := f.WriteAt(make([]byte, 8), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.DialContext(ctx, shmtest.NameOf(l), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial: %v, want that it was canceled", err)
		}
		shmtest.Eventually(func() bool {
			c, err := s.Dial(shmtest.NameOf(l))
			if err != nil {
				shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
				return false
			}
			c.Close()
			return true
		})
	})
}

// TestDialTimeoutSignals dials with large rings while signals come in all the
// time.
func TestDialTimeoutSignals(t *testing.T) {
	dir := shmtest.MountSmall(t, "size=2g")
	alarms := make(chan os.Signal, 1)
	signal.Notify(alarms, syscall.SIGALRM)
	defer signal.Stop(alarms)
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{
		Interval: unix.Timeval{Usec: 500}, Value: unix.Timeval{Usec: 500},
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{})

	large, err := (&shmconn.ListenConfig{RingSize: 256 << 20}).Listen(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	for range 3 {
		start := time.Now()
		c, err := (&shmconn.Dialer{Timeout: 5 * time.Millisecond}).Dial(filepath.Join(dir, "large"))
		if err == nil {
			c.Close()
		}
		shmtest.WantErr(t, "Dial with half a GiB to allocate", err, "dial timeout")
		t.Logf("after %v", time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err = new(shmconn.Dialer).DialContext(ctx, "shm", filepath.Join(dir, "large"))
		shmtest.WantErr(t, "DialContext with half a GiB to allocate", err, "dial context-deadline")
		cancel()
	}
	if _, blocks := taken(t, dir); blocks > 16 {
		t.Errorf("%d blocks are left", blocks)
	}
	l, err := (&shmconn.ListenConfig{RingSize: 16 << 20}).Listen(filepath.Join(dir, "feed"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&shmconn.Dialer{Timeout: time.Minute}).Dial(filepath.Join(dir, "feed"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := shmtest.MustAccept(t, l)
	shmtest.BothSay(t, c, b)
	b.Close()
}

// TestRemoved removes the listener's files from outside: they are put back.
func TestRemoved(t *testing.T) {
	for _, which := range []string{"", "@sock"} {
		t.Run("shmconn.NAME"+which, func(t *testing.T) {
			name := shmtest.NewName()
			l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
			if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + which)); err != nil {
				t.Fatal(err)
			}
			ch := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					c.Close()
				}
				ch <- err
			}()
			// Either it is put back, and a dial comes through, or Accept says why not.
			var accepted error
			shmtest.Eventually(func() bool {
				select {
				case accepted = <-ch:
					return true
				default:
				}
				if c, err := shmconn.Dial(name); err == nil {
					c.Close()
				}
				return false
			})
			if accepted != nil {
				t.Errorf("Accept: %v", accepted)
			}
		})
	}
}

// TestRemovedAgain removes a listener's files again and again. What it holds
// then is bounded, and those who had dialed by the old names are accepted.
func TestRemovedAgain(t *testing.T) {
	for _, files := range [][]string{{"", "@sock"}, {"@sock"}} {
		t.Run("", func(t *testing.T) {
			name := shmtest.NewName()
			l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
			t.Logf("removed each time: %q", files)
			held := func() (descriptors, goroutines int) { return shmtest.OpenDescriptors(), runtime.NumGoroutine() }
			fds, gs := held()
			const times = 3
			var dialed []net.Conn
			for i := range times {
				c, err := shmconn.Dial(name) // nobody accepts it before its socket is lost
				if err != nil {
					t.Fatalf("dial %d: %v", i, err)
				}
				dialed = append(dialed, c)
				for _, f := range files {
					if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + f)); err != nil {
						t.Fatal(err)
					}
				}
				shmtest.Eventually(func() bool { // they are put back, and it can be dialed again
					for _, f := range []string{"", "@sock"} {
						if _, err := os.Lstat(shmtest.UnixShape.Path("shmconn." + name + f)); err != nil {
							return false
						}
					}
					c, err := shmconn.Dial(name)
					if err != nil {
						return false
					}
					c.Close()
					return true
				})
			}
			for range 2 * times {
				shmtest.MustAccept(t, l).Close()
			}
			for _, c := range dialed {
				c.Close()
			}
			shmtest.Eventually(func() bool {
				f, g := held()
				return f <= fds && g <= gs
			})
		})
	}
}

// TestCleanedAway removes files of listeners at random moments, as a session
// manager does that cleans /dev/shm. What was connected goes on, what waits is
// accepted, and the names come back.
func TestCleanedAway(t *testing.T) {
	n := 20
	if *shmtest.Long {
		n = 200
	}
	s := shmtest.Shape{Ring: 4096}
	rng := shmtest.Seeded(t)
	var mu sync.Mutex // guards the following
	var back shmtest.Figure
	var wg sync.WaitGroup
	for range n {
		name := shmtest.NewName()
		l := s.MustListen(t, name)
		a := s.MustDial(t, name)
		b := shmtest.MustAccept(t, l)
		waiting := s.MustDial(t, name)
		waiting.Write([]byte("waiting"))
		files := [][]string{{""}, {"@sock"}, {"", "@sock"}}[rng.IntN(3)]
		moment := time.Duration(rng.IntN(1000)) * time.Millisecond
		wg.Go(func() {
			time.Sleep(moment)
			for _, f := range files {
				if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + f)); err != nil {
					t.Error(err)
				}
			}
			start := time.Now()
			again, err := s.Dial(name)
			for ; err != nil; again, err = s.Dial(name) {
				shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
				buf := make([]byte, 4)
				a.Write([]byte("live"))
				if n, err := io.ReadFull(b, buf); string(buf) != "live" || err != nil {
					t.Errorf("Read = %d, %v", n, err)
				}
				time.Sleep(time.Millisecond)
			}
			took := time.Since(start)
			defer again.Close()
			again.Write([]byte("again"))
			var got []string
			for range 2 {
				c, err := l.Accept()
				if err != nil {
					t.Errorf("Accept: %v", err)
					return
				}
				defer c.Close()
				buf := make([]byte, 16)
				n, err := c.Read(buf)
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				got = append(got, string(buf[:n]))
			}
			slices.Sort(got)
			if !slices.Equal(got, []string{"again", "waiting"}) {
				t.Errorf("accepted: %q", got)
			}
			mu.Lock()
			defer mu.Unlock()
			back = append(back, took)
		})
	}
	wg.Wait()
	t.Logf("figure: from the removal of a listener's files to a Dial that works: %v", back)
}

// TestUsers lets processes of two users meet.
func TestUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: cannot run a process as another user")
	}
	const other = 65534
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// go test's own directory is closed to others.
	dir, err := os.MkdirTemp("", "shmconn-users-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/shmconn.test", bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	start := func(t *testing.T, s shmtest.Shape) *shmtest.Helper {
		return shmtest.StartBinary(t, dir+"/shmconn.test", &syscall.Credential{Uid: other, Gid: other}, "agent", s)
	}
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			listen := func(t *testing.T, mode fs.FileMode) *shmconn.Listener {
				lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: mode}
				l, err := lc.Listen(shmtest.NewName())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
				return l
			}
			t.Run("dial", func(t *testing.T) {
				for mode, want := range map[fs.FileMode]string{0: "permission", 0o600: "permission", 0o660: "permission", 0o666: "ok"} {
					l := listen(t, mode)
					h := start(t, s)
					if got := h.Call("dial %s", l.Addr()); got != want {
						t.Errorf("Mode %#o: another user's Dial: %s, want %s", mode, got, want)
						continue
					}
					if want != "ok" {
						continue
					}
					c, err := l.AcceptConn()
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if pid, uid, gid := c.PeerCred(); pid != h.PID || uid != other || gid != other {
						t.Errorf("PeerCred() = %d, %d, %d", pid, uid, gid)
					}
					if got, want := h.Call("cred 0"), fmt.Sprintf("%d 0 %d", os.Getpid(), os.Getgid()); got != want {
						t.Errorf("PeerCred() at the other end = %s, want %s", got, want)
					}
					c.Write(shmtest.Pattern(0, 100))
					h.Do("read 0 100")
					h.Do("write 0 100")
					h.Kill()
					got := make([]byte, 100)
					if _, err := io.ReadFull(c, got); err != nil {
						t.Error(err)
					}
					shmtest.CheckPattern(t, got, 0)
					shmtest.WantDead(t, c)
				}
			})
			t.Run("listen", func(t *testing.T) {
				h := start(t, s)
				name := shmtest.NewName()
				h.Do("listenmode %s %d", name, 0o666)
				_, err := shmconn.Dial(name)
				shmtest.WantErr(t, "Dial of another user's listener", err, "dial permission")
				var asked []uint32
				d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { asked = append(asked, uid); return false }}
				_, err = d.Dial(name)
				shmtest.WantErr(t, "Dial of a listener that AllowUID refuses", err, "dial permission")
				if len(asked) == 0 || slices.ContainsFunc(asked, func(uid uint32) bool { return uid != other }) {
					t.Errorf("AllowUID was asked for %d", asked)
				}
				d.AllowUID = func(uid uint32) bool { return uid == other }
				c, err := d.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				h.Do("accept")
				c.Write(shmtest.Pattern(0, 100))
				h.Do("read 0 100")

				// AllowUID is asked for one's own user too.
				own := listen(t, 0)
				_, err = d.Dial(own.Addr().String())
				shmtest.WantErr(t, "Dial of the own user's listener, which AllowUID refuses", err, "dial permission")
				h.Do("unlisten")
			})
			t.Run("stale", func(t *testing.T) {
				h := shmtest.StartHelper(t, "agent", s)
				name := shmtest.NewName()
				h.Do("listen %s", name)
				h.Kill()
				if got := start(t, s).Call("listen %s", name); got != "permission" {
					t.Errorf("another user's Listen on a stale name: %s, want permission", got)
				}
				shmtest.Reclaim(t, name)
			})
		})
	}
}

// TestRemovedAll removes all of a listener's files. What was connected and what
// waits goes on, and the name comes back.
func TestRemovedAll(t *testing.T) {
	t.Parallel()
	s := shmtest.Shape{Ring: 4096}
	name := shmtest.NewName()
	l := s.MustListen(t, name)
	a := s.MustDial(t, name)
	b := shmtest.MustAccept(t, l)
	waiting := s.MustDial(t, name)
	waiting.Write([]byte("waiting"))
	for _, f := range []string{"", "@sock"} {
		if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + f)); err != nil {
			t.Fatal(err)
		}
	}
	var again shmtest.Conn
	shmtest.Eventually(func() (ok bool) {
		var err error
		again, err = s.Dial(name)
		if err != nil {
			shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
		}
		return err == nil
	})
	defer again.Close()
	again.Write([]byte("again"))
	a.Write([]byte("before"))
	buf := make([]byte, 16)
	if n, err := b.Read(buf); string(buf[:n]) != "before" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	var got []string
	for range 2 {
		n, err := shmtest.MustAccept(t, l).Read(buf)
		if err != nil {
			t.Error(err)
		}
		got = append(got, string(buf[:n]))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"again", "waiting"}) {
		t.Errorf("accepted: %q", got)
	}
}

// TestDirectoryRemoved removes the directory that the name is in: Accept says
// so, and connections go on.
func TestDirectoryRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := shmconn.Dial(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = l.Accept()
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "removed") {
			t.Errorf("Accept: %v, want it to say that the name was removed", err)
		}
	}
	_, err = shmconn.Dial(dir + "/feed")
	shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
	a.Write([]byte("on"))
	buf := make([]byte, 8)
	if n, err := b.Read(buf); !bytes.Equal(buf[:n], []byte("on")) || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
}

// TestNameTaken removes a listener's files, and somebody else listens on the
// name: Accept says so, and Close leaves the other one alone.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	s := shmtest.Shape{Ring: 4096}
	name := shmtest.NewName()
	l := s.MustListen(t, name)
	for _, f := range []string{"", "@sock"} {
		if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + f)); err != nil {
			t.Fatal(err)
		}
	}
	other := s.MustListen(t, name)
	_, err := l.Accept()
	shmtest.WantErr(t, "Accept", err, "accept EADDRINUSE")
	l.Close()
	shmtest.WantServed(t, s, other)
}
