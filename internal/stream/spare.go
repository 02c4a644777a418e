//go:build linux && !shmconn_sockets

package stream

import (
	"runtime/debug"
	"time"

	"shmconn/internal/doorbell"
	"shmconn/internal/ring"
	"shmconn/internal/segment"
)

// A Spare is what a stream leaves for the next one between the same two
// processes: the segment with its mappings, and the doorbells. The positions,
// the epochs and the words that say that something is closed go on from where
// they are, so that nothing in shared memory has to be set back.
//
// An end that is ready for the next generation says so in its Spare word, which
// is the last that it stores in this one. The dialer takes a spare that the
// acceptor has offered: it stores another such word, and looks at the
// acceptor's again. The acceptor withdraws its offer before it lets go of a
// spare, and looks at the dialer's word then. So a spare that the dialer has
// taken exists until the acceptor has heard of it.
//
// Its methods may not run at the same time. The owner must Close it or make a
// stream from it.
type Spare struct {
	cred   Cred
	size   int // of a ring
	seg    *segment.Segment
	bell   *doorbell.Bell
	ringer doorbell.Ringer

	next uint32       // the generation that it is for
	ring segment.Ring // see Stream.in
	in   ring.Consumer
	out  ring.Producer

	inEpoch, outEpoch uint64 // last stored into the Parked words
}

// lastGeneration is the last generation of a segment: a generation is a number
// of 32 bits.
const lastGeneration = 1 << 31

// What becomes of a stream's parts: decided once, by Close or by the last call
// to leave.
const (
	undecided = iota
	spared
	discarded
)

// KeepFor makes s hand its parts to keep, which then owns them, instead of
// closing them, if this end has closed in order and has read everything. A peer
// that has no number here, in another PID namespace, cannot be told from
// others: then s closes them, but the peer may know a number for this process,
// and keep its own. Call it before Connect.
func (s *Stream) KeepFor(keep func(*Spare)) {
	s.reuse = true
	if s.cred.PID != 0 {
		s.keep = keep
	}
}

// spare hands s's parts on, if another stream can use them. No call is in s any
// more.
func (s *Stream) spare() bool {
	if s.keep == nil || !s.reusable() || !s.fate.CompareAndSwap(undecided, spared) {
		return false
	}
	s.keep(&Spare{
		cred: s.cred, size: s.size, seg: s.seg, bell: s.bell, ringer: s.ringer,
		next: s.gen + 1, ring: s.in, in: s.rx.ring, out: s.tx.ring, inEpoch: s.rx.epoch, outEpoch: s.tx.epoch,
	})
	return true
}

// reusable reports whether nothing has happened to s that the next connection
// over the segment could notice. The next reader would get bytes that were not
// read, or that were Put and not flushed.
func (s *Stream) reusable() (clean bool) {
	if s.aborted.Load() || s.corrupt.Load() != nil || s.rx.leased || s.tx.leased ||
		s.rx.stop.Load()&stopGone != 0 || s.gen >= lastGeneration || s.ringer.Closed() {
		return false
	}
	defer s.ignoreFault(debug.SetPanicOnFault(true))
	n, err := s.rx.ring.Refresh()
	return n == 0 && err == nil && s.tx.ring.Published() == s.tx.ring.Written()
}

// sayWatched asks the peer to let its end of the doorbell end with it, because
// Done waits for that. It reports whether the peer has let go before it could
// know.
func (s *Stream) sayWatched() (late bool) {
	if !s.reuse || !s.rx.turn.Incref() {
		return false
	}
	defer s.rx.turn.Decref()
	if s.rx.stop.Load()&stopCorrupt != 0 {
		return false // nothing is stored after damage
	}
	defer s.ignoreFault(debug.SetPanicOnFault(true))
	s.rx.own.SayWatched(s.gen) // sync: watched
	return s.tx.peer.Spare.Load() == s.gen+1
}

