//go:build !linux || shmconn_sockets

package handshake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"shmconn/internal/stream"
)

// dialEvery is how often a dial with Wait looks.
const dialEvery = 20 * time.Millisecond

// Dial connects to the listener on name, as shmconn.Dialer says. The error is
// not wrapped yet, and that of an ended ctx is ctx's own.
func Dial(ctx context.Context, name string, d *DialOptions) (*stream.Stream, error) {
	path, err := socketPath(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit := d.Wait
	if limit < 0 {
		limit = math.MaxInt64
	}
	for begin := time.Now(); ; {
		s, err := d.dialNow(ctx, path)
		if d.Wait == 0 || !errors.Is(err, syscall.ECONNREFUSED) {
			return s, err
		}
		waited := time.Since(begin)
		if waited >= limit {
			return nil, &WaitError{err, waited, nil}
		}
		if ended := doze(ctx, min(dialEvery, limit-waited)); ended != nil {
			return nil, &WaitError{err, time.Since(begin), ended}
		}
	}
}

// doze lets d pass, unless ctx ends before.
func doze(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// dialNow is Dial without Wait.
func (d *DialOptions) dialNow(ctx context.Context, path string) (*stream.Stream, error) {
	conn, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	s, err := d.meet(ctx, conn, path)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// refused returns the error for a path where nobody listens.
func refused(path, why string) error {
	return fmt.Errorf("%s: %s: %w", path, why, syscall.ECONNREFUSED)
}

// connect connects to the socket at path.
func connect(ctx context.Context, path string) (*net.UnixConn, error) {
	// Systems have different errors for a socket that does not exist and for
	// one that is no socket, so that is looked at first.
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if dir := filepath.Dir(path); !exists(dir) {
			return nil, refused(dir, "there is no such directory")
		}
		return nil, refused(path, "nobody listens, there is no such file")
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is not a socket", path)
	}
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, fs.ErrPermission), passing(err):
			return nil, pathError("connect", path, err)
		case !errors.Is(err, syscall.EAGAIN): // else the kernel's backlog is full
			return nil, refused(path, "the listener has died")
		}
		if err := doze(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// meet makes a stream of a connected socket, once the listener has said hello.
func (d *DialOptions) meet(ctx context.Context, conn *net.UnixConn, path string) (*stream.Stream, error) {
	cred, err := peerCred(conn)
	switch {
	case err == nil && !d.allows(cred):
		return nil, fmt.Errorf("%s: the listener runs as user %d: %w", path, cred.UID, fs.ErrPermission)
	case errors.Is(err, errors.ErrUnsupported) && d.AllowUID != nil:
		return nil, fmt.Errorf("AllowUID, to dial %s: the system does not say which user listens: %w", path, err)
	case err != nil && !errors.Is(err, errors.ErrUnsupported):
		return nil, pathError("getsockopt", path, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(past) })
	err = sendHello(conn, 0)
	var size int
	if err == nil {
		size, err = readHello(conn)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	if _, failed := errors.AsType[*net.OpError](err); failed || errors.Is(err, io.EOF) {
		return nil, refused(path, "the listener has ended")
	}
	if err == nil {
		err = checkRingSize(size)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: what listens there is not a listener of this version: %w", path, err)
	}
	return stream.New(conn, cred, size), nil
}

// allows reports whether a listener of that process may be dialed.
func (d *DialOptions) allows(c stream.Cred) bool {
	if d.AllowUID != nil {
		return d.AllowUID(c.UID)
	}
	return c.UID == 0 || c.UID == uint32(os.Geteuid())
}
