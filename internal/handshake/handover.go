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
	l.start(func() { l.giveTo(d) })
	return nil
}

// giveTo gives the socket to d, and closes the listener if d says that it has
// it. If not, this listener goes on.
func (l *Listener) giveTo(d *halfOpen) {
	d.control(func(fd int) { hearNow(fd) }) // the request, which was only looked at
	s, err := l.share()
	if err == nil && l.give(d, s) && l.confirmed(d) {
		l.cede()
	} else {
		l.giveUp(d)
	}
}

// give sends s to d, unless this listener closes.
func (l *Listener) give(d *halfOpen, s *socket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.draining {
		control(s.File, func(own int) {
			d.control(func(fd int) { d.given = say(fd, givesSocket, unix.UnixRights(own)) == nil })
		})
	}
	return d.given
}

// confirmed waits for d to say that it has the socket. After it has reported
// false, d cannot say so any more.
func (l *Listener) confirmed(d *halfOpen) (ok bool) {
	look := func(fd uintptr) (there bool) {
		kind, _, err := hearNow(int(fd))
		ok = err == nil && kind == hasSocket
		return err != unix.EAGAIN
	}
	d.c.SetReadDeadline(time.Now().Add(l.successorTimeout))
	d.raw.Read(look)
	if !ok {
		d.control(func(fd int) {
			unix.Shutdown(fd, unix.SHUT_RD) // sync: takeover -> ListenOptions.confirm
			look(uintptr(fd))
		})
	}
	return ok
}

// giveUp ends what giveTo has begun, after confirmed has reported false or
// without it: this listener goes on. But if d has the socket and this one is
// closing, d listens, and leaveToSuccessor says so.
func (l *Listener) giveUp(d *halfOpen) {
	l.mu.Lock()
	if l.successor != d || d.given && l.draining {
		l.mu.Unlock()
		return
	}
	d.say(notNow)
	l.successor = nil
	l.mu.Unlock()
	d.close()
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

// leaveToSuccessor closes the connection to a successor that has the socket: it
// is the one that listens now. This listener, which closes, has let go of the
// socket and the lock. The caller has l.mu.
func (l *Listener) leaveToSuccessor() {
	if d := l.successor; d != nil && d.given {
		l.successor = nil
		bubble.Go(d.close)
	}
}

// say sends a message of a take-over, if there is somebody to hear it.
func (d *halfOpen) say(kind byte) {
	d.control(func(fd int) { say(fd, kind, nil) })
}
