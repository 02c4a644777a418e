package main

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/market"
)

func TestCrossover(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, top := range []market.Amount{2, 5, market.MaxAmount} { // small ones for many equal averages
		var c market.Crossover
		var want exampletest.SlowCrossover
		orders := 0
		for i := range 1000 {
			p := 1 + market.Amount(random.Int64N(int64(top)))
			side, crossed := c.Next(p)
			wantSide, wantCrossed := want.Next(p)
			if crossed != wantCrossed || crossed && side != wantSide {
				t.Fatalf("top=%d: price %d: %v, %v; want %v, %v", top, i, side, crossed, wantSide, wantCrossed)
			}
			if crossed {
				orders++
			}
		}
		if orders == 0 {
			t.Errorf("top=%d: no orders", top)
		}
	}
}

// A rise after a fall is bought and a fall after a rise sold, once each; where
// it starts, and where prices do not move, nothing is done.
func TestCrossoverGolden(t *testing.T) {
	var c market.Crossover
	var got []string
	n := 0
	feed := func(count int, first, step market.Amount) {
		for i := range market.Amount(count) {
			n++
			if side, crossed := c.Next(first + i*step); crossed {
				got = append(got, fmt.Sprintf("%v at %d", side, n))
			}
		}
	}
	feed(20, 100, 0)
	feed(20, 100, -1)
	feed(20, 80, 1)
	feed(20, 100, -1)
	feed(20, 80, 0)
	if want := "[buy at 45 sell at 65]"; fmt.Sprint(got) != want {
		t.Errorf("orders are %v, want %s", got, want)
	}
}
