//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
)

// handOver begins to give the socket to the process behind d, which has asked
// for it: see takeover.go. An error refuses that. The caller has l.handshake.
func (l *Listener) handOver(d *halfOpen) error {
	if !l.takeOver {
		return errors.New("it asks to take over the listener, which has not set TakeOver")
	}
	if d.peer.UID != uint32(os.Geteuid()) {
		return errors.New("it asks to take over the listener of another user")
	}
	if d.c == nil {
		if err := d.watch(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken-- // it is no dialer
	l.endDrain()
	if l.closed || l.draining || l.successor != nil {
		d.say(notNow)
		bubble.Go(d.close)
		return nil
	}
	l.successor = d
	l.start(func() {
		l.giveTo(d)
		l.mu.Lock()
		l.successor = nil
		l.mu.Unlock()
		d.close()
	})
	return nil
}

// giveTo gives the socket to d, and closes the listener if d says that it has
// it. If not, this listener goes on.
func (l *Listener) giveTo(d *halfOpen) {
	d.control(func(fd int) { hearNow(fd) }) // the request, which was only looked at
	s, err := l.share()
	given := false
	if err == nil {
		control(s.File, func(own int) {
			d.control(func(fd int) { given = say(fd, givesSocket, unix.UnixRights(own)) == nil })
		})
	}
	if !given {
		d.say(notNow)
		return
	}
	if l.confirmed(d) {
		l.cede()
		return
	}
	d.say(notNow)
	// It may have listened already, and dialers see who did so last.
	control(s.File, func(own int) { unix.Listen(own, l.backlog) })
}

// confirmed waits for d to say that it has the socket. After it has reported
// false, d cannot say so any more.
func (l *Listener) confirmed(d *halfOpen) (ok bool) {
	look := func(fd uintptr) (there bool) {
		kind, _, err := hearNow(int(fd))
		ok = err == nil && kind == hasSocket
		return err != unix.EAGAIN
	}
	d.c.SetReadDeadline(time.Now().Add(takeOverTimeout))
	d.raw.Read(look)
	if !ok {
		d.control(func(fd int) {
			unix.Shutdown(fd, unix.SHUT_RD)
			look(uintptr(fd))
		})
	}
	return ok
}

// cede closes the listener, because another process has taken it over: the
// caller's own first Close does nothing then.
func (l *Listener) cede() {
	l.run(-1) // a Close that has l.closing may wait for this goroutine
	defer l.run(1)
	l.closing.Lock()
	defer l.closing.Unlock()
	l.mu.Lock()
	if l.closed || l.draining {
		l.mu.Unlock()
		return
	}
	l.ceded = true
	l.drain()
}

// leaveToSuccessor ends the wait for a successor, because this listener closes:
// if it has the socket it listens now. The caller has l.mu.
func (l *Listener) leaveToSuccessor() {
	if l.successor != nil {
		bubble.Go(l.successor.close)
	}
}

// say sends a message of a take-over, if there is somebody to hear it.
func (d *halfOpen) say(kind byte) {
	d.control(func(fd int) { say(fd, kind, nil) })
}
