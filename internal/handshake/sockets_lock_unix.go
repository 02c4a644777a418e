//go:build unix && !aix && !solaris && (!linux || shmconn_sockets)

package handshake

import (
	"errors"
	"os"
	"syscall"
)

// supported says whether the system has Unix sockets and locks of files.
const supported = true

// takeLock creates and locks the file at path. The kernel gives the lock up
// when this process ends, however it does.
func takeLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			var own, named os.FileInfo
			if own, err = f.Stat(); err == nil {
				named, err = os.Lstat(path)
			}
			if err == nil && os.SameFile(own, named) {
				return f, nil
			}
		}
		f.Close()
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK):
			return nil, inUse(path)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return nil, pathError("flock", path, err)
		}
		// Its last holder has removed the file meanwhile: once more.
	}
}

// dropLock gives the lock up. The file goes first, and a caller of takeLock who
// has opened it looks whether it still has its name.
func dropLock(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}
