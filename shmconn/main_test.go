package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string // in what it says
	}{
		{"", 2, "", "usage: shmconn COMMAND"},
		{"help", 0, "usage: shmconn COMMAND", ""},
		{"nonsense", 2, "", `no command "nonsense"`},
		{"bench -list -run ^dial$", 0, "shm-64KiB", ""},
		{"bench -rounds x", 2, "", "invalid value"},
		{"ls -h", 0, "", "usage: shmconn ls"},
		{"ls one two", 2, "", "usage: shmconn ls"},
		{"ls /no/such/directory", 1, "", "/no/such/directory"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(strings.Fields(tt.args), &stdout, &stderr)
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
	var stdout, stderr bytes.Buffer
	if status := run([]string{"ls"}, &stdout, &stderr); status != 0 || stdout.String() != "a\nfeed\n" {
		t.Errorf("ls: status %d, said %q, %q, want a and feed", status, stdout.String(), stderr.String())
	}
}
