//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

// With -long the tests that sample run the full numbers, for hours.
var long = flag.Bool("long", false, "run the full numbers, which takes hours")

// The environment of a helper process: its role, and its shape as JSON.
const (
	roleEnv  = "SHMCONN_TEST_ROLE"
	shapeEnv = "SHMCONN_TEST_SHAPE"
)

// helpers are the roles that a second process, this same binary, can play. A
// role returns when its standard input ends.
var helpers = map[string]func(s shape, in *bufio.Scanner){
	"agent": agent,
	"relay": relay,
	"fds":   listDescriptors,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(runHelper(role))
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own, and fails when they leave
// anything.
func runTests(m *testing.M) int {
	// Made here, so that what the runtime's poller needs is not taken for a leak.
	if r, w, err := os.Pipe(); err == nil {
		r.SetReadDeadline(time.Now())
		r.Close()
		w.Close()
	}
	// A directory of our own: a run beside this one can use the same names,
	// which the examples do. As open as /dev/shm, for the tests across users.
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-")
	if err == nil {
		err = os.Chmod(dir, 0o777|fs.ModeSticky)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shmconn tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("SHMCONN_DIR", dir)
	defer holdDir(dir).Close()
	sweepDirs()

	before := descriptors()
	code := m.Run()
	if code != 0 {
		return code
	}
	var left []string
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC() // handles that were dropped are closed by their cleanups
		if left = leftovers(dir, before); len(left) == 0 {
			return 0
		}
		if time.Since(start) > 10*time.Second {
			break
		}
	}
	fmt.Fprintf(os.Stderr, "FAIL: the tests left %d things:\n", len(left))
	for _, s := range left {
		fmt.Fprintln(os.Stderr, s)
	}
	return 1
}

// holdDir locks dir for as long as this process lives.
func holdDir(dir string) *os.File {
	f, err := os.Open(dir)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shmconn tests:", err)
		os.Exit(1)
	}
	return f
}

// sweepDirs removes the directories of runs that were killed, which nobody holds
// and where nothing has happened for a while: what is in them takes memory.
func sweepDirs() {
	old, _ := filepath.Glob("/dev/shm/shmconn-test-*")
	for _, dir := range old {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && time.Since(info.ModTime()) > 10*time.Minute && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}

// leftovers lists goroutines, descriptors, mappings, processes and names of files
// that the tests should not have left.
func leftovers(dir string, before map[string]int) (left []string) {
	for i, g := range goroutines() {
		if i == 0 || strings.Contains(g, "os/signal.") || strings.Contains(g, "runtime/trace.") || strings.Contains(g, "runtime/pprof.") {
			continue
		}
		left = append(left, "goroutine: "+g)
	}
	for target, n := range descriptors() {
		if n > before[target] {
			left = append(left, fmt.Sprintf("descriptor: %d x %s", n-before[target], target))
		}
	}
	left = append(left, mappings()...)
	left = append(left, processes(dir)...)
	for _, f := range listDir(dir) {
		left = append(left, "file: "+filepath.Join(dir, f))
	}
	for _, f := range listDir("/dev/shm") {
		if strings.HasPrefix(f, "shmconn."+namePrefix()) {
			left = append(left, "file: /dev/shm/"+f)
		}
	}
	return left
}

// goroutines returns the stacks of all goroutines, the caller's first.
func goroutines() []string {
	buf := make([]byte, 1<<16)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return strings.Split(strings.TrimSpace(string(buf[:n])), "\n\n")
		}
		buf = make([]byte, 2*len(buf))
	}
}

// descriptors counts this process's descriptors by what they refer to.
func descriptors() map[string]int {
	m := make(map[string]int)
	for _, fd := range listDir("/proc/self/fd") {
		target, err := os.Readlink("/proc/self/fd/" + fd)
		if err != nil {
			continue // the one that listDir had
		}
		if strings.HasPrefix(target, "pipe:") || strings.HasPrefix(target, "socket:") {
			target, _, _ = strings.Cut(target, ":") // without the inode, for the count
		}
		m[target]++
	}
	return m
}

