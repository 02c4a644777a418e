package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

// startServer starts a server in dir, set up by prepare, and wants it to end
// well, and to leave nothing, when t ends.
func startServer(t *testing.T, path string, prepare func(*exec.Cmd)) {
	t.Helper()
	cmd := exampletest.Command(t, "-listen", path)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	prepare(cmd)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no process can be started like this: %v", err)
	}
	t.Cleanup(func() {
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("server: %v\n%s", err, &stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	line := make([]byte, len("listening\n"))
	if _, err := out.Read(line); err != nil || string(line) != "listening\n" {
		t.Fatalf("the server says %q, %v\n%s", line, err, &stderr)
	}
}

const reply = "HELLO FROM THE SIDECAR\n"

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed")
	startServer(t, path, func(*exec.Cmd) {})
	if out, err := exampletest.Command(t, "-dial", path).CombinedOutput(); err != nil || string(out) != reply {
		t.Errorf("%v\n%s\nwant %s", err, out, reply)
	}
}

// By itself it is both.
func TestAlone(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	if out, err := exampletest.Command(t).CombinedOutput(); err != nil || string(out) != "listening\n"+reply {
		t.Errorf("%v\n%s\nwant listening, %s", err, out, reply)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The client waits for a server that is started after it.
func TestAnyOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed")
	var out bytes.Buffer
	client := exampletest.Command(t, "-dial", path)
	client.Stdout, client.Stderr = &out, &out
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	startServer(t, path, func(*exec.Cmd) {})
	if err := client.Wait(); err != nil || out.String() != reply {
		t.Errorf("%v\n%s\nwant %s", err, &out, reply)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{{"-listen", "/a/b", "-dial", "/a/b"}} {
		out, err := exampletest.Command(t, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "give one of") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
