package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Where this package is, below the root of the module that is measured.
const (
	modulePath = "shmconn"
	benchPath  = "internal/tools/bench"
)

// Programs are the ends of connections in two states of the library. Both have
// been built of the same sources of this package, the working tree's.
type Programs struct {
	New, Old string   // files
	Commit   string   // of the old one
	Lacks    []string // networks that only the new one has
	dir      string
}

// Remove removes the programs.
func (p *Programs) Remove() error { return os.RemoveAll(p.dir) }

// Build builds the ends with the library as it is in the working tree and as it
// was in a commit. It needs git, the go command, and a working directory in a
// checkout of the project.
func Build(ctx context.Context, ref string) (_ *Programs, err error) {
	root, err := Checkout(ctx)
	if err != nil {
		return nil, err
	}
	p := new(Programs)
	commit, err := output(ctx, root, "git", "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("%q names no commit in %s", ref, root)
	}
	p.Commit = strings.TrimSpace(string(commit))
	if p.dir, err = os.MkdirTemp("", "shmconn-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Remove())
		}
	}()
	tree := filepath.Join(p.dir, "tree")
	archive, err := output(ctx, root, "git", "archive", "--format=tar", p.Commit)
	if err == nil {
		err = unpack(bytes.NewReader(archive), tree)
	}
	if err == nil {
		err = transplant(root, tree)
	}
	if err != nil {
		return nil, fmt.Errorf("the sources of %s: %w", ref, err)
	}
	p.New, p.Old = filepath.Join(p.dir, newState), filepath.Join(p.dir, oldState)
	if err := buildEnds(ctx, root, p.New); err != nil {
		return nil, fmt.Errorf("the working tree does not build: %w", err)
	}
	err = buildEnds(ctx, tree, p.Old)
	for _, l := range lacking {
		if err == nil {
			break
		}
		p.Lacks = append(p.Lacks, l.nets...)
		err = buildEnds(ctx, tree, p.Old, "-tags="+l.tags)
	}
	if err != nil {
		return nil, fmt.Errorf("the library of %s does not build with the bench of today: %w", ref, err)
	}
	return p, nil
}

// lacking lists the tags with which this package builds with older and older
// states of the library, and the networks that each lacks besides those before.
var lacking = []struct {
	tags string
	nets []string
}{
	{"without_commitreserve", []string{"shm-inplace"}},
	{"without_commitreserve,without_exclusive", []string{"shm-exclusive", "shm-exclusive-zerocopy", "shm-groups"}},
}

// Checkout returns the root of the checkout that the working directory is in.
func Checkout(ctx context.Context) (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	out, err := output(ctx, wd, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return "", fmt.Errorf("%s is not in a checkout of the project: %w", wd, err)
	}
	root := strings.TrimSpace(string(out))
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if line, _, _ := strings.Cut(string(mod), "\n"); err != nil || strings.TrimSpace(line) != "module "+modulePath {
		return "", fmt.Errorf("%s is not in a checkout of the project: %s is another one's", wd, root)
	}
	return root, nil
}

// HeadOf returns the commit that is checked out at root, and says if files were
// changed since.
func HeadOf(ctx context.Context, root string) (string, error) {
	rev, err := output(ctx, root, "git", "rev-parse", "HEAD")
	if err != nil {
		return "", err
	}
	changes, err := output(ctx, root, "git", "--no-optional-locks", "status", "--porcelain")
	if err != nil {
		return "", err
	}
	commit := strings.TrimSpace(string(rev))
	if len(changes) > 0 {
		commit += ", modified"
	}
	return commit, nil
}

// transplant puts this package, and the versions that it needs, from the
// checkout into the sources of another commit.
func transplant(root, tree string) error {
	to := filepath.Join(tree, benchPath)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(filepath.Join(root, benchPath))); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, name), b, 0o666)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// buildEnds builds the program whose processes are ends, in the tree of a
// module.
func buildEnds(ctx context.Context, tree, program string, flags ...string) error {
	args := append([]string{"build", "-buildvcs=false", "-trimpath", "-o", program}, flags...)
	_, err := output(ctx, tree, "go", append(args, "./"+benchPath+"/ends")...)
	return err
}

// output runs a command in a directory and returns what it says. What it says
// of an error is in the error.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return nil, fmt.Errorf("%s %s: %s", name, args[0], bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return out, nil
}

// unpack makes the directories and regular files of an archive below dir.
func unpack(r io.Reader, dir string) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return &fs.PathError{Op: "unpack", Path: h.Name, Err: fs.ErrInvalid}
		}
		name := filepath.Join(dir, h.Name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			return err
		}
		b, err := io.ReadAll(tr)
		if err == nil {
			err = os.WriteFile(name, b, 0o666)
		}
		if err != nil {
			return err
		}
	}
}
