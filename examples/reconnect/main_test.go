package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t, "-n", "1000").CombinedOutput()
	if want := "1000 requests answered, over 6 connections\n"; err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

// Without a server, and with one that does not answer, the context ends the
// wait.
func TestCancelled(t *testing.T) {
	exampletest.PrivateNames(t)
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		k := &Client{Name: "silent", Dialer: shmconn.Dialer{Wait: -1}}
		defer k.Close()
		_, err := k.Ask(ctx, "hello")
		return err
	}
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a server: %v", err)
	}
	l, err := shmconn.Listen("silent")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with one that does not answer: %v", err)
	}
}
