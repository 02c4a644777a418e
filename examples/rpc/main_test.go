package main

import (
	"strings"
	"testing"

	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	if want := "GOOG 560.19\nIBM 125.55\nno price of \"SUN\"\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

func TestNobodyServes(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t, "nobody").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "connection refused") {
		t.Errorf("%v\n%s", err, out)
	}
}
