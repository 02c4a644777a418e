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
	c     *os.File        // the same; nil unless a goroutine has to wait for the message
	raw   syscall.RawConn // of c
	peer  stream.Cred
	heard bool // guarded by Listener.handshake
	given bool // was sent the listener's socket; guarded by Listener.mu

	received bool    // the socket is closed, and sent is what came over it
	sent     message // of the goroutine that finishes the handshake
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

// close closes the socket, and so the descriptors that were not received. The
// kernel may wait for those for as long as the sender wants.
func (d *halfOpen) close() {
	if d.c == nil {
		unix.Close(d.fd)
		return
	}
	d.c.Close()
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
	halfOpens := slices.Clone(l.halfOpens) // nil where there are none
	l.mu.Unlock()
	for _, earlier := range halfOpens {
		l.tryFinish(earlier)
	}
	// A dialer sends as soon as it has connected. Usually it has not sent yet
	// because its connect woke us on its processor: yield to it first.
	for start := wait.Now(); !l.tryFinish(d); wait.Yield() {
		if wait.Now()-start > promptness {
			l.finishLater(d)
			return
		}
	}
}

// finishLater makes another goroutine wait for d's handshake.
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

// evict ends the wait for d's handshake. It shuts the socket for reading, so
// that d notices and can dial again; a message that has arrived before is still
// handled.
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

// expire ends the wait for d's handshake, unless the message has been taken by
// then.
func (l *Listener) expire(d *halfOpen, err error) {
	l.handshake.Lock()
	heard := d.heard
	d.heard = true
	l.handshake.Unlock()
	if !heard {
		l.drop(d, err)
	}
}

// drop refuses d and lets go of it.
func (l *Listener) drop(d *halfOpen, err error) {
	d.letGo()
	l.run(-1) // the Logger's handler may close the listener
	defer l.run(1)
	l.refuse(d, err)
}

// refuse counts a dialer that is refused, and logs the reason.
func (l *Listener) refuse(d *halfOpen, err error) {
	l.mu.Lock()
	l.taken--
	closed := l.closed
	l.endDrain()
	l.mu.Unlock()
	l.files.Refused()
	if l.logger == nil || closed {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("sent nothing in time")
	}
	l.logger.Warn("shmconn: dialer refused", "listener", l.name,
		"pid", d.peer.PID, "uid", d.peer.UID, "gid", d.peer.GID, "reason", err)
}

// tryFinish takes the message of d, if it is there, and gives the connection to
// Accept. It reports whether the message was there.
func (l *Listener) tryFinish(d *halfOpen) bool {
	there, err := l.finishNow(d)
	if err != nil {
		l.drop(d, err)
	}
	return there
}

// finishNow is tryFinish without the refusal: it leaves that to the caller, so
// that the Logger's handler does not delay the next handshake.
func (l *Listener) finishNow(d *halfOpen) (heard bool, err error) {
	l.handshake.Lock()
	defer l.handshake.Unlock()
	if d.heard {
		return true, nil
	}
	var m bareMessage
	there := false
	d.control(func(fd int) { m, there = receiveBare(fd) })
	if !there {
		return false, nil
	}
	d.heard = true
	switch {
	case m.reuse:
		return true, l.finishReuse(d, m.id, m.generation)
	case m.takeOver:
		return true, l.handOver(d)
	}
	return true, l.finishSoon(d)
}

// finishSoon finishes d's handshake. For a dialer that is not trusted another
// goroutine does, because a descriptor may be of a file system that does not
// answer, even to a close. It waits for that goroutine, for attachTimeout at
// most.
func (l *Listener) finishSoon(d *halfOpen) error {
	if !l.countIn(d.peer) {
		return errors.New("too many handshakes by this user are under way")
	}
	if d.peer.Trusted() {
		defer l.leave()
		defer l.countOut(d.peer)
		l.run(-1) // Close does not wait for this either
		defer l.run(1)
		return l.finish(d)
	}
	done := make(chan struct{})
	go func() {
		defer l.leave()
		defer close(done)
		defer l.countOut(d.peer)
		if err := l.finish(d); err != nil {
			d.abandon()
			l.refuse(d, err)
		}
	}()
	late := time.NewTimer(attachTimeout)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return nil
}

// finishShort goes on with a handshake for which this end was short of
// something.
func (l *Listener) finishShort(d *halfOpen) {
	l.handshake.Lock()
	err := l.finishSoon(d)
	l.handshake.Unlock()
	if err != nil {
		l.drop(d, err)
	}
}

// countIn counts a handshake by a user, unless too many are under way.
func (l *Listener) countIn(peer stream.Cred) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.UID] >= maxAttachments {
		return false
	}
	l.busy[peer.UID]++
	l.users++ // for the handshake
	return true
}

func (l *Listener) countOut(peer stream.Cred) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[peer.UID]--; l.busy[peer.UID] == 0 {
		delete(l.busy, peer.UID)
	}
}

// finish makes a connection from d's message and gives it to Accept. If this
// end is short of what that takes, Accept returns that error, and the next call
// of Accept goes on with d. With an error the caller has to refuse d and to
// abandon it.
func (l *Listener) finish(d *halfOpen) error {
	s, err := d.attach(l)
	for scarce(err) && l.purge() {
		s, err = d.attach(l)
	}
	switch {
	case scarce(err):
		if !l.keepShort(d, temporary(syscallError(err))) {
			d.abandon()
		}
		return nil
	case err != nil:
		return err
	}
	d.abandon()
	if !l.enqueue(result{s: s}) {
		s.Abort()
	}
	return nil
}

// keepShort keeps d for the next Accept, and has this one return err. It
// reports false, and does nothing, after Close.
func (l *Listener) keepShort(d *halfOpen, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.short = slices.Insert(l.short, 0, d)
	l.starved = time.Now()
	l.acceptQueue = append(l.acceptQueue, result{err: err})
	l.wake()
	return true
}

// attach receives d's message, unless it was received before, and makes the
// acceptor's stream from it.
func (d *halfOpen) attach(l *Listener) (*stream.Stream, error) {
	if !d.received {
		err := net.ErrClosed
		d.control(func(fd int) { d.sent, err = receive(fd) })
		if err != nil {
			return nil, err
		}
		d.received = true
		d.close()
	}
	return d.sent.attach(l, d.peer)
}

// abandon closes what is left of d.
func (d *halfOpen) abandon() {
	if d.received {
		d.sent.close()
	} else {
		d.close()
	}
}

// letGo is abandon for a caller that must not wait. What was received may be
// more than was checked; but a dialer that is trusted is trusted not to have
// sent what takes long to close.
func (d *halfOpen) letGo() {
	if d.peer.Trusted() {
		d.abandon()
	} else {
		go d.abandon()
	}
}

// attach makes the acceptor's stream from the dialer's message. The caller
// still owns the descriptors, and can try again if the process was short of
// something.
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
	if seg.Reuse() {
		s.KeepFor(l.keepFor(h.id))
	}
	if err := s.Connect(segment.RingA); err != nil {
		return nil, err
	}
	if seg.Linked() {
		segment.RemoveName(l.files.Dir, l.files.Base, h.id, h.file)
	}
	return s, nil
}
