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
		{"nonsense", 2, "", "unexpected argument nonsense\n"},
		{"foo", 2, "", "unexpected argument foo\n"},
		{"pign", 2, "", `unexpected argument pign, did you mean "ping"?`},
		{"ls -x", 2, "", "unknown flag -x\n"},
		{"ls --jsno", 2, "", `unknown flag --jsno, did you mean "--json"?`},
		{"--version", 0, "shmconn v", ""},
		{"bench -list -run ^dial$", 0, "shm-64KiB", ""},
		{"bench -rounds x", 2, "", "invalid value \"x\" for flag -rounds: parse error\n  \"shmconn bench --help\" says more"},
		{"bench --help", 0, "Usage: shmconn bench [flags]", ""},
		{"help bench", 0, "Usage: shmconn bench [flags]", ""},
		{"ls --help", 0, "Usage: shmconn ls [<name>]", ""},
		{"ls one two", 2, "", "unexpected argument two"},
		{"ls /no/such/directory/", 1, "", "/no/such/directory"},
		{"rm", 2, "", "a name is missing"},
		{"rm -n a/b.c d..e .f", 2, "", `".f": name starts with a dot`},
		{"top --sort colour", 2, "", "colour"},
		{"cat --wait soon x", 2, "", "must be a time"},
		{"cat --wait=-1 x", 2, "", "must not be negative"},
		{"ping --interval=-1 x", 2, "", "must not be negative"},
		{"cat --wait 0.01 nobody-listens", 1, "", "of waiting: i/o timeout\n  \"shmconn ls\" lists the listeners\n"},
		{"cat --wait 10ms nobody-listens", 1, "", "of waiting: i/o timeout\n  \"shmconn ls\" lists the listeners\n"},
		{"cat nobody-listens", 1, "", "; --wait 5 waits up to 5 seconds for this one\n"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(tt.args), stdio{nil, &stdout, &stderr})
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("shmconn %s: status %d, said\n%s\n%s", tt.args, status, stdout.String(), stderr.String())
		}
	}
}
