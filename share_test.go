//go:build linux && !shmconn_sockets

package shmconn_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// handOn returns another listener on l's socket, in this process.
func handOn(t *testing.T, l *shmconn.Listener) *shmconn.Listener {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	next, err := shmconn.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Close(); next.Close() })
	return next
}

func mustListen(t *testing.T, name string) *shmconn.Listener {
	t.Helper()
	return listenWith(t, new(shmconn.ListenConfig), name)
}

// filesOf returns what there is of a name.
func filesOf(name string) (list []string) {
	paths, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn." + name + "*"))
	for _, p := range paths {
		list = append(list, strings.TrimPrefix(filepath.Base(p), "shmconn."+name))
	}
	return list
}

func wantFiles(t *testing.T, when, name string, want ...string) {
	t.Helper()
	if got := filesOf(name); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: files %q, want %q", when, got, want)
	}
}

// dialAndSay dials n times, and says the number on each connection.
func dialAndSay(t *testing.T, name string, n int) (conns []*shmconn.Conn) {
	t.Helper()
	for i := range n {
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprint(c, i)
		conns = append(conns, c)
	}
	return conns
}

// acceptAll accepts what l has, and answers it: the ends of a set of numbers.
func acceptAll(t *testing.T, l *shmconn.Listener, seen map[string]bool) (n int) {
	t.Helper()
	l.SetDeadline(time.Now().Add(time.Second))
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		b := make([]byte, 8)
		m, err := c.Read(b)
		if err != nil || seen[string(b[:m])] {
			t.Errorf("connection %q: %v", b[:m], err)
		}
		seen[string(b[:m])] = true
		if _, err := c.Write(b[:m]); err != nil {
			t.Error(err)
		}
		c.Close()
	}
}

// TestShared hands a socket on: both listeners have one backlog, and the last
// one removes the names.
func TestShared(t *testing.T) {
	name := shmtest.NewName()
	first := mustListen(t, name)
	second := handOn(t, first)
	if second.Addr() != first.Addr() {
		t.Errorf("Addr() = %v, want %v", second.Addr(), first.Addr())
	}
	conns := dialAndSay(t, name, 10)
	if err := first.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if st := first.Stats(); !st.Closed {
		t.Errorf("after Close: %+v", st)
	}
	wantFiles(t, "after the first Close", name, "", "@sock")
	conns = append(conns, dialAndSay(t, name, 0)...)
	seen := make(map[string]bool)
	n := acceptAll(t, first, seen)
	_, err := first.Accept()
	shmtest.WantErr(t, "Accept once all was given out", err, "accept closed")
	if m := acceptAll(t, second, seen); n+m != len(conns) {
		t.Errorf("accepted %d and %d of %d", n, m, len(conns))
	}
	for i, c := range conns {
		b, err := io.ReadAll(c)
		if string(b) != fmt.Sprint(i) || err != nil {
			t.Errorf("dialer %d: %q, %v", i, b, err)
		}
	}
	for _, what := range []struct {
		call string
		f    func() error
	}{
		{"close", first.Close},
		{"file", func() error { _, err := first.File(); return err }},
		{"file", func() error { _, err := first.SyscallConn(); return err }},
		{"set", func() error { return first.SetDeadline(time.Time{}) }},
	} {
		shmtest.WantErr(t, what.call+" after Close", what.f(), what.call+" closed")
	}

	// The name is taken, whoever has the lock.
	_, err = shmconn.Listen(name)
	shmtest.WantErr(t, "Listen beside the second", err, "listen EADDRINUSE")
	third := handOn(t, second)
	second.Close()
	_, err = shmconn.Listen(name)
	shmtest.WantErr(t, "Listen beside the third", err, "listen EADDRINUSE")
	acceptAll(t, second, seen)
	wantFiles(t, "before the last Close", name, "", "@sock")
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	acceptAll(t, third, seen)
	wantFiles(t, "after the last Close", name)
	_, err = shmconn.Dial(name)
	shmtest.WantErr(t, "Dial after the last Close", err, "dial ECONNREFUSED")
}

