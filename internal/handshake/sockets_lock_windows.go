package handshake

import (
	"errors"
	"os"
	"syscall"
)

// supported says whether the system has Unix sockets and locks of files.
const supported = true

// takeLock creates a file at path that nobody else can open until it is closed,
// which removes it. The kernel closes it when this process ends, however it
// does.
func takeLock(path string) (*os.File, error) {
	const (
		deleteOnClose    = 0x04000000
		sharingViolation = syscall.Errno(32)
		deleting         = syscall.Errno(303)
	)
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(p, syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS,
		syscall.FILE_ATTRIBUTE_NORMAL|deleteOnClose, 0)
	if errors.Is(err, sharingViolation) || errors.Is(err, deleting) {
		return nil, inUse(path)
	}
	if err != nil {
		return nil, pathError("CreateFile", path, err)
	}
	return os.NewFile(uintptr(h), path), nil
}

func dropLock(f *os.File) { f.Close() }
