// Package turn decides which call may act on one direction of a stream. It has
// a lock, a queue of calls that wait for it, references that keep memory mapped
// without the lock, and the requests of Close and of a half close to the
// holder.
//
// # State
//
//	bit         set by                  cleared by              meaning
//	waiters     a call that queues      the last to leave       somebody waits for the lock
//	starving    a waiter, after 1 ms    the hand-over           the next Unlock hands over
//	shut        RequestShut             the holder, or serve    hang up when the lock is free
//	closed      Close                   never                   nobody gets the lock any more
//	released    release                 never                   nobody gets a reference any more
//	visited     Visit                   Visit                   somebody acts for a holder that rests; see Lend
//	fenced      Lend                    Enter                   the Barrier is not to be had yet; see Lend
//	reference   Incref                  Decref                  and above: how many there are
//
// The lock itself is a flag of package dekker, separate from the state: it
// costs one fence to take and none to give back. One word for both, which needs
// a fence to give back, too, left 0.71 of the rate of 4-byte writes (DESIGN.md,
// "Performance notes", 14).
//
// # Rules
//
//  1. A call that changes the state (except the last waiter, when it leaves)
//     loads the lock afterwards, and a call that gives the lock back loads the
//     state afterwards: see serve. So no request is forgotten.
//  2. A running call may take a free lock before the waiters: a waiter is
//     woken, and tries. A waiter that has waited for more than 1 ms asks for a
//     hand-over of the lock, in order of arrival. The idea is that of Go's
//     sync.Mutex.
//  3. A waiter leaves when StopErr returns an error. If it was handed the lock
//     at that moment, it has the lock.
//  4. The holder of the lock hangs up what is shut, at the latest when it gives
//     the lock back. So no Close overtakes a call that will return success.
//  5. The turn is released once: when it is closed and hung up, and no call has
//     the lock or a reference.
package turn

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"shmconn/internal/dekker"
	"shmconn/internal/sema"
)

// An Owner is what a Turn belongs to.
type Owner interface {
	// StopErr returns the error with which a call that waits for the turn
	// should return, or nil. It is called without the lock.
	StopErr() error

	// Passing is called by a holder for which others wait, before it gives the
	// lock back.
	Passing()

	// HangUp does what RequestShut requests. It is called with the lock, once
	// for each request.
	HangUp()

	// Release is called once, when no call is inside any more, nor can get in.
	// Finish is called before it, perhaps by several calls at once.
	Finish()
	Release()
}

const (
	waiters = 1 << iota
	starving
	shut
	closed
	released
	visited
	fenced
	reference
)

const (
	starvingAfter = time.Millisecond // how long others may overtake a waiter before it asks to be handed the turn
	spins         = 30               // looks at the lock before a call queues up
	rest          = 32               // turns of an empty loop between two looks
)

// A Turn is described at the package. Call Init before use. Any number of
// goroutines may call its methods at the same time.
type Turn struct {
	held  dekker.Flag
	state atomic.Uint32
	owner Owner

	mu         sync.Mutex // guards the queue, and woken
	head, tail *waiter
	woken      bool // the head was woken to try, and has not looked yet

	hungUp   sema.Sema  // says: shut has been cleared
	hungUpMu sync.Mutex // the right to wait for it

	lent    atomic.Bool // the holder may be between two calls
	call    dekker.Gate // the holder, if lent, is in a call
	lending sync.Mutex  // guards lent, and what is done in the holder's place
}

// A waiter is a place in the queue. Its owner may use it again once it has
// left.
type waiter struct {
	next    *waiter
	granted bool // it has the lock; guarded by Turn.mu
	look    sema.Sema
}

var pool = sync.Pool{New: func() any { return new(waiter) }}

// Init makes the turn owner's.
func (t *Turn) Init(owner Owner) { t.owner = owner }

// Lock takes the lock, and waits while others have it, until StopErr says to
// stop. It returns net.ErrClosed after Close. The holder keeps the memory
// mapped.
func (t *Turn) Lock() error {
	if !t.held.Take() {
		return t.lockSlow()
	}
	if t.state.Load()&closed == 0 {
		return nil
	}
	t.Unlock()
	return net.ErrClosed
}

// TryLock takes the lock if that needs no wait.
func (t *Turn) TryLock() bool {
	if !t.held.Take() {
		return false
	}
	if t.state.Load()&closed == 0 {
		return true
	}
	t.Unlock()
	return false
}

// Unlock gives the lock back.
func (t *Turn) Unlock() {
	if t.state.Load()&(waiters|starving) != 0 && t.pass() {
		return
	}
	t.held.Give()
	if t.state.Load()&(waiters|shut|closed) != 0 { // sync: turn
		t.serve()
	}
}

