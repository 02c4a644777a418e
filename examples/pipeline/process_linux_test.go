package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/transport"
)

// A running is a pipeline that would run for a long time.
type running struct {
	*exec.Cmd
	stdout io.Reader
	stderr bytes.Buffer
	pids   map[string]int // of its processes
}

// startRunning starts a pipeline and waits until its processes are there.
func startRunning(t *testing.T, network string) *running {
	t.Helper()
	r := &running{Cmd: exampletest.Command(t, "-net", network, "-loops", "1000000", "-rate", "1000")}
	r.Cmd.Stderr = &r.stderr
	stdout, err := r.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^over \w+: feed handler (\d+), order gateway (\d+), strategies (\d+) (\d+)\n$`)
	out := bufio.NewReader(stdout)
	for {
		text, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("%v\n%s", r.Wait(), &r.stderr)
		}
		if m := line.FindStringSubmatch(text); m != nil {
			r.stdout, r.pids = out, make(map[string]int)
			for i, name := range []string{"feed handler", "order gateway", "strategy 0", "strategy 1"} {
				r.pids[name], _ = strconv.Atoi(m[i+1])
			}
			return r
		}
	}
}

// watch returns a function that waits until all processes of r have ended.
func (r *running) watch(t *testing.T) (wait func()) {
	t.Helper()
	var fds []int
	for name, pid := range r.pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fds = append(fds, fd)
	}
	return func() {
		for _, fd := range fds {
			for {
				_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
				if err != unix.EINTR {
					break
				}
			}
			unix.Close(fd)
		}
	}
}

// finish waits until r has failed, and returns what it wrote to stderr.
func (r *running) finish(t *testing.T) string {
	t.Helper()
	rest, _ := io.ReadAll(r.stdout)
	if err := r.Wait(); err == nil || strings.Contains(string(rest), "messages/s") {
		t.Errorf("the pipeline did not fail: %v\n%s", err, rest)
	}
	return r.stderr.String()
}

// When a process is killed, the command stops the others, says who it was, and
// nothing is left.
func TestProcessKilled(t *testing.T) {
	for _, network := range transport.Networks {
		for _, name := range []string{"feed handler", "order gateway", "strategy 1"} {
			t.Run(fmt.Sprintf("net=%s/%s", network, name), func(t *testing.T) {
				exampletest.PrivateNames(t)
				r := startRunning(t, network)
				ended := r.watch(t)
				if err := syscall.Kill(r.pids[name], syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				checkOutput(t, r.finish(t), name+`: signal: killed`)
				ended()
			})
		}
	}
}

// When the command is interrupted, it stops its processes.
func TestInterrupt(t *testing.T) {
	for _, network := range transport.Networks {
		t.Run("net="+network, func(t *testing.T) {
			exampletest.PrivateNames(t)
			r := startRunning(t, network)
			ended := r.watch(t)
			if err := r.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			checkOutput(t, r.finish(t), `^pipeline: over `+network+`: interrupt signal received\n$`)
			ended()
		})
	}
}

// When the command is killed, its processes end by themselves, and clean up.
func TestCommandKilled(t *testing.T) {
	for _, network := range transport.Networks {
		t.Run("net="+network, func(t *testing.T) {
			exampletest.PrivateNames(t)
			r := startRunning(t, network)
			ended := r.watch(t)
			if err := r.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			r.finish(t)
			ended()
		})
	}
}

// On a terminal there is a progress bar, and what is left of it is cleared.
func TestProgress(t *testing.T) {
	exampletest.PrivateNames(t)
	master, slave := exampletest.OpenTerminal(t)
	defer master.Close()
	cmd := exampletest.Command(t, "-loops", "5")
	cmd.Stderr = slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown, _ := io.ReadAll(master) // EIO when no process has the terminal open any more
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, shown)
	}
	checkOutput(t, string(shown), `shm +0% `, `/2800\)`, `\r$`)
}
