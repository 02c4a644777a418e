//go:build linux && !shmconn_sockets

package handshake

import (
	"runtime/debug"
	"time"

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
// polls for them, as a Read does for bytes, before it parks: to wake a process
// takes longer than to accept.
//
// The goroutine that has Listener.accepting owns it, and lends it to whichever
// polls.
type arrival struct {
	l      *Listener
	limit  time.Duration
	waiter *wait.Waiter
	pace   wait.Pace
	probe  func(listening uintptr) // socket.pending, which allocates

	// Of the wait under way.
	sock    *socket
	start   time.Duration
	parked  bool
	looks   uint
	pending bool // what probe has found
}

func newArrival(l *Listener) *arrival {
	a := &arrival{l: l, limit: l.busyPoll}
	if a.limit < 0 || a.limit == wait.Forever {
		a.limit = mostAccept
	}
	a.waiter = wait.NewWaiter(a)
	a.pace.Parked(wait.Forever, a.limit, 0) // until the first dialers have come
	a.probe = func(listening uintptr) { a.pending = readable(listening) }
	return a
}

// Ready reports whether Accept should look. It asks by poll(2), and not by
// accept(2), which takes a descriptor for a moment even if nobody is there.
func (a *arrival) Ready() bool {
	if a.l.woken.Load() {
		return true
	}
	if a.looks++; a.looks%looksAccept != 1 {
		return false
	}
	a.pending = true // unless the socket can be asked
	a.sock.raw.Control(a.probe)
	return a.pending
}

// Tick does nothing: there is no peer yet that could have died.
func (a *arrival) Tick() {}

// Where reports nothing: nobody knows who will dial.
func (a *arrival) Where() (near, elsewhere bool) { return false, false }

// begin begins a wait, and polls if that is worth it. The caller then waits for
// sock to be readable, and calls end.
func (a *arrival) begin(sock *socket, shared bool) {
	a.sock, a.start, a.looks = sock, wait.Now(), 0
	budget, _ := a.pace.Budget(a.limit)
	// Where others take dialers off the socket, too, there would be too many
	// that poll.
	a.parked = budget == 0 || shared || !wait.Parallel() || !a.poll(budget)
	if a.parked {
		wait.Sleeps(wait.Now())
	}
}

// poll polls, and reports whether Accept should look. It may touch the memory
// of connections, for others that wait.
func (a *arrival) poll(budget time.Duration) bool {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	wait.LetRun() // the goroutine that serves the last dialer
	return a.waiter.Spin() || a.waiter.Poll(a.start, budget) == wait.Polled
}

// end ends the wait. came says that there was a dialer.
func (a *arrival) end(came bool) {
	now := wait.Now()
	if a.parked {
		wait.Sleeps(now)
	}
	if took := now - a.start; came || took > a.limit {
		a.pace.Parked(took, a.limit, 0) // or not: it is the time that counts
	}
	if came {
		a.waiter.End()
	}
}
