//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/segment"
	"shmconn/internal/sema"
)

// A newcomer that sets TakeOver asks the listener that has the name for its
// socket. Both then have it, as after File and FileListener, until the old one
// closes. Four messages of takeOverSize bytes, over a connection to the socket
// itself:
//
//	newcomer  asksForSocket
//	listener  givesSocket, with the descriptor, or notNow
//	newcomer  hasSocket: it is ready to accept
//	listener  closes the connection when it has let go of socket and lock
//
// What decides is hasSocket. A newcomer that has sent it listens, and so does a
// listener that has not received it. A listener that gives up waiting for it
// shuts the connection for reading first. So hasSocket was sent before and is
// there, or cannot be sent any more; then the listener says notNow. A newcomer
// that cannot send hasSocket, and finds the end instead of notNow, is the only
// one left.
const (
	takeOverSize    = len(magic) + 1
	takeOverTimeout = 5 * time.Second // for all of it, at either end

	asksForSocket = 'a'
	givesSocket   = 'g'
	hasSocket     = 'h'
	notNow        = 'n' // ask again: another newcomer has asked, or the listener closes
	theEnd        = 0   // of the connection
)

var (
	errNobody = errors.New("nobody listens any more")
	errNotNow = errors.New("the listener is handing the name over, or closing, all the time")
)

// listenOrTakeOver is Listen with TakeOver.
func (lc *ListenOptions) listenOrTakeOver(name, dirPath, base string) (l *Listener, err error) {
	var done sema.Sema
	bubble.Go(func() {
		defer done.Notify()
		ctx, cancel := context.WithTimeout(context.Background(), takeOverTimeout)
		defer cancel()
		for {
			var refused error
			if l, refused = lc.takeOver(ctx, name, dirPath, base); refused == nil {
				err = nil // of a try before
				return
			}
			if !errors.Is(refused, errNotNow) {
				l, err = lc.announce(name, dirPath, base)
			}
			switch {
			case !errors.Is(refused, errNobody) && !errors.Is(refused, errNotNow):
				if errors.Is(err, unix.EADDRINUSE) {
					err = fmt.Errorf("%w: %v", unix.EADDRINUSE, refused)
				}
				return
			case err != nil && !errors.Is(err, unix.EADDRINUSE), err == nil && l != nil:
				return
			case doze(ctx, time.Millisecond) != nil:
				err = fmt.Errorf("%w: %v", unix.EADDRINUSE, refused)
				return
			}
		}
	})
	done.Wait()
	return l, err
}

// takeOver asks the listener that has the name for its socket. The error is
// errNobody if there is none, or errNotNow.
func (lc ListenOptions) takeOver(ctx context.Context, name, dirPath, base string) (*Listener, error) {
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		return nil, err
	}
	conn, sock, err := lc.ask(ctx, dir, base)
	if err != nil {
		dir.Close()
		return nil, err
	}
	defer unix.Close(conn)
	files, err := lc.adopt(dir, base, sock)
	if err != nil {
		unix.Close(sock)
		dir.Close()
		return nil, err
	}
	return lc.begin(name, files, sock, true, func() error {
		if err := lc.confirm(conn, sock); err != nil {
			return err
		}
		files.Succeed()
		return nil
	})
}

// ask returns a connection to the listener of base, and its socket.
func (lc *ListenOptions) ask(ctx context.Context, dir *segment.Dir, base string) (conn, sock int, err error) {
	info, err := segment.Lookup(dir, base)
	switch {
	case errors.Is(err, segment.ErrNoListener), err == nil && !info.Alive && !info.Shared:
		return -1, -1, errNobody
	case err != nil:
		return -1, -1, err
	case info.UID != uint32(os.Geteuid()):
		return -1, -1, fmt.Errorf("%s belongs to user %d: only a listener of one's own user can be taken over", info.Path, info.UID)
	}
	if err := info.Fits(lc.geometry(), lc.AnyRing); err != nil {
		return -1, -1, err
	}
	at, err := dir.OpenSocket(base)
	if err == nil {
		defer at.Close()
		conn, err = connect(ctx, at)
	}
	switch {
	case errors.Is(err, segment.ErrNoListener):
		return -1, -1, errNobody
	case errors.Is(err, context.DeadlineExceeded):
		return -1, -1, fmt.Errorf("%s: its backlog is full, and stays so", at.Path())
	case err != nil:
		return -1, -1, err
	}
	if sock, err = request(ctx, conn); err != nil {
		unix.Close(conn)
		return -1, -1, err
	}
	return conn, sock, nil
}

