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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"shmconn/internal/tools/bench"
	"shmconn/internal/version"
)

// orphanEnv makes this test binary a bench that is going to be killed, of the
// workload that it names.
const orphanEnv = "CLI_TEST_ORPHAN"

func TestMain(m *testing.M) {
	bench.Main()
	if name := os.Getenv(orphanEnv); name != "" {
		o := bench.Options{
			Run: regexp.MustCompile("^" + name + "$"), Nets: regexp.MustCompile("^(shm|unix)$"), Slice: 200 * time.Millisecond, Rounds: 1e6,
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
			for _, want := range []string{"Round trip, 64 B", "Unbuffered writes, 4 B", "better than unix", "What came out", "A ratio of 2 x", "ping-pong (limit)"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in what it says:\n%s", want, out)
				}
			}
			for _, not := range []string{" met\n", "missed", "\x1b"} {
				if strings.Contains(out, not) {
					t.Errorf("%q, without -targets and a terminal, in what it says:\n%s", not, out)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			checkJSON(t, b, peer)
			if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) || bytes.Contains(b, []byte("missed")) {
				t.Errorf("the page has no chart, or says which targets are missed, without -targets: %v", err)
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
	if r.Peer != peer || r.Rounds != quickRounds || r.Machine.Kernel == "" || r.Machine.Go == "" || r.Machine.ClockNS <= 0 || r.Machine.Version != version.Version || r.Machine.Commit != "" {
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
	if len(r.Targets) != 0 {
		t.Errorf("targets are judged without -targets: %+v", r.Targets)
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
		{"-write", "-write is for -floors"},
		{"-floors -write -run dial", "-write is for all rows"},
		{"-floors -nets unix", "-floors has its own contenders"},
		{"-floors -targets", "-floors and -targets: one at a time"},
		{"-against HEAD -floors", "-against and -floors: one at a time"},
		{"-against --output=x", `-against is "--output=x"`},
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

// Targets are judged where they are asked for, and only those that were
// measured are told of.
func TestTargets(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	status, out, errs := run(t, "-quick", "-targets", "-run", "^(roundtrip/size=64|scenes/free)$")
	if status != 0 {
		t.Fatalf("status %d\n%s\n%s", status, out, errs)
	}
	for _, want := range []string{"round trip 64 B, times faster than unix", "parked back to back / unix", "regret, scenes/free"} {
		line := regexp.MustCompile(regexp.QuoteMeta(want) + ".* (met|missed)\n")
		if !line.MatchString(out) {
			t.Errorf("no target %q that is met or missed in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "not measured") {
		t.Errorf("it tells of targets that were not measured:\n%s", out)
	}
}

func TestFloors(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	// Whether it holds is the machine's affair.
	status, out, errs := run(t, "-floors", "-rounds", "2", "-run", "^(write/size=4|scenes/pinned|beside)$")
	floors, err := bench.Floors()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(floors, func(f bench.Floor) bool { return f.Row == "write/size=4" })
	floor := regexp.QuoteMeta(strconv.FormatFloat(floors[i].AtLeast, 'g', 3, 64))
	row := regexp.MustCompile(`write/size=4 +` + floor + `0* +[0-9.]+ .* (holds|holds, owes|BELOW|below, disturbed) *\n +scenes/pinned `)
	if !row.MatchString(out) || strings.Contains(out, "beside") {
		t.Errorf("status %d, said\n%s\n%s", status, out, errs)
	}
	if below := strings.Contains(out, "BELOW"); below != (status == 1) || below != strings.Contains(errs, "below their floors") {
		t.Errorf("status %d, with\n%s\n%s", status, out, errs)
	}
	if status, _, errs := run(t, "-floors", "-run", "^beside$"); status != 1 || !strings.Contains(errs, "has a Unix socket") {
		t.Errorf("without a row: status %d, %s", status, errs)
	}
}

func TestJudgeFloors(t *testing.T) {
	row := func(name string, better, others float64, tries int) *bench.FloorResult {
		f := &bench.FloorResult{Floor: bench.Floor{Row: name, AtLeast: 1}}
		for range tries {
			w := bench.WorkloadResult{Others: others, Contenders: []bench.ContenderResult{{Name: "shm", Better: bench.Summary{N: 1, Median: better}}}}
			f.Add(&w, 1)
		}
		return f
	}
	good, bad, busy, none := row("good", 2, 0, 1), row("bad", 0.5, 0, 3), row("busy", 0.5, 1, 3), row("none", 0, 0, 0)
	for _, tt := range []struct {
		rows []*bench.FloorResult
		want string // in the error; "": none
	}{
		{[]*bench.FloorResult{good, busy}, ""},
		{[]*bench.FloorResult{good, bad, busy}, "below their floors: bad"},
		{[]*bench.FloorResult{good, good, busy, none}, "not measured within 1m25s: none"},
		{[]*bench.FloorResult{good, busy, busy, none}, ""}, // others had the time
	} {
		err := judgeFloors(tt.rows)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

// A bench with workloads of its own has no floors, and no states to compare.
func TestOwnWorkloads(t *testing.T) {
	c := Command{Name: "test", Workloads: bench.Workloads()[:1], Targets: []bench.Target{}}
	for _, args := range [][]string{{"-floors"}, {"-against", "HEAD"}} {
		var out, errs bytes.Buffer
		if status := c.Main(args, &out, &errs); status != 2 || !strings.Contains(errs.String(), "work in shmconn bench only") {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
	}
}

func TestList(t *testing.T) {
	status, out, _ := run(t, "-list", "-targets")
	if status != 0 || !strings.Contains(out, "roundtrip/size=64") || strings.Contains(out, "bufio/size=64") {
		t.Errorf("-list -targets: status %d\n%s", status, out)
	}
	status, out, errs := run(t, "-h")
	if status != 0 || errs != "" || !strings.HasPrefix(out, "Usage: shmconn bench [flags]\n") || !strings.Contains(out, "\n      --run=REGEXP ") {
		t.Errorf("-h: status %d, it says\n%s\nand on stderr\n%s", status, out, errs)
	}
	for line := range strings.Lines(out) {
		if n := len(line) - 1; n > 80 {
			t.Errorf("-h: a line of %d columns: %s", n, line)
		}
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

// When the bench is killed, its peers end by themselves, and with them all
// files.
func TestPeersDieWithParent(t *testing.T) {
	for _, tt := range []struct {
		workload string
		min, max int // processes while it runs
	}{
		{"fourprocs", 8, 8},           // two contenders of two pairs
		{"scenes/pipeline", 8, 8},     // of four processes
		{"scenes/compute=2", 6, 6},    // of one pair, and the neighbours
		{"scenes/compile=2", 6, 8},    // whose children come and go
		{"scenes/pollpair=1", 6, 6},   // the neighbours are a pair
		{"scenes/first-accept", 4, 5}, // and one that is fresh
		{"scenes/victim=pipe", 6, 6},  // three each
	} {
		t.Run(tt.workload, func(t *testing.T) { testOrphans(t, tt.workload, tt.min, tt.max) })
	}
}

func testOrphans(t *testing.T, workload string, least, most int) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanEnv+"="+workload, "SHMCONN_DIR="+dir)
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
	if n := len(peersOf(t, dir)); n < least || n > most {
		t.Errorf("%d peers while it runs, want %d to %d", n, least, most)
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
