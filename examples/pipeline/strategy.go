package main

import (
	"context"
	"fmt"

	"shmconn/examples/internal/market"
)

// runStrategy runs a strategy: it asks the feed handler for the prices of its
// symbols, and sends the order gateway an order whenever the averages cross.
func runStrategy(ctx context.Context, j job, _ func(report)) error {
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
	if err := subscribeTo(prices, j.Symbols); err != nil {
		return err
	}
	if err := trade(prices, orders, j.Symbols); err != nil {
		return err
	}
	return orders.End()
}

// subscribeTo asks the feed handler for the prices of symbols.
func subscribeTo(prices *market.Link, symbols []market.Symbol) error {
	for _, s := range symbols {
		if err := prices.Send(market.Message{Kind: market.KindSubscribe, Symbol: s}); err != nil {
			return err
		}
	}
	if err := prices.Send(market.Message{Kind: market.KindStart}); err != nil {
		return err
	}
	return prices.Flush()
}

// trade receives prices and sends orders, until there are no more prices. It
// flushes the orders before it waits for a price, and not sooner.
func trade(prices, orders *market.Link, symbols []market.Symbol) error {
	crossovers := make(map[market.Symbol]*market.Crossover)
	for _, s := range symbols {
		crossovers[s] = new(market.Crossover)
	}
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
			return nil
		}
		c := crossovers[m.Symbol]
		if m.Kind != market.KindPrice || c == nil {
			return fmt.Errorf("received a message of %v for symbol %v, which was not asked for", m.Kind, m.Symbol)
		}
		if side, crossed := c.Next(m.Price); crossed {
			o := market.Message{Kind: market.KindOrder, Side: side, Symbol: m.Symbol, Seq: orders.Sent + 1, Cause: m.Seq, Price: m.Price, Due: m.Due}
			if err := orders.Send(o); err != nil {
				return err
			}
		}
	}
}