// TestSharedUnserved has nobody listen for a while: the socket alone is there,
// as with systemd between two runs of a service.
func TestSharedUnserved(t *testing.T) {
	name := shmtest.NewName()
	l := mustListen(t, name)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Name() != name {
		t.Errorf("File().Name() = %q, want %q", f.Name(), name)
	}
	l.Close()
	_, err = l.Accept()
	shmtest.WantErr(t, "Accept after Close", err, "accept closed")
	conns := dialAndSay(t, name, 5)
	_, err = shmconn.Listen(name)
	shmtest.WantErr(t, "Listen while the socket is open", err, "listen EADDRINUSE")
	l, err = shmconn.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(map[string]bool)
	if n := acceptAll(t, l, seen); n != len(conns) {
		t.Errorf("accepted %d of %d", n, len(conns))
	}
	l.Close()
	wantFiles(t, "while the socket is open", name, "", "@sock")
	f.Close()

	// Now nobody has it, and it is a name that a killed listener has left.
	start := time.Now()
	_, err = shmconn.Dial(name)
	shmtest.WantErr(t, "Dial once nobody has the socket", err, "dial ECONNREFUSED")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Dial took %v", d)
	}
	shmtest.Reclaim(t, name)
}

// TestSharedTaken closes a listener that has taken dialers off the socket:
// Accept gives them out, also one that has not spoken yet, or a second Close
// resets them.
func TestSharedTaken(t *testing.T) {
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset=%v", reset), func(t *testing.T) {
			name := shmtest.NewName()
			s := shmtest.Shape{Ring: 4096}
			lc := &shmconn.ListenConfig{RingSize: 4096}
			l, err := lc.Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := l.File() // nobody listens on it
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			silent := shmtest.RawDialer(t, name, s)
			accepted := make(chan error, 2)
			accept := func() {
				c, err := l.AcceptConn()
				if err == nil {
					_, err = c.Write([]byte("hello"))
					c.Close()
				}
				accepted <- err
			}
			go accept()
			shmtest.Eventually(func() bool { return l.Stats().Pending == 1 && queued(f) == 0 })
			start := time.Now()
			if err := l.Close(); err != nil || time.Since(start) > time.Second {
				t.Errorf("Close = %v, after %v", err, time.Since(start))
			}
			select {
			case err := <-accepted:
				t.Fatalf("Accept has ended before the dialer was heard: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			if reset {
				shmtest.WantErr(t, "second Close", l.Close(), "close closed")
				shmtest.WantErr(t, "Accept after the second Close", <-accepted, "accept closed")
				silent.HungUp()
			} else {
				silent.Say(silent.Hello())
				if err := <-accepted; err != nil {
					t.Errorf("Accept: %v", err)
				}
				_, err := l.Accept()
				shmtest.WantErr(t, "Accept after it", err, "accept closed")
			}
			f.Close()
			shmtest.Reclaim(t, name)
		})
	}
}

// queued reports whether a dialer waits in a socket's backlog.
func queued(f *os.File) (n int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return n
}

// TestSharedTwice has File called twice at the same time while a dialer has
// taken memory to use again and has not said so yet. Neither call returns
// before it has: the dialer could come to the process that gets the socket.
func TestSharedTwice(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName()).(*shmconn.Listener)
	p := shmtest.RawReusable(t, shmtest.NameOf(l), s)
	p.Handshake()
	c := shmtest.MustAccept(t, l)
	p.Retire(1)
	c.Close()
	p.Offer(2)
	p.AwaitOffer(2)
	p.Take(2)

	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	var said atomic.Bool
	var wg sync.WaitGroup
	file := func() {
		wg.Go(func() {
			start := time.Now()
			f, err := l.File()
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
			if waited := time.Since(start); !said.Load() && waited < 1900*time.Millisecond {
				t.Errorf("File returned after %v, while a dialer was on its way", waited)
			}
		})
	}
	file()
	shmtest.Eventually(func() bool { return p.Word(shmtest.AcceptorSpare) == 0 }) // it is in File
	file()
	time.Sleep(50 * time.Millisecond) // for it to return, which it must not
	said.Store(true)
	p.Introduce(shmtest.NameOf(l), shmtest.ReuseMessage(p.ID, 2))
	wg.Wait()
	(<-accepted).Close()
}

