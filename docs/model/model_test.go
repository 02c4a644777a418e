package model

import (
	"flag"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var long = flag.Bool("long", false, "make the large searches, too")

// A run is one search of one model. Mutants break one line of the protocol
// each; the search of each must find an error.
type run struct {
	model   string
	defines string // scenario and size
	ltl     bool   // checks the model's ltl formula, not the end states and assertions
	mutants string
	large   bool // the search without a mutant takes ten seconds or more
}

var runs = []run{
	{model: "park", mutants: "CHECK_FIRST SAME_EPOCH LATE_PUBLISH COPY_LATE LAZY_HALF"},
	{model: "park", ltl: true, mutants: "SAME_EPOCH"},
	{model: "tso", mutants: "NO_FENCE CHUNK_NO_FENCE PARK_NO_FENCE"},
	{model: "bell", defines: "-DQUIET", mutants: "NO_PASS KEEP_BYTE STEAL LOAD_FIRST", large: true},
	{model: "bell", defines: "-DCLOSE", mutants: "CLEAR_LATE LOAD_FIRST", large: true},
	{model: "bell", defines: "-DDEATH", mutants: "NO_PASS"},
	{model: "close", mutants: "POSITION_FIRST GONE_FIRST CLOSED_EARLY LOCK_IS_REF NO_RING"},
	{model: "close", defines: "-DLEAVES", large: true},
	{model: "turn", defines: "-DEXPIRE", mutants: "NO_BARRIER NO_RETRY BLIND"},
	{model: "turn", defines: "-DSHUT", large: true},
	{model: "turn", defines: "-DCALLS=2", large: true},
	{model: "seats", defines: "-DAPPOINT -DN=3 -DCAP=1 -DINTR=2", mutants: "NO_RECHECK BLIND NO_SECOND_LOOK"},
	{model: "seats", defines: "-DAPPOINT -DN=4 -DCAP=2 -DINTR=1", mutants: "NO_RECHECK BLIND", large: true},
}

func TestModels(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the searches take about a minute")
	}
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: the models are not checked", err)
		}
	}
	for _, r := range runs {
		name := strings.TrimSpace(r.model + " " + r.defines)
		if r.ltl {
			name += " ltl"
		}
		t.Run(name, func(t *testing.T) {
			if r.large && !*long {
				t.Skip("a large search; -long makes it")
			}
			out := search(t, r, "")
			if n := found(t, out); n != 0 || !complete(out) {
				t.Errorf("%d errors, or the search is not complete:\n%s", n, out)
			}
			t.Log(states.FindString(out))
		})
		for _, m := range strings.Fields(r.mutants) {
			t.Run(name+" "+m, func(t *testing.T) {
				if out := search(t, r, "-DMUTANT_"+m); found(t, out) == 0 {
					t.Errorf("the search does not notice the mutant:\n%s", out)
				}
			})
		}
	}
}

// search makes the verifier of a model, runs it and returns what it printed.
func search(t *testing.T, r run, mutant string) string {
	t.Helper()
	file, err := filepath.Abs(r.model + ".pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	do := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if _, exited := err.(*exec.ExitError); err != nil && (name != "./pan" || !exited) {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	spin := append([]string{"-a"}, strings.Fields(r.defines)...)
	if mutant != "" {
		spin = append(spin, mutant)
	}
	do("spin", append(spin, file)...)
	gcc := []string{"-O2", "-w", "-DMEMLIM=6000", "-DCOLLAPSE", "-o", "pan", "pan.c"}
	pan := []string{"-m10000", "-w22"}
	if r.ltl {
		pan = append(pan, "-a", "-f") // weakly fair acceptance cycles
	} else {
		gcc = append(gcc, "-DSAFETY", "-DNOCLAIM")
	}
	do("gcc", gcc...)
	return do("./pan", pan...)
}

var (
	errs   = regexp.MustCompile(`errors: (\d+)`)
	states = regexp.MustCompile(`\d+ states, stored`)
)

func found(t *testing.T, out string) int {
	t.Helper()
	m := errs.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no result:\n%s", out)
	}
	if m[1] == "0" {
		return 0
	}
	return 1
}

// complete says whether the search ran through all states.
func complete(out string) bool {
	return !strings.Contains(out, "Search not completed") &&
		!strings.Contains(out, "max search depth too small") &&
		!strings.Contains(out, "MEMLIM bound")
}
