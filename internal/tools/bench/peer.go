//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The environment of a peer process.
const (
	peerEnv = "SHMCONN_BENCH_PEER" // the descriptors of its workers: in,out[,in,out]
	cpusEnv = "SHMCONN_BENCH_CPUS" // the processors it may use
	dirEnv  = "SHMCONN_BENCH_DIR"  // a directory that it removes if its parent dies
)

// Main does nothing in a program that was started by a user, and does not
// return in one that [Run] or [StartPeer] has started to be a peer, a neighbour
// or the like: that it runs to its end. It must be called before anything else
// is done: first thing in main, in TestMain, or in an init function.
func Main() {
	for _, role := range []struct {
		env string
		run func(value string) error
	}{{peerEnv, work}, {neighbourEnv, neighbour}, {burstEnv, burst}, {freshEnv, fresh}} {
		value := os.Getenv(role.env)
		if value == "" {
			continue
		}
		if cpus := os.Getenv(cpusEnv); cpus != "" {
			fatal(pin(cpus))
		}
		os.Unsetenv(role.env)
		// In an init function this goroutine is bound to the first thread,
		// which would make its waits slow.
		go func() {
			fatal(role.run(value))
			os.Exit(0)
		}()
		select {}
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pin runs this program again on the given processors. They are set before
// that, so that the new one's runtime goes by them.
func pin(cpus string) error {
	var set unix.CPUSet
	for _, s := range strings.Split(cpus, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("bench: %s=%s: %w", cpusEnv, cpus, err)
		}
		set.Set(n)
	}
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return os.NewSyscallError("sched_setaffinity", err)
	}
	os.Unsetenv(cpusEnv)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return &os.PathError{Op: "exec", Path: exe, Err: syscall.Exec(exe, os.Args, os.Environ())}
}

// work runs the workers of this process, until all have been told to quit.
func work(fds string) error {
	var files []*os.File
	for _, s := range strings.Split(fds, ",") {
		fd, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("bench: %s=%s: %w", peerEnv, fds, err)
		}
		// A blocking read keeps out of the runtime's poller, which is one of
		// the things that are measured.
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			return err
		}
		files = append(files, os.NewFile(uintptr(fd), "control"))
	}
	done := make(chan error)
	n := 0
	for ; len(files) >= 2; files = files[2:] {
		n++
		go func(in io.Reader, out io.Writer) { done <- serve(in, out, orphaned) }(files[0], files[1])
	}
	var err error
	for range n {
		err = errors.Join(err, <-done)
	}
	return err
}

// orphaned ends a process whose parent is gone.
func orphaned() {
	if dir := os.Getenv(dirEnv); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(1)
}

// A request is one line to a worker, an answer one line from it.
type request struct {
	Do             string // listen, dial, ready, server, helper, client, quit
	Spec           Spec
	Addr, PollAddr string
	Quota          quota
}

type answer struct {
	Err            string
	Addr, PollAddr string
	Result         Result
}

// serve does what it is told by the lines of in, and calls gone when these end
// before it was told to quit.
func serve(in io.Reader, out io.Writer, gone func()) error {
	requests, enc := make(chan request), json.NewEncoder(out)
	go func() {
		defer close(requests)
		for dec := json.NewDecoder(in); ; {
			var r request
			if err := dec.Decode(&r); err != nil {
				gone() // at once, also in the middle of a slice
				return
			}
			requests <- r
			if r.Do == "quit" {
				return
			}
		}
	}()
	var e *end
	for r := range requests {
		var a answer
		var err error
		switch r.Do {
		case "listen":
			if e, err = listenEnd(r.Spec, r.Addr); err == nil {
				a.Addr, a.PollAddr = e.addr, e.pollAddr
			}
		case "dial":
			e, err = dialEnd(r.Spec, r.Addr, r.PollAddr)
		case "ready":
			err = e.ready()
		case "server":
			if err = enc.Encode(a); err == nil { // the client may begin
				a.Result, err = e.slice(loops[r.Spec.Loop].server, r.Quota)
			}
		case "helper":
			if err = enc.Encode(a); err == nil {
				a.Result, err = e.slice(loops[r.Spec.Loop].helper, r.Quota)
			}
		case "client":
			a.Result, err = e.slice(loops[r.Spec.Loop].client, r.Quota)
		case "quit":
			if e != nil {
				e.close()
			}
		default:
			err = fmt.Errorf("bench: told to %q", r.Do)
		}
		if err != nil {
			a.Err = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// slice runs one half of a loop and adds what it has cost this process.
func (e *end) slice(half func(*end, quota) (Result, error), q quota) (Result, error) {
	if half == nil {
		return Result{}, fmt.Errorf("bench: no loop %q in this program", e.spec.Loop)
	}
	var before, after runtime.MemStats
	e.hist.Reset()
	if e.spec.Allocs {
		runtime.ReadMemStats(&before)
	}
	cpu, start := cpuTime()+childrenTime(), time.Now()
	r, err := e.run(half, q)
	r.Wall, r.CPU = time.Since(start), cpuTime()+childrenTime()-cpu
	if e.spec.Allocs {
		runtime.ReadMemStats(&after)
		r.Mallocs = after.Mallocs - before.Mallocs
	}
	if err == nil && e.hist.TotalCount() > 0 {
		r.Hist, err = e.hist.EncodeV2()
	}
	return r, err
}

// A held is a connection that has to be held while a loop uses it.
type held interface{ hold(loop func()) error }

// run runs a loop, and holds the connection meanwhile if it is to be held.
func (e *end) run(loop func(*end, quota) (Result, error), q quota) (r Result, err error) {
	h, ok := e.conns[0].(held)
	if !ok {
		return loop(e, q)
	}
	holding := h.hold(func() { r, err = loop(e, q) })
	return r, errors.Join(err, holding)
}

// cpuTime returns the processor time that this process has used.
func cpuTime() time.Duration { return usage(unix.RUSAGE_SELF) }

// childrenTime returns the processor time of those of its children that are
// gone.
func childrenTime() time.Duration { return usage(unix.RUSAGE_CHILDREN) }

func usage(who int) time.Duration {
	var ru unix.Rusage
	if unix.Getrusage(who, &ru) != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
