package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A book is what the order gateway has received from one strategy.
type book struct {
	strategy int
	orders   []message
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
	if err := writeOrders(io.MultiWriter(hash, file), books); err != nil {
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
			return nil, orCause(ctx, err)
		}
		b, strategy, err := open(ctx, conn)
		if err != nil {
			return nil, orCause(ctx, err)
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
			return nil, orCause(ctx, err)
		}
	}
	return books, nil
}

// open receives the logon of a strategy, and returns its book.
func open(ctx context.Context, conn net.Conn) (*book, *link, error) {
	strategy := newLink(ctx, conn)
	m, err := strategy.receive()
	if err != nil {
		return nil, nil, fmt.Errorf("logon: %w", err)
	}
	if m.kind != kindLogon {
		return nil, nil, fmt.Errorf("logon: unexpected message of %v", m.kind)
	}
	return &book{strategy: int(m.strategy), latency: newHistogram()}, strategy, nil
}

// newHistogram returns a histogram of nanoseconds, from 1 to one hour, to 3 digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Hour.Nanoseconds(), 3)
}

// take takes orders until the strategy has ended.
func (b *book) take(strategy *link) error {
	for {
		m, err := strategy.receive()
		if err != nil {
			return err
		}
		b.ended = now()
		switch m.kind {
		case kindEnd:
			return strategy.close()
		case kindOrder:
			b.orders = append(b.orders, m)
			if err := b.latency.RecordValue(max(1, b.ended-m.due)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected message of %v", m.kind)
		}
	}
}

// A result is what the order gateway tells at the end.
type result struct {
	Orders int
	Bought map[symbol]int // orders
	Sold   map[symbol]int
	Digest string // SHA-256 of what writeOrders writes
	Ended  int64  // when the last message was here, by now()

	// Latency, from when a price was due to when its order was here.
	P50, P99, P999, Max time.Duration
}

func summarize(books []*book) *result {
	r := &result{Bought: make(map[symbol]int), Sold: make(map[symbol]int)}
	latency := newHistogram()
	for _, b := range books {
		latency.Merge(b.latency)
		r.Ended = max(r.Ended, b.ended)
		r.Orders += len(b.orders)
		for _, o := range b.orders {
			if o.side == buy {
				r.Bought[o.symbol]++
			} else {
				r.Sold[o.symbol]++
			}
		}
	}
	r.P50 = time.Duration(latency.ValueAtQuantile(50))
	r.P99 = time.Duration(latency.ValueAtQuantile(99))
	r.P999 = time.Duration(latency.ValueAtQuantile(99.9))
	r.Max = time.Duration(latency.Max())
	return r
}

// writeOrders writes the orders to w as CSV: those of strategy 0 in the order in
// which it sent them, then those of strategy 1, and so on. So they are the same
// bytes however the strategies took turns.
func writeOrders(w io.Writer, books []*book) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "strategy,order,symbol,side,price,cause")
	for _, b := range books {
		for _, o := range b.orders {
			fmt.Fprintf(out, "%d,%d,%v,%v,%v,%d\n", b.strategy, o.seq, o.symbol, o.side, o.price, o.cause)
		}
	}
	return out.Flush() // with the first error of all
}
