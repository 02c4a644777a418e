package exampletest

import (
	"bytes"
	"fmt"
	"strings"
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

// A SlowCrossover is a [market.Crossover] that keeps all prices and adds them
// up anew every time.
type SlowCrossover struct {
	prices []market.Amount
	side   market.Side
}

// Next is as that of [market.Crossover].
func (c *SlowCrossover) Next(p market.Amount) (market.Side, bool) {
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

// WantOrders returns the order file that subscriptions must lead to, calculated
// in the plainest way, without a pipeline.
func WantOrders(quotes []market.Quote, loops int, subscriptions ...[]string) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "strategy,order,symbol,side,price,cause")
	for strategy, symbols := range subscriptions {
		crossovers := make(map[string]*SlowCrossover)
		for _, s := range symbols {
			crossovers[s] = new(SlowCrossover)
		}
		orders := 0
		for i := range loops * len(quotes) {
			q := quotes[i%len(quotes)]
			c := crossovers[q.Symbol.String()]
			if c == nil {
				continue
			}
			if side, crossed := c.Next(q.Price); crossed {
				orders++
				fmt.Fprintf(&b, "%d,%d,%v,%v,%v,%d\n", strategy, orders, q.Symbol, side, q.Price, i+1)
			}
		}
	}
	return b.Bytes()
}

// CheckOrders fails t at the first line in which got, an order file, is not
// want.
func CheckOrders(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("line %d of the orders is %q, want %q", i+1, g[i], w[i])
		}
	}
	t.Fatalf("%d lines of orders, want %d", len(g), len(w))
}
