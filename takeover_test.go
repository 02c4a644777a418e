//go:build linux && !shmconn_sockets

package shmconn_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// takes is what all who may be taken over are.
var takes = &shmconn.ListenConfig{TakeOver: true}

func listenWith(t *testing.T, lc *shmconn.ListenConfig, name string) *shmconn.Listener {
	t.Helper()
	l, err := lc.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); l.Close() })
	return l
}

// accepting runs Accept of l until that is closed, and answers with who on each
// connection. ended has the last error.
func accepting(l *shmconn.Listener, who string) (ended chan error) {
	ended = make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			fmt.Fprint(c, who)
			c.Close()
		}
	}()
	return ended
}

// wantServer dials, and wants to be served by who.
func wantServer(t *testing.T, name, who string) {
	t.Helper()
	c, err := shmconn.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != who || err != nil {
		t.Errorf("served by %q, %v, want %q", b, err, who)
	}
}

// within fails unless ch has something soon.
func within[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: nothing for 30 s", what)
	}
	return v
}

// TestTakeOver has a name taken over many times. The connection to the first
// listener is open until the last has gone.
func TestTakeOver(t *testing.T) {
	name := shmtest.NewName()
	l := listenWith(t, takes, name)
	first, err := shmconn.Dial(name)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	ended := accepting(l, "0")
	for i := range 20 {
		wantServer(t, name, fmt.Sprint(i))
		next := listenWith(t, takes, name)
		shmtest.WantErr(t, "Accept once it was taken over", within(t, "Accept", ended), "accept closed")
		if st := l.Stats(); !st.Closed || st.Refused != 0 || st.Pending != 0 {
			t.Errorf("of the old one: %+v", st)
		}
		if err := l.Close(); err != nil {
			t.Errorf("Close of the old one: %v", err)
		}
		shmtest.WantErr(t, "second Close of the old one", l.Close(), "close closed")
		l = next
		if !segmentLocked(t, name) {
			t.Errorf("nobody has the lock once Listen has returned")
		}
		ended = accepting(l, fmt.Sprint(i+1))
	}
	_, err = shmconn.Listen(name)
	shmtest.WantErr(t, "Listen without TakeOver", err, "listen EADDRINUSE")
	l.Close()
	within(t, "Accept", ended)
	wantFiles(t, "after the last Close", name)
	shmtest.WantSound(t, first, served.(*shmconn.Conn))
}

