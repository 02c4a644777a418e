//go:build linux && !shmconn_sockets

package handshake

import (
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/wait"
)

const (
	// looksAccept is how many looks there are to one system call, so that
	// connections that a polling Accept looks after as well hardly notice.
	looksAccept = 16

	// mostAccept is for how long Accept polls where connections poll for ever:
	// a listener that nobody dials costs nothing. It is
	// shmconn.DefaultBusyPoll.
	mostAccept = 300 * time.Microsecond
)

// An arrival is what an Accept waits for: a dialer on a socket, or another
// reason to look again. While dialers come one soon after the other, Accept
// polls for them, as a Read does for bytes: to wake a process takes longer than
// to accept.
//
// The goroutine that has Listener.accepting owns it, and lends it to whichever
// polls.
type arrival struct {
	l      *Listener
	limit  time.Duration
	waiter *wait.Waiter
	pace   wait.Pace
	accept func(listening uintptr) // made once
	parked func(listening uintptr) (over bool)

	// Of the wait under way.
	sock  *socket
	looks uint
	fd    int   // of the dialer, or -1
	err   error // EAGAIN: there is none
}

func newArrival(l *Listener) *arrival {
	a := &arrival{l: l, limit: l.busyPoll}
	if a.limit < 0 {
		a.limit = mostAccept
	}
	a.waiter = wait.NewWaiter(a)
	a.pace.Parked(wait.Forever, a.limit, 0) // until the first dialers have come
	a.accept = func(listening uintptr) { a.fd, a.err = accept(int(listening)) }
	a.parked = func(uintptr) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return a.look()
	}
	return a
}

// Ready reports whether the wait is over.
func (a *arrival) Ready() bool {
	if a.looks++; a.looks%looksAccept != 0 || !a.l.mu.TryLock() {
		return false
	}
	defer a.l.mu.Unlock()
	return a.look()
}

// look takes a dialer off the socket, if there is one, and reports whether the
// wait is over. The caller has l.mu, as Stats has when it asks the kernel: so a
// dialer is always in one of the two counts.
func (a *arrival) look() (over bool) {
	a.fd, a.err = -1, nil
	if a.l.draining || a.l.woken {
		return true
	}
	a.sock.raw.Control(a.accept) // does nothing once the socket is closed
	if a.fd >= 0 {
		a.l.taken++
	}
	return a.err != unix.EAGAIN
}

// Tick does nothing: there is no peer yet that could have died.
func (a *arrival) Tick() {}

// Where reports nothing: nobody knows who will dial.
func (a *arrival) Where() (near, elsewhere bool) { return false, false }

// wait waits for a dialer on sock, or for another reason to look again.
func (a *arrival) wait(sock *socket) {
	a.sock, a.fd, a.err = sock, -1, nil
	budget, _ := a.pace.Budget(a.limit)
	start := wait.Now()
	if budget > 0 && a.poll(start, budget) {
		return
	}
	wait.Sleeps(wait.Now())
	sock.raw.Read(a.parked)
	now := wait.Now()
	wait.Sleeps(now)
	a.pace.Parked(now-start, a.limit, 0)
	a.waiter.End()
}

// poll polls, and reports whether the wait is over. It may look at the memory
// of connections, for others that wait.
func (a *arrival) poll(start, budget time.Duration) (over bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	wait.LetRun() // the goroutine that serves the last dialer
	if a.waiter.Spin() {
		return true
	}
	if a.waiter.Poll(start, budget) != wait.Polled && a.fd < 0 {
		return false
	}
	a.waiter.End()
	a.pace.Polled()
	return true
}

// accept takes a dialer off the listening socket, which does not block. The
// scheduler does not learn of it: that takes longer.
func accept(listening int) (fd int, err error) {
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listening), 0, 0, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return -1, errno
		}
	}
}
