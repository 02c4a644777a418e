//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a terminal: the user's, and the
// program's.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminal:", err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// The peer's end is enough where standard input is a terminal: it has none.
func TestCatTerminal(t *testing.T) {
	user, program := openTerminal(t)
	l := listen(t, "tty")
	cmd := exec.Command("shmconn", "cat", "tty")
	var stdout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, &stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := accept(t, l)
	defer c.Close()
	io.WriteString(user, "typed\n")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "typed\n" {
		t.Errorf("%q, %v", b, err)
	}
	io.WriteString(c, "answer")
	c.CloseWrite()
	if err := cmd.Wait(); err != nil || stdout.String() != "answer" {
		t.Errorf("%v, it wrote %q", err, stdout.String())
	}
}

// In the background of a terminal, standard input is empty.
func TestCatBackground(t *testing.T) {
	_, program := openTerminal(t)
	cmd := exec.Command("sh", "-c", "set -m; shmconn cat -l background </dev/tty >&3 & wait $!")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = program, program, program, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "cat", "--wait", "1m", "background")
	if b, err := io.ReadAll(p.out); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	io.WriteString(p.in, "hello")
	p.in.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	p.end(t, 0, "")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
