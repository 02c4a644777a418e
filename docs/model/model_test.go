package model

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var long = flag.Bool("long", os.Getenv("SHMCONN_FULL") != "", "make the large searches, too")

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
	{model: "close", mutants: "POSITION_FIRST GONE_FIRST CLOSED_EARLY LOCK_IS_REF NO_RING GUEST_FIRST"},
	{model: "close", defines: "-DLEAVES", large: true},
	{model: "turn", defines: "-DEXPIRE -DOPEN -DCALLERS=3", mutants: "NO_BARRIER EARLY ASLEEP SELFISH"},
	{model: "turn", defines: "-DCALLERS=1", mutants: "BLIND"},
	{model: "turn", defines: "-DEXPIRE", large: true},
	{model: "turn", defines: "-DSHUT", large: true},
	{model: "turn", defines: "-DCALLS=2", large: true},
	{model: "lend", mutants: "EARLY"},
	{model: "lend", defines: "-DTWICE", mutants: "NO_BARRIER BLIND NO_LOOK HASTY UNFENCED"},
	{model: "ends", defines: "-DB=0", mutants: "CHECK_FIRST LATE_PUBLISH NO_PASS"},
	{model: "ends", large: true},
	{model: "ends", defines: "-DA=1 -DB=0 -DCLOSE", mutants: "CLOSED_EARLY", large: true},
	{model: "ends", defines: "-DA=1 -DB=0 -DDEATH", mutants: "POSITION_FIRST"},
	{model: "ends", defines: "-DB=0 -DDEATH", large: true},
	{model: "slots", defines: "-DPROMOTE -DN=3 -DCAP=1 -DINTR=2", mutants: "NO_RECHECK BLIND NO_SECOND_LOOK"},
	{model: "slots", defines: "-DPROMOTE -DN=3 -DCAP=1 -DEXTRA=1 -DINTR=2", mutants: "NO_RECHECK BLIND NO_SECOND_LOOK"},
	{model: "slots", defines: "-DPROMOTE -DN=4 -DCAP=2 -DINTR=1", mutants: "NO_RECHECK BLIND", large: true},
	{model: "spare", mutants: "OFFER_EARLY WITHDRAW_BLIND TAKE_BLIND UNREAD HEARD_SILENT"},
	{model: "spare", defines: "-DWATCH", mutants: "OFFER_BLIND WATCH_BLIND"},
	{model: "takeover", mutants: "NO_SHUT NO_LOOK EARLY_TAKE END_IS_NO KEEPS SECOND ONE_LOOK CLOSE_FIRST TELLS LISTEN_FIRST"},
}

func TestModels(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the searches take most of a minute")
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
	// So gcc and the search take the least time together: most mutants are found
	// at once.
	gcc := []string{"-Og"}
	switch {
	case mutant != "":
		gcc[0] = "-O0"
	case r.large:
		gcc = []string{"-O2", "-DCOLLAPSE"} // slower, in less memory
	}
	gcc = append(gcc, "-w", "-DMEMLIM=6000", "-o", "pan", "pan.c")
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

var (
	syncLabel = regexp.MustCompile(`\bsync: ([a-z]+)\b`)
	tableRow  = regexp.MustCompile("(?m)^\\| `([a-z]+\\.pml)` \\| `(.+)` \\| ([a-z, ]+) \\| (.+) \\|$")
	anyBlank  = regexp.MustCompile(`\s+`)
)

// modelLabels returns the labels of each labelled line of the models, by "file:
// line".
func modelLabels(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.pml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no models: %v", err)
	}
	labels := make(map[string]string)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			code, comment, _ := strings.Cut(line, "/* ")
			var list []string
			for _, m := range syncLabel.FindAllStringSubmatch(comment, -1) {
				list = append(list, m[1])
			}
			if list == nil {
				continue
			}
			code = strings.TrimSpace(anyBlank.ReplaceAllString(code, " "))
			if code == "" {
				t.Errorf("%s: a label beside no code: %s", file, line)
			}
			labels[file+": "+code] += strings.Join(list, ", ") + "; "
		}
	}
	return labels
}

// codeLabels returns the functions of the library that have each label.
func codeLabels(t *testing.T) map[string][]string {
	t.Helper()
	labels := make(map[string][]string)
	for _, pattern := range []string{"../../*.go", "../../internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range f.Comments {
				for _, c := range group.List {
					m := syncLabel.FindStringSubmatch(c.Text)
					if m == nil {
						continue
					}
					name := functionAt(f, c.Pos())
					if name == "" {
						t.Errorf("%s: a label in no function", fset.Position(c.Pos()))
					}
					if !slices.Contains(labels[m[1]], name) {
						labels[m[1]] = append(labels[m[1]], name)
					}
				}
			}
		}
	}
	return labels
}

// functionAt returns the name of the function that has the position, as
// "type.name" if it is a method.
func functionAt(f *ast.File, pos token.Pos) string {
	for _, decl := range f.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok || pos < d.Pos() || pos >= d.End() {
			continue
		}
		if d.Recv == nil {
			return d.Name.Name
		}
		typ := d.Recv.List[0].Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		return typ.(*ast.Ident).Name + "." + d.Name.Name
	}
	return ""
}

// TestLabels checks that the models and the code have the same labels, and that
// the table in the README says of every labelled line of the models where it is
// in the code.
func TestLabels(t *testing.T) {
	models, code := modelLabels(t), codeLabels(t)
	in := make(map[string]bool) // labels of the models
	for _, list := range models {
		for _, label := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", ;", r) }) {
			in[label] = true
		}
	}
	for _, label := range slices.Sorted(maps.Keys(in)) {
		if code[label] == nil {
			t.Errorf("the models have sync: %s, and the code does not", label)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(code)) {
		if !in[label] {
			t.Errorf("the code has sync: %s, and no model does", label)
		}
	}

	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]string)      // labels by line
	functions := make(map[string][]string) // by label
	for _, m := range tableRow.FindAllStringSubmatch(string(readme), -1) {
		line := m[1] + ": " + strings.ReplaceAll(m[2], `\|`, "|")
		listed[line] += m[3] + "; "
		labels, names := strings.Split(m[3], ", "), strings.Split(m[4], ", ")
		if len(labels) != len(names) {
			t.Fatalf("README: %s has the labels %q and the functions %q", line, labels, names)
		}
		for i, name := range names {
			name = strings.Trim(name, "`")
			if !slices.Contains(code[labels[i]], name) {
				t.Errorf("README: %s is said to be sync: %s in %s; that label is in %q", line, labels[i], name, code[labels[i]])
			}
			functions[labels[i]] = append(functions[labels[i]], name)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(models)) {
		if !slices.Equal(sorted(listed[line]), sorted(models[line])) {
			t.Errorf("%s has the labels %q, in the README's table %q", line, models[line], listed[line])
		}
	}
	for _, line := range slices.Sorted(maps.Keys(listed)) {
		if models[line] == "" {
			t.Errorf("README: there is no labelled line %s", line)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(code)) {
		for _, name := range code[label] {
			if !slices.Contains(functions[label], name) {
				t.Errorf("sync: %s in %s is not in the README's table", label, name)
			}
		}
	}
}

// sorted returns the different lists of labels among those of equal lines.
func sorted(labels string) []string {
	list := strings.Split(labels, "; ")
	slices.Sort(list)
	return slices.Compact(list)
}
