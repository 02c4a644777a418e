package main

import (
	"errors"
	"io/fs"
	"net"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	if want := "over shm: hello, gopher\nover tls: hello, gopher\n"; err != nil || string(out) != want {
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
	var p Pool
	defer p.Close()
	a, b := net.Pipe()
	p.Put("shm", "feed", a)
	p.Put("tls", "feed", b)
	for _, k := range []poolKey{{"shm", "other"}, {"tcp", "feed"}} {
		if c, ok := p.Get(k.via, k.address); ok {
			t.Errorf("%v: %v", k, c)
		}
	}
	if c, ok := p.Get("shm", "feed"); !ok || c != a {
		t.Errorf("shm: %v, %v", c, ok)
	}
	if c, ok := p.Get("shm", "feed"); ok {
		t.Errorf("shm, again: %v", c)
	}
	p.Close()
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("what was idle is open after Close")
	}
	a.Close()
}
