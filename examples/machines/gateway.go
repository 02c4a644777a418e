package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"shmconn/examples/internal/market"
)

// A book is what the order gateway has received from one strategy.
type book struct {
	orders  []market.Message
	done    bool
	latency *hdrhistogram.Histogram // from when a price was due to when its order was here, in ns
}

// take takes the next order.
func (b *book) take(m market.Message) error {
	b.orders = append(b.orders, m)
	return b.latency.RecordValue(max(1, market.Now()-m.Due))
}

// A gateway is the order gateway. Strategies that are here have a link each, which
// they keep to the end. Those that are away share the bridge's, and the bridge may
// die and come again. What it had of them the gateway knows by their orders'
// numbers, which have no gaps.
type gateway struct {
	books []*book
	away  map[int]bool

	bridge   sync.Mutex // held by whoever serves the bridge: one link at a time
	repeated int        // orders from the bridge that were here already

	mu      sync.Mutex
	current *market.Link // the bridge's
	logged  map[int]bool
}

// runGateway runs the order gateway, until it has all orders of all strategies.
func runGateway(ctx context.Context, j job, c control) error {
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
	c.tell(report{Address: l.Addr().String()})

	g := newGateway(j)
	if err := g.takeOrders(ctx, l); err != nil {
		return err
	}
	hash := sha256.New()
	orders := make([][]market.Message, len(g.books))
	for i, b := range g.books {
		orders[i] = b.orders
	}
	if err := market.WriteOrders(io.MultiWriter(hash, file), orders); err != nil {
		return err
	}
	c.tell(report{Result: g.result(hex.EncodeToString(hash.Sum(nil)))})
	return nil
}

func newGateway(j job) *gateway {
	g := &gateway{away: make(map[int]bool), logged: make(map[int]bool)}
	for range j.Strategies {
		// From 1 ns to one hour, to 3 digits.
		g.books = append(g.books, &book{latency: hdrhistogram.New(1, time.Hour.Nanoseconds(), 3)})
	}
	for _, n := range j.Away {
		g.away[n] = true
	}
	return g
}

