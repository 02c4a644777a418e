//go:build linux

package restart

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// restarts returns how often a server is replaced.
func restarts(n, most int) int {
	if *shmtest.Long {
		return most
	}
	return n
}

// The environment of a process of a chain.
const (
	nameEnv = "SHMCONN_RESTART_NAME"
	leftEnv = "SHMCONN_RESTART_LEFT" // how often it is to be replaced yet
)

// chain is a server that starts its next process, with its socket as descriptor
// 3, waits until that listens, and ends.
func chain(_ shmtest.Shape, in *bufio.Scanner) {
	name := os.Getenv(nameEnv)
	left, _ := strconv.Atoi(os.Getenv(leftEnv))
	var s server
	var err error
	if ready := os.NewFile(4, "ready"); os.Getenv("SHMCONN_RESTART_CHILD") != "" {
		f := os.NewFile(3, name)
		s.l, err = shmconn.FileListener(f)
		f.Close()
		must(err)
		ready.Write([]byte("x"))
		ready.Close()
	} else {
		s.l, err = shmconn.Listen(name)
		must(err)
		fmt.Println("listening")
	}
	running := s.start()
	if s.isLast(left, running, in) {
		return
	}
	f, err := s.l.File()
	must(err)
	r, w, err := os.Pipe()
	must(err)
	exe, err := os.Executable()
	must(err)
	next := exec.Command(exe)
	next.Env = append(os.Environ(), leftEnv+"="+strconv.Itoa(left-1), "SHMCONN_RESTART_CHILD=1")
	next.Stdin, next.Stdout, next.Stderr = os.Stdin, os.Stdout, os.Stderr
	next.ExtraFiles = []*os.File{f, w}
	must(next.Start())
	f.Close()
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		must(fmt.Errorf("the next process: %w", err))
	}
	s.end(running, "replaced")
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// TestChain has each server start the next one. Other dialers are in a process
// of their own.
func TestChain(t *testing.T) {
	n, name := restarts(40, 4000), shmtest.NewName()
	h := shmtest.StartHelper(t, "restartchain", shmtest.Shape{}, nameEnv+"="+name, leftEnv+"="+strconv.Itoa(n))
	h.Expect("listening")
	ask(t, h, name, n, func() {})
}

// ask dials until h's last process listens, calls last, and ends that process.
func ask(t *testing.T, h *shmtest.Helper, name string, n int, last func()) {
	t.Helper()
	start := time.Now()
	others := shmtest.StartHelper(t, "restartdialer", shmtest.Shape{})
	others.Do("%s", name)
	l := startLoad(name, 4)
	var y tally
	for {
		line := h.Line()
		if line == "last" {
			break
		}
		if !y.add(t, line) {
			t.Fatalf("a server says %q", line)
		}
	}
	last()
	answered := l.end(t)
	m, err := strconv.Atoi(others.Call("end"))
	if err != nil {
		t.Errorf("the other dialers: %v", err)
	}
	h.Stdin.Close()
	for y.processes <= n {
		if line := h.Line(); !y.add(t, line) {
			t.Fatalf("a server says %q", line)
		}
	}
	if answered += m; answered != y.served {
		t.Errorf("%d requests were answered, and %d connections served", answered, y.served)
	}
	if y.processes != n+1 {
		t.Errorf("%d processes have served, want %d", y.processes, n+1)
	}
	report(t, n, start, answered)
	wantNoFiles(t, name)
}

// report says what was done, if all went well.
func report(t *testing.T, n int, start time.Time, answered int) {
	t.Helper()
	if !t.Failed() {
		t.Logf("figure: %d restarts in %v, %d requests with a connection each, 0 refused, 0 reset", n,
			time.Since(start).Round(time.Millisecond), answered)
	}
}

// wantNoFiles waits until the names of a listener are gone.
func wantNoFiles(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("SHMCONN_DIR")
	shmtest.Eventually(func() bool {
		for _, f := range shmtest.ListDir(dir) {
			if strings.HasPrefix(f, "shmconn."+name) {
				return false
			}
		}
		return true
	})
}

// flip is a server that tableflip restarts.
func flip(_ shmtest.Shape, in *bufio.Scanner) {
	name := os.Getenv(nameEnv)
	upg, err := tableflip.New(tableflip.Options{})
	must(err)
	ln, err := upg.ListenWithCallback("shm", name, func(_, name string) (net.Listener, error) {
		return shmconn.Listen(name)
	})
	must(err)
	var s server
	switch ln := ln.(type) {
	case *shmconn.Listener:
		s.l = ln
		fmt.Println("listening")
	case *net.UnixListener: // tableflip has made it of what was inherited
		f, err := ln.File()
		must(err)
		s.l, err = shmconn.FileListener(f)
		must(err)
		f.Close()
		ln.Close()
	}
	// tableflip passes no number of its own on: a file has it.
	count := os.Getenv(leftEnv)
	b, err := os.ReadFile(count)
	must(err)
	left, err := strconv.Atoi(string(b))
	must(err)
	running := s.start()
	must(upg.Ready())
	must(upg.WaitForParent(context.Background()))
	if left == 0 {
		fmt.Println("last")
		in.Scan()
		upg.Stop()
		<-upg.Exit()
		s.end(running, "last")
		return
	}
	for s.accepted.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	must(os.WriteFile(count, []byte(strconv.Itoa(left-1)), 0o600))
	early := []string{"process is not ready yet", "parent hasn't exited"}
	for err = upg.Upgrade(); err != nil && slices.Contains(early, err.Error()); err = upg.Upgrade() {
		time.Sleep(time.Millisecond) // tableflip learns of both later than Ready and WaitForParent
	}
	must(err)
	<-upg.Exit()
	s.end(running, "replaced")
}

