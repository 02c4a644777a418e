package docs

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// readmeProgram builds the README's first program in a module of its own, as
// the README says, and returns its path.
func readmeProgram(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("the go command is not there to build the README's program: %v", err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := bytes.Cut(readme, []byte("```go\n"))
	program, _, ok2 := bytes.Cut(rest, []byte("```\n"))
	if !ok || !ok2 {
		t.Fatal("README.md has no program")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), program, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "init", "prog"},
		{"mod", "edit", "-require=shmconn@v0.0.0", "-replace=shmconn=" + root},
		{"mod", "tidy"},
		{"build", "-o", "prog", "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(dir, "prog")
}

// TestReadmeProgram runs the README's first program the ways that it is pasted:
// the receiver first, the sender first, both at once, two senders, and all of
// it again.
func TestReadmeProgram(t *testing.T) {
	prog := readmeProgram(t)
	t.Setenv("SHMCONN_DIR", t.TempDir())
	type running struct {
		*exec.Cmd
		lines *bufio.Scanner
	}
	start := func(t *testing.T) *running {
		cmd := exec.CommandContext(t.Context(), prog)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return &running{cmd, bufio.NewScanner(out)}
	}
	// stop ends the receiver as ^C does, and returns what it has said besides.
	stop := func(t *testing.T, r *running) {
		r.Process.Signal(syscall.SIGINT)
		for r.lines.Scan() {
			t.Errorf("the receiver says %q as well", r.lines.Text())
		}
		r.Wait()
	}
	send := func(t *testing.T, word string) {
		if out, err := exec.CommandContext(t.Context(), prog, word).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("./prog %s: %v\n%s", word, err, out)
		}
	}
	expect := func(t *testing.T, r *running, words ...string) {
		left := make(map[string]bool)
		for _, w := range words {
			left[w] = true
		}
		for range words {
			if !r.lines.Scan() {
				t.Fatalf("the receiver has ended: %v", r.lines.Err())
			}
			if !left[r.lines.Text()] {
				t.Errorf("the receiver says %q, want one of %v", r.lines.Text(), words)
			}
			delete(left, r.lines.Text())
		}
	}
	t.Run("receiver first", func(t *testing.T) {
		r := start(t)
		defer stop(t, r)
		for _, word := range []string{"hello", "again", "hello"} {
			send(t, word)
			expect(t, r, word)
		}
	})
	t.Run("sender first", func(t *testing.T) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			send(t, "early")
		}()
		r := start(t)
		defer stop(t, r)
		expect(t, r, "early")
		<-done
	})
	t.Run("at once", func(t *testing.T) {
		for range 20 {
			r := start(t) // ./prog & ./prog hello
			var senders sync.WaitGroup
			senders.Go(func() { send(t, "hello") })
			senders.Go(func() { send(t, "you") })
			expect(t, r, "hello", "you")
			senders.Wait()
			stop(t, r)
		}
	})
	t.Run("pasted again", func(t *testing.T) {
		r := start(t)
		defer stop(t, r)
		send(t, "one")
		expect(t, r, "one")
		second := exec.CommandContext(t.Context(), prog)
		out, err := second.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "address already in use") || strings.Contains(string(out), "panic") {
			t.Errorf("a second receiver: %v\n%s", err, out)
		}
		send(t, "two")
		expect(t, r, "two")
	})
}
