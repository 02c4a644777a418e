package main

import (
	"bytes"
	"crypto/tls"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	if want := "server: hello, client\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant %s", err, out, want)
	}
}

// A client whose certificate the server does not know is told nothing.
func TestStranger(t *testing.T) {
	exampletest.PrivateNames(t)
	dir := t.TempDir()
	for _, who := range []string{"server", "client", "stranger"} {
		if err := newCertificate(dir, who); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config(dir, "server", "client")
	if err != nil {
		t.Fatal(err)
	}
	l, err := shmconn.Listen("secret")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for range 2 {
			c0, err := l.Accept()
			if err != nil {
				return
			}
			hello(tls.Server(c0, c))
		}
	}()
	var out bytes.Buffer
	if err := client("secret", dir, "stranger", &out); err == nil || out.Len() > 0 {
		t.Errorf("a stranger was told %q, %v", &out, err)
	}
	if err := client("secret", dir, "client", &out); err != nil || out.String() != "server: hello, client\n" {
		t.Errorf("the client was told %q, %v", &out, err)
	}
}
