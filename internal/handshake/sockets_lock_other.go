//go:build aix || js || plan9 || solaris || wasip1

package handshake

import (
	"errors"
	"os"
)

// supported says whether the system has Unix sockets and locks of files.
const supported = false

func takeLock(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func dropLock(*os.File) {}