// mappings lists the mappings of connections in this process.
func mappings() (lines []string) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return []string{err.Error()}
	}
	exe, _ := os.Executable()
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) > 5 && f[5] != exe &&
			(strings.Contains(f[5], "shmconn") || strings.Contains(f[5], "memfd:")) {
			lines = append(lines, "mapping: "+strings.TrimSpace(line))
		}
	}
	return lines
}

// processes lists the children of this process, also those that have ended and were
// not waited for, and the descendants of its helpers, which have dir in their
// environment.
func processes(dir string) (list []string) {
	for _, pid := range listDir("/proc") {
		if n, err := strconv.Atoi(pid); err != nil || n == os.Getpid() {
			continue
		}
		environ, _ := os.ReadFile("/proc/" + pid + "/environ") // of a process that has ended it is empty
		state, parent := processState(pid)
		if parent == os.Getpid() || slices.Contains(strings.Split(string(environ), "\x00"), "SHMCONN_DIR="+dir) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			list = append(list, fmt.Sprintf("process: %s, %s, state %s", pid, bytes.TrimSpace(name), state))
		}
	}
	return list
}

// processState returns the state of a process, or of a thread as "PID/task/TID", and
// who its parent is; "" if there is no such process.
func processState(pid string) (state string, parent int) {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name can be anything
	if len(f) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(f[1])
	return f[0], parent
}

func listDir(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	slices.Sort(names)
	return names
}

var nameCount atomic.Int64

func namePrefix() string { return fmt.Sprintf("t%d-", os.Getpid()) }

// newName returns a name that nobody has.
func newName() string { return namePrefix() + strconv.FormatInt(nameCount.Add(1), 10) }

