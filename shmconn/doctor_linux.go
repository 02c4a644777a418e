package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

func thisMachine() *machine {
	dir, err := filepath.Abs(namesDir())
	if err != nil {
		dir = namesDir()
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return &machine{
		root: rootFS(), dir: dir, arch: runtime.GOARCH,
		space: space, membarrier: membarrier,
		trial: func(ctx context.Context) (time.Duration, error) { return trial(ctx, dir) },
	}
}

func space(dir string) (total, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, os.NewSyscallError("statfs", err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// membarrier asks for what the library asks for.
func membarrier() error {
	const registerPrivateExpedited = 1 << 4
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, registerPrivateExpedited, 0, 0); errno != 0 {
		return os.NewSyscallError("membarrier", errno)
	}
	return nil
}

// trialLimit is how long the trial may take. A process that is swapped in on a
// busy machine has to start within it.
const trialLimit = 30 * time.Second

// trial starts a process that listens in dir, dials it, and returns the median
// of some round trips.
func trial(ctx context.Context, dir string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	name := filepath.Join(dir, fmt.Sprintf("doctor-%d-%s", os.Getpid(), rand.Text()[:8]))
	var said bytes.Buffer
	peer, ended, err := startPeer(name, &said)
	if err != nil {
		return 0, err
	}
	// It removes its name, if it is able to.
	defer func() {
		peer.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			peer.Process.Kill()
			<-ended
		}
	}()
	dialing, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-ended:
			stop() // the peer will not listen any more
		case <-dialing.Done():
		}
	}()
	c, err := (&shmconn.Dialer{Wait: trialLimit}).DialConn(dialing, name)
	if err != nil && ctx.Err() == nil && dialing.Err() != nil { // ended, so nothing is written to said
		return 0, fmt.Errorf("the process that should listen has ended, and said: %s", bytes.TrimSpace(said.Bytes()))
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	return echoes(c)
}

// echoes returns the median of round trips of 64 bytes.
func echoes(c *shmconn.Conn) (time.Duration, error) {
	var trips []time.Duration
	out, in := make([]byte, 64), make([]byte, 64)
	for n := range 2000 {
		out[0], out[63] = byte(n), byte(n>>8)
		start := time.Now()
		if _, err := c.Write(out); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return 0, err
		}
		trips = append(trips, time.Since(start))
		if !slices.Equal(in, out) {
			return 0, errors.New("what came back is not what was sent")
		}
	}
	slices.Sort(trips)
	return trips[len(trips)/2], nil
}

// startPeer starts this program as a pong. It is killed with us: the kernel
// does that when the thread ends that has started it, which is why one waits
// for it.
func startPeer(name string, said *bytes.Buffer) (*exec.Cmd, <-chan struct{}, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	peer := exec.Command(program, "pong", name)
	peer.Stderr = said
	peer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := peer.Start()
		started <- err
		if err == nil {
			peer.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, nil, err
	}
	return peer, ended, nil
}
