package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"shmconn/examples/internal/market"
)

// A book is what the order gateway has received from one strategy.
type book struct {
	strategy int
	orders   []market.Message
	latency  *hdrhistogram.Histogram // from when a price was due to when its order was here, in ns
	ended    int64                   // when the last order was here
}

// runGateway runs the order gateway: it listens, and takes orders from all
// strategies until each has ended.
func runGateway(ctx context.Context, j job, tell func(report)) error {
	file := io.Discard
	if j.Orders != "" {
		f, err := os.Create(j.Orders)
		if err != nil {
			return err
		}
		defer f.Close()
		file = f
	}
	l, err := j.Transport.Listen(ctx, j.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	tell(report{Address: l.Addr().String()})

	books, err := takeOrders(ctx, l, j.Strategies)
	if err != nil {
		return err
	}
	hash := sha256.New()
	orders := make([][]market.Message, len(books))
	for i, b := range books {
		orders[i] = b.orders
	}
	if err := market.WriteOrders(io.MultiWriter(hash, file), orders); err != nil {
		return err
	}
	r := summarize(books)
	r.Digest = hex.EncodeToString(hash.Sum(nil))
	tell(report{Result: r})
	return nil
}

// takeOrders accepts n strategies, takes their orders, and returns them in the
// order of the strategies' numbers. The first error ends it.
func takeOrders(ctx context.Context, l net.Listener, n int) ([]*book, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { l.Close() })()

	books := make([]*book, n)
	ended := make(chan error, n)
	for accepted := range n {
		conn, err := l.Accept()
		if err != nil {
			return nil, market.OrCause(ctx, err)
		}
		b, strategy, err := open(ctx, conn)
		if err != nil {
			return nil, market.OrCause(ctx, err)
		}
		if b.strategy >= n || books[b.strategy] != nil {
			return nil, fmt.Errorf("logon %d of %d: unexpected strategy %d", accepted+1, n, b.strategy)
		}
		books[b.strategy] = b
		go func() {
			err := b.take(strategy)
			if err != nil {
				err = fmt.Errorf("strategy %d: %w", b.strategy, err)
				cancel(err)
			}
			ended <- err
		}()
	}
	for range n {
		if err := <-ended; err != nil {
			return nil, market.OrCause(ctx, err)
		}
	}
	return books, nil
}

// open receives the logon of a strategy, and returns its book.
func open(ctx context.Context, conn net.Conn) (*book, *market.Link, error) {
	strategy := market.NewLink(ctx, conn)
	m, err := strategy.Receive()
	if err != nil {
		return nil, nil, fmt.Errorf("logon: %w", err)
	}
	if m.Kind != market.KindLogon {
		return nil, nil, fmt.Errorf("logon: unexpected message of %v", m.Kind)
	}
	return &book{strategy: int(m.Strategy), latency: newHistogram()}, strategy, nil
}

// newHistogram returns a histogram of nanoseconds, from 1 to one hour, to 3
// digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Hour.Nanoseconds(), 3)
}

// take takes orders until the strategy has ended.
func (b *book) take(strategy *market.Link) error {
	for {
		m, err := strategy.Receive()
		if err != nil {
			return err
		}
		b.ended = market.Now()
		switch m.Kind {
		case market.KindEnd:
			return strategy.Close()
		case market.KindOrder:
			b.orders = append(b.orders, m)
			if err := b.latency.RecordValue(max(1, b.ended-m.Due)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected message of %v", m.Kind)
		}
	}
}

// A result is what the order gateway tells at the end.
type result struct {
	Orders int
	Bought map[market.Symbol]int // orders
	Sold   map[market.Symbol]int
	Digest string // SHA-256 of what market.WriteOrders writes
	Ended  int64  // when the last message was here, by market.Now()

	// Latency, from when a price was due to when its order was here.
	P50, P99, P999, Max time.Duration
}

func summarize(books []*book) *result {
	r := &result{Bought: make(map[market.Symbol]int), Sold: make(map[market.Symbol]int)}
	latency := newHistogram()
	for _, b := range books {
		latency.Merge(b.latency)
		r.Ended = max(r.Ended, b.ended)
		r.Orders += len(b.orders)
		for _, o := range b.orders {
			if o.Side == market.Buy {
				r.Bought[o.Symbol]++
			} else {
				r.Sold[o.Symbol]++
			}
		}
	}
	r.P50 = time.Duration(latency.ValueAtQuantile(50))
	r.P99 = time.Duration(latency.ValueAtQuantile(99))
	r.P999 = time.Duration(latency.ValueAtQuantile(99.9))
	r.Max = time.Duration(latency.Max())
	return r
}
