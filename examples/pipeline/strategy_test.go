package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"shmconn/examples/internal/market"
)

// average returns the sum of the last n prices, times scale.
func average(prices []market.Amount, n, scale int) market.Amount {
	var sum market.Amount
	for _, p := range prices[len(prices)-n:] {
		sum += p
	}
	return sum * market.Amount(scale)
}

// A slowCrossover is a crossover that keeps all prices and adds them up anew
// every time.
type slowCrossover struct {
	prices []market.Amount
	side   market.Side
}

func (c *slowCrossover) next(p market.Amount) (market.Side, bool) {
	c.prices = append(c.prices, p)
	if len(c.prices) < market.Slow {
		return 0, false
	}
	before := c.side
	switch f, s := average(c.prices, market.Fast, market.Slow), average(c.prices, market.Slow, market.Fast); {
	case f > s:
		c.side = market.Buy
	case f < s:
		c.side = market.Sell
	}
	return c.side, before != 0 && c.side != before
}

func TestCrossover(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, top := range []market.Amount{2, 5, market.MaxAmount} { // small ones for many equal averages
		var c market.Crossover
		var want slowCrossover
		orders := 0
		for i := range 1000 {
			p := 1 + market.Amount(random.Int64N(int64(top)))
			side, crossed := c.Next(p)
			wantSide, wantCrossed := want.next(p)
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

// wantOrders returns the order file that subscriptions must lead to, calculated
// in the plainest way, without a pipeline.
func wantOrders(quotes []market.Quote, loops int, subscriptions ...[]string) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "strategy,order,symbol,side,price,cause")
	for strategy, symbols := range subscriptions {
		crossovers := make(map[string]*slowCrossover)
		for _, s := range symbols {
			crossovers[s] = new(slowCrossover)
		}
		orders := 0
		for i := range loops * len(quotes) {
			q := quotes[i%len(quotes)]
			c := crossovers[q.Symbol.String()]
			if c == nil {
				continue
			}
			if side, crossed := c.next(q.Price); crossed {
				orders++
				fmt.Fprintf(&b, "%d,%d,%v,%v,%v,%d\n", strategy, orders, q.Symbol, side, q.Price, i+1)
			}
		}
	}
	return b.Bytes()
}
