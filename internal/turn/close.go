package turn

import "shmconn/internal/dekker"

// RequestShut has the owner's HangUp called, now or by the call that has the
// lock. After Close it does nothing.
func (t *Turn) RequestShut() {
	if t.want(shut) {
		t.settle()
	}
}

// Close has the turns released as soon as nobody is inside, and has HangUp
// called before that. Nobody gets their locks any more.
func Close(turns ...*Turn) {
	for _, t := range turns {
		t.want(shut | closed)
	}
	dekker.Barrier() // sync: turn; one for all, as it is dear
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

// AwaitShut waits until what RequestShut has asked for is done, if it has been
// asked for. The owner makes calls that have the lock return before.
func (t *Turn) AwaitShut() {
	t.hungUpMu.Lock()
	defer t.hungUpMu.Unlock()
	for t.state.Load()&shut != 0 {
		t.hungUp.Wait()
	}
}