// TestSharedDropped drops a listener that was handed on, and what it had taken.
func TestSharedDropped(t *testing.T) {
	name := shmtest.NewName()
	func() {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}()
	shmtest.Eventually(func() bool {
		runtime.GC()
		return len(filesOf(name)) == 0
	})
}

// TestSharedSucceeds lets a listener that was handed the socket have the name
// once the one before it has ended: it puts back what is removed from outside.
func TestSharedSucceeds(t *testing.T) {
	name := shmtest.NewName()
	first := mustListen(t, name)
	second := handOn(t, first)
	first.Close()
	path := shmtest.UnixShape.Path("shmconn." + name)
	shmtest.Eventually(func() bool {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lock := unix.Flock_t{Type: unix.F_RDLCK}
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
	})
	os.Remove(path)
	os.Remove(path + "@sock")
	d := shmconn.Dialer{Wait: 20 * time.Second}
	c, err := d.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := second.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	second.Close()
	second.Accept()
	wantFiles(t, "at the end", name)
}

// TestSharedGeometry asks for other rings than dialers know.
func TestSharedGeometry(t *testing.T) {
	name := shmtest.NewName()
	lc := &shmconn.ListenConfig{RingSize: 1 << 16}
	l, err := lc.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, other := range []*shmconn.ListenConfig{{RingSize: 4096}, {Anonymous: true}, {RingSize: 1 << 16, Anonymous: true}} {
		_, err := other.FileListener(f)
		if err == nil || !strings.Contains(err.Error(), "shmconn."+name) || !strings.Contains(err.Error(), "cannot") {
			t.Errorf("FileListener with %d, %v: %v", other.RingSize, other.Anonymous, err)
		}
	}
	for _, same := range []*shmconn.ListenConfig{{}, lc} {
		l, err := same.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := c.RingSize(); n != 1<<16 {
			t.Errorf("rings of %d bytes", n)
		}
		c.Close()
		l.Close()
		l.Close()
	}
}

// TestSharedBlocking has another process, which shares the socket, make it
// block: that is no matter of a descriptor.
func TestSharedBlocking(t *testing.T) {
	name := shmtest.NewName()
	l := mustListen(t, name)
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(uintptr) bool { return true }); err == nil {
		t.Error("Read of the RawConn does something")
	}
	if err := raw.Write(func(uintptr) bool { return true }); err == nil {
		t.Error("Write of the RawConn does something")
	}
	for range 20 {
		conns := dialAndSay(t, name, 1)
		if err := raw.Control(func(fd uintptr) { unix.SetNonblock(int(fd), false) }); err != nil {
			t.Fatal(err)
		}
		l.Stats()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		conns[0].Close()
	}
	l.SetDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = l.Accept()
	shmtest.WantErr(t, "Accept", err, "accept timeout")
	start := time.Now()
	l.Close()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	wantFiles(t, "after Close", name)
}

// TestSharedDirectories hands on listeners whose names say a directory. A long
// path is not in the socket's address: the File's name tells.
func TestSharedDirectories(t *testing.T) {
	for _, long := range []int{1, 65 - len(os.Getenv("SHMCONN_DIR")) - 1, 90, 200} {
		dir := os.Getenv("SHMCONN_DIR") + "/" + strings.Repeat("d", long)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		name := dir + "/feed"
		first := mustListen(t, name)
		second := handOn(t, first)
		if second.Addr().String() != name {
			t.Errorf("Addr() = %q, want %q", second.Addr(), name)
		}
		dialAndSay(t, name, 1)
		f, err := first.File()
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := f.SyscallConn()
		raw.Control(func(fd uintptr) {
			again, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			nameless := os.NewFile(uintptr(again), "fd 3")
			defer nameless.Close()
			l, err := shmconn.FileListener(nameless)
			if err == nil {
				l.Close()
				l.Close()
			}
			if told := len(dir) <= 65; told != (err == nil) {
				t.Errorf("FileListener of a file whose name does not tell, in a directory of %d bytes: %v", len(dir), err)
			}
		})
		f.Close()
		for _, l := range []*shmconn.Listener{first, second} {
			l.Close()
			l.Close()
		}
		if left := shmtest.ListDir(dir); len(left) != 0 {
			t.Errorf("left in the directory: %q", left)
		}
	}
}

