package shmconn_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Imports point down, and each arrow is in the table: the root is the API,
// handshake is how two processes meet, stream is one end of a connection, and
// the packages that it is made of do not know each other. What keeps them out
// of bubbles of testing/synctest lies below them all. They import nothing but
// this, the standard library and, where it says so here, golang.org/x/sys/unix.
const (
	module   = "shmconn"
	unixPath = "golang.org/x/sys/unix"
)

var (
	arrows = map[string][]string{
		".":                  {"internal/handshake", "internal/ring", "internal/stream"},
		"internal/handshake": {"internal/bubble", "internal/deadline", "internal/dekker", "internal/doorbell", "internal/segment", "internal/sema", "internal/sockdiag", "internal/stream", "internal/wait"},
		"internal/stream":    {"internal/bubble", "internal/deadline", "internal/doorbell", "internal/ring", "internal/segment", "internal/sema", "internal/turn", "internal/wait"},
		"internal/turn":      {"internal/dekker", "internal/sema"},
		"internal/wait":      {"internal/bubble", "internal/sema"},
		"internal/deadline":  {"internal/bubble"},
		"internal/bubble":    {"internal/sema"},
		"internal/dekker":    nil,
		"internal/doorbell":  nil,
		"internal/ring":      nil,
		"internal/segment":   nil,
		"internal/sema":      nil,
		"internal/sockdiag":  nil,
	}

	// above are packages of the library that import the root and the standard
	// library.
	above = []string{"fallback", "shmhttp", "stats"}

	// importsUnix lists the files that make system calls.
	importsUnix = []string{
		"internal/dekker/barrier_amd64.go",
		"internal/doorbell/doorbell_linux.go",
		"internal/doorbell/ended_linux.go",
		"internal/doorbell/raw_linux_unsafe.go",
		"internal/handshake/accept.go",
		"internal/handshake/dial.go",
		"internal/handshake/dialend.go",
		"internal/handshake/dialwait.go",
		"internal/handshake/drain.go",
		"internal/handshake/halfopen.go",
		"internal/handshake/handover.go",
		"internal/handshake/listen.go",
		"internal/handshake/message.go",
		"internal/handshake/redial.go",
		"internal/handshake/share.go",
		"internal/handshake/sockets_cred_bsd.go",
		"internal/handshake/sockets_cred_linux.go",
		"internal/handshake/sockets_pid_darwin.go",
		"internal/handshake/takeover.go",
		"internal/handshake/watch.go",
		"internal/segment/claim_linux.go",
		"internal/segment/conn_linux.go",
		"internal/segment/dir_linux.go",
		"internal/segment/listener_linux.go",
		"internal/segment/lookup_linux.go",
		"internal/segment/map_linux_unsafe.go",
		"internal/segment/remove_linux.go",
		"internal/segment/share_linux.go",
		"internal/segment/watch_linux.go",
		"internal/sockdiag/sockdiag_linux.go",
		"internal/stream/kernelsink.go",
		"internal/stream/kernelsource.go",
		"internal/wait/party_linux.go",
		"internal/wait/processor_linux_unsafe.go",
		"internal/wait/quota_linux.go",
		"internal/wait/visit_linux.go",
	}

	// testHarness is what tests of the library import, and nothing else.
	testHarness = "internal/shmtest"

	// tools are not part of the library. They go by the rule about unsafe
	// alone, and no file of the library that is not a test imports them.
	tools = []string{testHarness, "internal/tools", "internal/version", "docs", "shmconn", "examples", "tests", "c", ".ci"}
)

// A goFile is a parsed file of the module.
type goFile struct {
	name string // below the module's root, with slashes
	file *ast.File
	fset *token.FileSet
	test bool
}

func (s goFile) dir() string { return path.Dir(s.name) }

// tool reports whether s does not belong to the library.
func (s goFile) tool() bool {
	return slices.ContainsFunc(tools, func(dir string) bool { return strings.HasPrefix(s.name, dir+"/") })
}

func (s goFile) imports() (paths []string) {
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// goFiles parses all Go files of this module, for whatever system they are.
func goFiles(t *testing.T) (list []goFile) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(name, "go.mod"))
			if name != "." && (nested == nil || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".git")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		list = append(list, goFile{filepath.ToSlash(name), f, fset, strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range arrows {
		if !slices.ContainsFunc(list, func(s goFile) bool { return s.dir() == dir && !s.test }) {
			t.Fatalf("no Go files in %s: this test has to run in the module's root", dir)
		}
	}
	return list
}

// layer reports whether dir is one of the library's packages below the root.
func layer(dir string) bool {
	_, ok := arrows[dir]
	return ok && dir != "."
}

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return first != module && !strings.Contains(first, ".")
}

