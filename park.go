//go:build linux

package shmconn

import (
	"shmconn/internal/doorbell"
	"shmconn/internal/ring"
	"shmconn/internal/wait"
)

func (d *side) init(s *stream, other *side, cond wait.Condition, own, peer *ring.End) {
	d.s, d.other = s, other
	d.held.Init()
	d.cond = cond
	d.waiter = wait.NewWaiter(cond)
	d.own, d.peer = own, peer
	d.token = make(chan struct{}, 1)
	d.retired = make(chan struct{})
}

// Ready reports whether a Read that waits should look up.
func (d *rx) Ready() bool {
	return d.ring.Moved() || d.flags.Load() != 0 || d.peer.Closed.Load() != 0
}

// Ready reports whether a Write that waits should look up.
func (d *tx) Ready() bool {
	return d.ring.Moved() || d.flags.Load() != 0 || d.peer.Closed.Load() != 0
}

// Tick looks whether the peer is alive, for those who poll.
func (d *side) Tick() { d.s.checkPeer() }

// await waits until there is news for the side d, which the caller has. There may
// be none: the caller looks for itself.
func (s *stream) await(d *side) {
	budget := d.pace.Budget(s.busyPoll)
	if budget > 0 && d.waiter.Spin() {
		return
	}
	// From here on the peer may wait for us as long as we wait for it. So it
	// has to know of all that was read.
	if d == &s.tx.side {
		s.flush()
	} else {
		s.rx.tell()
	}
	d.waits.Add(1)
	d.counted.Store(d.calls)
	start, before := wait.Now(), wait.Ended()
	d.blocked.start(start)
	defer func() { d.blocked.stop(wait.Now()) }() // also at a fault
	if budget > 0 && d.waiter.Poll(start, budget) {
		wait.End()
		d.pace.Polled()
		return
	}
	s.park(d)
	d.pace.Parked(wait.Now()-start, s.busyPoll, wait.End()-before-1)
}

// park sleeps until there is news for the side d.
//
// It stores that d has parked and then looks for news; the peer stores its news and
// then looks whether d has parked. These are sequentially consistent atomics, so
// that at least one of the two sees the other's store. The number stored is odd and
// another each time: the peer rings once for each.
//
// The first side to park reads the doorbell; the other one sleeps on its token,
// which the first passes on whenever it has read something or leaves.
func (s *stream) park(d *side) {
	d.parks.Add(1)
	for {
		if s.bell.Hold() {
			d.sayParked()
			if !d.cond.Ready() && s.bell.Wait() == doorbell.Gone {
				s.gone()
			}
			s.bell.Release()
			nudge(d.other.token) // a byte can be for both, and the bell is free
		} else {
			d.sayParked()
			if !d.cond.Ready() {
				<-d.token
			}
		}
		if d.cond.Ready() {
			break
		}
	}
	d.epoch++
	d.own.Parked.Store(d.epoch)
}

// sayParked tells the peer to ring before it is of any use to sleep.
func (d *side) sayParked() {
	d.epoch += 1 + d.epoch&1    // odd
	d.own.Parked.Store(d.epoch) // sync: park
}

// gone makes both sides know that the peer's process is gone.
func (s *stream) gone() {
	s.rx.flags.Or(flagGone)
	s.tx.flags.Or(flagGone)
}

// checkPeer looks whether the peer is alive, for those who do not park.
func (s *stream) checkPeer() {
	if s.bell.Gone() {
		s.gone()
	}
}