// segmentLocked reports whether somebody has the lock of a name.
func segmentLocked(t *testing.T, name string) bool {
	t.Helper()
	f, err := os.Open(shmtest.UnixShape.Path("shmconn." + name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type == unix.F_WRLCK
}

// TestTakeOverBacklog has dialers wait behind the newcomer: the old listener,
// which does not call Accept, takes one of them at most.
func TestTakeOverBacklog(t *testing.T) {
	for _, reset := range []bool{false, true} {
		name := shmtest.NewName()
		old := listenWith(t, takes, name)
		next := make(chan *shmconn.Listener)
		go func() {
			l, err := takes.Listen(name)
			if err != nil {
				t.Error(err)
			}
			next <- l
		}()
		shmtest.Eventually(func() bool { return old.Stats().Pending == 1 })
		conns := dialAndSay(t, name, 8)
		l := within(t, "Listen", next)
		defer func() { l.Close(); l.Close() }()
		seen := make(map[string]bool)
		var n int
		if !reset {
			if err := old.Close(); err != nil {
				t.Errorf("Close once it was taken over: %v", err)
			}
			n = acceptAll(t, old, seen)
		} else {
			n = old.Stats().Pending
			old.Close()
			old.Close()
			_, err := old.Accept()
			shmtest.WantErr(t, "Accept after the second Close", err, "accept closed")
		}
		m := acceptAll(t, l, seen)
		if n > 1 || n+m != len(conns) {
			t.Errorf("the old one has %d, the new one %d of %d", n, m, len(conns))
		}
		for i, c := range conns {
			b, err := io.ReadAll(c)
			if err != nil && reset && i == 0 && n == 1 {
				shmtest.WantErr(t, "the dialer that the old one had taken", err, "read ECONNRESET")
			} else if string(b) != fmt.Sprint(i) || err != nil {
				t.Errorf("dialer %d: %q, %v", i, b, err)
			}
		}
		l.Close()
		wantFiles(t, "after the last Close", name)
	}
}

// TestTakeOverRefused has listeners that do not agree, or cannot.
func TestTakeOverRefused(t *testing.T) {
	var log bytes.Buffer
	logged := slog.New(slog.NewTextHandler(&log, nil))
	for _, tt := range []struct {
		what      string
		old, next shmconn.ListenConfig
		want      string // in the error
		refused   string // in the old one's log
	}{
		{"the old one has not set it", shmconn.ListenConfig{Logger: logged}, *takes, "has not set TakeOver", "asks to take over the listener"},
		{"the new one has not", *takes, shmconn.ListenConfig{}, "", ""},
		{"other rings", *takes, shmconn.ListenConfig{TakeOver: true, RingSize: 1 << 16}, "cannot have rings of 65536", ""},
		{"other memory", *takes, shmconn.ListenConfig{TakeOver: true, Anonymous: true}, "cannot be Anonymous", ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			log.Reset()
			name := shmtest.NewName()
			old := listenWith(t, &tt.old, name)
			ended := accepting(old, "old")
			start := time.Now()
			_, err := tt.next.Listen(name)
			shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")
			if err == nil || !strings.Contains(err.Error(), " "+name+": ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: want %q and %q in it", err, name, tt.want)
			}
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("it took %v", d)
			}
			for range 3 {
				wantServer(t, name, "old")
			}
			old.Close()
			shmtest.WantErr(t, "Accept", within(t, "Accept", ended), "accept closed")
			if got := log.String(); !strings.Contains(got, tt.refused) || (tt.refused == "") != (got == "") {
				t.Errorf("logged %q, want %q in it", got, tt.refused)
			}
			wantFiles(t, "in the end", name)
		})
	}
}

// TestTakeOverFree has TakeOver where there is nothing to take over: no name, a
// dead listener's, none that may be had.
func TestTakeOverFree(t *testing.T) {
	name := shmtest.NewName()
	l := listenWith(t, takes, name)
	ended := accepting(l, "first")
	wantServer(t, name, "first")
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	within(t, "Accept", ended)
	f.Close() // the names are left as by a listener that was killed
	wantFiles(t, "left", name, "", "@sock")
	l = listenWith(t, takes, name)
	ended = accepting(l, "second")
	wantServer(t, name, "second")
	l.Close()
	within(t, "Accept", ended)

	path := shmtest.UnixShape.Path("shmconn." + name)
	if err := os.WriteFile(path, []byte("my data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := takes.Listen(name); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Listen where there is another file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "my data" || err != nil {
		t.Errorf("the file: %q, %v", b, err)
	}
	os.Remove(path)
	for _, bad := range []string{"", ".", "a b", "/nowhere/feed"} {
		if _, err := takes.Listen(bad); err == nil {
			t.Errorf("Listen(%q) succeeded", bad)
		}
	}
}

// TestTakeOverBubble takes over in a bubble, where the clock stands still.
func TestTakeOverBubble(t *testing.T) {
	name := shmtest.NewName()
	synctest.Test(t, func(t *testing.T) {
		l, err := takes.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { _, err := l.Accept(); ended <- err }()
		next, err := takes.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		shmtest.WantErr(t, "Accept", <-ended, "accept closed")
		next.Close()
	})
	wantFiles(t, "in the end", name)
}

// TestTakeOverSecondTry has a newcomer find no listener, then that somebody has
// the name, and then that it can be taken over, as when another has begun to
// listen meanwhile.
func TestTakeOverSecondTry(t *testing.T) {
	name := shmtest.NewName()
	old := listenWith(t, takes, name)
	ended := accepting(old, "old")
	path := shmtest.UnixShape.Path("shmconn." + name)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The old one puts its magic number back within a second.
	if _, err := f.WriteAt(make([]byte, 8), 0); err != nil {
		t.Fatal(err)
	}
	next, err := takes.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	shmtest.WantErr(t, "Accept of the old one", within(t, "Accept", ended), "accept closed")
	accepting(next, "next")
	wantServer(t, name, "next")
}

// A message of a take-over.
func takeOverMessage(kind byte) []byte { return []byte{'s', 'h', 'm', 'c', 'o', 'n', 'n', 1, kind} }

// heard returns the next message of a take-over that comes over sock, "" for
// the end, and what came with it.
func heard(t *testing.T, sock int) (what string, fds []int) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(sock), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(poll, 30000); n == 0 && err == nil {
			t.Fatal("no message for 30 s")
		} else if err != unix.EINTR {
			break
		}
	}
	b, oob := make([]byte, 64), make([]byte, 64)
	n, oobn, _, _, err := unix.Recvmsg(sock, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err == unix.ECONNRESET {
		n, oobn, _, _, err = unix.Recvmsg(sock, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		t.Fatal(err)
	}
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		more, _ := unix.ParseUnixRights(&m)
		fds = append(fds, more...)
	}
	if n == 0 {
		return "", fds
	}
	if n != 9 || string(b[:8]) != "shmconn\x01" {
		t.Fatalf("message %q", b[:n])
	}
	return string(b[8]), fds
}