// TestImports holds the imports of every file of the library against the rule.
func TestImports(t *testing.T) {
	var usesUnix []string
	used := make(map[string]map[string]bool) // by directory
	for _, s := range goFiles(t) {
		if s.tool() {
			continue
		}
		if used[s.dir()] == nil {
			used[s.dir()] = make(map[string]bool)
		}
		for _, p := range s.imports() {
			inner, own := strings.CutPrefix(p, module+"/")
			switch {
			case standard(p):
			case p == unixPath:
				if !s.test {
					usesUnix = append(usesUnix, s.name)
				}
			case s.test && s.dir() == ".":
				// What the tests at the root need is up to them.
			case own && slices.Contains(arrows[s.dir()], inner):
				if !s.test {
					used[s.dir()][inner] = true
				}
			case p == module && slices.Contains(above, s.dir()):
			case s.test && own && inner == s.dir():
			case s.test && inner == testHarness && slices.Contains(above, s.dir()):
			default:
				t.Errorf("%s imports %s", s.name, p)
			}
		}
		if _, ok := arrows[s.dir()]; !ok && !slices.Contains(above, s.dir()) {
			t.Errorf("%s: there is a package that this test does not know of", s.name)
		}
	}
	for dir, to := range arrows {
		for _, inner := range to {
			if !used[dir][inner] {
				t.Errorf("%s does not import %s: the arrow can go", dir, inner)
			}
		}
	}
	slices.Sort(usesUnix)
	if !slices.Equal(usesUnix, importsUnix) {
		t.Errorf("these import %s:\n%s\nwant:\n%s", unixPath, strings.Join(usesUnix, "\n"), strings.Join(importsUnix, "\n"))
	}
}

// TestExamplesImport checks that the examples get along with what users have.
func TestExamplesImport(t *testing.T) {
	n := 0
	for _, s := range goFiles(t) {
		if !strings.HasPrefix(s.name, "examples/") {
			continue
		}
		n++
		for _, p := range s.imports() {
			if strings.HasPrefix(p, module+"/internal/") {
				t.Errorf("%s imports %s", s.name, p)
			}
		}
	}
	if n == 0 {
		t.Error("there are no examples")
	}
}

// TestDependencies asks the go command for all that the library is built of.
func TestDependencies(t *testing.T) {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("the go command is not there to ask: %v", err)
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		cmd := exec.Command(goCommand, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
		cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=amd64")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		got := strings.Fields(string(out))
		for _, p := range got {
			if inner, own := strings.CutPrefix(p, module+"/"); p != module && p != unixPath && !(own && layer(inner)) {
				t.Errorf("GOOS=%s: the library depends on %s", goos, p)
			}
		}
		if !slices.Contains(got, module) || goos == "linux" && len(got) != 1+len(arrows) {
			t.Errorf("GOOS=%s: go list says %q", goos, got)
		}
	}
}

// TestUnsafe checks that unsafe is used in files named *_unsafe.go only, but
// for the two functions of it that are safe, which say where a field is.
func TestUnsafe(t *testing.T) {
	for _, s := range goFiles(t) {
		if strings.HasSuffix(strings.TrimSuffix(s.name, "_test.go"), "_unsafe.go") || strings.HasSuffix(s.name, "_unsafe_test.go") {
			continue
		}
		for _, i := range s.file.Imports {
			if i.Path.Value == `"unsafe"` && i.Name != nil {
				t.Errorf("%s imports unsafe as %s", s.name, i.Name.Name)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "unsafe" && sel.Sel.Name != "Offsetof" && sel.Sel.Name != "Sizeof" {
				t.Errorf("%s: unsafe.%s", s.fset.Position(n.Pos()), sel.Sel.Name)
			}
			return true
		})
		for _, c := range s.file.Comments {
			for _, line := range c.List {
				if strings.HasPrefix(line.Text, "//go:linkname") {
					t.Errorf("%s: %s", s.fset.Position(line.Pos()), line.Text)
				}
			}
		}
	}
}

var syncLabel = regexp.MustCompile(`\bsync: ([a-z]+)\b`)

