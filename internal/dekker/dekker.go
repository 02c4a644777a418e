// Package dekker has a flag that costs one fence to take and none to give back,
// and a gate that one goroutine goes in and out of without any.
//
// A call with a request to the holder stores the request, and then loads the
// flag. A holder that gives the flag back then loads the requests. These are
// two stores, each followed by a load of the other's word, and at least one of
// the two must see the other's store: both need a fence in between. Every call
// gives the flag back, but few have a request, so the request pays for both.
// Its Barrier makes every thread of the process run a fence.
//
// The idea is that of Dice, Huang and Yang, "Asymmetric Dekker Synchronization"
// (2001); the barrier is membarrier(2). Only amd64 needs it: the atomic store
// of other processors that Go has is not followed by a fence of its own, and
// yet stays before the load. If the kernel does not allow it, and under the
// race detector, the flag is given back by an atomic store.
package dekker

import "sync/atomic"

// A Flag is taken by one goroutine at a time. The zero Flag is not taken.
type Flag struct{ taken uint32 }

// Take takes the flag, if it is not taken, and reports whether it has. It is a
// full fence if it has.
func (f *Flag) Take() bool { return atomic.CompareAndSwapUint32(&f.taken, 0, 1) }

// Taken reports whether a goroutine has the flag.
func (f *Flag) Taken() bool { return atomic.LoadUint32(&f.taken) != 0 }

// Give gives the flag back. The next holder sees what this one did before. A
// load that follows may be executed before others see the flag given back,
// unless they have called Barrier.
func (f *Flag) Give() {
	if cheap() {
		f.give() // sync: turn
		return
	}
	storeFenced(&f.taken, 0)
}

// A Gate says whether its owner, one goroutine, is inside. The zero Gate is
// empty. Others store a request to the owner, call Barrier, and check the gate.
// If it is empty, the owner sees the request when it next loads it after Enter;
// if not, when it loads it after Leave.
//
// That holds for Enter and Leave once the owner has found Ready true; the
// argument is that of cheap. Until then the owner has to call EnterFenced and
// LeaveFenced. So a loop of the owner's need not ask each time.
type Gate struct{ inside uint32 }

// EnterFenced and LeaveFenced are Enter and Leave, executed before any load
// that follows.
func (g *Gate) EnterFenced() { storeFenced(&g.inside, 1) }
func (g *Gate) LeaveFenced() { storeFenced(&g.inside, 0) }

// Inside reports whether the owner is inside.
func (g *Gate) Inside() bool { return atomic.LoadUint32(&g.inside) != 0 }
