package main

import (
	"errors"
	"io/fs"
	"syscall"
)

// hint returns what the user may do about err, "" if nobody knows.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return `nobody listens there: "shmconn ls" shows who listens on which name`
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process listens there"
	case errors.Is(err, fs.ErrPermission):
		return "the listener's files, or its user, do not allow it"
	case errors.Is(err, syscall.ENOSPC):
		return "the directory ($SHMCONN_DIR or /dev/shm) is full, or too small for the rings"
	case errors.Is(err, errors.ErrUnsupported):
		return "connections over shared memory are for Linux"
	}
	return ""
}
