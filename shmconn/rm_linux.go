package main

import (
	"errors"
	"fmt"
	"syscall"

	"shmconn/internal/segment"
)

// removeDead removes what is dead of the name base in dir, and returns the
// names of the files. Unless dead says so, it removes nothing beside a listener
// that lives.
func removeDead(dir, base string, dead, dry bool) (files []string, err error) {
	d, err := segment.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	files, err = segment.RemoveListener(d, base, dry)
	if errors.Is(err, syscall.EADDRINUSE) && !dead {
		return nil, inUse(d, base, err)
	}
	conns, connsErr := segment.RemoveConns(d, base, dry)
	if err == nil {
		err = connsErr
	}
	return append(files, conns...), err
}

// inUse says who listens on base.
func inUse(d *segment.Dir, base string, err error) error {
	if info, e := segment.Lookup(d, base); e == nil {
		return fmt.Errorf("process %d listens on it: %w", info.PID, err)
	}
	return err
}
