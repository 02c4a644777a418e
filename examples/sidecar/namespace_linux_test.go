package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shmconn/examples/internal/exampletest"
)

// apart makes a process, of the program exe, that shares with this one what a
// container of the same machine does: the kernel, and a directory.
func apart(exe string, uid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Path = exe
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNS,
			Credential: &syscall.Credential{Uid: uid, Gid: uid},
		}
	}
}

// TestContainers has two users in namespaces of their own. A server that runs
// as another user than the client was told is refused.
func TestContainers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("namespaces and other users need root")
	}
	const server, sidecar = 12345, 12346
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-sidecar-") // where all users can come
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	exe := copyProgram(t)
	path := filepath.Join(dir, "feed")
	startServer(t, path, apart(exe, server))
	for uid, want := range map[int]string{server: reply, sidecar: "permission denied"} {
		cmd := exampletest.Command(t, "-dial", path, "-uid", fmt.Sprint(uid))
		apart(exe, sidecar)(cmd)
		out, err := cmd.CombinedOutput()
		if ok := err == nil; ok != (uid == server) || !strings.Contains(string(out), want) {
			t.Errorf("-uid %d: %v\n%s\nwant %s", uid, err, out, want)
		}
	}
}

// copyProgram copies this program to where every user can run it.
func copyProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shmconn-sidecar-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "sidecar")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(to, program, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}
