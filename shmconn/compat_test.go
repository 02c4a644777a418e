//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// beforeReuse is the last commit at which each connection had memory of its
// own.
const beforeReuse = "0bafa6e"

// buildOld builds the command as it was at a commit, or, for "", at the last
// release, or, where there is none, at the parent commit. It skips the test
// where it cannot have the sources.
func buildOld(t *testing.T, ref string) (program string) {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", ".."}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	for _, tool := range []string{"git", "go", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the old command cannot be built: %v", err)
		}
	}
	top, err := git("rev-parse", "--show-toplevel")
	if err != nil {
		t.Skipf("the old command cannot be built: this is no checkout: %v", err)
	}
	// The module may have been copied into another project's repository.
	here, err := filepath.EvalSymlinks("..")
	if err == nil {
		here, err = filepath.Abs(here)
	}
	if err != nil || here != top {
		t.Skipf("the old command cannot be built: the checkout is of %s, and not of %s", top, here)
	}
	if ref == "" {
		if ref, err = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"); err != nil {
			ref = "HEAD^"
		}
	}
	commit, err := git("rev-parse", "--verify", "--quiet", ref+"^{commit}")
	if err != nil {
		t.Skipf("the old command cannot be built: there is no %s here: %v", ref, err)
	}
	t.Logf("old is %s, commit %s", ref, commit)
	dir := t.TempDir()
	archive := filepath.Join(dir, "tar")
	if _, err := git("archive", "--format=tar", "-o", archive, commit); err != nil {
		t.Fatalf("git archive: %v", err)
	}
	program = filepath.Join(dir, "old")
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"tar", "-xf", archive},
		{"go", "build", "-buildvcs=false", "-o", program, "./shmconn"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return program
}

// Old and new ends understand each other, whichever of them listens.
func TestOldAndNew(t *testing.T) {
	old := buildOld(t, "")
	for _, tt := range []struct{ name, listener, dialer string }{
		{"old listens", old, "shmconn"},
		{"new listens", "shmconn", old},
	} {
		t.Run(tt.name+"/ping", func(t *testing.T) {
			pong := startProgram(t, tt.listener, "pong", "compat")
			ping := startProgram(t, tt.dialer, "ping", "--wait", "1m", "-f", "-c", "1000", "-s", "3000", "compat")
			out, err := io.ReadAll(ping.out)
			if err != nil || !strings.Contains(string(out), "\n1000 sent, 1000 answered in ") {
				t.Errorf("it says %q, %v", out, err)
			}
			ping.end(t, 0, "")
			pong.Process.Signal(os.Interrupt)
			pong.end(t, 0, "")
		})
		t.Run(tt.name+"/cat", func(t *testing.T) {
			listener := startProgram(t, tt.listener, "cat", "-l", "compat")
			dialer := startProgram(t, tt.dialer, "cat", "--wait", "1m", "compat")
			up, down := make([]byte, 3<<20), make([]byte, 5<<20)
			rand.NewChaCha8([32]byte{1}).Read(up)
			rand.NewChaCha8([32]byte{2}).Read(down)
			for p, b := range map[*process][]byte{dialer: up, listener: down} {
				go func() {
					p.in.Write(b) // what is missing is missed at the other end
					p.in.Close()
				}()
			}
			gotUp := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(listener.out)
				gotUp <- b
			}()
			gotDown, _ := io.ReadAll(dialer.out)
			dialer.end(t, 0, "")
			if t.Failed() {
				listener.Process.Kill() // which may wait for a connection yet
			}
			if !bytes.Equal(gotDown, down) {
				t.Errorf("the dialer got %d bytes, or others, want %d", len(gotDown), len(down))
			}
			if b := <-gotUp; !bytes.Equal(b, up) {
				t.Errorf("the listener got %d bytes, or others, want %d", len(b), len(up))
			}
			listener.end(t, 0, "")
		})
		t.Run(tt.name+"/again", func(t *testing.T) { dialAgain(t, tt.listener, tt.dialer) })
	}
}

// A listener of before there was ListenConfig.TakeOver refuses a newcomer that
// asks for the name, as a dialer that is not understood, and serves on.
func TestTakeOverFromOld(t *testing.T) {
	old := buildOld(t, "480cacb816f4a36b8ee4cabd39d603ff4d6e089d")
	const name = "compat-takeover"
	pong := startProgram(t, old, "pong", name)
	ping := func(count string) {
		t.Helper()
		p := startProgram(t, "shmconn", "ping", "--wait", "1m", "-f", "-c", count, name)
		out, err := io.ReadAll(p.out)
		if err != nil || !strings.Contains(string(out), count+" answered in ") {
			t.Errorf("it says %q, %v", out, err)
		}
		p.end(t, 0, "")
	}
	ping("100")
	for range 3 {
		lc := &shmconn.ListenConfig{TakeOver: true}
		l, err := lc.Listen(name)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), " "+name+": ") || !strings.Contains(err.Error(), "has not set TakeOver") {
			t.Errorf("Listen: %v", err)
		}
		ping("100")
	}
	pong.Process.Signal(os.Interrupt)
	pong.end(t, 0, "")
}

// TestOldWithoutReuse has an end that knows nothing of memory that is used
// again dial many times, or be dialed.
func TestOldWithoutReuse(t *testing.T) {
	if !*long {
		t.Skip("only with -long: it builds the command anew")
	}
	old := buildOld(t, beforeReuse)
	t.Run("old listens", func(t *testing.T) { dialAgain(t, old, "shmconn") })
	t.Run("new listens", func(t *testing.T) { dialAgain(t, "shmconn", old) })
}

// dialAgain has one process dial another again and again, and leave nothing.
func dialAgain(t *testing.T, listener, dialer string) {
	n := 300
	if *long {
		n = 10_000
	}
	at, to := spot(t, "unix"), serve(t, "unix", echo)
	listens := startProgram(t, listener, "proxy", "-q", "shm:compat-again", to.String())
	c, err := (&shmconn.Dialer{Wait: time.Minute}).Dial("compat-again")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	dials := startProgram(t, dialer, "proxy", "-q", at.String(), "shm:compat-again")
	for i := 0; i < n; i++ {
		c, err := net.Dial("unix", at.addr)
		if err != nil && i == 0 {
			time.Sleep(time.Millisecond)
			i--
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("connection %d\n", i)
		fmt.Fprint(c, want)
		c.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); string(got) != want || err != nil {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
		c.Close()
	}
	for _, p := range []*process{dials, listens} {
		p.Process.Signal(os.Interrupt)
		p.end(t, 0, "")
	}
	left, err := filepath.Glob(filepath.Join(os.Getenv("SHMCONN_DIR"), "shmconn.compat-again*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	t.Logf("figure: %d connections, one after the other", n)
}
