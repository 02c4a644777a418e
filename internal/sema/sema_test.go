package sema

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSema passes two goroutines' turns to and fro: a token that is lost ends
// in a hang, one too many in a turn out of order.
func TestSema(t *testing.T) {
	const rounds = 100_000
	var a, b Sema
	turn := 0
	var wg sync.WaitGroup
	play := func(mine, other *Sema, parity int) {
		for i := range rounds {
			mine.Wait()
			if turn != 2*i+parity {
				t.Errorf("turn %d in round %d of player %d", turn, i, parity)
				return
			}
			turn++
			other.Notify()
		}
	}
	wg.Go(func() { play(&a, &b, 0) })
	wg.Go(func() { play(&b, &a, 1) })
	a.Notify()
	wg.Wait()
}

// TestSemaOne checks that many nudges are one token.
func TestSemaOne(t *testing.T) {
	var s Sema
	for range 3 {
		s.Notify()
	}
	s.Wait()
	through := make(chan struct{})
	go func() { s.Wait(); close(through) }()
	select {
	case <-through:
		t.Error("three nudges without a Wait between were two tokens")
	case <-time.After(20 * time.Millisecond):
	}
	s.Notify()
	<-through
}

// TestSemaStress has many nudge one that waits, until it has seen what each of
// them stored before: one that misses a token hangs.
func TestSemaStress(t *testing.T) {
	const nudgers, each = 4, 20_000
	var s Sema
	var mu sync.Mutex
	count := 0
	for range nudgers {
		go func() {
			for range each {
				mu.Lock()
				count++
				mu.Unlock()
				s.Notify()
			}
		}()
	}
	for seen := 0; seen < nudgers*each; {
		s.Wait()
		mu.Lock()
		seen = count
		mu.Unlock()
	}
}

// TestSemaBubbles has goroutines of two bubbles and one outside meet at the
// same Semas, which a channel does not survive.
func TestSemaBubbles(t *testing.T) {
	var ask, answer Sema
	stop := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			ask.Wait()
			if stop {
				return
			}
			answer.Notify()
		}
	}()
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			for range 100 {
				ask.Notify()
				answer.Wait()
			}
		})
	}
	stop = true
	ask.Notify()
	<-done
}
