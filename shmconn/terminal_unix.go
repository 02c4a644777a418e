//go:build unix

package main

import (
	"errors"
	"os/signal"
	"syscall"
)

// stayAwake has a command in the background that reads its terminal go on, with
// an error of the read, instead of being stopped.
func stayAwake() { signal.Ignore(syscall.SIGTTIN) }

// noTerminal reports whether err, of reading standard input, says that it is a
// terminal that is somebody else's at the moment.
func noTerminal(err error) bool { return errors.Is(err, syscall.EIO) }