// pass hands the lock to the first waiter, if that is starving. The caller has
// the lock.
func (t *Turn) pass() bool {
	t.owner.Passing()
	if s := t.state.Load(); s&(starving|shut|closed) != starving {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.head
	if w == nil || t.state.And(^uint32(starving))&starving == 0 {
		return false
	}
	t.remove(w)
	w.granted = true
	w.look.Notify()
	return true
}

// lockSlow is Lock when another call has the lock.
func (t *Turn) lockSlow() error {
	if runtime.NumCPU() > 1 {
		for range spins {
			if !t.held.Taken() && t.held.Take() {
				return t.taken()
			}
			for range rest {
			}
		}
	}
	w := pool.Get().(*waiter)
	defer pool.Put(w)
	t.mu.Lock()
	first := t.head == nil
	t.append(w)
	t.mu.Unlock()
	if first {
		t.settle() // from now on each Unlock sees that there are waiters
	}
	for start := time.Now(); ; {
		if err := t.owner.StopErr(); err != nil {
			return t.leave(w, err)
		}
		w.look.Wait()
		if t.tries(w, start) {
			return t.taken()
		}
	}
}

// taken returns nil if the caller, which has the lock, may use it.
func (t *Turn) taken() error {
	if t.state.Load()&closed == 0 {
		return nil
	}
	t.Unlock()
	return net.ErrClosed
}

// tries reports whether w, which was woken, has the lock. An Unlock that found
// the waiter woken, and so did not wake it, has given the lock back before
// that: w sees it.
func (t *Turn) tries(w *waiter, start time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case w.granted:
		w.granted = false
		return true
	case w != t.head:
		return false // StopErr has changed, for all
	}
	t.woken = false
	if t.held.Take() {
		t.remove(w)
		return true
	}
	if time.Since(start) > starvingAfter {
		t.state.Or(starving)
	}
	return false
}

// leave takes w off the queue because of err. If w was handed the lock in the
// meantime, it has the lock, and the caller finds by itself that it should
// stop.
func (t *Turn) leave(w *waiter, err error) error {
	t.mu.Lock()
	if w.granted {
		w.granted = false
		t.mu.Unlock()
		return t.taken()
	}
	t.remove(w)
	t.mu.Unlock()
	t.serve() // it may have been woken to try: then wake the next one
	return err
}

// append puts w at the end of the queue. The caller has mu.
func (t *Turn) append(w *waiter) {
	if t.head == nil {
		t.head = w
	} else {
		t.tail.next = w
	}
	t.tail = w
	t.state.Or(waiters)
}

// remove takes w off the queue. The caller has mu.
func (t *Turn) remove(w *waiter) {
	if t.head == w {
		t.head = w.next
		t.woken = false
	} else {
		p := t.head
		for p.next != w {
			p = p.next
		}
		p.next = w.next
		if t.tail == w {
			t.tail = p
		}
	}
	w.next = nil
	if t.head == nil {
		t.tail = nil
		t.state.And(^uint32(waiters | starving))
	}
}

// settle is called after a change of the state. The request is served now or,
// if a call has the lock, when that call gives it back.
func (t *Turn) settle() {
	dekker.Barrier() // sync: turn
	t.serve()
}

// serve serves the requests to the holder of the lock, unless a call holds it.
func (t *Turn) serve() {
	for t.state.Load()&shut != 0 && t.held.Take() {
		if t.state.Load()&shut != 0 { // so the turn is not released before this is done
			t.owner.HangUp()
			t.state.And(^uint32(shut))
			t.hungUp.Notify()
		}
		t.held.Give()
		if t.state.Load()&shut == 0 { // as in Unlock
			break
		}
	}
	if t.state.Load()&shut != 0 && t.lent.Load() {
		t.serveLent()
	}
	if t.state.Load()&waiters != 0 && !t.held.Taken() {
		t.wake()
	}
	t.release()
}

// wake has the first waiter try.
func (t *Turn) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.head != nil && !t.woken {
		t.woken = true
		t.head.look.Notify()
	}
}

// release releases the turn if it is closed and hung up, and no call is inside.
func (t *Turn) release() {
	for {
		s := t.state.Load()
		if s&(shut|closed|released) != closed || s >= reference || t.held.Taken() {
			return
		}
		t.owner.Finish() // no call acts any more, so a concurrent release finds the same
		if t.state.CompareAndSwap(s, s|released) {
			break
		}
	}
	t.owner.Release()
}

// Incref keeps the memory mapped until Decref, without the lock. It reports
// false once the turn is released.
func (t *Turn) Incref() bool {
	for {
		s := t.state.Load()
		if s&released != 0 {
			return false
		}
		if t.state.CompareAndSwap(s, s+reference) {
			return true
		}
	}
}

// Decref ends Incref.
func (t *Turn) Decref() {
	if t.state.Add(^uint32(reference-1))&closed != 0 {
		t.settle()
	}
}

// Referenced reports whether the memory may stay mapped for long: because of a
// reference, or of the goroutine that the turn is lent to.
func (t *Turn) Referenced() bool { return t.state.Load() >= reference || t.lent.Load() }

// Interrupt makes all calls that wait for the lock call StopErr. The caller
// first stores what StopErr will return.
func (t *Turn) Interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := t.head; w != nil; w = w.next {
		w.look.Notify()
	}
}
