//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// scarce reports whether err says that this process, its user or the machine is
// short of something: descriptors, memory, addresses, mappings, watches (ENOSPC
// of epoll and inotify), room in a directory.
func scarce(err error) bool {
	for _, errno := range [...]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOLCK,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	// Memory that would have to be locked (mlockall) says so in its own way.
	call, ok := errors.AsType[*os.SyscallError](err)
	return ok && call.Syscall == "mmap" && call.Err == syscall.EAGAIN
}

// A shortage is an error of which net.Error's Temporary is true: whoever calls
// again may succeed. syscall.Errno says so of a few only.
type shortage struct{ error }

func (s shortage) Unwrap() error { return s.error }

func (shortage) Temporary() bool { return true }

func (shortage) Timeout() bool { return false }

// temporary returns err so that it says that it is temporary, if it is a
// shortage.
func temporary(err error) error {
	if scarce(err) {
		return shortage{err}
	}
	return err
}

// syscallError returns the system call's error that is in err, as package net
// has it: so that it is wrapped once, and says whether it is temporary.
func syscallError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if errno, ok := err.(syscall.Errno); ok {
		return os.NewSyscallError("accept", errno)
	}
	return err
}
