//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/doorbell"
	"shmconn/internal/segment"
	"shmconn/internal/stream"
	"shmconn/internal/wait"
)

// A halfOpen is a dialer that has connected to the socket and whose message was
// not dealt with.
type halfOpen struct {
	fd    int
	c     *os.File        // the same; nil unless somebody has to wait for the message
	raw   syscall.RawConn // of c
	peer  stream.Cred
	heard bool // guarded by Listener.handshake
}

// control calls f with the socket, unless that is closed.
func (d *halfOpen) control(f func(fd int)) {
	if d.c == nil {
		f(d.fd)
		return
	}
	d.raw.Control(func(fd uintptr) { f(int(fd)) })
}

// watch gives the socket to the runtime's poller.
func (d *halfOpen) watch() (err error) {
	d.c = os.NewFile(uintptr(d.fd), "dialer")
	d.raw, err = d.c.SyscallConn()
	return err
}

// close closes the socket. With it go the descriptors that nobody has received,
// and the kernel may wait with their end for as long as the sender has said.
func (d *halfOpen) close() {
	if d.c == nil {
		unix.Close(d.fd)
		return
	}
	d.c.Close()
}

// serve takes dialers off a socket until it is closed.
func (l *Listener) serve(sock syscall.RawConn) {
	for l.awaitDrained() {
		fd, err := l.accept(sock)
		switch {
		case fd >= 0:
			l.begin(fd)
		case err == nil:
			return
		case scarce(err) && l.purge():
		default:
			l.enqueue(result{err: temporary(syscallError(err))})
		}
	}
}