func wantHeard(t *testing.T, sock int, want string) (fds []int) {
	t.Helper()
	got, fds := heard(t, sock)
	if got != want || (len(fds) == 1) != (want == "g") {
		t.Fatalf("message %q with %d descriptors, want %q", got, len(fds), want)
	}
	return fds
}

// asked asks for the socket until it is given: not while another newcomer is
// being given up.
func asked(t *testing.T, name string) (p *shmtest.RawPeer, fd int) {
	t.Helper()
	for start := time.Now(); time.Since(start) < 30*time.Second; p.Close() {
		p = shmtest.RawConnect(t, name)
		p.Say(takeOverMessage('a'), nil)
		switch what, fds := heard(t, p.Sock); {
		case what == "g" && len(fds) == 1:
			return p, fds[0]
		case what != "n" || len(fds) != 0:
			t.Fatalf("message %q with %d descriptors, want \"g\"", what, len(fds))
		}
	}
	t.Fatal("no socket for 30 s")
	return nil, -1
}

// TestTakeOverAbandoned has newcomers that die at each step, or say something
// else: the old listener goes on, alone, until one has said that it listens.
func TestTakeOverAbandoned(t *testing.T) {
	name := shmtest.NewName()
	old := listenWith(t, takes, name)
	ended := accepting(old, "old")
	garbage := [][]byte{{0}, []byte("shmconn\x01h "), []byte("shmconn\x01"), []byte("shmconn\x02h"), takeOverMessage('a'), takeOverMessage('n'),
		bytes.Repeat([]byte{'h'}, 9), make([]byte, 5000)}
	for range 3 {
		for step := range 2 + len(garbage) {
			var p *shmtest.RawPeer
			if step == 0 {
				p = shmtest.RawConnect(t, name)
				p.Say(takeOverMessage('a'), nil)
			} else {
				var fd int
				p, fd = asked(t, name)
				if step > 1 {
					p.Say(garbage[step-2], nil)
					wantHeard(t, p.Sock, "n")
					wantHeard(t, p.Sock, "")
				}
				unix.Close(fd)
			}
			p.Close()
			wantServer(t, name, "old")
		}
	}
	if n := old.Stats().Refused; n != 0 {
		t.Errorf("%d were refused", n)
	}

	// Descriptors, which may be of a file system that does not answer.
	p, fd := asked(t, name)
	unix.Close(fd)
	r, w := shmtest.PipePair(t)
	p.Say(takeOverMessage('h'), []int{int(r.Fd()), int(w.Fd())})
	wantHeard(t, p.Sock, "n")
	wantHeard(t, p.Sock, "")
	wantServer(t, name, "old")

	// This one is alive and silent: nobody else can take over until it is given
	// up, and it cannot say any more that it listens.
	p, fd = asked(t, name)
	unix.Close(fd)
	other := shmtest.RawConnect(t, name)
	other.Say(takeOverMessage('a'), nil)
	wantHeard(t, other.Sock, "n")
	wantServer(t, name, "old")
	wantHeard(t, p.Sock, "n")
	if err := unix.Sendmsg(p.Sock, takeOverMessage('h'), nil, nil, unix.MSG_NOSIGNAL); err != unix.EPIPE {
		t.Errorf("a newcomer that was given up says that it listens: %v", err)
	}
	wantServer(t, name, "old")

	// And this one listens, and dies then: that is the end of a listener.
	p, fd = asked(t, name)
	p.Say(takeOverMessage('h'), nil)
	wantHeard(t, p.Sock, "")
	shmtest.WantErr(t, "Accept of the old one", within(t, "Accept", ended), "accept closed")
	conns := dialAndSay(t, name, 2)
	unix.Close(fd)
	for _, c := range conns {
		_, err := c.Read(make([]byte, 1))
		shmtest.WantErr(t, "Read of one in the backlog", err, "read ECONNRESET")
	}
	shmtest.Reclaim(t, name)
}

