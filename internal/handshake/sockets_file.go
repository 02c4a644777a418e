//go:build !linux || shmconn_sockets

package handshake

import (
	"errors"
	"os"
	"syscall"
)

// FileListener returns errors.ErrUnsupported.
func FileListener(*os.File, ListenOptions) (*Listener, string, error) {
	return nil, "", errors.ErrUnsupported
}

// File returns errors.ErrUnsupported.
func (l *Listener) File() (*os.File, error) { return nil, errors.ErrUnsupported }

// SyscallConn returns errors.ErrUnsupported.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }
