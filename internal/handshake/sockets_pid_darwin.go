package handshake

import "golang.org/x/sys/unix"

func peerPID(fd int) int32 {
	pid, _ := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID) // or 0
	return int32(pid)
}
