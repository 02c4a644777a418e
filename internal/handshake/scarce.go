//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"net"
	"os"
	"syscall"

	"shmconn/internal/segment"
)

// scarce reports whether err means that this process, its user or the machine
// is short of something: descriptors, memory, addresses, mappings, watches
// (ENOSPC of epoll and inotify), room in a directory.
func scarce(err error) bool {
	for _, errno := range [...]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOLCK,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	// Memory that would have to be locked (mlockall) has its own error.
	call, ok := errors.AsType[*os.SyscallError](err)
	return ok && call.Syscall == "mmap" && call.Err == syscall.EAGAIN
}

// temporary returns err, as a shortage if it is one.
func temporary(err error) error {
	if scarce(err) {
		return segment.Shortage{Err: err}
	}
	return err
}

// syscallError returns the system call's error in err, as package net does: so
// it is wrapped once, and Temporary works.
func syscallError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if errno, ok := err.(syscall.Errno); ok {
		return os.NewSyscallError("accept", errno)
	}
	return err
}
