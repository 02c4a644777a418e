package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shmconn"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string // in what it says
	}{
		{"", 2, "", "no command is given"},
		{"help", 0, "Usage: shmconn <command>", ""},
		{"--help", 0, "Usage: shmconn <command>", ""},
		{"nonsense", 2, "", "unexpected argument nonsense"},
		{"bench -list -run ^dial$", 0, "shm-64KiB", ""},
		{"bench -rounds x", 2, "", "invalid value"},
		{"ls -h", 0, "", "usage: shmconn ls"},
		{"ls one two", 2, "", "usage: shmconn ls"},
		{"ls /no/such/directory", 1, "", "/no/such/directory"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(tt.args), stdio{nil, &stdout, &stderr})
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("shmconn %s: status %d, said\n%s\n%s", tt.args, status, stdout.String(), stderr.String())
		}
	}
}

func TestLs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SHMCONN_DIR", dir)
	for _, name := range []string{"shmconn.feed", "shmconn.a", "shmconn.feed@sock", "shmconn.feed@0123", "shmconn.", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "shmconn.folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := shmconn.Listen("live")
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer l.Close()
	c, err := shmconn.Dial("live")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	// A copy of a listener's file, with nobody who has it locked.
	page, err := os.ReadFile(filepath.Join(dir, "shmconn.live"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shmconn.stale"), page, 0o600); err != nil {
		t.Fatal(err)
	}

	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"ls"}, stdio{nil, &stdout, &stderr})
	want := fmt.Sprintf(`
NAME   STATE            PID  RING SIZE  ACCEPTED  REFUSED
a      nobody listens
feed   nobody listens
live   listens          %[1]d  262144  1  0
stale  died             %[1]d  262144  1  0
`, os.Getpid())
	if got := stdout.String(); status != 0 || squeeze(got) != squeeze(want) {
		t.Errorf("ls: status %d, said %q, %q, want %q", status, got, stderr.String(), want)
	}
}

// squeeze makes one space of any.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