// request asks the listener behind conn for its socket.
func request(ctx context.Context, conn int) (sock int, err error) {
	peer, err := peerCred(conn)
	if err != nil {
		return -1, err
	}
	if peer.UID != uint32(os.Geteuid()) {
		return -1, fmt.Errorf("the listener, process %d, runs as user %d: only one of one's own user can be taken over", peer.PID, peer.UID)
	}
	if err := say(conn, asksForSocket, nil); err != nil && err != unix.EPIPE && err != unix.ECONNRESET {
		return -1, err
	}
	kind, sock, err := hear(ctx, conn)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return -1, fmt.Errorf("the listener, process %d, has not answered within %v: does it call Accept?", peer.PID, takeOverTimeout)
	case err != nil:
		return -1, err
	case kind == notNow:
		return -1, errNotNow
	case kind != givesSocket:
		return -1, fmt.Errorf("the listener, process %d, does not hand it over: it has not set TakeOver", peer.PID)
	}
	if _, err := checkListening(sock); err != nil {
		unix.Close(sock)
		return -1, err
	}
	return sock, nil
}

// confirm says that this process has the socket, and waits until the old
// listener has let go of it, for takeOverTimeout at most. Not before it is
// settled who listens does it listen on the socket: that is what dialers see.
func (lc *ListenOptions) confirm(conn, sock int) error {
	ctx, cancel := context.WithTimeout(context.Background(), takeOverTimeout)
	defer cancel()
	switch err := say(conn, hasSocket, nil); err { // sync: takeover -> Listener.confirmed
	case nil:
		lc.listenOnceMore(sock)
		hear(ctx, conn) // the end
		return nil
	case unix.EPIPE, unix.ECONNRESET:
	default:
		return os.NewSyscallError("sendmsg", err)
	}
	// The listener has given up, and says so, or its process has died.
	switch kind, _, err := hear(ctx, conn); {
	case err != nil:
		return err
	case kind != theEnd:
		return errNotNow
	}
	lc.listenOnceMore(sock)
	return nil
}

// say sends a message of a take-over. There is room for it at once.
func say(conn int, kind byte, rights []byte) (err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Sendmsg(conn, append([]byte(magic), kind), rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}
	return err
}

// hear waits for a message of a take-over, or theEnd. sock is what came with
// givesSocket, and -1 with all others.
func hear(ctx context.Context, conn int) (kind byte, sock int, err error) {
	deadline, _ := ctx.Deadline()
	for {
		kind, sock, err = hearNow(conn)
		if err != unix.EAGAIN {
			return kind, sock, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return 0, -1, context.DeadlineExceeded
		}
		fds := []unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}
		unix.Poll(fds, int(left/time.Millisecond)+1)
	}
}

// hearNow is hear without a wait: the error is EAGAIN if there is nothing.
func hearNow(conn int) (kind byte, sock int, err error) {
	buf := make([]byte, takeOverSize+1)
	oob := make([]byte, unix.CmsgSpace(4*2))
	var n, oobn, flags int
	receive := func() {
		// A reset is said once, before what was sent.
		for err = unix.EINTR; err == unix.EINTR || err == unix.ECONNRESET; {
			n, oobn, flags, _, err = unix.Recvmsg(conn, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		}
	}
	receive()
	if n == 0 && oobn == 0 && err == nil {
		// The end, unless the other has spoken and closed after the kernel had
		// found nothing: then what it said is there now.
		receive()
	}
	if err == unix.EAGAIN {
		return 0, -1, err
	}
	if err != nil {
		return 0, -1, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 && oobn == 0 {
		return theEnd, -1, nil
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return 0, -1, err
	}
	want := 0
	if kind = buf[takeOverSize-1]; kind == givesSocket {
		want = 1
	}
	if n == takeOverSize && string(buf[:len(magic)]) == magic && len(fds) == want && flags&unix.MSG_CTRUNC == 0 {
		return kind, append(fds, -1)[0], nil
	}
	closeAll(fds)
	if flags&unix.MSG_CTRUNC != 0 {
		if err := canHave(conn, 1); err != nil {
			return 0, -1, segment.Explain(os.NewSyscallError("recvmsg", err))
		}
	}
	return 0, -1, errors.New("a message of a take-over is not understood")
}
