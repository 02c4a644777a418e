//go:build linux

package inspect

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// somebody and another are users that nobody is.
const somebody, another = 12345, 12346

const roleEnv = "SHMCONN_INSPECT_ROLE"

var roles = map[string]func(in *bufio.Scanner){
	"agent": agent,
	"scan":  scanForParent,
	"evil":  evil,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		roles[role](bufio.NewScanner(os.Stdin))
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own, as open as /dev/shm, and
// fails if they leave files.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-")
	if err == nil {
		err = os.Chmod(dir, 0o777|fs.ModeSticky)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("SHMCONN_DIR", dir)
	// The tests of package shmconn remove such directories when nobody has them
	// locked.
	f, err := os.Open(dir)
	if err == nil {
		defer f.Close()
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if left, _ := filepath.Glob(dir + "/*"); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: the tests left %q\n", left)
		return 1
	}
	return code
}

func testDir() string { return os.Getenv("SHMCONN_DIR") }

var names atomic.Int64

// newName returns a name that nobody has.
func newName() string { return fmt.Sprintf("i%d-%d", os.Getpid(), names.Add(1)) }

func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("not root: cannot %s", what)
	}
}

// eventually waits until ok says so; a test in which it never does ends by
// -timeout, with stacks.
func eventually(ok func() bool) {
	for !ok() {
		time.Sleep(time.Millisecond)
	}
}

// A helper is a second process: this binary again.
type helper struct {
	t     testing.TB
	pid   int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
	dead  bool
	wait  func() error
}

// start starts a helper, as the user uid if that is not 0.
func start(t testing.TB, role string, uid uint32) *helper {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		exe = readable(t, exe)
	}
	h := &helper{t: t, cmd: exec.Command(exe)}
	h.cmd.Env = append(os.Environ(), roleEnv+"="+role, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	h.cmd.Dir = "/"
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		h.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.lines = bufio.NewReader(stdout)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.pid = h.cmd.Process.Pid
	h.wait = sync.OnceValue(h.cmd.Wait)
	t.Cleanup(func() {
		h.stdin.Close()
		h.cmd.Process.Signal(syscall.SIGCONT)
		if err := h.wait(); err != nil && !h.dead {
			t.Errorf("helper %s: %v", role, err)
		}
	})
	return h
}

