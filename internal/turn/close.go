package turn

import "shmconn/internal/dekker"

// RequestShut requests a call of the owner's HangUp, now or by the call that
// has the lock. After Close it does nothing.
func (t *Turn) RequestShut() {
	if t.want(shut) {
		t.settle()
	}
}

// Close closes the turns: no call gets their locks any more, HangUp is called,
// and they are released as soon as no call is inside.
func Close(turns ...*Turn) {
	for _, t := range turns {
		t.want(shut | closed)
	}
	dekker.Barrier() // sync: turn; one for all, because it is expensive
	for _, t := range turns {
		t.serve()
	}
}

// want sets bits of the state, and reports whether that changes anything. After
// Close it does not.
func (t *Turn) want(bits uint32) bool {
	for {
		s := t.state.Load()
		if s&closed != 0 || s&bits == bits {
			return false
		}
		if t.state.CompareAndSwap(s, s|bits) {
			return true
		}
	}
}

// AwaitShut waits until the RequestShut, if there was one, is served. The owner
// first makes calls that have the lock return.
func (t *Turn) AwaitShut() {
	t.hungUpMu.Lock()
	defer t.hungUpMu.Unlock()
	for t.state.Load()&shut != 0 {
		t.hungUp.Wait()
	}
}
