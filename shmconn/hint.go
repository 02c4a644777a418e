package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
)

// hint returns what may be behind err, and what to do about it, or "".
func hint(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) {
		return ""
	}
	shm := op.Net == "shm"
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return "connections over shared memory need Linux"
	case shm && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED) && (op.Timeout() || errors.Is(err, context.Canceled)):
		return `"shmconn ls" lists the listeners` // it has waited
	case shm && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED):
		return `"shmconn ls" lists the listeners; --wait 5 waits up to 5 seconds for this one`
	case shm && op.Op == "dial" && errors.Is(err, fs.ErrPermission):
		return "the listener's --mode does not let you in, or it belongs to a user that --uid does not name"
	case shm && op.Op == "dial" && errors.Is(err, syscall.ENOSPC):
		return "start the listener with a smaller --ring-size, or with --anonymous"
	case op.Op == "listen" && op.Net == "unix" && errors.Is(err, syscall.EADDRINUSE):
		return "another process listens on that socket; or a process that died left the file: then remove it"
	case op.Op == "listen" && errors.Is(err, syscall.EADDRINUSE):
		return "another process listens there"
	case shm && op.Op == "listen" && errors.Is(err, fs.ErrPermission):
		return "the name, or the directory, belongs to another user"
	case op.Op == "accept" && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)):
		return `connections wait until files are closed; "ulimit -n" shows the limit`
	case shm && errors.Is(err, syscall.ECONNRESET):
		return "the peer died, or cut the connection off: not all data has arrived"
	case shm && errors.Is(err, syscall.EPIPE):
		return "the peer closed, or died, before it had read everything"
	}
	return ""
}