// TestFileListenerBad gives FileListener what is no listener's socket.
func TestFileListenerBad(t *testing.T) {
	sock := func(t *testing.T, kind int, path string, listen bool) *os.File {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if path != "" {
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(path) })
		}
		if listen {
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
		}
		return os.NewFile(uintptr(fd), "given")
	}
	free, taken := shmtest.NewName(), shmtest.NewName()
	at := func(base string) string { return shmtest.UnixShape.Path("shmconn." + base + "@sock") }
	for _, tt := range []struct {
		what string
		f    func(t *testing.T) *os.File
		want string // in the error
	}{
		{"a pipe", func(t *testing.T) *os.File { r, _ := shmtest.PipePair(t); return r }, "not a listener's socket"},
		{"a file", func(t *testing.T) *os.File { return shmtest.TempFile(t, nil) }, "not a listener's socket"},
		{"a closed file", func(t *testing.T) *os.File { f := shmtest.TempFile(t, nil); f.Close(); return f }, "closed"},
		{"TCP", func(t *testing.T) *os.File {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			return f
		}, "SOCK_SEQPACKET"},
		{"a stream socket", func(t *testing.T) *os.File { return sock(t, unix.SOCK_STREAM, at(free), true) }, "SOCK_SEQPACKET"},
		{"a socket that does not listen", func(t *testing.T) *os.File { return sock(t, unix.SOCK_SEQPACKET, at(free), false) }, "listens"},
		{"another program's", func(t *testing.T) *os.File {
			return sock(t, unix.SOCK_SEQPACKET, shmtest.UnixShape.Path("other.sock"), true)
		}, "other.sock"},
		{"an abstract one", func(t *testing.T) *os.File {
			return sock(t, unix.SOCK_SEQPACKET, "@"+free, true)
		}, free},
		{"one that was removed", func(t *testing.T) *os.File {
			f := sock(t, unix.SOCK_SEQPACKET, at(free), true)
			os.Remove(at(free))
			return f
		}, "not there any more"},
		{"one that was replaced", func(t *testing.T) *os.File {
			f := sock(t, unix.SOCK_SEQPACKET, at(free), true)
			os.Remove(at(free))
			g := sock(t, unix.SOCK_SEQPACKET, at(free), true)
			t.Cleanup(func() { g.Close() })
			return f
		}, "another socket"},
		{"one beside a listener that has not shared", func(t *testing.T) *os.File {
			l := mustListen(t, taken)
			t.Cleanup(func() { l.Close() })
			os.Remove(at(taken))
			return sock(t, unix.SOCK_SEQPACKET, at(taken), true)
		}, "has not shared"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			f := tt.f(t)
			defer f.Close()
			l, err := shmconn.FileListener(f)
			if err == nil {
				l.Close()
				t.Fatal("FileListener succeeded")
			}
			if got := shmtest.Outcome(t, "shm", err); !strings.HasPrefix(got, "listen ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %v: want %q in it", got, err, tt.want)
			}
			if tt.want == "has not shared" && !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%v is not EADDRINUSE", err)
			}
			if left := filesOf(free); tt.want != "another socket" && len(left) > 1 {
				t.Errorf("left: %q", left)
			}
		})
	}
	for _, lc := range []*shmconn.ListenConfig{{Backlog: -1}, {RingSize: 5}, {Mode: 0o1000}} {
		if _, err := lc.FileListener(os.Stdin); err == nil {
			t.Errorf("FileListener of %+v succeeded", lc)
		}
	}
}
