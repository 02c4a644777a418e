package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"shmconn/examples/internal/market"
)

// A trader makes orders of prices. The same prices lead to the same orders, with
// the same numbers.
type trader struct {
	strategy   int
	crossovers map[market.Symbol]*market.Crossover
	orders     uint64 // so far
	last       uint64 // the price before
}

func newTrader(strategy int, symbols []market.Symbol) *trader {
	t := &trader{strategy: strategy, crossovers: make(map[market.Symbol]*market.Crossover)}
	for _, s := range symbols {
		t.crossovers[s] = new(market.Crossover)
	}
	return t
}

// next takes the next price, and returns the order that it leads to, if it does.
func (t *trader) next(m market.Message) (o market.Message, ordered bool, err error) {
	c := t.crossovers[m.Symbol]
	if m.Kind != market.KindPrice || c == nil {
		return o, false, broken("received a message of %v for symbol %v, which was not asked for", m.Kind, m.Symbol)
	}
	if m.Seq <= t.last {
		return o, false, broken("received price %d after %d", m.Seq, t.last)
	}
	t.last = m.Seq
	side, ordered := c.Next(m.Price)
	if !ordered {
		return o, false, nil
	}
	t.orders++
	return market.Message{
		Kind: market.KindOrder, Side: side, Strategy: uint16(t.strategy), Symbol: m.Symbol,
		Seq: t.orders, Cause: m.Seq, Price: m.Price, Due: m.Due,
	}, true, nil
}

// runStrategy runs a strategy on the machine of the feed handler and the order
// gateway.
func runStrategy(ctx context.Context, j job, _ control) error {
	prices, err := market.Dial(ctx, j.Transport.Dial, j.Feed)
	if err != nil {
		return err
	}
	defer prices.Close()
	orders, err := market.Dial(ctx, j.Transport.Dial, j.Gateway)
	if err != nil {
		return err
	}
	defer orders.Close()
	if err := orders.LogOn(j.Strategy); err != nil {
		return err
	}
	if err := subscribeTo(prices, j.Symbols, 0); err != nil {
		return err
	}
	t := newTrader(j.Strategy, j.Symbols)
	for {
		if !prices.More() {
			if err := orders.Flush(); err != nil {
				return err
			}
		}
		m, err := prices.Receive()
		if err != nil {
			return err
		}
		if m.Kind == market.KindEnd {
			return orders.End()
		}
		o, ordered, err := t.next(m)
		if err != nil {
			return err
		}
		if ordered {
			if err := orders.Send(o); err != nil {
				return err
			}
		}
	}
}

// subscribeTo asks the feed handler for the prices of symbols that come after a
// price.
func subscribeTo(prices *market.Link, symbols []market.Symbol, after uint64) error {
	for _, s := range symbols {
		if err := prices.Send(market.Message{Kind: market.KindSubscribe, Symbol: s}); err != nil {
			return err
		}
	}
	if err := prices.Send(market.Message{Kind: market.KindStart, Seq: after}); err != nil {
		return err
	}
	return prices.Flush()
}

// runAway runs a strategy that may be anywhere: it gets its prices from a stream,
// and puts its orders into one. It keeps nothing. In each session it goes through
// the prices from the first one on, and publishes all orders, with the numbers and
// ids that they had before; the server and the gateway know which they have.
func runAway(ctx context.Context, j job, c control) error {
	return sessions(ctx, j.NATS, func(s *session) error { return away(s, j, c) })
}

func away(s *session, j job, c control) error {
	filter := []string{endSubject}
	for _, symbol := range j.Symbols {
		filter = append(filter, priceSubject(symbol))
	}
	consumer, err := s.js.OrderedConsumer(s.ctx, pricesStream, jetstream.OrderedConsumerConfig{FilterSubjects: filter})
	if err != nil {
		return fmt.Errorf("stream %s: %w", pricesStream, err)
	}
	before, err := storedOrders(s, j.Strategy)
	if err != nil {
		return err
	}
	c.tell(report{Session: true, Orders: before})
	t := newTrader(j.Strategy, j.Symbols)
	out := &outbox{s: s}
	var seen atomic.Uint64 // the last price
	defer c.progress(func() report { return report{Prices: seen.Load(), Orders: s.stored.Load()} })()
	return s.consume(s.ctx, consumer, nil, func(_ jetstream.Msg, m market.Message) (last bool, err error) {
		if m.Kind == market.KindEnd {
			done := market.Message{Kind: market.KindDone, Strategy: uint16(j.Strategy), Seq: t.orders}
			if err := out.publish(orderSubject(j.Strategy), fmt.Sprintf("%d-done", j.Strategy), done); err != nil {
				return false, err
			}
			return true, out.collect(0)
		}
		o, ordered, err := t.next(m)
		seen.Store(m.Seq)
		if err != nil || !ordered {
			return false, err
		}
		return false, out.publish(orderSubject(j.Strategy), fmt.Sprintf("%d-%d", j.Strategy, o.Seq), o)
	})
}

// storedOrders returns the number of the last order of the strategy that is in its
// stream.
func storedOrders(s *session, strategy int) (uint64, error) {
	stream, err := s.js.Stream(s.ctx, ordersStream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", ordersStream, err)
	}
	entry, err := stream.GetLastMsgForSubject(s.ctx, orderSubject(strategy))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", ordersStream, err)
	}
	m, err := parse(entry.Subject, entry.Data)
	return m.Seq, err
}

// strategyByHand runs a strategy that the command was told is elsewhere.
func strategyByHand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("machines strategy", flag.ExitOnError)
	url := flags.String("nats", "nats://127.0.0.1:4222", "`URL` of the NATS server")
	number := flags.Int("number", -1, "the strategy's `number`")
	list := flags.String("symbols", "", "its `symbols`, like IBM,GOOG")
	flags.Parse(args)
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *number < 0 || *number >= maxStrategies {
		return fmt.Errorf("-number %d: must be 0 to %d", *number, maxStrategies-1)
	}
	j := job{Strategy: *number, NATS: *url}
	for name := range strings.FieldsFuncSeq(*list, func(r rune) bool { return r == ',' }) {
		symbol, err := market.ParseSymbol(strings.TrimSpace(name))
		if err == nil {
			err = checkSubject(symbol)
		}
		if err != nil {
			return fmt.Errorf("-symbols: %w", err)
		}
		j.Symbols = append(j.Symbols, symbol)
	}
	err := runAway(ctx, j, control{tell: func(r report) {
		if r.Session {
			fmt.Fprintf(os.Stderr, "strategy %d: connected; %d of its orders are there\n", j.Strategy, r.Orders)
		}
	}})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
