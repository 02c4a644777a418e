package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// closedByKernel reports whether c is a TCP connection that nothing can go over
// any more, in either direction.
func closedByKernel(c conn) (closed bool) {
	control(c, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == unix.BPF_TCP_CLOSE
	})
	return closed
}

// unsent reports whether c, a TCP connection, has bytes that the peer's kernel
// may yet take.
func unsent(c conn) (some bool) {
	if closedByKernel(c) {
		return false
	}
	control(c, func(fd int) {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		some = err == nil && n > 0
	})
	return some
}

// control calls f with the descriptor of c if c is a TCP connection.
func control(c conn, f func(fd int)) {
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { f(int(fd)) })
		}
	}
}
