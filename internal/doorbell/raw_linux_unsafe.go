//go:build linux

package doorbell

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawRead and rawWrite are system calls of which the scheduler does not know.
// An ordinary one, made while the process is otherwise idle, wakes the
// runtime's monitor: a futex call of ours, and a thread that takes a processor,
// the peer's perhaps. That is more than the read or the write of a byte itself.
// They must not block.

func rawRead(fd int, b []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

func rawWrite(fd int, b []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

func result(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
