//go:build linux

package shmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

// The environment of a helper process: its role, and its shape as JSON.
const (
	RoleEnv  = "SHMCONN_TEST_ROLE"
	ShapeEnv = "SHMCONN_TEST_SHAPE"
)

// Roles are what a second process, this same binary, can do, by name. A role
// returns when its standard input, of which in has the lines, ends.
type Roles map[string]func(s Shape, in *bufio.Scanner)

// common are the roles that every package of tests has.
var common = Roles{
	"agent": Agent,
	"relay": relay,
	"fds":   listDescriptors,
}

// A Helper is a second process.
type Helper struct {
	T     testing.TB
	PID   int
	cmd   *exec.Cmd
	Stdin io.WriteCloser
	Lines *bufio.Scanner
	Wait  func() error // waits for its end, once
	dead  bool         // killed by the test: its exit status says nothing
}

// StartHelper runs this binary again in the role, with env, and ends it with
// the test.
func StartHelper(t testing.TB, role string, s Shape, env ...string) *Helper {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return StartBinary(t, exe, nil, role, s, env...)
}

// StartBinary is StartHelper for a copy of this binary, run as another user.
func StartBinary(t testing.TB, exe string, cred *syscall.Credential, role string, s Shape, env ...string) *Helper {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	return StartCommand(t, cmd, role, s, env...)
}

