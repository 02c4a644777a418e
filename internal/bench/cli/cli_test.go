//go:build linux

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"shmconn/internal/bench"
)

// orphanEnv makes this test binary a bench that is going to be killed.
const orphanEnv = "CLI_TEST_ORPHAN"

func TestMain(m *testing.M) {
	bench.Main()
	if os.Getenv(orphanEnv) != "" {
		o := bench.Options{
			Run: regexp.MustCompile("^fourprocs$"), Nets: regexp.MustCompile("^(shm|unix)$"), Slice: 200 * time.Millisecond, Rounds: 1e6,
			Progress: func(string, string, int) { fmt.Println("slice") },
		}
		_, err := bench.Run(context.Background(), o)
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = new(Command).Main(args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestQuick(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	for _, peer := range []string{"process", "goroutine"} {
		t.Run("peer="+peer, func(t *testing.T) {
			dir := t.TempDir()
			file, page := filepath.Join(dir, "b.json"), filepath.Join(dir, "b.html")
			status, out, errs := run(t, "-quick", "-peer", peer, "-run", "^(roundtrip|write)/size=(4|64)$", "-nets", "^(shm|unix|ping-pong)$", "-json", file, "-html", page)
			if status != 0 {
				t.Fatalf("status %d\n%s\n%s", status, out, errs)
			}
			for _, want := range []string{"Round trip, 64 B", "Unbuffered writes, 4 B", "times faster than unix", "ping-pong (limit)"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in what it says:\n%s", want, out)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			checkJSON(t, b, peer)
			if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
				t.Errorf("the page has no chart, %v", err)
			}
		})
	}
	if left, err := os.ReadDir(os.Getenv("SHMCONN_DIR")); err != nil || len(left) != 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}

func checkJSON(t *testing.T, b []byte, peer string) {
	var r bench.Report
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Peer != peer || r.Rounds != quickRounds || r.Machine.Kernel == "" || r.Machine.Go == "" || r.Machine.ClockNS <= 0 {
		t.Errorf("the report begins with %+v, %s, %d rounds", r.Machine, r.Peer, r.Rounds)
	}
	if len(r.Workloads) != 3 {
		t.Fatalf("%d workloads, want 3", len(r.Workloads))
	}
	for _, w := range r.Workloads {
		for _, c := range w.Contenders {
			if c.Error != "" || len(c.Rounds) != r.Rounds {
				t.Errorf("%s, %s: %d rounds, error %q", w.Name, c.Name, len(c.Rounds), c.Error)
				continue
			}
			for i, round := range c.Rounds {
				if round.Value <= 0 || round.Ops == 0 || round.ElapsedNS <= 0 || round.ClientCPU <= 0 {
					t.Errorf("%s, %s, round %d: %+v", w.Name, c.Name, i, round)
				}
			}
			if l := c.Latency; w.Unit == "ns" && (l == nil || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.Max || len(l.Curve) == 0) {
				t.Errorf("%s, %s: latency %+v", w.Name, c.Name, l)
			}
			if c.Better.N != r.Rounds {
				t.Errorf("%s, %s: better %+v", w.Name, c.Name, c.Better)
			}
		}
	}
	measured := 0
	for _, target := range r.Targets {
		if target.Got.N > 0 {
			measured++
		}
	}
	if measured < 3 {
		t.Errorf("%d targets measured: %+v", measured, r.Targets)
	}
}

func TestBadFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"-run (", "-run: error parsing regexp"},
		{"-nets [", "-nets: error parsing regexp"},
		{"-run nothing-like-that", "no workload is left"},
		{"-rounds -1", "-rounds is -1"},
		{"-rounds many", "invalid value"},
		{"-peer thread", `-peer is "thread"`},
		{"-slice 2h", "-slice is 2h0m0s"},
		{"-frobnicate", "not defined: -frobnicate"},
		{"roundtrip", `unexpected argument "roundtrip"`},
	} {
		status, out, errs := run(t, strings.Fields(tt.args)...)
		if status != 2 || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: status %d, said %q, want 2 and %q", tt.args, status, errs, tt.want)
		}
	}
	status, _, errs := run(t, "-run", "^parked$", "-json", filepath.Join(t.TempDir(), "missing", "x"))
	if status != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("a file that cannot be made: status %d, said %q", status, errs)
	}
}

func TestList(t *testing.T) {
	status, out, _ := run(t, "-list", "-targets")
	if status != 0 || !strings.Contains(out, "roundtrip/size=64") || strings.Contains(out, "bufio/size=64") {
		t.Errorf("-list -targets: status %d\n%s", status, out)
	}
	if status, out, _ = run(t, "-h"); status != 0 || out != "" {
		t.Errorf("-h: status %d, %q on standard output", status, out)
	}
}

// A contender that fails does not take the others with it.
func TestFailure(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	spec := bench.Spec{Net: "unix", Loop: "roundtrip", Size: 64}
	w := bench.Workloads()[1]
	w.Contenders = []bench.Contender{{Name: "unix", Spec: spec}, {Name: "broken", Spec: bench.Spec{Net: "no-such-net", Loop: "roundtrip", Size: 64}}}
	c := Command{Name: "test", Workloads: []bench.Workload{w}, Targets: []bench.Target{}}
	var out, errs bytes.Buffer
	status := c.Main([]string{"-quick"}, &out, &errs)
	if status != 1 || !strings.Contains(out.String(), "broken FAILED") || !strings.Contains(out.String(), "no-such-net") || !strings.Contains(out.String(), "p99.9") {
		t.Errorf("status %d, said\n%s\n%s", status, out.String(), errs.String())
	}
}

// When the bench is killed, its peers end by themselves, and with them all files.
func TestPeersDieWithParent(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanEnv+"=1", "SHMCONN_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 3 { // in the middle of a slice
		if !lines.Scan() || lines.Text() != "slice" {
			t.Fatalf("the bench said %q, %v", lines.Text(), lines.Err())
		}
	}
	if n := len(peersOf(t, dir)); n != 8 { // two contenders of two pairs
		t.Errorf("%d peers while it runs, want 8", n)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for { // until there is none; if that is never, go test says so
		peers := peersOf(t, dir)
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(peers) == 0 && len(left) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// peersOf returns the processes whose environment has dir in it.
func peersOf(t *testing.T, dir string) (peers []string) {
	procs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err == nil && bytes.Contains(b, []byte("SHMCONN_BENCH_DIR="+dir)) {
			peers = append(peers, p)
		}
	}
	return peers
}
