//go:build linux

package shmtest

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shmconn"
)

// Eventually waits until ok says so; a test in which it never does ends by
// -timeout, with stacks.
func Eventually(ok func() bool) {
	for !ok() {
		time.Sleep(50 * time.Microsecond)
	}
}

// Blocked runs f, which is to block in one call on c, in a goroutine, returns
// when it does, and hands out the channel that f's end closes.
func Blocked(c net.Conn, f func()) <-chan struct{} {
	done := make(chan struct{})
	if c, ok := c.(*shmconn.Conn); ok {
		before := c.Stats().Waits
		go func() { defer close(done); f() }()
		Eventually(func() bool { return c.Stats().Waits > before })
		return done
	}
	before := waitingForIO()
	go BlockedCall(done, f)
	Eventually(func() bool { return waitingForIO() > before })
	return done
}

// BlockedCall calls f and closes done. Accepting and others look for its name
// in stacks.
func BlockedCall(done chan struct{}, f func()) {
	defer close(done)
	f()
}

// waitingForIO counts the goroutines of Blocked that the poller has.
func waitingForIO() (n int) {
	for _, g := range Goroutines() {
		if strings.Contains(g, "shmtest.BlockedCall") && strings.Contains(g[:strings.IndexByte(g, '\n')], "[IO wait") {
			n++
		}
	}
	return n
}

// Accepting is Blocked for a call of l.Accept, of which nothing can be seen
// from outside but the stack.
func Accepting(f func()) <-chan struct{} {
	done := make(chan struct{})
	count := func() (n int) {
		for _, g := range Goroutines() {
			head, _, _ := strings.Cut(g, "\n")
			if strings.Contains(g, "shmtest.BlockedCall") && strings.Contains(g, ").Accept(") && !strings.Contains(head, "[run") {
				n++
			}
		}
		return n
	}
	before := count()
	go BlockedCall(done, f)
	Eventually(func() bool { return count() > before })
	return done
}

// InBubble runs f in a bubble.
func InBubble(t *testing.T, f func()) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { f() })
}
