package turn

import (
	"shmconn/internal/dekker"
)

// A holder that keeps the lock for many calls of one goroutine lends the turn
// to that goroutine. Between two of its calls the goroutine may do anything,
// for long. So a call with a request to the holder then serves it in the
// goroutine's place, except during the goroutine's own calls, between Enter and
// Leave. These cost no fence.
//
// Enter stores that a call is inside and then loads the state; Leave stores
// that none is and then loads the state. Others change the state, call Barrier,
// and then check whether a call is inside. If not, none gets in without seeing
// the state. If so, that call sees the state when it leaves.

// Lend lends the turn, whose lock the caller has, to its goroutine, until
// Reclaim. While there is no Barrier, the goroutine's calls have the fences:
// the first call that finds that there is one ends that.
func (t *Turn) Lend() {
	if !dekker.Ready() {
		t.state.Or(fenced)
	}
	t.lent.Store(true)
	if t.state.Load()&shut != 0 { // by a call that found the lock taken, and not lent
		t.serveLent()
	}
}

// Reclaim ends Lend, whether or not a call is inside. The caller has the lock
// as before, and gives it back by Unlock.
func (t *Turn) Reclaim() {
	t.lending.Lock()
	defer t.lending.Unlock()
	t.lent.Store(false)
	t.call.Leave()
}

// Enter starts a call by the goroutine that the turn was lent to.
func (t *Turn) Enter() {
	t.call.Enter() // sync: lend
	if t.state.Load()&(shut|closed|visited|fenced) != 0 {
		t.enterSlow()
	}
}

// enterSlow is Enter where others may do something in the holder's place: it
// waits until they have finished, and serves the requests that they may have
// left to this call. If it is only that calls have to be fenced, it fences.
func (t *Turn) enterSlow() {
	if t.state.Load()&fenced != 0 {
		if dekker.Ready() {
			t.state.And(^uint32(fenced))
		}
		t.call.EnterFenced()
		if t.state.Load()&(shut|closed|visited) == 0 {
			return
		}
	}
	t.call.Leave()
	t.serveLent()
	t.lending.Lock()
	defer t.lending.Unlock()
	t.call.Enter() // seen by the next call that takes lending
}

// Leave ends a call.
func (t *Turn) Leave() {
	t.call.Leave() // sync: lend
	if t.state.Load()&(shut|fenced) != 0 {
		t.leaveSlow()
	}
}

// leaveSlow is Leave where there may be a request, or calls have to be fenced.
func (t *Turn) leaveSlow() {
	t.call.LeaveFenced()
	if t.state.Load()&shut != 0 {
		t.serveLent()
	}
}

// serveLent hangs up, if that was requested, in the place of the goroutine that
// the turn is lent to. If the goroutine is in a call, that call hangs up when
// it leaves.
func (t *Turn) serveLent() {
	t.lending.Lock()
	defer t.lending.Unlock()
	dekker.Barrier() // sync: lend
	if !t.lent.Load() || t.call.Inside() || t.state.Load()&shut == 0 {
		return
	}
	t.owner.HangUp()
	t.state.And(^uint32(shut))
	t.hungUp.Notify()
}

// Visit calls f with the right to what the holder owns, if the turn is lent and
// no call is inside, and reports whether it has.
func (t *Turn) Visit(f func()) bool {
	if !t.lent.Load() {
		return false
	}
	t.lending.Lock()
	defer t.lending.Unlock()
	t.state.Or(visited)
	defer t.state.And(^uint32(visited))
	dekker.Barrier() // sync: lend
	if !t.lent.Load() || t.call.Inside() {
		return false
	}
	f()
	return true
}
