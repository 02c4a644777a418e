//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"shmconn/internal/stream"
)

// spares are those of all dials of this process.
var spares pool

// DropSpares gives up the spares of all dials of this process, for tests that
// count leaks.
func DropSpares() { spares.giveUp(spares.mayGo) }

// A destination is what a spare may be used for: a dial to a path, by a user.
type destination struct {
	dir, base string
	uid, gid  int
}

func destinationOf(dir, base string) (destination, error) {
	dir, err := filepath.Abs(dir)
	return destination{dir, base, os.Geteuid(), os.Getegid()}, err
}

// redial dials with a spare of an earlier connection to the same listener. It
// returns nil and no error if no spare can be used: the dial then makes
// everything anew.
//
// A spare can be used if the name still leads to the same socket, and the
// process that it was made with still listens there. That process finds the
// spare by its id.
func (d *DialOptions) redial(ctx context.Context, dir, base string) (*stream.Stream, error) {
	if d.SpareBytes <= 0 {
		return nil, nil
	}
	to, err := destinationOf(dir, base)
	if err != nil {
		return nil, nil
	}
	for {
		s := spares.dialed(to)
		if s == nil {
			return nil, nil
		}
		ok, err := d.reachOr(ctx, s)
		if ok {
			return s.Stream(d.BusyPoll, d.keepFor(*s)), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// reachOr is reach. It closes s unless that is reached, also where AllowUID
// panics.
func (d *DialOptions) reachOr(ctx context.Context, s *spare) (ok bool, err error) {
	defer func() {
		if !ok {
			s.PutBack()
			s.Close()
		}
	}()
	return d.reach(ctx, s)
}

// reach sends the listener the message for s, which was taken. The error is
// ctx's.
func (d *DialOptions) reach(ctx context.Context, s *spare) (ok bool, err error) {
	if !d.allows(s.ownerUID) || !d.allows(s.Cred().UID) || !s.socket.Same() {
		return false, nil
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(sock)
	if err := connectTo(ctx, sock, s.socket.Path()); err != nil {
		return false, ctx.Err()
	}
	if peer, err := peerCred(sock); err != nil || peer != s.Cred() {
		return false, nil
	}
	if err := sendMessage(ctx, sock, s.socket.Path(), reuseMessage(s.id, s.Next()), nil); err != nil {
		return false, ctx.Err()
	}
	return !s.GivenUp(), nil // the listener gives up spares that were taken long ago
}

// keepFor keeps a stream's spare for the next dial.
func (d *DialOptions) keepFor(s spare) func(*stream.Spare) {
	return spares.keepFor(spare{id: s.id, to: s.to, ownerUID: s.ownerUID, socket: s.socket}, d.SpareBytes, d.SpareTime)
}
