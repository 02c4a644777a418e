//go:build !linux && !darwin && !freebsd

package handshake

import (
	"errors"
	"net"

	"shmconn/internal/stream"
)

// peerCred does not know who is at the other end.
func peerCred(*net.UnixConn) (stream.Cred, error) { return stream.Cred{}, errors.ErrUnsupported }
