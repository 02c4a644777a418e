//go:build linux

package shmtest

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) { Main(m, nil) }

// TestLeftovers checks that TestMain would see what a test leaves.
func TestLeftovers(t *testing.T) {
	dir := os.Getenv("SHMCONN_DIR")
	for _, tt := range []struct {
		name  string
		leave func(t *testing.T)
		want  []string // in lines that are new
	}{
		{"goroutine", func(t *testing.T) {
			stop := make(chan struct{})
			t.Cleanup(func() { close(stop) })
			go func() { <-stop }()
		}, []string{"goroutine: .*TestLeftovers"}},
		{"listener", func(t *testing.T) { Shape{}.MustListen(t, NewName()) },
			[]string{`descriptor: .*/shmconn\.[^@]*$`, "descriptor: .*socket", `file: .*/shmconn\.[^@]*$`, "file: .*@sock$"}},
		{"connection", func(t *testing.T) { Shape{}.Pair(t) },
			[]string{`mapping: .*/#[0-9]+ \(deleted\)$`, `descriptor: .*/#[0-9]+ \(deleted\)$`, "descriptor: 4 x pipe"}},
		{"anonymous connection", func(t *testing.T) { Shape{Anonymous: true}.Pair(t) },
			[]string{"mapping: .*memfd:", "descriptor: 4 x pipe"}},
		{"dialer", func(t *testing.T) {
			name := NewName()
			h := StartHelper(t, "agent", Shape{})
			h.Do("listen %s", name)
			h.Stop() // and it stays in the backlog
			Shape{}.MustDial(t, name)
		}, []string{`mapping: .*/#[0-9]+ \(deleted\)$`}},
		{"connection with a name", func(t *testing.T) {
			l := Shape{}.MustListen(t, NewName())
			RawDialer(t, NameOf(l), Shape{})
		}, []string{`descriptor: .*@[0-9a-f]{32}$`, `file: .*@[0-9a-f]{32}$`}},
		{"helper", func(t *testing.T) { StartHelper(t, "agent", Shape{}) },
			[]string{"process: .*state [^Z]"}},
		{"process that nobody waits for", func(t *testing.T) {
			h := StartHelper(t, "agent", Shape{})
			h.dead = true
			h.Signal(syscall.SIGKILL)
			Eventually(func() bool { state, _ := ProcessState(fmt.Sprint(h.PID)); return state == "Z" })
		}, []string{"process: .*state Z"}},
		{"child of a process that was killed", func(t *testing.T) {
			h := StartHelper(t, "agent", Shape{})
			child := h.Call("child")
			h.dead = true
			h.Signal(syscall.SIGKILL)
			Eventually(func() bool { _, parent := ProcessState(child); return parent != h.PID })
		}, []string{"process: .* cat,"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			before, were := Descriptors(), leftovers(dir, nil)
			tt.leave(t)
			var now []string
			for _, line := range leftovers(dir, before) {
				if !slices.Contains(were, line) {
					now = append(now, line)
				}
			}
			for _, want := range tt.want {
				if !slices.ContainsFunc(now, regexp.MustCompile("(?s)^"+want).MatchString) {
					t.Errorf("nothing like %q is seen, only\n%s", want, strings.Join(now, "\n"))
				}
			}
		})
	}
}