// raceEnabled says whether this binary was built with -race.
var raceEnabled = func() bool {
	bi, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(bi.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// A shape is a way to make connections. The zero shape is shm with all defaults.
type shape struct {
	Net        string // "shm", which "" stands for, or "unix"
	Ring       int
	Anonymous  bool
	ListenPoll time.Duration
	DialPoll   time.Duration
	Swap       bool // the first of a pair is the accepted end
}

func (s shape) net() string {
	if s.Net == "" {
		return "shm"
	}
	return s.Net
}

func (s shape) String() string {
	str := "net=" + s.net()
	if s.Net != "unix" {
		str += ",ring=" + strconv.Itoa(s.ringSize()) + ",seg="
		if s.Anonymous {
			str += "anonymous"
		} else {
			str += "named"
		}
		str += ",poll=" + pollName(s.DialPoll)
		if s.ListenPoll != s.DialPoll {
			str += "+" + pollName(s.ListenPoll)
		}
	}
	if s.Swap {
		str += ",ends=swapped"
	}
	return str
}

func pollName(d time.Duration) string {
	if d < 0 {
		return "always"
	}
	if d == 0 {
		return "default"
	}
	return d.String()
}

func (s shape) ringSize() int {
	if s.Ring == 0 {
		return shmconn.DefaultRingSize
	}
	return s.Ring
}

// poll returns s with BusyPoll d at both ends.
func (s shape) poll(d time.Duration) shape {
	s.ListenPoll, s.DialPoll = d, d
	return s
}

// A conn is what *net.UnixConn and *shmconn.Conn have in common.
type conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// A listener is what *net.UnixListener and *shmconn.Listener have in common.
type listener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// path returns the Unix socket's path for name.
func (s shape) path(name string) string { return filepath.Join(os.Getenv("SHMCONN_DIR"), name) }

func (s shape) listen(name string) (listener, error) {
	if s.Net == "unix" {
		l, err := net.Listen("unix", s.path(name))
		if err != nil {
			return nil, err
		}
		return l.(*net.UnixListener), nil
	}
	lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll}
	l, err := lc.Listen(name)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (s shape) dialContext(ctx context.Context, name string, timeout time.Duration) (conn, error) {
	if s.Net == "unix" {
		c, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "unix", s.path(name))
		if err != nil {
			return nil, err
		}
		return c.(*net.UnixConn), nil
	}
	c, err := (&shmconn.Dialer{BusyPoll: s.DialPoll, Timeout: timeout}).DialContext(ctx, "shm", name)
	if err != nil {
		return nil, err
	}
	return c.(*shmconn.Conn), nil
}

func (s shape) dial(name string) (conn, error) {
	return s.dialContext(context.Background(), name, 0)
}

// connect returns the two ends of a connection, and a function that closes
// both.
func (s shape) connect() (a, b conn, stop func(), err error) {
	l, err := s.listen(newName())
	if err != nil {
		return nil, nil, nil, err
	}
	defer l.Close()
	a, err = s.dial(nameOf(l))
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := l.Accept()
	if err != nil {
		a.Close()
		return nil, nil, nil, err
	}
	b = c.(conn)
	if s.Swap {
		a, b = b, a
	}
	return a, b, func() { a.Close(); b.Close() }, nil
}

// nameOf returns the name that l listens on.
func nameOf(l net.Listener) string { return filepath.Base(l.Addr().String()) }

// pair returns the two ends of a connection, closed when the test ends.
func (s shape) pair(t testing.TB) (a, b conn) {
	t.Helper()
	a, b, stop, err := s.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return a, b
}

// shmPair is pair for what only a *shmconn.Conn has.
func (s shape) shmPair(t testing.TB) (a, b *shmconn.Conn) {
	t.Helper()
	x, y := s.pair(t)
	return x.(*shmconn.Conn), y.(*shmconn.Conn)
}

func (s shape) mustListen(t testing.TB, name string) listener {
	t.Helper()
	l, err := s.listen(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (s shape) mustDial(t testing.TB, name string) conn {
	t.Helper()
	c, err := s.dial(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustAccept(t testing.TB, l listener) conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(conn)
}

// class names the kind of error that err is.
func class(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		err  error
		name string
	}{
		{io.EOF, "EOF"},
		{context.Canceled, "canceled"},
		{context.DeadlineExceeded, "context-deadline"},
		{net.ErrClosed, "closed"},
		{os.ErrDeadlineExceeded, "timeout"},
		{syscall.EPIPE, "EPIPE"},
		{syscall.ECONNRESET, "ECONNRESET"},
		{syscall.ECONNREFUSED, "ECONNREFUSED"},
		{syscall.EADDRINUSE, "EADDRINUSE"},
		{syscall.ENOENT, "ENOENT"},
		{syscall.EAGAIN, "EAGAIN"},
		{syscall.ENOSPC, "ENOSPC"},
		{fs.ErrPermission, "permission"},
	} {
		if !errors.Is(err, c.err) {
			continue
		}
		ne, ok := err.(net.Error)
		timeout := c.name == "timeout" || c.name == "context-deadline"
		if timeout && !(ok && ne.Timeout()) {
			return c.name + " whose Timeout() is false"
		}
		if !timeout && ok && ne.Timeout() {
			return c.name + " whose Timeout() is true"
		}
		return c.name
	}
	if ce, ok := errors.AsType[*shmconn.CorruptError](err); ok {
		return "corrupt " + ce.What
	}
	return "another error: " + err.Error()
}

// outcome is class with the operation that the error names. It fails the test
// if err is not as the package says that all are: io.EOF bare, the rest a
// *net.OpError, wrapped once.
func outcome(t testing.TB, network string, err error) string {
	t.Helper()
	if err == nil || err == io.EOF {
		return class(err)
	}
	oe, ok := err.(*net.OpError)
	if !ok {
		t.Errorf("error is a %T, want a *net.OpError: %v", err, err)
		return class(err)
	}
	if oe.Net != network || oe.Op == "" {
		t.Errorf("OpError has Op %q, Net %q, want an Op and %q: %v", oe.Op, oe.Net, network, err)
	}
	if network == "shm" && oe.Addr == nil {
		t.Errorf("OpError has no Addr: %v", err)
	}
	if _, twice := errors.AsType[*net.OpError](oe.Err); twice {
		t.Errorf("OpError is wrapped twice: %v", err)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("io.EOF is wrapped: %v", err)
	}
	return oe.Op + " " + class(err)
}

// wantErr fails unless err is of the class, at the operation: "read closed".
func wantErr(t testing.TB, what string, err error, want string) {
	t.Helper()
	if got := outcome(t, "shm", err); got != want {
		t.Errorf("%s: got %s (%v), want %s", what, got, err, want)
	}
}

// eventually waits until ok says so; a test in which it never does ends by
// -timeout, with stacks.
func eventually(ok func() bool) {
	for !ok() {
		time.Sleep(50 * time.Microsecond)
	}
}

// blocked runs f, which is to block in one call on c, in a goroutine, returns
// when it does, and hands out the channel that f's end closes.
func blocked(c net.Conn, f func()) <-chan struct{} {
	done := make(chan struct{})
	if c, ok := c.(*shmconn.Conn); ok {
		before := c.Stats().Waits
		go func() { defer close(done); f() }()
		eventually(func() bool { return c.Stats().Waits > before })
		return done
	}
	before := waitingForIO()
	go blockedCall(done, f)
	eventually(func() bool { return waitingForIO() > before })
	return done
}

func blockedCall(done chan struct{}, f func()) {
	defer close(done)
	f()
}

// waitingForIO counts the goroutines of blocked that the poller has.
func waitingForIO() (n int) {
	for _, g := range goroutines() {
		if strings.Contains(g, "shmconn_test.blockedCall") && strings.Contains(g[:strings.IndexByte(g, '\n')], "[IO wait") {
			n++
		}
	}
	return n
}

// accepting is blocked for a call of l.Accept, of which nothing can be seen
// from outside but the stack.
func accepting(f func()) <-chan struct{} {
	done := make(chan struct{})
	count := func() (n int) {
		for _, g := range goroutines() {
			head, _, _ := strings.Cut(g, "\n")
			if strings.Contains(g, "shmconn_test.blockedCall") && strings.Contains(g, ").Accept(") && !strings.Contains(head, "[run") {
				n++
			}
		}
		return n
	}
	before := count()
	go blockedCall(done, f)
	eventually(func() bool { return count() > before })
	return done
}

// pattern returns n bytes that depend on their place in the stream, so that a
// byte that is lost, doubled or moved shows.
func pattern(off, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = patternAt(off + i)
	}
	return b
}

func patternAt(i int) byte {
	x := uint32(i) * 2654435761
	return byte(x>>24) ^ byte(x>>11)
}

// checkPattern fails if got is not what pattern(off, len(got)) is.
func checkPattern(t testing.TB, got []byte, off int) {
	t.Helper()
	if i := firstDiff(got, off); i >= 0 {
		t.Errorf("byte %d of the stream, the %d. of %d here, is %#x, want %#x", off+i, i, len(got), got[i], patternAt(off+i))
	}
}

func firstDiff(got []byte, off int) int {
	for i, c := range got {
		if c != patternAt(off+i) {
			return i
		}
	}
	return -1
}

// A helper is a second process.
type helper struct {
	t     testing.TB
	pid   int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
	wait  func() error // waits for its end, once
	dead  bool         // killed by the test: its exit status says nothing
}

// startHelper runs this binary again in the role, with env, and ends it with
// the test.
func startHelper(t testing.TB, role string, s shape, env ...string) *helper {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return startBinary(t, exe, nil, role, s, env...)
}

func startBinary(t testing.TB, exe string, cred *syscall.Credential, role string, s shape, env ...string) *helper {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	return startCommand(t, cmd, role, s, env...)
}

// startCommand is startHelper for a command that is this binary.
func startCommand(t testing.TB, cmd *exec.Cmd, role string, s shape, env ...string) *helper {
	t.Helper()
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	h := &helper{t: t, cmd: cmd}
	h.cmd.Env = append(os.Environ(), roleEnv+"="+role, shapeEnv+"="+string(js))
	h.cmd.Env = append(h.cmd.Env, "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	h.cmd.Env = append(h.cmd.Env, env...)
	h.cmd.Dir = "/"
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	h.stdin, err = h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.lines = bufio.NewScanner(stdout)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.pid = h.cmd.Process.Pid
	h.wait = sync.OnceValue(h.cmd.Wait)
	t.Cleanup(func() {
		h.stdin.Close()
		h.signal(syscall.SIGCONT)
		if err := h.wait(); err != nil && !h.dead {
			t.Errorf("helper %s: %v", role, err)
		}
	})
	return h
}

// send says a line to the helper.
func (h *helper) send(format string, args ...any) {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.stdin, format+"\n", args...); err != nil {
		h.t.Fatalf("helper: %v", err)
	}
}

// line returns the next line that the helper says.
func (h *helper) line() string {
	h.t.Helper()
	if !h.lines.Scan() {
		h.t.Fatalf("helper ended, or its output did: %v", h.lines.Err())
	}
	return h.lines.Text()
}

// expect fails unless the next line is want.
func (h *helper) expect(want string) {
	h.t.Helper()
	if got := h.line(); got != want {
		h.t.Fatalf("helper says %q, want %q", got, want)
	}
}

// call says a line and returns the answer.
func (h *helper) call(format string, args ...any) string {
	h.t.Helper()
	h.send(format, args...)
	return h.line()
}

// do says a line to which the answer must be "ok".
func (h *helper) do(format string, args ...any) {
	h.t.Helper()
	if got := h.call(format, args...); got != "ok" {
		h.t.Fatalf("helper, asked to "+format+", says %q", append(args, got)...)
	}
}

func (h *helper) signal(sig syscall.Signal) {
	h.cmd.Process.Signal(sig) // fails when it has ended, which is fine
}

// kill ends the helper with SIGKILL and returns when it is gone.
func (h *helper) kill() {
	h.dead = true
	h.signal(syscall.SIGKILL)
	h.wait()
}

// fail tells the helper to end in a way that is a failure, and returns when it is gone.
func (h *helper) fail(how string) {
	h.t.Helper()
	h.dead = true
	h.send("%s", how)
	if err := h.wait(); err == nil {
		h.t.Errorf("helper, told to %s, ended well", how)
	}
}

// stop ends the helper's running with SIGSTOP and returns when all of its
// threads stand still.
func (h *helper) stop() {
	h.signal(syscall.SIGSTOP)
	eventually(func() bool {
		tasks := fmt.Sprintf("%d/task/", h.pid)
		for _, tid := range listDir("/proc/" + tasks) {
			if state, _ := processState(tasks + tid); state != "T" {
				return false
			}
		}
		return true
	})
}

func (h *helper) cont() { h.signal(syscall.SIGCONT) }

// runHelper plays the role, and dies when its standard input ends.
func runHelper(role string) int {
	f, ok := helpers[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "no such helper: %q\n", role)
		return 2
	}
	var s shape
	if err := json.Unmarshal([]byte(os.Getenv(shapeEnv)), &s); err != nil {
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
func listDescriptors(s shape, in *bufio.Scanner) {
	for _, fd := range listDir("/proc/self/fd") {
		if n, _ := strconv.Atoi(fd); n > 2 {
			target, _ := os.Readlink("/proc/self/fd/" + fd)
			fmt.Println(fd, target)
		}
	}
	fmt.Println("end")
	in.Scan()
}

// agent is an end in another process, told what to do line by line. Connections
// are numbered from 0. An answer is "ok", or what went wrong.
func agent(s shape, in *bufio.Scanner) {
	var (
		l     listener
		conns []conn
		sent  []int // per connection: bytes of the pattern written and read
		got   []int
	)
	add := func(c conn) {
		conns = append(conns, c)
		sent = append(sent, 0)
		got = append(got, 0)
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		num := func(i int) int {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				panic(err)
			}
			return n
		}
		var err error
		switch f[0] {
		case "listen":
			l, err = s.listen(f[1])
		case "listenmode":
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: fs.FileMode(num(2))}
			var sl *shmconn.Listener
			sl, err = lc.Listen(f[1])
			l = sl
		case "unlisten":
			err = l.Close()
		case "accept":
			var c net.Conn
			if c, err = l.Accept(); err == nil {
				add(c.(conn))
			}
		case "dial":
			var c conn
			if c, err = s.dial(f[1]); err == nil {
				add(c)
			}
		case "write": // connection, bytes
			i, n := num(1), num(2)
			var m int
			m, err = conns[i].Write(pattern(sent[i], n))
			sent[i] += m
			if err == nil && m != n {
				err = fmt.Errorf("wrote %d of %d", m, n)
			}
		case "read": // connection, bytes
			i, n := num(1), num(2)
			b := make([]byte, n)
			var m int
			m, err = io.ReadFull(conns[i], b)
			if d := firstDiff(b[:m], got[i]); d >= 0 {
				err = fmt.Errorf("byte %d differs", got[i]+d)
			}
			got[i] += m
		case "readall": // connection
			i := num(1)
			var b []byte
			b, err = io.ReadAll(conns[i])
			if d := firstDiff(b, got[i]); d >= 0 {
				err = fmt.Errorf("byte %d differs", got[i]+d)
			}
			got[i] += len(b)
			fmt.Println(len(b))
		case "close":
			err = conns[num(1)].Close()
		case "closewrite":
			err = conns[num(1)].CloseWrite()
		case "cred":
			pid, uid, gid := conns[num(1)].(*shmconn.Conn).PeerCred()
			fmt.Println(pid, uid, gid)
			continue
		case "return": // from main, without Close
			return
		case "os.Exit", "panic", "log.Fatal": // likewise
			unix.Dup2(int(os.Stdin.Fd()), 2) // what it says is of no interest
			switch f[0] {
			case "os.Exit":
				os.Exit(3)
			case "panic":
				panic("asked to")
			}
			log.Fatal("asked to")
		case "child": // which lives until the input ends
			child := exec.Command("/bin/cat")
			child.Stdin = os.Stdin
			if err = child.Start(); err == nil {
				fmt.Println(child.Process.Pid)
				continue
			}
		case "watch": // connection: waits in a Read, and says when that ended
			i := num(1)
			var at int64
			ended := blocked(conns[i], func() { _, err = conns[i].Read(make([]byte, 8)); at = monotonic() })
			fmt.Println("waiting")
			<-ended
			fmt.Println(class(err), at)
			continue
		case "exec": // the process goes on as another program, without Close
			err = syscall.Exec("/bin/cat", []string{"cat"}, nil)
		default:
			err = errors.New("what?")
		}
		fmt.Println(class(err))
	}
	if l != nil {
		l.Close()
	}
}

// monotonic returns the time in nanoseconds as all processes have it.
func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// relay joins connections two and two: what goes into one comes out of the
// other, closing included, so that the ends that the test has are in effect two
// ends of one connection that crosses processes twice. The first line is
// "listen NAME" or "dial NAME"; then there is a line "pair" for each pair.
func relay(s shape, in *bufio.Scanner) {
	say := func(err error) bool {
		fmt.Println(class(err))
		return err == nil
	}
	if !in.Scan() {
		return
	}
	how, name, _ := strings.Cut(in.Text(), " ")
	connect := func() (conn, error) { return s.dial(name) }
	if how == "listen" {
		l, err := s.listen(name)
		if !say(err) {
			return
		}
		defer l.Close()
		connect = func() (conn, error) {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(conn), nil
		}
	} else {
		fmt.Println("ok")
	}
	for in.Scan() {
		a, err := connect()
		if err != nil {
			say(err)
			return
		}
		b, err := connect()
		if !say(err) {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { relayOneWay(a, b) })
		wg.Go(func() { relayOneWay(b, a) })
		go func() { wg.Wait(); a.Close(); b.Close() }()
	}
}

// relayOneWay copies until src ends or dst does, and passes that on.
func relayOneWay(dst, src conn) {
	defer dst.CloseWrite()
	defer src.CloseRead()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
