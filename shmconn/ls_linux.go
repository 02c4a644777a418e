package main

import (
	"fmt"

	"shmconn/internal/segment"
)

// describe returns what is known of the listener on name: its state and figures, with
// tabs between them.
func describe(dir, name string) string {
	d, err := segment.OpenDir(dir)
	if err != nil {
		return err.Error()
	}
	defer d.Close()
	info, err := segment.Lookup(d, name)
	if err != nil {
		return err.Error()
	}
	state := "listens"
	if !info.Alive {
		state = "died"
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d", state, info.PID, info.RingSize, info.Accepted, info.Refused)
}
