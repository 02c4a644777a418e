//go:build linux

package bench

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBuild builds the library of an old commit with the bench of a working
// tree, in a checkout made for that, and runs both in the same rounds.
func TestBuild(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	for _, tool := range []string{"git", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	t.Chdir(dir)
	if _, err := Build(t.Context(), "HEAD"); err == nil || !strings.Contains(err.Error(), dir+" is not in a checkout of the project") {
		t.Errorf("in another project: %v", err)
	}
	// The first commit has another API, the second the project's own.
	writeFile(t, dir, "go.mod", "module shmconn\n")
	writeFile(t, dir, "shmconn.go", "package shmconn\n\nfunc Connect() {}\n")
	git("add", ".")
	git("commit", "-qm", "other")
	writeFile(t, dir, "shmconn.go", "package shmconn\n")
	copyModule(t, root, dir)
	git("add", ".")
	git("commit", "-qm", "own")
	// The working tree has a comment more.
	writeFile(t, dir, "shmconn.go", "package shmconn // new\n")

	if _, err := Build(t.Context(), "no-such-branch"); err == nil || !strings.Contains(err.Error(), `"no-such-branch" names no commit in `+dir) {
		t.Errorf("no commit: %v", err)
	}
	if _, err := Build(t.Context(), "HEAD~1"); err == nil || !strings.Contains(err.Error(), "the library of HEAD~1 does not build with the bench of today") || !strings.Contains(err.Error(), "undefined: shmconn.") {
		t.Errorf("a commit that does not build: %v", err)
	}
	p, err := Build(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	ws := Against(Selected(Options{Run: regexp.MustCompile("^(scenes/free|scenes/first-accept)$")}), p.New, p.Old, false)
	r, err := Run(t.Context(), Options{Workloads: ws, Rounds: 3, Reopen: 1, Slice: 20 * time.Millisecond})
	if err != nil || len(r.Workloads) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i := range r.Workloads {
		if c := Compare(&r.Workloads[i]); c.Got.N != 3 || c.Note != "" {
			t.Errorf("%+v", c)
		}
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.New); !os.IsNotExist(err) {
		t.Errorf("after Remove: %v", err)
	}
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// copyModule copies what a program of this package is made of.
func copyModule(t *testing.T, root, dir string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if below != "." && below != "internal" && !strings.HasPrefix(below, "internal"+string(filepath.Separator)) {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(dir, below), 0o777)
		}
		if top := filepath.Dir(below) == "."; top && !slices.Contains([]string{".go", ".mod", ".sum", ".s"}, filepath.Ext(name)) {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, below), b, 0o666)
	})
	if err != nil {
		t.Fatal(err)
	}
}