// TestTakeOverClosed closes the old listener, once and twice, while a newcomer
// has the socket and has not said so.
func TestTakeOverClosed(t *testing.T) {
	for closes := 1; closes <= 2; closes++ {
		name := shmtest.NewName()
		old := listenWith(t, takes, name)
		ended := accepting(old, "old")
		p := shmtest.RawConnect(t, name)
		p.Say(takeOverMessage('a'), nil)
		f := os.NewFile(uintptr(wantHeard(t, p.Sock, "g")[0]), name)
		for range closes {
			old.Close()
		}
		shmtest.WantErr(t, "Accept of the old one", within(t, "Accept", ended), "accept closed")
		wantHeard(t, p.Sock, "") // and no "n": it is the newcomer's now
		next, err := shmconn.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		nextEnded := accepting(next, "next")
		wantServer(t, name, "next")
		next.Close()
		within(t, "Accept", nextEnded)
		wantFiles(t, "in the end", name)
	}
}

// TestTakeOverGarbage has listeners refuse what looks like a request, and serve
// on.
func TestTakeOverGarbage(t *testing.T) {
	name := shmtest.NewName()
	l := listenWith(t, takes, name)
	accepting(l, "old")
	r, _ := shmtest.PipePair(t)
	for _, m := range []struct {
		b   []byte
		fds []int
	}{
		{takeOverMessage('g'), nil}, {takeOverMessage('h'), nil}, {takeOverMessage('n'), nil}, {takeOverMessage(0), nil},
		{append(takeOverMessage('a'), 0), nil}, {takeOverMessage('a')[:8], nil}, {[]byte("shmconn\x02a"), nil}, {[]byte("SHMCONN\x01a"), nil},
		{takeOverMessage('a'), []int{int(r.Fd())}}, {append(takeOverMessage('a'), make([]byte, 15)...), nil},
	} {
		before := l.Stats().Refused
		p := shmtest.RawConnect(t, name)
		p.Say(m.b, m.fds)
		p.HungUp()
		shmtest.Eventually(func() bool { return l.Stats().Refused == before+1 })
		wantServer(t, name, "old")
	}
	next := listenWith(t, takes, name)
	accepting(next, "next")
	wantServer(t, name, "next")
}

// wantRoom has n dialers find room in the backlog.
func wantRoom(t *testing.T, name string, n int) {
	t.Helper()
	for i := range n {
		sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(sock)
		if err := unix.Connect(sock, &unix.SockaddrUnix{Name: shmtest.UnixShape.Path("shmconn." + name + "@sock")}); err != nil {
			t.Errorf("dialer %d: %v", i, err)
		}
	}
}

