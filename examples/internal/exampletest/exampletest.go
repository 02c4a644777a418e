// Package exampletest runs an example as a command in the example's own test.
// The command is the test binary, run again: it need not be built, and has the
// race detector if the test has.
package exampletest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"shmconn"
)

// runMain is the environment variable that makes a test binary the example.
const runMain = "SHMCONN_EXAMPLE_RUN_MAIN"

// Main is what TestMain has to call: it runs the tests, or main in a process
// that [Command] has started, or that such a process has.
func Main(m *testing.M, main func()) {
	if os.Getenv(runMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Command returns the example as a command, which is killed when t ends.
func Command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), runMain+"=1",
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // it sleeps for 1 s by default
	return cmd
}

// PrivateNames makes t, and the commands it runs, keep the names of listeners
// in a directory of their own, and returns it. If anything is there when t
// ends, t has failed.
func PrivateNames(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("SHMCONN_DIR", dir)
	t.Setenv("TMPDIR", dir) // Unix sockets
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return dir
}

// Pair returns the two ends of a connection with rings of ringSize bytes, 0 for
// the default, in a directory of its own. Both are closed when t ends.
func Pair(t *testing.T, ringSize int) (dialed, accepted *shmconn.Conn) {
	t.Helper()
	PrivateNames(t)
	lc := shmconn.ListenConfig{RingSize: ringSize}
	l, err := lc.Listen("example")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialed, err = shmconn.Dial("example"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close() })
	if accepted, err = l.AcceptConn(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}
