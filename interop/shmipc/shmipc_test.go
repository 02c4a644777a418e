//go:build linux && (amd64 || arm64)

package shmipc

import (
	"bytes"
	"os"
	"testing"

	"shmconn/internal/tools/bench"
	"shmconn/internal/tools/bench/cli"
)

func TestMain(m *testing.M) {
	Register()
	bench.Main()
	os.Exit(m.Run())
}

// It works, in both workloads, and leaves nothing.
func TestQuick(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SHMCONN_DIR", dir)
	var out, errs bytes.Buffer
	c := cli.Command{Name: "bench", Workloads: Workloads(), Targets: Targets()}
	if status := c.Main([]string{"-quick", "-nets", "^(shm|unix|shmipc.*)$"}, &out, &errs); status != 0 {
		t.Fatalf("status %d\n%s\n%s", status, out.String(), errs.String())
	}
	t.Logf("%s", out.String())
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}
