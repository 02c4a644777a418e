//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/dekker"
	"shmconn/internal/segment"
	"shmconn/internal/stream"
	"shmconn/internal/wait"
)

// register starts, in the background, lookups that take longer than a round
// trip. The first byte does not wait for them.
var register = sync.OnceFunc(func() {
	wait.Prepare()
	bubble.Go(dekker.Register)
})

// Dial connects to the listener on name, as shmconn.Dialer says. The error is
// not wrapped yet; if ctx has ended, it is ctx's own.
func Dial(ctx context.Context, name string, d *DialOptions) (*stream.Stream, error) {
	if !lockFree {
		return nil, errors.ErrUnsupported
	}
	register()
	dirPath, base, err := segment.ParseName(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	begin := uptime()
	s, err := dialNow(ctx, d, dirPath, base)
	if d.Wait != 0 && errors.Is(err, syscall.ECONNREFUSED) {
		return dialWait(ctx, d, dirPath, base, begin)
	}
	return s, err
}

// dialNow is Dial without Wait.
func dialNow(ctx context.Context, d *DialOptions, dirPath, base string) (*stream.Stream, error) {
	if s, err := d.redial(ctx, dirPath, base); s != nil || err != nil {
		return s, err
	}
	dir, err := segment.OpenDir(dirPath)
	if errors.Is(err, fs.ErrNotExist) {
		err = &segment.NobodyError{Path: dirPath, Why: "there is no such directory"}
	}
	if err != nil {
		return nil, refused(err)
	}
	defer dir.Close()
	for tries, pause := 1, 100*time.Microsecond; ; tries++ {
		s, err := d.connect(ctx, dir, base)
		if err == nil {
			return s, nil
		}
		if scarce(err) && spares.purge() {
			continue
		}
		if nobody, ok := errors.AsType[*segment.NobodyError](err); !ok || !nobody.Soon || tries == maxTries {
			return nil, refused(err)
		}
		if err := doze(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, maxPause)
	}
}

// changed is the error that the listener behind path is no longer the one that
// was checked: the dialer begins anew.
func changed(path, how string) error {
	return &segment.NobodyError{Path: path, Why: how, Soon: true}
}

// connect makes a connection and hands the listener its end. It makes
// everything before it connects, so it wakes the listener once, and the
// listener finds the message.
func (d *DialOptions) connect(ctx context.Context, dir *segment.Dir, base string) (_ *stream.Stream, err error) {
	info, err := segment.Find(dir, base)
	if err != nil {
		return nil, err
	}
	defer info.Close()
	if !d.allows(info.UID) {
		return nil, fmt.Errorf("%s: the listener's files belong to user %d: %w", info.Path, info.UID, fs.ErrPermission)
	}
	if !info.Alive && !info.Shared {
		return nil, &segment.NobodyError{Path: info.Path, Why: "the listener has died"}
	}
	at, err := dir.OpenSocket(base)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	g := info.Geometry
	g.Reuse = g.Reuse && d.SpareBytes > 0 && at.Name.Short()
	o, err := newDialEnd(ctx, dir, base, g)
	if err != nil {
		return nil, err
	}
	defer o.close()

	sock, err := connect(ctx, at)
	if nobody, ok := errors.AsType[*segment.NobodyError](err); ok && !info.Alive {
		nobody.Why, nobody.Soon = "the listener has died, and nobody has its socket", false
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(sock)
	peer, err := peerCred(sock)
	if err != nil {
		return nil, err
	}
	if !d.allows(peer.UID) {
		return nil, fmt.Errorf("%s: the listener runs as user %d: %w", at.Path(), peer.UID, fs.ErrPermission)
	}
	now, err := info.Again()
	switch {
	case errors.Is(err, segment.ErrNoListener), err == nil && !now.SameConns(info.Geometry):
		return nil, changed(info.Path, "the listener was replaced")
	case err != nil:
		return nil, err
	}
	if err := sendMessage(ctx, sock, at.Path(), o.message(), o.rights()); err != nil {
		return nil, err
	}
	var to destination
	if g.Reuse {
		if to, err = destinationOf(dir.Path(), base); err != nil {
			return nil, err
		}
	}
	return o.stream(peer, d.BusyPoll, func(s *stream.Stream) {
		if g.Reuse {
			s.KeepFor(d.keepFor(spare{id: o.id, to: to, ownerUID: info.UID, socket: at.Name}))
		}
	})
}

// allows reports whether a listener run by uid may be dialed.
func (d *DialOptions) allows(uid uint32) bool {
	if d.AllowUID != nil {
		return d.AllowUID(uid)
	}
	return uid == 0 || uid == uint32(os.Geteuid())
}

// refused returns an ECONNREFUSED with the path and the reason if err means
// that nobody listens, and otherwise err.
func refused(err error) error {
	if nobody, ok := errors.AsType[*segment.NobodyError](err); ok {
		return fmt.Errorf("%v: %w", nobody, syscall.ECONNREFUSED)
	}
	return temporary(err)
}

// connect returns a socket that is connected to the listener's. It waits while
// the backlog is full: the kernel has no call that does so with a deadline.
func connect(ctx context.Context, to *segment.Socket) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, segment.Explain(os.NewSyscallError("socket", err))
	}
	if err := connectSocket(ctx, fd, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func connectSocket(ctx context.Context, fd int, to *segment.Socket) (err error) {
	address, byName := to.Address(), false
	for {
		switch err := connectTo(ctx, fd, address); {
		case err == nil && byName:
			same, err := to.Same()
			if err == nil && !same {
				err = changed(to.Path(), "the socket was replaced")
			}
			return err
		case err == nil:
			return nil
		case err == unix.ECONNREFUSED, err == unix.ENOENT && byName:
			return changed(to.Path(), "nobody listens on the socket")
		case err == unix.ENOENT, err == unix.ENOTDIR: // no /proc
			if address, err = to.ByName(); err != nil {
				return err
			}
			byName = true
		default:
			if errno, ok := err.(unix.Errno); ok {
				err = &os.PathError{Op: "connect", Path: to.Path(), Err: errno}
			}
			return err
		}
	}
}

// connectTo connects fd to an address, and waits while the backlog there is
// full. Its error is the kernel's, a unix.Errno, or ctx's.
func connectTo(ctx context.Context, fd int, address string) error {
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: address})
		if err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
		if err := doze(ctx, pause); err != nil {
			return err
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
