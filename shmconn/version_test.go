package main

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"shmconn/internal/version"
)

// TestVersion checks that all that names the version names the same.
func TestVersion(t *testing.T) {
	v := regexp.QuoteMeta(version.Version)
	for _, tt := range []struct{ name, want string }{
		{"../CHANGELOG.md", `^# Changelog\n\n## ` + v + `[,\n]`},
		{"../SECURITY.md", `(?m)^\| ` + v + ` \| `},
	} {
		b, err := os.ReadFile(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(tt.want).Match(b) {
			t.Errorf("%s does not match %s", tt.name, tt.want)
		}
	}
	for _, tt := range []struct{ arg, want string }{
		{"--version", `^shmconn ` + v + `(, commit [0-9a-f]+(, modified)?)?, go\S+ \w+/\w+\n$`},
		{"man", `^\.TH SHMCONN 1 "" "shmconn ` + v + `"\n`},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{tt.arg}, stdio{nil, &stdout, &stderr})
		if code != 0 || stderr.Len() > 0 || !regexp.MustCompile(tt.want).Match(stdout.Bytes()) {
			t.Errorf("shmconn %s: exit status %d, it says %q and %q, want %s", tt.arg, code, stdout.String(), stderr.String(), tt.want)
		}
	}
}
