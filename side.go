//go:build linux

package shmconn

import (
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shmconn/internal/dekker"
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

// The bits of side.word: what is wanted of who has the side, and who else is in it.
const (
	wordQueued  = 1 << iota // others wait for it
	wordShut                // hang up when it is given back
	wordClosed              // nobody takes it any more; retire when everybody is out
	wordRetired             // nobody gets in any more
	wordGuest               // and above: how many callers keep the memory mapped
)

// A side is what the two directions of a stream have in common: the turn that
// calls take, the deadline, and what a wait needs.
type side struct {
	s     *stream
	other *side

	// Who may act. Whoever stores into word looks at held then, and whoever gives held
	// back looks at word then: see settle.
	held  dekker.Flag // a call has the side
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

	calls               uint64        // that moved bytes; owned by who has the side
	counted             atomic.Uint64 // calls, as of the last wait or look
	looked              atomic.Uint64 // bytes, as of the last look
	blocked             stopwatch     // in waits
	waits, parks, rings atomic.Uint64
}

// A stopwatch adds up times. One goroutine at a time starts and stops it, and any may
// look at it.
type stopwatch struct {
	v    atomic.Int64 // the sum; while it runs, the sum less the time of the start, less 1: below 0
	seen atomic.Int64 // the largest that sum has returned
}

func (w *stopwatch) start(now time.Duration) { w.v.Add(-int64(now) - 1) }
func (w *stopwatch) stop(now time.Duration)  { w.v.Add(int64(now) + 1) }

// sum returns the sum, until now if it runs. It never falls: a sum until now can be a little
// more than that of a stop at the same time.
func (w *stopwatch) sum() time.Duration {
	v := w.v.Load()
	if v < 0 {
		v += int64(wait.Now()) + 1
	}
	for {
		seen := w.seen.Load()
		if v <= seen {
			return time.Duration(seen)
		}
		if w.seen.CompareAndSwap(seen, v) {
			return time.Duration(v)
		}
	}
}

// A ticket is a place in the queue for a side.
type ticket struct {
	granted bool          // guarded by side.mu
	look    chan struct{} // says: you have been granted the side, or look at the flags
}

// lock takes the side, and waits while another call has it. Whoever has it keeps
// the memory mapped.
func (d *side) lock() error {
	if !d.held.Take() {
		return d.queueUp()
	}
	if d.word.Load()&wordClosed == 0 {
		return nil
	}
	d.unlock()
	return net.ErrClosed
}

// queueUp waits until the side is handed to the caller.
func (d *side) queueUp() error {
	t := &ticket{look: make(chan struct{}, 1)}
	d.mu.Lock()
	d.queue = append(d.queue, t)
	d.word.Or(wordQueued)
	d.mu.Unlock()
	d.settle()
	return d.await(t)
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
	if !d.held.Take() {
		return false
	}
	if d.word.Load()&wordClosed == 0 {
		return true
	}
	d.unlock()
	return false
}

// unlock gives the side back.
func (d *side) unlock() {
	d.held.Give()
	if d.word.Load()&(wordQueued|wordShut|wordClosed) != 0 { // sync: turn
		d.heed()
	}
}

// settle is called by who has just stored into word. What that stands for is done now, or, if a
// call has the side, when that gives it back.
func (d *side) settle() {
	dekker.Barrier() // sync: turn
	d.heed()
}

// heed does what is wanted of who has the side, unless somebody has it.
func (d *side) heed() {
	for {
		w := d.word.Load()
		if w&wordShut == 0 && w&(wordQueued|wordClosed) != wordQueued || !d.held.Take() {
			d.retire()
			return
		}
		if d.word.Load()&wordShut != 0 { // so it has not retired, and does not before this is done
			d.hangUp()
			d.word.And(^uint32(wordShut))
		}
		d.counted.Store(d.calls) // while it goes from hand to hand no look finds it free
		if d.word.Load()&wordClosed == 0 && d.grant() {
			return
		}
		d.held.Give()
	}
}

// grant hands the side, which the caller has, to the first in the queue.
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
	if d.word.Add(^uint32(wordGuest-1))&wordClosed != 0 {
		d.settle()
	}
}

// retire ends the side if it is closed, has hung up, and nobody is in it. It may be called
// by several at once.
func (d *side) retire() {
	for {
		w := d.word.Load()
		if w&(wordShut|wordClosed|wordRetired) != wordClosed || w >= wordGuest || d.held.Taken() {
			return
		}
		if d.word.CompareAndSwap(w, w|wordRetired) {
			break
		}
	}
	d.final = d.total()
	d.counted.Store(d.calls)
	close(d.retired)
	d.s.retire()
}

// ask stores bit, wordShut or wordClosed, for who has the side.
func (d *side) ask(bit uint32) {
	for {
		w := d.word.Load()
		if w&(wordClosed|bit) != 0 {
			return
		}
		if d.word.CompareAndSwap(w, w|bit) {
			d.settle()
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
