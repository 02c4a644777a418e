//go:build darwin || freebsd

package handshake

import (
	"net"

	"golang.org/x/sys/unix"

	"shmconn/internal/stream"
)

// peerCred returns what the kernel says of the process at the other end: the
// user and the group, and on macOS the process.
func peerCred(c *net.UnixConn) (cred stream.Cred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return cred, err
	}
	rawErr := raw.Control(func(fd uintptr) {
		var x *unix.Xucred
		x, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return
		}
		cred = stream.Cred{PID: peerPID(int(fd)), UID: x.Uid}
		if x.Ngroups > 0 {
			cred.GID = x.Groups[0]
		}
	})
	if rawErr != nil {
		err = rawErr
	}
	return cred, err
}
