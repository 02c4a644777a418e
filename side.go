//go:build linux

package shmconn

import (
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shmconn/internal/ring"
	"shmconn/internal/wait"
)

// Why a call that waits, or wants to, has to look up. The bits of side.flags.
const (
	flagGone    = 1 << iota // the peer's process is gone
	flagExpired             // the deadline has passed
	flagShut                // CloseRead or CloseWrite
	flagClosed              // Close
	flagBroken              // the segment is corrupt
)

// The bits of side.word.
const (
	wordHeld    = 1 << iota // a call has the side
	wordQueued              // others wait for it
	wordShut                // hang up when it is given back
	wordClosed              // retire when everybody is out
	wordRetired             // nobody gets in any more
	wordGuest               // and above: how many callers keep the memory mapped
)

// A side is what the two directions of a stream have in common: the turn that
// calls take, the deadline, and what a wait needs.
type side struct {
	s     *stream
	other *side

	// Who may act. Getting the side and giving it back is one atomic step each
	// as long as nobody else wants something.
	word  atomic.Uint32
	mu    sync.Mutex // guards queue
	queue []*ticket

	// What to look up for.
	flags    atomic.Uint32
	deadline deadline

	// Waiting. Owned by who has the side.
	own, peer *ring.End
	epoch     uint64 // the last number stored into own.Parked
	rung      uint64 // the peer's epoch that we last rang for
	cond      wait.Condition
	waiter    *wait.Waiter
	pace      wait.Pace
	token     chan struct{} // says: look again

	idles   uint          // calls that found nothing to do and did not wait
	out     bool          // a span is in a caller's hands; owned by who has the side
	retired chan struct{} // closed once nobody gets in any more and final is set
	final   uint64        // bytes that went through
	total   func() uint64 // the same so far

	waits, parks, rings atomic.Uint64
}

// A ticket is a place in the queue for a side.
type ticket struct {
	granted bool          // guarded by side.mu
	look    chan struct{} // says: you have been granted the side, or look at the flags
}

// lock takes the side, and waits while another call has it. Whoever has it keeps
// the memory mapped.
func (d *side) lock() error {
	if d.word.CompareAndSwap(0, wordHeld) {
		return nil
	}
	return d.lockSlow()
}

func (d *side) lockSlow() error {
	for {
		w := d.word.Load()
		switch {
		case w&wordClosed != 0:
			return net.ErrClosed
		case w&wordHeld == 0:
			if d.word.CompareAndSwap(w, w|wordHeld) {
				return nil
			}
		default:
			if t := d.enqueue(w); t != nil {
				return d.await(t)
			}
		}
	}
}

// enqueue appends a ticket while the side is held as w says.
func (d *side) enqueue(w uint32) *ticket {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.word.CompareAndSwap(w, w|wordQueued) {
		return nil
	}
	t := &ticket{look: make(chan struct{}, 1)}
	d.queue = append(d.queue, t)
	return t
}

// await waits for the side to be granted. The deadline and Close end it.
func (d *side) await(t *ticket) error {
	for {
		err := d.refusal()
		d.mu.Lock()
		if t.granted {
			d.mu.Unlock()
			return nil // whatever the flags say: the caller looks at them again
		}
		if err != nil {
			d.queue = slices.DeleteFunc(d.queue, func(q *ticket) bool { return q == t })
			if len(d.queue) == 0 {
				d.word.And(^uint32(wordQueued))
			}
			d.mu.Unlock()
			return err
		}
		d.mu.Unlock()
		<-t.look
	}
}

// tryLock takes the side if that needs no wait.
func (d *side) tryLock() bool {
	for {
		w := d.word.Load()
		if w&(wordHeld|wordClosed) != 0 {
			return false
		}
		if d.word.CompareAndSwap(w, w|wordHeld) {
			return true
		}
	}
}

// unlock gives the side back: to who waits for it, or to nobody.
func (d *side) unlock() {
	if !d.word.CompareAndSwap(wordHeld, 0) {
		d.unlockSlow()
	}
}

func (d *side) unlockSlow() {
	for {
		w := d.word.Load()
		switch {
		case w&wordShut != 0:
			if d.word.CompareAndSwap(w, w&^wordShut) {
				d.hangUp()
			}
		case w&wordQueued != 0:
			if d.grant() {
				return
			}
		case d.leave(w, w&^wordHeld):
			return
		}
	}
}

// grant hands the side to the first in the queue.
func (d *side) grant() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return false // it has left
	}
	t := d.queue[0]
	d.queue = slices.Delete(d.queue, 0, 1)
	if len(d.queue) == 0 {
		d.word.And(^uint32(wordQueued))
	}
	t.granted = true
	nudge(t.look)
	return true
}

// enter makes the caller a guest: the memory stays mapped until exit.
func (d *side) enter() bool {
	for {
		w := d.word.Load()
		if w&wordRetired != 0 {
			return false
		}
		if d.word.CompareAndSwap(w, w+wordGuest) {
			return true
		}
	}
}

func (d *side) exit() {
	for {
		w := d.word.Load()
		if d.leave(w, w-wordGuest) {
			return
		}
	}
}

// leave changes the word from w to next, and retires the side if it is closed and
// nobody is left in it. It reports false if the word was not w.
func (d *side) leave(w, next uint32) bool {
	last := next&wordClosed != 0 && next&wordRetired == 0 && next&wordHeld == 0 && next < wordGuest
	if last {
		next |= wordRetired
	}
	if !d.word.CompareAndSwap(w, next) {
		return false
	}
	if last {
		d.final = d.total()
		close(d.retired)
		d.s.retire()
	}
	return true
}

// setWord sets bit, wordShut or wordClosed, and does at once what it stands for if
// nobody has the side.
func (d *side) setWord(bit uint32) {
	for {
		w := d.word.Load()
		switch {
		case w&(wordClosed|bit) != 0:
			return
		case bit == wordShut && w&wordHeld == 0:
			if d.word.CompareAndSwap(w, w|wordHeld) {
				d.hangUp()
				d.unlock()
				return
			}
		case d.leave(w, w|bit):
			return
		}
	}
}

// hangUp tells the peer that this end's position will not move any more. Who has the
// side does it when it gives that back, so that no Close overtakes a Write that will say
// it has written.
func (d *side) hangUp() {
	if d.s.mute.Load() {
		return
	}
	defer d.s.tolerate(debug.SetPanicOnFault(true))
	d.own.Closed.Store(1) // sync: closed
	if d.peer.Parked.Load()&1 == 1 {
		d.rings.Add(1)
		d.s.ringer.Ring()
	}
}

// interrupt sets flags and makes all calls that wait on the side look at them.
func (d *side) interrupt(flags uint32) {
	d.flags.Or(flags) // sync: bell
	d.mu.Lock()
	for _, t := range d.queue {
		nudge(t.look)
	}
	d.mu.Unlock()
	nudge(d.token)
	d.s.bell.Break()
}

// nudge puts a token into c unless there is one.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (d *side) setDeadline(t time.Time) {
	d.deadline.set(t, func(expired bool) {
		if expired {
			d.interrupt(flagExpired)
		} else {
			d.flags.And(^uint32(flagExpired))
		}
	})
}
