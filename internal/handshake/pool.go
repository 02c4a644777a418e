//go:build linux && !shmconn_sockets

package handshake

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/segment"
	"shmconn/internal/stream"
)

const (
	spareTick = 250 * time.Millisecond // from one check of all spares to the next
	maxSpares = 64                     // of a pool: each has two or three descriptors
)

// A spare is one of a pool.
type spare struct {
	*stream.Spare
	id   segment.ID
	left time.Duration // in checks, until its time is over

	// Of a dialer's.
	to       destination
	ownerUID uint32 // of the listener's files
	socket   segment.SocketName

	// Of a listener's.
	taken int // checks in a row that found it taken by a dialer that is not on its way
}

// A pool holds spares, the oldest first. Spares that it gives up are closed.
//
// All dials of a process share one pool, which may give up any spare. A
// listener has a pool of its own, and checks the dialer's word first: see
// stream.Spare.
type pool struct {
	awaited func() bool // a listener's: a dialer that has taken a spare may be on its way; nil for a dialer's

	n atomic.Int32 // len(spares)

	mu     sync.Mutex // guards the following
	spares []*spare
	bytes  int
	closed bool
	armed  bool // a check is scheduled

	barren time.Time // a listener's, which was short of something: keeps none before
}

// keepFor returns the function that keeps a stream's spare: p has it for the
// time d, with no more than most bytes of spares.
func (p *pool) keepFor(s spare, most int, d time.Duration) func(*stream.Spare) {
	return func(left *stream.Spare) {
		s := s
		s.Spare = left
		s.left = d / spareTick
		if d%spareTick > 0 {
			s.left++
		}
		p.put(&s, most)
	}
}

// put adds s, or gives it up.
func (p *pool) put(s *spare, most int) {
	var out []*spare
	defer func() {
		closeSpares(out)
		if len(out) > 0 && p != &spares {
			spares.sweep() // if this process dialed
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	closed := p.closed || time.Now().Before(p.barren)
	for p.bytes+s.Bytes() > most || len(p.spares) == maxSpares || closed {
		i := -1
		if !closed && !s.Gone() {
			i = slices.IndexFunc(p.spares, p.mayGo)
		}
		if i < 0 {
			out = append(out, s)
			return
		}
		out = append(out, p.remove(i))
	}
	p.spares = append(p.spares, s)
	p.bytes += s.Bytes()
	p.n.Add(1)
	// A peer in this process may have let go before s was here to be swept. It
	// lets go first and sweeps then, so check here.
	if (!s.Offer() || s.Gone()) && p.mayGo(s) {
		out = append(out, p.remove(len(p.spares)-1))
		return
	}
	p.arm()
}

// mayGo reports whether s may be given up. The caller has p.mu.
func (p *pool) mayGo(s *spare) bool { return p.awaited == nil || s.Withdraw() }

// remove takes out the i-th spare. The caller has p.mu.
func (p *pool) remove(i int) *spare {
	s := p.spares[i]
	p.spares = slices.Delete(p.spares, i, i+1)
	p.bytes -= s.Bytes()
	p.n.Add(-1)
	return s
}

// arm schedules the next check. The caller has p.mu.
func (p *pool) arm() {
	if len(p.spares) > 0 && !p.armed {
		p.armed = true
		bubble.Outside(func() { time.AfterFunc(spareTick, p.look) })
	}
}

// giveUp removes the spares that pick says may go, and closes them. It
// reports whether there were any.
func (p *pool) giveUp(pick func(*spare) bool) bool {
	if p.n.Load() == 0 {
		return false
	}
	var out []*spare
	p.mu.Lock()
	for i := len(p.spares) - 1; i >= 0; i-- {
		if pick(p.spares[i]) {
			out = append(out, p.remove(i))
		}
	}
	p.mu.Unlock()
	closeSpares(out)
	return len(out) > 0
}

// look gives up spares whose time is over, and those whose peer has let go of
// them. A dialer may have taken one, written, and died: then its message is
// handled first, which the kernel keeps.
func (p *pool) look() {
	awaited := p.awaited != nil && p.awaited()
	p.giveUp(func(s *spare) bool {
		s.left--
		return (s.Gone() || s.left <= 0) && p.mayGo(s) || p.lost(s, awaited)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	p.arm()
}

// lost reports whether a dialer has taken s and has sent nothing for as long as
// a dialer may be silent. A dialer that waits in the backlog is not lost.
func (p *pool) lost(s *spare, awaited bool) bool {
	if p.awaited == nil || awaited || !s.Taken() {
		s.taken = 0
		return false
	}
	s.taken++
	if s.taken <= int(messageTimeout/spareTick) {
		return false
	}
	s.Withdraw() // for the dialer to know, if it was only stopped
	return true
}

// dialed takes the newest spare for the destination that the listener has
// offered. It returns nil if there is none.
func (p *pool) dialed(to destination) *spare {
	if p.n.Load() == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.spares) - 1; i >= 0; i-- {
		if s := p.spares[i]; s.to == to && s.Offered() {
			p.remove(i)
			if s.Take() {
				return s
			}
			defer s.Close()
		}
	}
	return nil
}

// introduced removes the spare that a dialer has taken and names in its
// message. It returns nil if there is none, or if the message is from another
// process. The dialer may be dead by now: its bytes can still be read.
func (p *pool) introduced(id segment.ID, generation uint32, peer stream.Cred) *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.spares, func(s *spare) bool {
		return s.id == id && s.Next() == generation && s.Cred() == peer && s.Taken()
	})
	if i < 0 {
		return nil
	}
	p.spares[i].Heard()
	return p.remove(i)
}

// purge gives up all spares that may go, because the process or the machine is
// short of something. It reports whether there were any. A listener then keeps
// none for a while: dialers would take them, and it may not get to these.
func (p *pool) purge() bool {
	if p.awaited != nil {
		p.mu.Lock()
		p.barren = time.Now().Add(messageTimeout)
		p.mu.Unlock()
	}
	return p.giveUp(p.mayGo)
}

// sweep gives up spares whose peer has let go of them.
func (p *pool) sweep() { p.giveUp(func(s *spare) bool { return s.Gone() }) }

// withdraw gives up all that may go, and all that come later. What it leaves
// was taken by dialers that are on their way.
func (p *pool) withdraw() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.giveUp(p.mayGo)
}

// close gives up all spares, now and later.
func (p *pool) close() {
	p.mu.Lock()
	out := p.spares
	p.spares, p.bytes, p.closed = nil, 0, true
	p.n.Store(0)
	p.mu.Unlock()
	for _, s := range out {
		p.mayGo(s) // a dialer that has taken it begins anew
	}
	closeSpares(out)
}

func closeSpares(spares []*spare) {
	for _, s := range spares {
		s.Close()
	}
}
