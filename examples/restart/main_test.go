package main

import (
	"regexp"
	"testing"

	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	for _, how := range []string{"-takeover=false", "-takeover"} {
		out, err := exampletest.Command(t, "-n", "8", "-clients", "3", how).CombinedOutput()
		want := regexp.MustCompile(`^8 restarts: [1-9][0-9]* requests answered, 0 refused, 0 failed otherwise\n$`)
		if err != nil || !want.Match(out) {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
	}
}
