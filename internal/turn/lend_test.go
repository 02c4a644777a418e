package turn

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shmconn/internal/dekker"
)

// A lender's HangUp says that it acts, for a moment.
type lender struct {
	turn    Turn
	acting  atomic.Bool
	hangUps atomic.Int64
}

func (l *lender) StopErr() error { return nil }
func (l *lender) Passing()       {}
func (l *lender) Finish()        {}
func (l *lender) Release()       {}

func (l *lender) HangUp() {
	l.acting.Store(true)
	for range 200 {
	}
	l.acting.Store(false)
	l.hangUps.Add(1)
}

// TestLend has one goroutine make calls, and rest after each until a request
// was served, which another goroutine makes at the same time. Nobody acts in
// the place of a call, and no request is forgotten. It begins without the
// Barrier, and gets it on the way.
//
// Before the calls store that they are inside, and that they are not, they
// store into memory that no cache has. The processor keeps these stores in a
// queue, and the ones that count behind them, and goes on to load. Around them
// the calls make loads only: any other atomic operation would be the fence that
// Enter and Leave do not have.
func TestLend(t *testing.T) {
	if runtime.NumCPU() < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor: nothing happens at the same time")
	}
	l := new(lender)
	l.turn.Init(l)
	if err := l.turn.Lock(); err != nil {
		t.Fatal(err)
	}
	l.turn.Lend()
	isFenced := func() bool { return l.turn.state.Load()&fenced != 0 }
	t.Logf("calls are fenced at first: %v", isFenced())
	const lines, stores, line = 1 << 20, 8, 64
	cold := make([]byte, lines*line)
	next := 0
	fill := func() { // the store buffer
		for range stores {
			next = (next + 7919) % lines
			cold[next*line] = 1
		}
	}
	const late = 20 * time.Second
	var round, called atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(1); ; i++ {
			for n := 1; round.Load() < i; n++ {
				if round.Load() < 0 {
					return
				}
				yield(n)
			}
			for range i % 128 { // until a request is on its way
			}
			fill()
			l.turn.Enter()
			disturbed := false
			for range 50 {
				disturbed = disturbed || l.acting.Load()
			}
			fill()
			l.turn.Leave()
			begin := time.Now()
			for n := 1; l.hangUps.Load() < i; n++ {
				if yield(n); n%1000 == 0 && time.Since(begin) > late {
					t.Errorf("round %d: the request was forgotten", i)
					l.turn.Enter()
					l.turn.Leave() // serves it
				}
			}
			if disturbed {
				t.Errorf("round %d: another goroutine acted in the place of a call", i)
			}
			called.Store(i)
		}
	})
	var registered sync.WaitGroup
	n := int64(0)
	for begin := time.Now(); n < 50_000 && time.Since(begin) < 2*time.Second && !t.Failed(); {
		if n++; n == 500 {
			registered.Go(dekker.Register)
		}
		round.Store(n)
		l.turn.RequestShut()
		for i := 1; called.Load() < n; i++ {
			yield(i)
		}
	}
	round.Store(-1)
	wg.Wait()
	registered.Wait()
	l.turn.Enter()
	l.turn.Leave()
	t.Logf("%d rounds", n)
	if dekker.Ready() && isFenced() {
		t.Error("calls are still fenced, although there is a Barrier")
	}
	l.turn.Reclaim()
	l.turn.Unlock()
}

// yield lets others run, at every 1000th turn of a loop that waits for them.
func yield(n int) {
	if n%1000 == 0 {
		runtime.Gosched()
	}
}
