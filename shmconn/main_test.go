package main

import (
	"bytes"
	"strings"
	"testing"
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
		{"ls --help", 0, "Usage: shmconn ls [<name>]", ""},
		{"ls one two", 2, "", "unexpected argument two"},
		{"ls /no/such/directory/", 1, "", "/no/such/directory"},
		{"rm", 2, "", "a name is missing"},
		{"rm -n a/b.c d..e .f", 2, "", `".f": name starts with a dot`},
		{"top --sort colour", 2, "", "colour"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(tt.args), stdio{nil, &stdout, &stderr})
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("shmconn %s: status %d, said\n%s\n%s", tt.args, status, stdout.String(), stderr.String())
		}
	}
}