// Stream makes the stream of the next generation from p, which must not be used
// again. With keep its parts can be a spare again.
func (p *Spare) Stream(busyPoll time.Duration, keep func(*Spare)) *Stream {
	s := New(p.cred, p.seg, p.size, p.bell, p.ringer, busyPoll)
	s.gen, s.in = p.next, p.ring
	s.KeepFor(keep)
	s.rx.epoch, s.tx.epoch = p.inEpoch, p.outEpoch
	s.connect(p.in.Next(), p.out.Next())
	return s
}

// Close lets go of p. The peer finds the end of its doorbell.
func (p *Spare) Close() {
	p.seg.Close()
	p.bell.Close()
	p.ringer.Close()
}

// Cred returns what the kernel reported about the peer when the two met.
func (p *Spare) Cred() Cred { return p.cred }

// Next returns the generation that p is for.
func (p *Spare) Next() uint32 { return p.next }

// Bytes returns how much memory p takes.
func (p *Spare) Bytes() int { return segment.PageSize + 2*p.size }

// Gone reports whether the peer has let go of p, or died.
func (p *Spare) Gone() bool { return p.bell.Gone() }

// Offer says that this end is ready for the next generation. It reports false,
// and p is not to be used, if the peer waits for the end of its doorbell.
func (p *Spare) Offer() (ok bool) {
	p.touch(func() {
		p.in.Own.SaySpare(p.next)                  // sync: spare
		ok = p.out.Peer.Watched.Load() != p.next-1 // sync: watched
	})
	return ok
}

// Offered reports whether the peer is ready for the next generation, and all
// that was written in the last one was read. It is for the dialer: the acceptor
// stores nothing more before it hears of the next generation.
func (p *Spare) Offered() (ok bool) {
	p.touch(func() {
		if p.out.Peer.Spare.Load() != p.next { // sync: spare
			return
		}
		ready, err1 := p.in.Refresh()
		free, err2 := p.out.Refresh()
		ok = err1 == nil && err2 == nil && ready == 0 && free == p.size
	})
	return ok
}

// Take says that the dialer begins the next generation. It reports false, and p
// is not to be used, if the acceptor has withdrawn its offer.
func (p *Spare) Take() (ok bool) {
	p.touch(func() {
		p.out.Own.SaySpare(p.next) // sync: spare
		ok = p.out.Peer.Spare.Load() == p.next
	})
	return ok
}

// PutBack ends a Take of which the acceptor was not told, before Close: it need
// not wait for a dialer that does not come.
func (p *Spare) PutBack() { p.touch(func() { p.out.Own.SaySpare(0) }) }

// GivenUp reports whether the acceptor has let go of p, which the dialer has
// taken, and has not heard of that. If it has heard, what it has written can
// be read, although it may have closed or died since.
func (p *Spare) GivenUp() (ok bool) {
	if !p.Gone() {
		return false
	}
	p.touch(func() { ok = p.out.Peer.Spare.Load() != p.next && !p.out.Peer.ClosedIn(p.next) })
	return ok
}

// Heard says that the acceptor has heard that the dialer has taken p, whether
// or not it has withdrawn its offer.
func (p *Spare) Heard() { p.touch(func() { p.in.Own.SaySpare(p.next) }) }

// Withdraw ends the acceptor's Offer. It reports false if the dialer has taken
// the spare, or may have: then the dialer is heard first.
func (p *Spare) Withdraw() (ok bool) {
	ok = true // also if the memory was truncated
	p.touch(func() {
		p.in.Own.SaySpare(0) // sync: spare
		ok = p.in.Peer.Spare.Load() != p.next
	})
	return ok
}

// Taken reports whether the dialer has said that it begins the next generation.
func (p *Spare) Taken() (ok bool) {
	p.touch(func() { ok = p.in.Peer.Spare.Load() == p.next })
	return ok
}

// touch calls f, which ends early if the memory was truncated.
func (p *Spare) touch(f func()) {
	panicOnFault := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(panicOnFault)
		if r := recover(); r != nil {
			if addr, ok := faultAddress(r); !ok || !p.seg.Holds(addr) {
				panic(r)
			}
		}
	}()
	f()
}
