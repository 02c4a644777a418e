package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"shmconn/internal/segment"
)

type rmCmd struct {
	Names  []string `arg:"" optional:"" name:"name" predictor:"name" help:"Names to remove. With --dead and no name: all in the directory."`
	Dead   bool     `help:"Skip names that a process listens on, but remove their dead connections."`
	DryRun bool     `short:"n" help:"Print what would be removed, and remove nothing."`
}

func (c *rmCmd) Help() string {
	return `Removes the files of listeners that died, and the segments of dialers that died
before they were accepted. You need not do that: the next listener takes the
name over. rm never removes what a living process holds: it first takes the
lock that such a process has, as a listener that takes the name over does.
Without --dead the exit status is 1 if a process listens on the name, or if
there is nothing to remove.

Root removes what dead processes of any user left; other users remove what
their own processes left.

Example:

    shmconn rm feed
    shmconn rm --dead --dry-run`
}

func (c *rmCmd) Validate() error {
	if len(c.Names) == 0 && !c.Dead {
		return errors.New("a name is missing (only --dead needs none)")
	}
	for _, name := range c.Names {
		if _, _, err := segment.ParseName(name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

func (c *rmCmd) Run(s stdio) error {
	names := c.Names
	if len(names) == 0 {
		var err error
		if names, err = namesIn(namesDir()); err != nil {
			return fmt.Errorf("rm: %w", err)
		}
	}
	failed := false
	for _, name := range names {
		removed, err := c.remove(name)
		verb := "removed"
		if c.DryRun {
			verb = "would remove"
		}
		for _, path := range removed {
			fmt.Fprintln(s.out, verb, clean(path))
		}
		if err != nil {
			say(s, fmt.Errorf("rm %s: %w", name, err))
			failed = true
		}
	}
	if failed {
		return status(1)
	}
	return nil
}

// namesIn returns the names of which there are files in dir, sorted.
func namesIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if kind, base, _ := segment.ParseFile(e.Name()); kind != segment.OtherFile {
			names = append(names, filepath.Join(dir, base))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// remove removes what is dead of name, and returns the files.
func (c *rmCmd) remove(name string) (paths []string, err error) {
	dir, base, err := segment.ParseName(name)
	if err != nil {
		return nil, err
	}
	files, err := removeDead(dir, base, c.Dead, c.DryRun)
	for _, f := range files {
		paths = append(paths, filepath.Join(dir, f))
	}
	switch {
	case c.Dead && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EADDRINUSE)):
		return paths, nil
	case errors.Is(err, fs.ErrNotExist) && len(paths) > 0:
		return paths, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("there is nothing to remove")
	}
	return paths, err
}