// TestTableflip has tableflip, which knows sockets and nothing of us, replace
// the server.
func TestTableflip(t *testing.T) {
	n, name := restarts(30, 3000), shmtest.NewName()
	count := t.TempDir() + "/left"
	if err := os.WriteFile(count, []byte(strconv.Itoa(n)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := shmtest.StartHelper(t, "restartflip", shmtest.Shape{}, nameEnv+"="+name, leftEnv+"="+count)
	h.Expect("listening")
	ask(t, h, name, n, func() {})
}

// unit is a service that systemd starts with a socket: sd_listen_fds(3).
func unit(_ shmtest.Shape, in *bufio.Scanner) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		must(fmt.Errorf("LISTEN_PID=%s, LISTEN_FDS=%s in process %d", os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getpid()))
	}
	f := os.NewFile(3, "LISTEN_FD_3")
	l, err := shmconn.FileListener(f)
	must(err)
	f.Close()
	s := server{l: l}
	running := s.start()
	fmt.Println("listening")
	in.Scan()
	s.end(running, "stopped")
}

// activate makes a socket as systemd does for ListenSequentialPacket=, which
// lives for as long as the socket unit does.
func activate(t *testing.T, name string) (sock *os.File, path string) {
	t.Helper()
	path = os.Getenv("SHMCONN_DIR") + "/shmconn." + name + "@sock"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 4096) // Backlog= is as large by default
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), path), path
}

// startUnit starts the service as systemd does: the socket is descriptor 3, it
// blocks (NonBlocking= is false by default), and the environment says for which
// process it is.
func startUnit(t *testing.T, sock *os.File) *shmtest.Helper {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.SetNonblock(int(fd), false) })
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=feed.socket exec "$0"`, exe)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cmd.ExtraFiles = []*os.File{sock}
	h := shmtest.StartCommand(t, cmd, "restartunit", shmtest.Shape{})
	h.Expect("listening")
	return h
}

// TestUnit stops and starts a service whose socket is a service manager's: no
// process of it is there in between, and dialers wait in the backlog.
func TestUnit(t *testing.T) {
	n, name := restarts(40, 3000), shmtest.NewName()
	sock, path := activate(t, name)
	h := startUnit(t, sock)
	start := time.Now()
	l := startLoad(name, 8)
	var y tally
	stop := func() {
		h.Stdin.Close()
		if line := h.Line(); !y.add(t, line) {
			t.Fatalf("the service says %q", line)
		}
		if err := h.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		time.Sleep(2 * time.Millisecond)
		stop()
		h = startUnit(t, sock)
	}
	answered := l.end(t)
	stop()
	if answered != y.served {
		t.Errorf("%d requests were answered, and %d connections served", answered, y.served)
	}
	report(t, n, start, answered)

	// The socket unit stops, too.
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket is systemd's, and gone: %v", err)
	}
	sock.Close()
	if _, err := shmconn.Dial(name); shmtest.Class(err) != "ECONNREFUSED" {
		t.Errorf("Dial once nobody has the socket: %v", err)
	}
	shmtest.Reclaim(t, name)
}

// TestUnitKilled kills the service: what it has accepted is lost, and nobody is
// refused.
func TestUnitKilled(t *testing.T) {
	n, name := restarts(15, 500), shmtest.NewName()
	sock, _ := activate(t, name)
	defer sock.Close()
	h := startUnit(t, sock)
	l := startLoad(name, 8)
	for range n {
		time.Sleep(2 * time.Millisecond)
		h.Kill()
		h = startUnit(t, sock)
	}
	l.stop.Store(true)
	l.wg.Wait()
	h.Stdin.Close()
	h.Line()
	h.Wait()
	if refused := l.ends["ECONNREFUSED"]; refused != 0 || l.ends["ok"] == 0 {
		t.Errorf("%d dials refused, %v", refused, l.ends)
	}
	for class := range l.ends {
		switch class {
		case "ok", "ECONNRESET", "EPIPE": // it was killed
		default:
			t.Errorf("a request: %s", class)
		}
	}
	t.Logf("figure: %d kills, requests: %v", n, l.ends)
	sock.Close()
	shmtest.Reclaim(t, name)
}