// accept waits for the next dialer and takes it off the kernel's backlog. It
// returns -1 and no error when sock is closed.
//
// The dialer is counted in taken under the lock that Stats asks the kernel
// under: so it is in one of the two counts at any time.
func (l *Listener) accept(sock syscall.RawConn) (fd int, err error) {
	closed := sock.Read(func(listening uintptr) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for {
			fd, _, err = unix.Accept4(int(listening), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != unix.EINTR && err != unix.ECONNABORTED {
				break
			}
		}
		if err == nil {
			l.taken++
		}
		return err != unix.EAGAIN
	})
	if closed != nil {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// begin takes the message of the dialer behind fd, if it is there, and waits
// for it in another goroutine if not.
func (l *Listener) begin(fd int) {
	d := &halfOpen{fd: fd}
	var err error
	if d.peer, err = peerCred(fd); err != nil {
		l.drop(d, err)
		return
	}
	l.mu.Lock()
	halfOpens := slices.Clone(l.halfOpens)
	l.mu.Unlock()
	for _, earlier := range halfOpens {
		l.tryFinish(earlier)
	}
	// A dialer speaks as soon as it has connected. Mostly our having been woken
	// up by that is what keeps it from doing so.
	for start := wait.Now(); !l.tryFinish(d); wait.Yield() {
		if wait.Now()-start > promptness {
			l.finishLater(d)
			return
		}
	}
}

// finishLater has another goroutine wait for d's handshake.
func (l *Listener) finishLater(d *halfOpen) {
	if err := d.watch(); err != nil {
		l.drop(d, err)
		return
	}
	l.mu.Lock()
	if len(l.halfOpens) == maxHalfOpens {
		eldest := l.halfOpens[0]
		l.halfOpens = slices.Delete(l.halfOpens, 0, 1)
		defer l.evict(eldest)
	}
	defer l.mu.Unlock()
	if l.closed {
		go d.close()
		return
	}
	l.halfOpens = append(l.halfOpens, d)
	l.start(func() {
		d.c.SetReadDeadline(time.Now().Add(messageTimeout))
		for !l.tryFinish(d) {
			if err := d.raw.Read(func(fd uintptr) bool { return spoken(int(fd)) }); err != nil {
				l.expire(d, err)
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.halfOpens = slices.DeleteFunc(l.halfOpens, func(o *halfOpen) bool { return o == d })
	})
}

// evict ends the wait for d's handshake. Nothing comes in any more, so that d
// knows and can dial again; what has come in before is heard.
func (l *Listener) evict(d *halfOpen) {
	d.control(func(fd int) { unix.Shutdown(fd, unix.SHUT_RD) })
	l.tryFinish(d)
}

// spoken reports whether there is something to receive from fd, if only an
// error or the end.
func spoken(fd int) bool {
	_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN && err != unix.EINTR
}

// expire ends the wait for d's handshake, unless that has been taken meanwhile.
func (l *Listener) expire(d *halfOpen, err error) {
	l.handshake.Lock()
	heard := d.heard
	d.heard = true
	l.handshake.Unlock()
	if !heard {
		l.drop(d, err)
	}
}

// drop closes d's socket, and does not wait for that.
func (l *Listener) drop(d *halfOpen, err error) {
	go d.close()
	l.run(-1) // the Logger's handler may be what closes the listener
	defer l.run(1)
	l.refuse(d, err)
}

// refuse counts a dialer that is not to be a connection, and tells the log why.
func (l *Listener) refuse(d *halfOpen, err error) {
	l.mu.Lock()
	l.taken--
	closed := l.closed
	l.mu.Unlock()
	l.files.Refused()
	if l.logger == nil || closed {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("said nothing in time")
	}
	l.logger.Warn("shmconn: dialer refused", "listener", l.name,
		"pid", d.peer.PID, "uid", d.peer.UID, "gid", d.peer.GID, "reason", err)
}

// tryFinish takes the message of d, if it is there, and gives the connection to
// Accept. It reports whether it was there.
func (l *Listener) tryFinish(d *halfOpen) bool {
	there, err := l.finishNow(d)
	if err != nil {
		l.drop(d, err)
	}
	return there
}

// finishNow is tryFinish, but for what is done with a dialer that is refused:
// the Logger is told of that, and not while the next one waits for its
// handshake.
func (l *Listener) finishNow(d *halfOpen) (heard bool, err error) {
	l.handshake.Lock()
	defer l.handshake.Unlock()
	if d.heard {
		return true, nil
	}
	var id segment.ID
	var generation uint32
	var reuse, there bool
	d.control(func(fd int) { id, generation, reuse, there = receiveReuse(fd) })
	if !there {
		return false, nil
	}
	d.heard = true
	if reuse {
		return true, l.finishReuse(d, id, generation)
	}
	if !l.countIn(d.peer) {
		return true, errors.New("too many introductions by this user are under way")
	}
	// The descriptors may be of a file system that does not answer, even to a
	// close. So this has a goroutine of its own, which is not waited for for
	// long.
	done := make(chan struct{})
	go func() {
		defer l.leave()
		defer close(done)
		defer l.countOut(d.peer)
		l.finish(d)
	}()
	late := time.NewTimer(attachPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return true, nil
}

// countIn counts a handshake by a user, unless too many are under way.
func (l *Listener) countIn(peer stream.Cred) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.UID] >= maxAttachments {
		return false
	}
	l.busy[peer.UID]++
	l.users++ // for the goroutine of the handshake
	return true
}

func (l *Listener) countOut(peer stream.Cred) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.UID]--; l.busy[peer.UID] == 0 {
		delete(l.busy, peer.UID)
	}
}

// finish makes a connection of what d has sent and gives it to Accept. As long
// as the process is short of descriptors, Accept says so and d keeps its place.
func (l *Listener) finish(d *halfOpen) {
	var h message
	err := l.retryWhenScarce(func() error {
		err := net.ErrClosed
		d.control(func(fd int) { h, err = receive(fd) })
		return err
	})
	d.close()
	if err != nil {
		l.refuse(d, err)
		return
	}
	var s *stream.Stream
	err = l.retryWhenScarce(func() (err error) {
		s, err = h.attach(l, d.peer)
		return err
	})
	h.close()
	if err != nil {
		l.refuse(d, err)
		return
	}
	if !l.enqueue(result{s: s}) {
		s.Abort()
	}
}

// retryWhenScarce calls f again each time that Accept has said that this end is
// short of what f needs.
func (l *Listener) retryWhenScarce(f func() error) error {
	for {
		err := f()
		if scarce(err) && l.purge() {
			continue
		}
		if !scarce(err) || !l.enqueue(result{err: temporary(syscallError(err))}) || !l.awaitDrained() {
			return err
		}
	}
}

// attach makes the acceptor's stream of what the dialer has sent. The
// descriptors stay the caller's, who can try again when the process was short
// of something.
func (h message) attach(l *Listener, peer stream.Cred) (_ *stream.Stream, err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	seg, err := segment.Attach(h.file, l.files.Dev(), l.files.Geo, h.id)
	if err != nil {
		return nil, err
	}
	undo = append(undo, seg.Close)
	ringer, err := doorbell.Adopt(l.files.Proc(), h.ringer, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { unix.Close(ringer) })
	bellFD, err := doorbell.Adopt(l.files.Proc(), h.bell, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	bell, err := doorbell.NewBell(bellFD)
	if err != nil {
		return nil, err
	}
	undo = append(undo, bell.Close)
	s := stream.New(peer, seg, l.files.Geo.RingSize, bell, doorbell.NewRinger(ringer), l.busyPoll)
	if seg.Reuse() && peer.PID != 0 {
		s.KeepFor(l.keepFor(h.id))
	}
	if err := s.Connect(mem(seg.RingA()), mem(seg.RingB())); err != nil {
		return nil, err
	}
	if seg.Linked() {
		segment.RemoveName(l.files.Dir, l.files.Base, h.id, h.file)
	}
	return s, nil
}