// TestTakeOverFromBad plays an old listener that dies, gives up, or answers
// with something else.
func TestTakeOverFromBad(t *testing.T) {
	// say answers over conn; own is the socket.
	say := func(conn int, kind byte, fds ...int) {
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		unix.Sendmsg(conn, takeOverMessage(kind), oob, nil, unix.MSG_NOSIGNAL)
	}
	otherListener := mustListen(t, shmtest.NewName())
	other, err := otherListener.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	r, _ := shmtest.PipePair(t)
	const listens = "the newcomer listens"
	for _, tt := range []struct {
		what   string
		answer func(t *testing.T, conn, own int)
		want   string // in the error
	}{
		{"it closes", func(*testing.T, int, int) {}, "has not set TakeOver"},
		{"no descriptor", func(_ *testing.T, conn, _ int) { say(conn, 'g') }, "not understood"},
		{"two descriptors", func(_ *testing.T, conn, own int) { say(conn, 'g', own, own) }, "not understood"},
		{"a descriptor with another answer", func(_ *testing.T, conn, own int) { say(conn, 'n', own) }, "not understood"},
		{"another answer", func(_ *testing.T, conn, _ int) { say(conn, 'h') }, "has not set TakeOver"},
		{"an answer too long", func(_ *testing.T, conn, own int) {
			unix.Sendmsg(conn, append(takeOverMessage('g'), 0), unix.UnixRights(own), nil, unix.MSG_NOSIGNAL)
		}, "not understood"},
		{"a pipe", func(_ *testing.T, conn, _ int) { say(conn, 'g', int(r.Fd())) }, "not a listener's socket"},
		{"another name's socket", func(_ *testing.T, conn, _ int) { say(conn, 'g', int(other.Fd())) }, "another socket"},
		{"it never answers", func(t *testing.T, conn, _ int) {
			if what, _ := heard(t, conn); what == "a" { // and not one that looks whether somebody listens
				wantHeard(t, conn, "")
			}
		}, "has not answered within 5s"},
		{"it closes all the time", func(_ *testing.T, conn, _ int) { say(conn, 'n') }, "the listener"},
		{"it gives up", func(_ *testing.T, conn, own int) {
			unix.Shutdown(conn, unix.SHUT_RD)
			say(conn, 'g', own)
			say(conn, 'n')
		}, "the listener"},
		{"it dies after it has given the socket", func(_ *testing.T, conn, own int) { say(conn, 'g', own) }, listens},
		{"it dies before the newcomer says that it listens", func(_ *testing.T, conn, own int) {
			unix.Shutdown(conn, unix.SHUT_RD)
			say(conn, 'g', own)
		}, listens},
		{"it dies, and has not read", func(t *testing.T, conn, own int) {
			say(conn, 'g', own)
			wantHeard(t, conn, "a")
			unix.Poll([]unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}, 30000)
		}, listens},
		{"it lets go", func(t *testing.T, conn, own int) {
			wantHeard(t, conn, "a")
			say(conn, 'g', own)
			wantHeard(t, conn, "h")
		}, listens},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			name := shmtest.NewName()
			l := mustListen(t, name)
			f, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			l.Close() // nobody is left but f
			raw, err := f.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
					}
					raw.Control(func(own uintptr) {
						unix.Poll([]unix.PollFd{{Fd: int32(own), Events: unix.POLLIN}}, 10)
						conn, _, err := unix.Accept4(int(own), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
						if err == nil {
							asked++
							tt.answer(t, conn, int(own))
							unix.Close(conn)
						}
					})
				}
			}()
			lc := &shmconn.ListenConfig{TakeOver: true, Backlog: 1}
			next, err := lc.Listen(name)
			close(stop)
			<-stopped
			if tt.want == listens {
				if err != nil || asked != 1 {
					t.Fatalf("%v, asked %d times", err, asked)
				}
				f.Close()
				ended := accepting(next, "next")
				wantServer(t, name, "next")
				next.Close()
				within(t, "Accept", ended)
				wantFiles(t, "in the end", name)
				return
			}
			if err == nil {
				next.Close()
			}
			shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: want %q in it", err, tt.want)
			}
			wantFiles(t, "the names", name, "", "@sock")
			conns := dialAndSay(t, name, 1) // nothing was lost
			wantRoom(t, name, 4)            // and the backlog is as long as it was
			l, err = shmconn.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if n := acceptAll(t, l, make(map[string]bool)); n != len(conns) {
				t.Errorf("%d of %d are there", n, len(conns))
			}
			f.Close()
			l.Close()
			wantFiles(t, "in the end", name)
		})
	}
}