// takeOrders accepts strategies and bridges, until all strategies are done. The
// first error ends it.
func (g *gateway) takeOrders(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { l.Close() })()

	done := make(chan struct{}, len(g.books)+1) // of a strategy that is here, or the bridge
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				cancel(err)
				return
			}
			go func() {
				ended, err := g.serve(ctx, market.NewLink(ctx, conn))
				if err != nil {
					cancel(err)
				}
				if ended {
					done <- struct{}{}
				}
			}()
		}
	}()
	links := len(g.books) - len(g.away)
	if len(g.away) > 0 {
		links++
	}
	for range links {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// serve takes orders from a link, and reports whether those were all that will come
// from there.
func (g *gateway) serve(ctx context.Context, link *market.Link) (ended bool, err error) {
	defer link.Close()
	m, err := link.Receive()
	if err != nil {
		fmt.Fprintln(os.Stderr, "logon:", err) // a bridge that died, or a strategy, which is missed elsewhere
		return false, nil
	}
	n := int(m.Strategy)
	switch {
	case m.Kind != market.KindLogon:
		return false, fmt.Errorf("logon: unexpected message of %v", m.Kind)
	case n == market.Shared && len(g.away) > 0:
		return g.serveBridge(link)
	case !g.admit(n):
		return false, fmt.Errorf("logon: unexpected strategy %d", n)
	}
	if err := g.serveStrategy(link, g.books[n]); err != nil {
		return false, fmt.Errorf("strategy %d: %w", n, err)
	}
	return true, nil
}

// admit reports whether strategy n is one that is here and has not logged on before.
func (g *gateway) admit(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n >= len(g.books) || g.away[n] || g.logged[n] {
		return false
	}
	g.logged[n] = true
	return true
}

// serveStrategy takes the orders of a strategy that is here.
func (g *gateway) serveStrategy(link *market.Link, b *book) error {
	for {
		m, err := link.Receive()
		if err != nil {
			return err
		}
		switch m.Kind {
		case market.KindEnd:
			return nil
		case market.KindOrder:
			if err := b.take(m); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected message of %v", m.Kind)
		}
	}
}

// serveBridge says how many orders of each strategy are here, takes those that
// follow, and says so. A bridge that comes while another one has a link has taken
// its place: first all is taken that the other one has sent.
func (g *gateway) serveBridge(link *market.Link) (ended bool, err error) {
	g.mu.Lock()
	if g.current != nil {
		g.current.Close()
	}
	g.current = link
	g.mu.Unlock()
	g.bridge.Lock()
	defer g.bridge.Unlock()

	news := make(map[int]bool) // that the bridge does not know of
	for n := range g.away {
		news[n] = true
	}
	for {
		if !link.More() {
			if err := g.acknowledge(link, news); err != nil {
				return false, lostBridge(err)
			}
		}
		m, err := link.Receive()
		if err != nil {
			return false, lostBridge(err)
		}
		switch n := int(m.Strategy); {
		case m.Kind == market.KindEnd:
			return true, g.allDone()
		case !g.away[n]:
			return false, fmt.Errorf("bridge: unexpected message of %v for strategy %d", m.Kind, n)
		default:
			news[n] = true
			if err := g.takeShared(g.books[n], m); err != nil {
				return false, fmt.Errorf("bridge: strategy %d: %w", n, err)
			}
		}
	}
}

// lostBridge prints why a bridge's link has ended. There will be another.
func lostBridge(err error) error {
	fmt.Fprintln(os.Stderr, "bridge:", err)
	return nil
}

// takeShared takes what follows what is here. It drops what is here already, and
// takes nothing after a gap.
func (g *gateway) takeShared(b *book, m market.Message) error {
	have := uint64(len(b.orders))
	switch {
	case m.Kind == market.KindDone && m.Seq == have:
		b.done = true
	case m.Kind == market.KindDone:
		return fmt.Errorf("there were %d orders, and %d are here", m.Seq, have)
	case m.Kind != market.KindOrder:
		return fmt.Errorf("unexpected message of %v", m.Kind)
	case m.Seq <= have:
		g.repeated++
	case m.Seq > have+1 || b.done:
		return fmt.Errorf("order %d follows order %d", m.Seq, have)
	default:
		return b.take(m)
	}
	return nil
}

// acknowledge says what is here of the strategies in news, which is empty then.
func (g *gateway) acknowledge(link *market.Link, news map[int]bool) error {
	for n := range news {
		m := market.Message{Kind: market.KindAck, Strategy: uint16(n), Seq: uint64(len(g.books[n].orders))}
		if g.books[n].done {
			m.Kind = market.KindDone
		}
		if err := link.Send(m); err != nil {
			return err
		}
	}
	clear(news)
	return link.Flush()
}

func (g *gateway) allDone() error {
	for n := range g.away {
		if !g.books[n].done {
			return fmt.Errorf("bridge: it has ended, and strategy %d is not done", n)
		}
	}
	return nil
}

// A result is what the order gateway has to say at the end.
type result struct {
	Digest     string // SHA-256 of what market.WriteOrders writes
	Repeated   int    // orders that the bridge has given it again
	Here, Away figures
}

// figures are of the orders of some strategies. The latency is the time from when a
// price was due to when its order was at the gateway.
type figures struct {
	Orders              int
	P50, P99, P999, Max time.Duration
}

func (g *gateway) result(digest string) *result {
	r := &result{Digest: digest, Repeated: g.repeated}
	var here, away []*book
	for n, b := range g.books {
		if g.away[n] {
			away = append(away, b)
		} else {
			here = append(here, b)
		}
	}
	r.Here, r.Away = summarize(here), summarize(away)
	return r
}

func summarize(books []*book) figures {
	var f figures
	if len(books) == 0 {
		return f
	}
	latency := hdrhistogram.New(1, time.Hour.Nanoseconds(), 3)
	for _, b := range books {
		latency.Merge(b.latency)
		f.Orders += len(b.orders)
	}
	f.P50 = time.Duration(latency.ValueAtQuantile(50))
	f.P99 = time.Duration(latency.ValueAtQuantile(99))
	f.P999 = time.Duration(latency.ValueAtQuantile(99.9))
	f.Max = time.Duration(latency.Max())
	return f
}
