//go:build linux && !shmconn_sockets

package stream

import (
	"shmconn/internal/doorbell"
	"shmconn/internal/wait"
)

// Ready reports whether a Read that waits should stop waiting.
func (h *readHalf) Ready() bool {
	return h.ring.Moved() || h.stop.Load() != 0 || h.peer.ClosedIn(h.gen)
}

// Ready reports whether a Write that waits should stop waiting.
func (h *writeHalf) Ready() bool {
	return h.ring.Moved() || h.stop.Load() != 0 || h.peer.ClosedIn(h.gen)
}

// Tick checks whether the peer is alive, for a wait that polls.
func (h *half) Tick() { h.s.checkPeer() }

// place finds out which processor this end is on, and stores that for the peer
// if it has changed. It returns 0 if the kernel does not say.
func (s *Stream) place() uint32 {
	cpu := wait.Processor()
	if cpu != s.cpu.Load() {
		s.cpu.Store(cpu)
		s.rx.own.CPU.Store(cpu)
		s.tx.own.CPU.Store(cpu)
	}
	return cpu
}

// Where compares the processor that the peer was last on with ours. An end of
// this process needs no processor but ours, only a P.
func (h *half) Where() (near, elsewhere bool) {
	peer, own := h.peer.CPU.Load(), h.s.place()
	known := peer != 0 && own != 0 && !h.s.within
	return known && peer == own, known && peer != own
}

// await waits until there is news for the half h, which the caller holds. It
// may return without news: the caller checks.
func (s *Stream) await(h *half) {
	budget, cause := h.pace.Budget(s.busyPoll)
	if budget > 0 && h.waiter.Spin() {
		return
	}
	// From here on the peer may wait for us as long as we wait for it. So first
	// report all that was read.
	if h == &s.tx.half {
		s.flush()
	} else {
		s.rx.ack()
	}
	h.waits.Add(1)
	h.counted.Store(h.calls)
	start, before := wait.Now(), wait.Ended()
	h.blocked.start(start)
	defer func() { h.blocked.stop(wait.Now()) }() // also at a fault
	if budget > 0 {
		if cause = h.waiter.Poll(start, budget); cause == wait.Polled {
			h.waiter.End()
			h.pace.Polled()
			return
		}
	}
	h.causes[cause].Add(1)
	if h.own.Cause.Load() != uint32(cause) {
		h.own.Cause.Store(uint32(cause)) // a hint for people: see sayParked for what counts
	}
	wait.Sleeps(wait.Now())
	s.park(h)
	now := wait.Now()
	wait.Sleeps(now) // and has been woken
	h.pace.Parked(now-start, s.busyPoll, wait.Ended()-before)
	h.waiter.End()
}

// park sleeps until there is news for the half h.
//
// It stores that h has parked and then looks for news; the peer stores its news
// and then checks whether h has parked. These are sequentially consistent
// atomics, so that at least one of the two sees the other's store. Every park
// stores a new odd number: the peer rings once for each.
//
// The first half to park reads the doorbell. The second sleeps on its token,
// which the first passes on whenever it has read something or leaves.
func (s *Stream) park(h *half) {
	for {
		if s.bell.Hold() {
			h.sayParked()
			if !h.cond.Ready() && s.bell.Wait() == doorbell.Gone {
				s.gone()
			}
			s.bell.Release()
			h.other.token.Notify() // a byte can be for both, and the bell is free
		} else {
			h.sayParked()
			if !h.cond.Ready() {
				h.token.Wait()
			}
		}
		if h.cond.Ready() {
			break
		}
	}
	h.epoch++
	if h.stop.Load()&stopCorrupt == 0 { // nothing is stored after damage
		h.own.Parked.Store(h.epoch)
	}
}

// sayParked asks the peer to ring. Without it, a sleep might never end.
func (h *half) sayParked() {
	h.epoch += 1 + h.epoch&1 // odd
	h.own.Park(h.epoch)      // sync: park
}