// readable returns a copy of the binary that everybody may run.
func readable(t testing.TB, exe string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shmconn-inspect-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(exe)
	to := filepath.Join(dir, "inspect.test")
	if err = errors.Join(err, os.WriteFile(to, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}

func (h *helper) call(format string, args ...any) string {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.stdin, format+"\n", args...); err != nil {
		h.t.Fatalf("helper: %v", err)
	}
	line, err := h.lines.ReadString('\n')
	if err != nil {
		h.t.Fatalf("helper, asked to "+format+": %v", append(args, err)...)
	}
	return strings.TrimSpace(line)
}

// do says a line to which the answer must be "ok".
func (h *helper) do(format string, args ...any) {
	h.t.Helper()
	if got := h.call(format, args...); got != "ok" {
		h.t.Fatalf("helper, asked to "+format+", says %q", append(args, got)...)
	}
}

func (h *helper) kill() {
	h.dead = true
	h.cmd.Process.Kill()
	h.wait()
}

// stop stops the helper and returns when it stands still.
func (h *helper) stop() {
	h.cmd.Process.Signal(syscall.SIGSTOP)
	eventually(func() bool {
		var p process
		return p.stat(fmt.Sprintf("/proc/%d/", h.pid)) == nil && p.Stopped
	})
}

// agent has ends of connections, numbered from 0, and does what it is told.
func agent(in *bufio.Scanner) {
	var (
		l     *shmconn.Listener
		conns []*shmconn.Conn
	)
	for in.Scan() {
		f := strings.Fields(in.Text())
		num := func(i int) int {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				panic(err)
			}
			return n
		}
		var c *shmconn.Conn
		if len(f) > 1 {
			if i, err := strconv.Atoi(f[1]); err == nil {
				c = conns[i]
			}
		}
		var err error
		switch f[0] {
		case "listen": // name, "named" or "anonymous"
			lc := shmconn.ListenConfig{Anonymous: f[2] == "anonymous", Mode: 0o666, RingSize: 64 << 10}
			l, err = lc.Listen(f[1])
		case "dial":
			var d *shmconn.Conn
			if d, err = (&shmconn.Dialer{AllowUID: func(uint32) bool { return true }}).Dial(f[1]); err == nil {
				conns = append(conns, d)
			}
		case "accept":
			var a *shmconn.Conn
			if a, err = l.AcceptConn(); err == nil {
				conns = append(conns, a)
			}
		case "unlisten":
			err = l.Close()
		case "write":
			_, err = c.Write(make([]byte, num(2)))
		case "read":
			_, err = io.ReadFull(c, make([]byte, num(2)))
		case "startread":
			go c.Read(make([]byte, 1))
		case "startwrite":
			go c.Write(make([]byte, num(2)))
		case "readend": // says what ends it
			_, err = io.Copy(io.Discard, struct{ io.Reader }{c})
			if ne, ok := err.(*net.OpError); ok {
				err = ne.Err
			}
		case "closewrite":
			err = c.CloseWrite()
		case "close":
			err = c.Close()
		case "stats":
			st := c.Stats()
			st.ReadWait = 0 // a wait under way counts, looked at or not; one that was disturbed, in Waits and Parks
			fmt.Printf("%+v\n", st)
			continue
		default:
			err = errors.New("what?")
		}
		if err == nil {
			fmt.Println("ok")
		} else {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	if l != nil {
		l.Close()
	}
}

// scanForParent prints what it sees, once for each line that it reads.
func scanForParent(in *bufio.Scanner) {
	s := &Scanner{Dirs: []string{testDir()}}
	for in.Scan() {
		snap, err := s.Scan()
		if err != nil {
			fmt.Println(err)
			continue
		}
		b, _ := json.Marshal(snap)
		fmt.Printf("%s\n", b)
	}
}

// scan returns what there is of name, or of its connections.
func scan(t testing.TB, name string) *Snapshot {
	t.Helper()
	s := &Scanner{Dirs: []string{testDir()}}
	snap, err := s.Scan()
	if err != nil {
		t.Fatal(err)
	}
	return snap.Select(name)
}

// scanAs is scan as the helper sees it.
func (h *helper) scan(name string) *Snapshot {
	h.t.Helper()
	snap := new(Snapshot)
	if line := h.call("scan"); json.Unmarshal([]byte(line), snap) != nil {
		h.t.Fatalf("scan: %s", line)
	}
	return snap.Select(name)
}

// one returns the only connection of name.
func one(t testing.TB, name string) Conn {
	t.Helper()
	snap := scan(t, name)
	if len(snap.Conns) != 1 {
		t.Fatalf("%d connections of %s are seen: %+v", len(snap.Conns), name, snap.Conns)
	}
	return snap.Conns[0]
}

// until waits until the only connection of name is as ok says.
func until(t testing.TB, name string, ok func(c Conn) bool) (c Conn) {
	t.Helper()
	eventually(func() bool { c = one(t, name); return ok(c) })
	return c
}

// kinds are the two kinds of memory.
var kinds = []string{"named", "anonymous"}

// connect connects two helpers on a new name.
func connect(t testing.TB, kind string, dialerUID, acceptorUID uint32) (d, a *helper, name string) {
	t.Helper()
	d, a, name = start(t, "agent", dialerUID), start(t, "agent", acceptorUID), newName()
	a.do("listen %s %s", name, kind)
	d.do("dial %s", name)
	a.do("accept")
	return d, a, name
}
