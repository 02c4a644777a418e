//go:build linux

package main

import (
	"bufio"
	"io"
	"strings"
	"syscall"
	"testing"
)

// Ctrl-C ends ping with the statistics, wherever it is.
func TestPingInterrupted(t *testing.T) {
	pong := start(t, "pong", "echo")
	for _, wait := range []string{"0", "1h"} {
		p := start(t, "ping", "--wait", "1m", "-i", wait, "echo")
		lines := bufio.NewScanner(p.out)
		for range 2 { // until the first answer is there
			if !lines.Scan() {
				t.Fatal("it ended", lines.Err())
			}
		}
		p.Process.Signal(syscall.SIGINT)
		checkStatistics(t, lines)
		p.end(t, 0, "")
	}
	pong.Process.Signal(syscall.SIGINT)
	pong.end(t, 0, "")

	l := listen(t, "flood")
	p := start(t, "ping", "-f", "flood")
	c := accept(t, l)
	b := make([]byte, 64)
	for range 100 {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		c.Write(b)
	}
	p.Process.Signal(syscall.SIGINT)
	checkStatistics(t, bufio.NewScanner(p.out))
	p.end(t, 0, "")
	c.Close()
}

func checkStatistics(t *testing.T, lines *bufio.Scanner) {
	t.Helper()
	var rest []string
	for lines.Scan() {
		rest = append(rest, lines.Text())
	}
	if n := len(rest); n < 3 || !strings.HasSuffix(rest[n-3], " ping statistics ---") || !strings.HasPrefix(rest[n-1], "round trip min/mean/p50") {
		t.Errorf("it ends with %q", rest)
	}
}

// A peer that ends, dies or answers something else.
func TestPingBadPeer(t *testing.T) {
	pong := start(t, "pong", "dies")
	p := start(t, "ping", "--wait", "1m", "-i", "0", "dies")
	lines := bufio.NewScanner(p.out)
	for range 3 {
		lines.Scan()
	}
	pong.Process.Kill()
	checkStatistics(t, lines)
	p.end(t, 1, "shmconn: ping dies: round trip ")
	pong.end(t, -1, "")

	l := listen(t, "wrong")
	p = start(t, "ping", "-c", "3", "-i", "0", "wrong")
	c := accept(t, l)
	b := make([]byte, 64)
	io.ReadFull(c, b)
	c.Write(b)
	io.ReadFull(c, b)
	b[40]++
	c.Write(b)
	out, _ := io.ReadAll(p.out)
	if !strings.Contains(string(out), "\n2 sent, 1 answered") {
		t.Errorf("it says %q", out)
	}
	p.end(t, 1, "shmconn: ping wrong: round trip 2: the answer is not what was sent")
	c.Close()

	p = start(t, "ping", "-c", "3", "wrong")
	accept(t, l).Close()
	out, _ = io.ReadAll(p.out)
	if !strings.Contains(string(out), "\n1 sent, 0 answered") {
		t.Errorf("it says %q", out)
	}
	p.end(t, 1, "round trip 1: ")
}
