//go:build !linux

package handshake

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"shmconn/internal/stream"
)

// On other systems than Linux there is nothing to meet over.

// Dial returns errors.ErrUnsupported.
func Dial(context.Context, string, *DialOptions) (*stream.Stream, error) {
	return nil, errors.ErrUnsupported
}

// Listen returns errors.ErrUnsupported.
func Listen(string, ListenOptions) (*Listener, error) { return nil, errors.ErrUnsupported }

// FileListener returns errors.ErrUnsupported.
func FileListener(*os.File, ListenOptions) (*Listener, string, error) {
	return nil, "", errors.ErrUnsupported
}

// A Listener is never made.
type Listener struct{}

func (l *Listener) Accept() (*stream.Stream, uint64, error) { return nil, 0, errors.ErrUnsupported }
func (l *Listener) Close() error                            { return errors.ErrUnsupported }
func (l *Listener) File() (*os.File, error)                 { return nil, errors.ErrUnsupported }
func (l *Listener) SyscallConn() (syscall.RawConn, error)   { return nil, errors.ErrUnsupported }
func (l *Listener) Stats() Stats                            { return Stats{} }
func (l *Listener) SetDeadline(time.Time) error             { return errors.ErrUnsupported }
