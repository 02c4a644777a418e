package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// A feed is the feed handler: it sends each strategy the prices of the symbols
// that the strategy has asked for.
type feed struct {
	quotes []quote
	loops  int
	rate   int // prices a second; 0: as many as the links take
	links  []*link
	sendTo map[symbol][]*link
	fed    atomic.Int64 // prices so far
}

// runFeed runs the feed handler: it listens, waits for all strategies to
// subscribe, and replays the prices.
func runFeed(ctx context.Context, j job, tell func(report)) error {
	l, err := j.Transport.Listen(ctx, j.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	tell(report{Address: l.Addr().String()})

	f := &feed{quotes: j.Quotes, loops: j.Loops, rate: j.Rate}
	if err := f.accept(ctx, l, j.Strategies); err != nil {
		return err
	}
	began := now()
	stop := f.tellProgress(tell)
	err = f.replay(ctx)
	stop()
	if err != nil {
		return err
	}
	tell(report{Fed: f.fed.Load(), Began: began})
	return nil
}

// accept accepts n strategies and their subscriptions.
func (f *feed) accept(ctx context.Context, l net.Listener, n int) error {
	f.sendTo = make(map[symbol][]*link)
	for _, s := range symbolsOf(f.quotes) {
		f.sendTo[s] = nil
	}
	for range n {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		strategy := newLink(ctx, conn)
		if err := f.subscribe(strategy); err != nil {
			return fmt.Errorf("subscription: %w", err)
		}
		f.links = append(f.links, strategy)
	}
	return nil
}

// subscribe receives the subscription of one strategy.
func (f *feed) subscribe(strategy *link) error {
	asked := make(map[symbol]bool)
	for {
		m, err := strategy.receive()
		if err != nil {
			return err
		}
		switch m.kind {
		case kindStart:
			return nil
		case kindSubscribe:
			links, known := f.sendTo[m.symbol]
			if !known {
				return fmt.Errorf("there are no prices of %v", m.symbol)
			}
			if !asked[m.symbol] {
				asked[m.symbol] = true
				f.sendTo[m.symbol] = append(links, strategy)
			}
		default:
			return fmt.Errorf("unexpected message of %v", m.kind)
		}
	}
}

// replay sends all quotes loops times, and ends the links. The prices of one date
// are due at one time. As long as the next ones are due already, it goes on
// before it flushes: the buffers then are flushed as they fill.
func (f *feed) replay(ctx context.Context) error {
	days := byDate(f.quotes)
	p := newPacer(f.rate)
	seq := uint64(0)
	for range f.loops {
		for _, day := range days {
			due := p.wait(ctx, seq)
			for _, q := range day {
				seq++
				if err := f.send(seq, q, due); err != nil {
					return err
				}
			}
			f.fed.Store(int64(seq))
			if !p.due(seq) {
				if err := f.flush(); err != nil {
					return err
				}
			}
		}
	}
	for _, strategy := range f.links {
		if err := strategy.end(); err != nil {
			return err
		}
	}
	return nil
}

// send sends q to the strategies that have asked for its symbol.
func (f *feed) send(seq uint64, q quote, due int64) error {
	for _, strategy := range f.sendTo[q.Symbol] {
		m := message{kind: kindPrice, symbol: q.Symbol, seq: seq, price: q.Price, due: due}
		if err := strategy.send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *feed) flush() error {
	for _, strategy := range f.links {
		if err := strategy.flush(); err != nil {
			return err
		}
	}
	return nil
}

// tellProgress tells from time to time how many prices have been sent, until stop
// is called. The sending goroutine has no part in it, so that it costs no latency.
func (f *feed) tellProgress(tell func(report)) (stop func()) {
	ticker := time.NewTicker(100 * time.Millisecond)
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-ticker.C:
				tell(report{Fed: f.fed.Load()})
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-gone
	}
}

// A pacer says when prices are due: so many a second, evenly spread, whatever the
// links make of it. That a price is sent late because an earlier one was held up
// is latency of the pipeline, and counts: the times that are due do not move.
type pacer struct {
	start int64
	rate  int
}

func newPacer(rate int) *pacer {
	if rate > 0 {
		preciseSleep()
	}
	return &pacer{start: now(), rate: rate}
}

// at returns when the price after the first n is due.
func (p *pacer) at(n uint64) int64 {
	second, rest := n/uint64(p.rate), n%uint64(p.rate)
	return p.start + int64(second)*int64(time.Second) + int64(rest)*int64(time.Second)/int64(p.rate)
}

// due reports whether the price after the first n is due.
func (p *pacer) due(n uint64) bool { return p.rate == 0 || now() >= p.at(n) }

// wait waits until the price after the first n is due, and returns when that
// was. It sleeps most of the time, and spins for the rest, to be on time.
func (p *pacer) wait(ctx context.Context, n uint64) int64 {
	if p.rate == 0 {
		return now()
	}
	due := p.at(n)
	sleepUntil(ctx, due)
	for now() < due && ctx.Err() == nil {
	}
	return due
}
