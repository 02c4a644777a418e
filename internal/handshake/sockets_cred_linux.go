//go:build shmconn_sockets

package handshake

import (
	"net"

	"golang.org/x/sys/unix"

	"shmconn/internal/stream"
)

// peerCred returns what the kernel says of the process at the other end.
func peerCred(c *net.UnixConn) (cred stream.Cred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return cred, err
	}
	var ucred *unix.Ucred
	rawErr := raw.Control(func(fd uintptr) {
		ucred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if rawErr != nil {
		return cred, rawErr
	}
	if err != nil {
		return cred, err
	}
	return stream.Cred{PID: ucred.Pid, UID: ucred.Uid, GID: ucred.Gid}, nil
}
