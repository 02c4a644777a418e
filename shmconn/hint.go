package main

import (
	"errors"
	"io/fs"
	"net"
	"syscall"
)

// hint returns what may be behind err, and what to do about it, "" if nobody knows.
func hint(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) {
		return ""
	}
	shm := op.Net == "shm"
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return "connections over shared memory are for Linux"
	case shm && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED):
		return `nobody listens on that name: "shmconn ls" shows what there is; --wait waits for it`
	case shm && op.Op == "dial" && errors.Is(err, fs.ErrPermission):
		return "the listener does not let you in (its --mode), or runs as another user than you expect (--uid)"
	case shm && op.Op == "dial" && errors.Is(err, syscall.ENOSPC):
		return "$SHMCONN_DIR or /dev/shm is too full for the rings: the listener may take smaller ones (--ring-size), or --anonymous"
	case op.Op == "listen" && op.Net == "unix" && errors.Is(err, syscall.EADDRINUSE):
		return "somebody listens on that socket, or has left the file: then remove it"
	case op.Op == "listen" && errors.Is(err, syscall.EADDRINUSE):
		return "somebody else listens there"
	case shm && op.Op == "listen" && errors.Is(err, fs.ErrPermission):
		return "the name is another user's, or the directory is"
	case shm && errors.Is(err, syscall.ECONNRESET):
		return "the peer's process ended without closing the connection"
	case shm && errors.Is(err, syscall.EPIPE):
		return "the peer closed, or ended, before it had read all"
	}
	return ""
}
