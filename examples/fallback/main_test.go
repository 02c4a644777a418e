package main

import (
	"errors"
	"io/fs"
	"net"
	"strings"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	if want := strings.Repeat("over shm: hello, gopher, on connection 1\n", 2) + strings.Repeat("over tls: hello, gopher, on connection 1\n", 2); err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

// A listener that is not to be trusted is an error, and nothing to fall back on.
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
	s := &Server{Name: "planted", Address: "127.0.0.1:1", TLS: config}
	s.Shm.AllowUID = func(uint32) bool { return false }
	if _, via, err := s.Dial(t.Context()); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("via %q, %v, want %v", via, err, fs.ErrPermission)
	}
}

// What is idle is found only under the way and the address that it was put with.
func TestPool(t *testing.T) {
	var p pool
	defer p.close()
	a, b := net.Pipe()
	p.put("shm", "feed", a)
	p.put("tls", "feed", b)
	for _, k := range []poolKey{{"shm", "other"}, {"tcp", "feed"}} {
		if c := p.get(k.via, k.address); c != nil {
			t.Errorf("%v: %v", k, c)
		}
	}
	if c := p.get("shm", "feed"); c != a {
		t.Errorf("shm: %v", c)
	}
	if c := p.get("shm", "feed"); c != nil {
		t.Errorf("shm, again: %v", c)
	}
	p.close()
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("what was idle is open after Close")
	}
	a.Close()
}
