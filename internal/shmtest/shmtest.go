//go:build linux

package shmtest

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// Long is set by -long, or by SHMCONN_FULL=1 where some packages do not have
// the flag: the tests that sample run the full numbers, for hours.
var Long = flag.Bool("long", os.Getenv("SHMCONN_FULL") != "", "run the full numbers, which takes hours; SHMCONN_FULL=1 does so, too")

// Main is what TestMain does: it runs the tests, or plays one of the roles in a
// process that StartHelper has started. It does not return.
func Main(m *testing.M, roles Roles) {
	if role := os.Getenv(RoleEnv); role != "" {
		os.Exit(runHelper(role, roles))
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own, and fails when they
// leave anything.
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

	// Here, too: what the first listener or dialer opens stays for as long as
	// the process.
	if l, err := shmconn.Listen("first"); err == nil {
		l.Close()
	}

	before := Descriptors()
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

// sweepDirs removes the directories of runs that were killed, which nobody
// holds and where nothing has happened for a while: what is in them takes
// memory.
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

// leftovers lists goroutines, descriptors, mappings, processes and names of
// files that the tests should not have left.
func leftovers(dir string, before map[string]int) (left []string) {
	for i, g := range Goroutines() {
		if i == 0 || strings.Contains(g, "os/signal.") || strings.Contains(g, "runtime/trace.") || strings.Contains(g, "runtime/pprof.") {
			continue
		}
		left = append(left, "goroutine: "+g)
	}
	for target, n := range Descriptors() {
		if n > before[target] {
			left = append(left, fmt.Sprintf("descriptor: %d x %s", n-before[target], target))
		}
	}
	left = append(left, Mappings()...)
	left = append(left, processes(dir)...)
	for _, f := range ListDir(dir) {
		left = append(left, "file: "+filepath.Join(dir, f))
	}
	for _, f := range ListDir("/dev/shm") {
		if strings.HasPrefix(f, "shmconn."+namePrefix()) {
			left = append(left, "file: /dev/shm/"+f)
		}
	}
	return left
}

// Goroutines returns the stacks of all goroutines, the caller's first.
func Goroutines() []string {
	buf := make([]byte, 1<<16)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			return strings.Split(strings.TrimSpace(string(buf[:n])), "\n\n")
		}
		buf = make([]byte, 2*len(buf))
	}
}

// Descriptors counts this process's descriptors by what they refer to.
func Descriptors() map[string]int {
	m := make(map[string]int)
	for _, fd := range ListDir("/proc/self/fd") {
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

// Mappings lists the mappings of connections in this process.
func Mappings() (lines []string) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return []string{err.Error()}
	}
	exe, _ := os.Executable()
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) > 5 && f[5] != exe &&
			(strings.Contains(f[5], "shmconn") || strings.Contains(f[5], "/#") || strings.Contains(f[5], "memfd:")) {
			lines = append(lines, "mapping: "+strings.TrimSpace(line))
		}
	}
	return lines
}

// processes lists the children of this process, also those that have ended and
// were not waited for, and the descendants of its helpers, which have dir in
// their environment.
func processes(dir string) (list []string) {
	for _, pid := range ListDir("/proc") {
		if n, err := strconv.Atoi(pid); err != nil || n == os.Getpid() {
			continue
		}
		environ, _ := os.ReadFile("/proc/" + pid + "/environ") // of a process that has ended it is empty
		state, parent := ProcessState(pid)
		if parent == os.Getpid() || slices.Contains(strings.Split(string(environ), "\x00"), "SHMCONN_DIR="+dir) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			list = append(list, fmt.Sprintf("process: %s, %s, state %s", pid, bytes.TrimSpace(name), state))
		}
	}
	return list
}

// ProcessState returns the state of a process, or of a thread as
// "PID/task/TID", and who its parent is; "" if there is no such process.
func ProcessState(pid string) (state string, parent int) {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name can be anything
	if len(f) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(f[1])
	return f[0], parent
}

func ListDir(dir string) []string {
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

// NewName returns a name that nobody has.
func NewName() string { return namePrefix() + strconv.FormatInt(nameCount.Add(1), 10) }

// RaceEnabled says whether this binary was built with -race.
var RaceEnabled = func() bool {
	bi, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(bi.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()