// StartCommand is StartHelper for a command that is this binary.
func StartCommand(t testing.TB, cmd *exec.Cmd, role string, s Shape, env ...string) *Helper {
	t.Helper()
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	h := &Helper{T: t, cmd: cmd}
	h.cmd.Env = append(os.Environ(), RoleEnv+"="+role, ShapeEnv+"="+string(js))
	h.cmd.Env = append(h.cmd.Env, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	h.cmd.Env = append(h.cmd.Env, env...)
	h.cmd.Dir = "/"
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	h.Stdin, err = h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Lines = bufio.NewScanner(stdout)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.PID = h.cmd.Process.Pid
	h.Wait = sync.OnceValue(h.cmd.Wait)
	t.Cleanup(func() {
		h.Stdin.Close()
		h.Signal(syscall.SIGCONT)
		if err := h.Wait(); err != nil && !h.dead {
			t.Errorf("helper %s: %v", role, err)
		}
	})
	return h
}

// Send says a line to the helper.
func (h *Helper) Send(format string, args ...any) {
	h.T.Helper()
	if _, err := fmt.Fprintf(h.Stdin, format+"\n", args...); err != nil {
		h.T.Fatalf("helper: %v", err)
	}
}

// Line returns the next line that the helper says.
func (h *Helper) Line() string {
	h.T.Helper()
	if !h.Lines.Scan() {
		h.T.Fatalf("helper ended, or its output did: %v", h.Lines.Err())
	}
	return h.Lines.Text()
}

// Expect fails unless the next line is want.
func (h *Helper) Expect(want string) {
	h.T.Helper()
	if got := h.Line(); got != want {
		h.T.Fatalf("helper says %q, want %q", got, want)
	}
}

// Call says a line and returns the answer.
func (h *Helper) Call(format string, args ...any) string {
	h.T.Helper()
	h.Send(format, args...)
	return h.Line()
}

// Do says a line to which the answer must be "ok".
func (h *Helper) Do(format string, args ...any) {
	h.T.Helper()
	if got := h.Call(format, args...); got != "ok" {
		h.T.Fatalf("helper, asked to "+format+", says %q", append(args, got)...)
	}
}

// Signal sends the helper a signal.
func (h *Helper) Signal(sig syscall.Signal) {
	h.cmd.Process.Signal(sig) // fails when it has ended, which is fine
}

// Kill ends the helper with SIGKILL and returns when it is gone.
func (h *Helper) Kill() {
	h.dead = true
	h.Signal(syscall.SIGKILL)
	h.Wait()
}

// Fail tells the helper to end in a way that is a failure, and returns when it
// is gone.
func (h *Helper) Fail(how string) {
	h.T.Helper()
	h.dead = true
	h.Send("%s", how)
	if err := h.Wait(); err == nil {
		h.T.Errorf("helper, told to %s, ended well", how)
	}
}

// Stop ends the helper's running with SIGSTOP and returns when all of its
// threads stand still, or it has ended.
func (h *Helper) Stop() {
	h.Signal(syscall.SIGSTOP)
	Eventually(func() bool {
		tasks := fmt.Sprintf("%d/task/", h.PID)
		for _, tid := range ListDir("/proc/" + tasks) {
			if state, _ := ProcessState(tasks + tid); state != "T" && state != "Z" {
				return false
			}
		}
		return true
	})
}

// Cont ends Stop.
func (h *Helper) Cont() { h.Signal(syscall.SIGCONT) }

// runHelper plays the role, and dies when its standard input ends.
func runHelper(role string, roles Roles) int {
	f := roles[role]
	if f == nil {
		f = common[role]
	}
	if f == nil {
		fmt.Fprintf(os.Stderr, "no such helper: %q\n", role)
		return 2
	}
	var s Shape
	if err := json.Unmarshal([]byte(os.Getenv(ShapeEnv)), &s); err != nil {
		fmt.Fprintln(os.Stderr, "helper's shape:", err)
		return 2
	}
	// A role can be blocked in a call on a connection when its input ends: so
	// the end is looked for beside it.
	pr, pw := io.Pipe()
	go func() {
		io.Copy(pw, os.Stdin)
		pw.Close()
		time.Sleep(2 * time.Second) // for a role that does not block
		os.Exit(0)
	}()
	f(s, bufio.NewScanner(pr))
	return 0
}

// listDescriptors says what descriptors it was born with.
func listDescriptors(s Shape, in *bufio.Scanner) {
	for _, fd := range ListDir("/proc/self/fd") {
		if n, _ := strconv.Atoi(fd); n > 2 {
			target, _ := os.Readlink("/proc/self/fd/" + fd)
			fmt.Println(fd, target)
		}
	}
	fmt.Println("end")
	in.Scan()
}

// Monotonic returns the time in nanoseconds as all processes have it.
func Monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Join returns a connection to a new process, which knows it as connection 0.
func Join(t *testing.T, s Shape) (*shmconn.Conn, *Helper) {
	t.Helper()
	h := StartHelper(t, "agent", s)
	return JoinHelper(t, s, h), h
}

// JoinHelper is Join for a helper that is there.
func JoinHelper(t *testing.T, s Shape, h *Helper) *shmconn.Conn {
	t.Helper()
	name := NewName()
	if s.Swap {
		l := s.MustListen(t, name)
		h.Do("dial %s", name)
		c := MustAccept(t, l)
		l.Close()
		return c.(*shmconn.Conn)
	}
	h.Do("listen %s", name)
	c := s.MustDial(t, name)
	h.Do("accept")
	h.Do("unlisten")
	return c.(*shmconn.Conn)
}

// A ProcessTB is the testing.TB of a helper process: what is fatal ends the
// process.
type ProcessTB struct {
	testing.TB
	cleanups []func()
}

func (p *ProcessTB) Helper()                   {}
func (p *ProcessTB) Cleanup(f func())          { p.cleanups = append(p.cleanups, f) }
func (p *ProcessTB) Fatal(a ...any)            { fmt.Fprintln(os.Stderr, a...); os.Exit(3) }
func (p *ProcessTB) Errorf(f string, a ...any) { p.Fatal(fmt.Sprintf(f, a...)) }
func (p *ProcessTB) Fatalf(f string, a ...any) { p.Fatal(fmt.Sprintf(f, a...)) }

// RunCleanups does what a test does when it ends.
func (p *ProcessTB) RunCleanups() {
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
}

// OtherUser is a user that nobody is, for processes of another user.
const OtherUser = 12345

// OtherUsers starts helpers as any user. It skips the test if it may not.
func OtherUsers(t *testing.T) func(t *testing.T, role string, who syscall.Credential, s Shape) *Helper {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot run a process as another user")
	}
	dir, err := os.MkdirTemp("", "shmconn-somebody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/shmconn.test", bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, role string, who syscall.Credential, s Shape) *Helper {
		return StartBinary(t, dir+"/shmconn.test", &who, role, s)
	}
}