// TestSyncPoints checks that what is stored for another to load carries the
// same label at both ends, and that DESIGN.md explains it.
func TestSyncPoints(t *testing.T) {
	places := make(map[string][]string)
	for _, s := range goFiles(t) {
		if s.test || s.tool() {
			continue
		}
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if m := syncLabel.FindStringSubmatch(c.Text); m != nil {
					places[m[1]] = append(places[m[1]], s.fset.Position(c.Pos()).String())
				}
			}
		}
	}
	if len(places) == 0 {
		t.Fatal("there are no labels")
	}
	design, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, m := range syncLabel.FindAllSubmatch(design, -1) {
		listed[string(m[1])] = true
	}
	for _, label := range slices.Sorted(maps.Keys(places)) {
		if len(places[label]) < 2 {
			t.Errorf("sync: %s is at one place alone, %s", label, places[label][0])
		}
		if !listed[label] {
			t.Errorf("sync: %s, at %s, is not in DESIGN.md", label, places[label][0])
		}
	}
	for _, label := range slices.Sorted(maps.Keys(listed)) {
		if places[label] == nil {
			t.Errorf("DESIGN.md tells of sync: %s, which is nowhere", label)
		}
	}
}

// TestDocumented checks that all that is exported says what it does.
func TestDocumented(t *testing.T) {
	for _, s := range goFiles(t) {
		if s.test || s.tool() || s.dir() != "." {
			continue
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil && d.Name.Name != "Error" {
					t.Errorf("%s: %s has no comment", s.fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
						t.Errorf("%s: %s has no comment", s.fset.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

// exportedReceiver reports whether d is a function, or a method of what users
// can name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	return ast.IsExported(receiver(d))
}

// TestExamples wants an example of every exported function and method, with its
// output.
func TestExamples(t *testing.T) {
	want := make(map[string]bool) // the name of the example: whether there is one
	have := make(map[string]bool)
	for _, s := range goFiles(t) {
		if s.dir() != "." || s.test && !strings.HasPrefix(s.name, "example_") {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() {
				continue
			}
			if s.test {
				have[f.Name.Name] = true
				continue
			}
			name := "Example"
			if f.Recv != nil {
				of := receiver(f)
				if !ast.IsExported(of) {
					continue
				}
				name += of + "_"
			}
			want[name+f.Name.Name] = true
		}
		if !s.test {
			continue
		}
		for _, e := range doc.Examples(s.file) {
			if e.Output == "" {
				t.Errorf("Example%s has no output", e.Name)
			}
		}
	}
	for name := range want {
		if !have[name] {
			t.Errorf("there is no %s", name)
		}
	}
	if len(want) == 0 {
		t.Error("no exported functions")
	}
}

// TestReading counts the lines of a Write and the Read of it, with their
// comments, by the table in CONTRIBUTING.md.
func TestReading(t *testing.T) {
	const most = 600
	guide, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]int) // of each function, by file and name
	for _, s := range goFiles(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			if f.Recv != nil {
				name = receiver(f) + "." + name
			}
			from := f.Pos()
			if f.Doc != nil {
				from = f.Doc.Pos()
			}
			lines[s.name+" "+name] = s.fset.Position(f.End()).Line - s.fset.Position(from).Line + 1
		}
	}
	total, functions := 0, 0
	for _, row := range regexp.MustCompile("(?m)^\\|[^|`]*`([a-z_/]+\\.go)` \\| (.*) \\|$").FindAllStringSubmatch(string(guide), -1) {
		for _, name := range strings.Split(row[2], ", ") {
			n := lines[row[1]+" "+strings.Trim(name, "`")]
			if n == 0 {
				t.Errorf("CONTRIBUTING.md: there is no %s in %s", name, row[1])
			}
			total += n
			functions++
		}
	}
	if functions < 40 || total > most {
		t.Errorf("%d functions of a Write and a Read have %d lines, at most %d", functions, total, most)
	}
	t.Logf("%d functions, %d lines", functions, total)
}

// receiver returns the name of the type whose method f is.
func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, _ := typ.(*ast.Ident)
	if id == nil {
		return "" // of a generic type
	}
	return id.Name
}

// TestLength keeps the library's files short enough to be read at once, and
// lines of comments narrow enough for half a screen, tests' included.
func TestLength(t *testing.T) {
	const maxLines, maxWidth = 400, 80
	for _, s := range goFiles(t) {
		b, err := os.ReadFile(s.name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(b), "\n")
		_, library := arrows[s.dir()]
		if n := len(lines) - 1; library && !s.test && n > maxLines {
			t.Errorf("%s has %d lines, at most %d", s.name, n, maxLines)
		}
		for _, group := range s.file.Comments {
			if strings.Contains(strings.ToLower(group.Text()), "output:") {
				continue // what an example prints is as wide as it is
			}
			for _, c := range group.List {
				at := s.fset.Position(c.Pos())
				line := strings.TrimLeft(lines[at.Line-1], "\t")
				if !strings.HasPrefix(line, "// ") {
					continue // behind code, a directive, or preformatted
				}
				if n := len([]rune(lines[at.Line-1])); n > maxWidth {
					t.Errorf("%s:%d is %d characters wide, at most %d", s.name, at.Line, n, maxWidth)
				}
			}
		}
	}
}
