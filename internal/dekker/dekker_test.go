package dekker

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLitmus has a holder give the flag back and then look at a word, while
// another goroutine stores that word and then looks at the flag: at least one
// has to see what the other did. Without the Barrier both miss it every few
// hundred rounds. Under qemu-user for arm64 they do, too, as they do there with
// any two of Go's own atomics: it does not keep a load-acquire behind a
// store-release, which the processor does.
func TestLitmus(t *testing.T) {
	if runtime.NumCPU() < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor: nothing happens at the same time")
	}
	const rounds = 60_000
	var f Flag
	go Register() // while the flag is in use
	t.Logf("barrier to begin with: %v", cheap())
	defer func() { t.Logf("and in the end: %v", cheap()) }()
	var word atomic.Uint32
	var start, ready atomic.Int64
	var quit atomic.Bool
	var heldSees, askerSees bool
	missed := 0
	var wg sync.WaitGroup
	wg.Go(func() { // the holder
		for i := range int64(rounds) {
			if !f.Take() {
				t.Error("flag is taken")
			}
			ready.Store(i + 1)
			for start.Load() <= i {
				if quit.Load() {
					return
				}
			}
			f.Give()
			heldSees = word.Load() != 0
			ready.Store(-i - 1)
			for start.Load() != -i-1 {
			}
		}
	})
	done := 0
	for begin := time.Now(); done < rounds && time.Since(begin) < 2*time.Second; done++ { // slow beside others
		i := int64(done)
		for ready.Load() != i+1 {
		}
		start.Store(i + 1)
		word.Store(1)
		Barrier()
		askerSees = !f.Taken()
		for ready.Load() != -i-1 {
		}
		if !heldSees && !askerSees {
			missed++
		}
		word.Store(0)
		start.Store(-i - 1)
	}
	quit.Store(true)
	wg.Wait()
	t.Logf("%d rounds", done)
	if missed > 0 {
		t.Errorf("both missed the other's store in %d of %d rounds", missed, done)
	}
}

// TestExclusive has goroutines count under the flag, without anything else that
// keeps them apart.
func TestExclusive(t *testing.T) {
	const goroutines, each = 4, 50_000
	var f Flag
	n := 0
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				for !f.Take() {
					runtime.Gosched()
				}
				n++
				f.Give()
			}
		})
	}
	wg.Wait()
	if n != goroutines*each {
		t.Errorf("counted to %d, want %d", n, goroutines*each)
	}
	if f.Taken() {
		t.Error("the flag is still taken")
	}
}

// TestGateLitmus has the owner go in and look at a word, while another
// goroutine stores that word and then looks at the gate: at least one has to
// see what the other did.
func TestGateLitmus(t *testing.T) {
	if runtime.NumCPU() < 2 || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor: nothing happens at the same time")
	}
	const rounds = 60_000
	go Register()
	var g Gate
	var word atomic.Uint32
	var start, ready atomic.Int64
	var quit atomic.Bool
	var ownerSees bool
	var wg sync.WaitGroup
	wg.Go(func() { // the owner
		for i := range int64(rounds) {
			ready.Store(i + 1)
			for start.Load() <= i {
				if quit.Load() {
					return
				}
			}
			if Ready() {
				g.Enter()
			} else {
				g.EnterFenced()
			}
			ownerSees = word.Load() != 0
			ready.Store(-i - 1)
			for start.Load() != -i-1 {
			}
			g.Leave()
		}
	})
	done, missed := 0, 0
	for begin := time.Now(); done < rounds && time.Since(begin) < 2*time.Second; done++ {
		i := int64(done)
		for ready.Load() != i+1 {
		}
		start.Store(i + 1)
		for range i % 256 { // until the owner has seen that
		}
		word.Store(1)
		Barrier()
		inside := g.Inside()
		for ready.Load() != -i-1 {
		}
		if !inside && !ownerSees {
			missed++
		}
		word.Store(0)
		start.Store(-i - 1)
	}
	quit.Store(true)
	wg.Wait()
	t.Logf("%d rounds, barrier in the end: %v", done, cheap())
	if missed > 0 {
		t.Errorf("both missed the other's store in %d of %d rounds", missed, done)
	}
}
