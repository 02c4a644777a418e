package main

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
	"shmconn/fallback"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	if want := strings.Repeat("over shm: hello, gopher, on connection 1\n", 2) + strings.Repeat("over tls: hello, gopher, on connection 1\n", 2); err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

// A listener that is not to be trusted is an error, and nothing to fall back
// on.
func TestNotTrusted(t *testing.T) {
	exampletest.PrivateNames(t)
	l, err := shmconn.Listen("planted")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, config, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	s := &fallback.Server{Name: "planted", Address: "127.0.0.1:1", TLS: config}
	s.Shm.AllowUID = func(uint32) bool { return false }
	if _, via, err := s.Get(t.Context()); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("via %q, %v, want %v", via, err, fs.ErrPermission)
	}
}
