package main

import (
	"context"
	"fmt"

	"shmconn/examples/internal/transport"
)

// runStrategy runs a strategy: it asks the feed handler for the prices of its
// symbols, and sends the order gateway an order whenever the averages cross.
func runStrategy(ctx context.Context, j job, _ func(report)) error {
	prices, err := dial(ctx, j.Transport, j.Feed)
	if err != nil {
		return err
	}
	defer prices.close()
	orders, err := dial(ctx, j.Transport, j.Gateway)
	if err != nil {
		return err
	}
	defer orders.close()
	if err := logOn(orders, j.Strategy); err != nil {
		return err
	}
	if err := subscribeTo(prices, j.Symbols); err != nil {
		return err
	}
	if err := trade(prices, orders, j.Symbols); err != nil {
		return err
	}
	return orders.end()
}

func dial(ctx context.Context, t transport.Transport, address string) (*link, error) {
	conn, err := t.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return newLink(ctx, conn), nil
}

// logOn tells the order gateway which strategy this is.
func logOn(orders *link, strategy int) error {
	if err := orders.send(message{kind: kindLogon, strategy: uint16(strategy)}); err != nil {
		return err
	}
	return orders.flush()
}

// subscribeTo asks the feed handler for the prices of symbols.
func subscribeTo(prices *link, symbols []symbol) error {
	for _, s := range symbols {
		if err := prices.send(message{kind: kindSubscribe, symbol: s}); err != nil {
			return err
		}
	}
	if err := prices.send(message{kind: kindStart}); err != nil {
		return err
	}
	return prices.flush()
}

// trade receives prices and sends orders, until there are no more prices. It
// flushes the orders before it waits for a price, and not sooner.
func trade(prices, orders *link, symbols []symbol) error {
	crossovers := make(map[symbol]*crossover)
	for _, s := range symbols {
		crossovers[s] = new(crossover)
	}
	for {
		if !prices.more() {
			if err := orders.flush(); err != nil {
				return err
			}
		}
		m, err := prices.receive()
		if err != nil {
			return err
		}
		if m.kind == kindEnd {
			return nil
		}
		c := crossovers[m.symbol]
		if m.kind != kindPrice || c == nil {
			return fmt.Errorf("received a message of %v for symbol %v, which was not asked for", m.kind, m.symbol)
		}
		if side, crossed := c.next(m.price); crossed {
			o := message{kind: kindOrder, side: side, symbol: m.symbol, seq: orders.sent + 1, cause: m.seq, price: m.price, due: m.due}
			if err := orders.send(o); err != nil {
				return err
			}
		}
	}
}

// The averages of a crossover are over so many prices.
const (
	fast = 3
	slow = 10
)

// A crossover decides by the moving averages of one symbol's prices: buy when the
// fast one rises above the slow one, sell when it falls below. It calculates with
// integers, so that it decides the same on every machine.
type crossover struct {
	prices  [slow]amount // the last ones; prices[seen%slow] is the oldest
	seen    int
	fastSum amount
	slowSum amount
	above   bool // the fast average was above the slow one, when they last differed
	known   bool // they have differed
}

// next takes the next price, and reports whether the averages crossed, and what to
// do then. It decides nothing before there are prices for the slow average.
func (c *crossover) next(p amount) (what side, crossed bool) {
	c.fastSum += p - c.last(fast)
	c.slowSum += p - c.last(slow)
	c.prices[c.seen%slow] = p
	c.seen++
	difference := c.fastSum*slow - c.slowSum*fast
	if c.seen < slow || difference == 0 {
		return 0, false
	}
	above := difference > 0
	crossed = c.known && above != c.above
	c.above, c.known = above, true
	if above {
		return buy, crossed
	}
	return sell, crossed
}

// last returns the nth last price, or 0 if there have not been so many.
func (c *crossover) last(n int) amount {
	if c.seen < n {
		return 0
	}
	return c.prices[(c.seen-n)%slow]
}
