package main

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"shmconn/examples/internal/market"
)

// A feed is the feed handler: it sends each strategy the prices of the symbols
// that the strategy has asked for.
type feed struct {
	quotes []market.Quote
	loops  int
	rate   int // prices a second; 0: as many as the links take
	links  []*market.Link
	sendTo map[market.Symbol][]*market.Link
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
	began := market.Now()
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
	f.sendTo = make(map[market.Symbol][]*market.Link)
	for _, s := range market.SymbolsOf(f.quotes) {
		f.sendTo[s] = nil
	}
	for range n {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		strategy := market.NewLink(ctx, conn)
		if err := f.subscribe(strategy); err != nil {
			return fmt.Errorf("subscription: %w", err)
		}
		f.links = append(f.links, strategy)
	}
	return nil
}

// subscribe receives the subscription of one strategy.
func (f *feed) subscribe(strategy *market.Link) error {
	asked := make(map[market.Symbol]bool)
	for {
		m, err := strategy.Receive()
		if err != nil {
			return err
		}
		switch m.Kind {
		case market.KindStart:
			return nil
		case market.KindSubscribe:
			links, known := f.sendTo[m.Symbol]
			if !known {
				return fmt.Errorf("there are no prices of %v", m.Symbol)
			}
			if !asked[m.Symbol] {
				asked[m.Symbol] = true
				f.sendTo[m.Symbol] = append(links, strategy)
			}
		default:
			return fmt.Errorf("unexpected message of %v", m.Kind)
		}
	}
}

// replay sends all quotes loops times, and ends the links. The prices of one
// date are due at one time. As long as the next ones are due already, it goes
// on before it flushes: the buffers then are flushed as they fill.
func (f *feed) replay(ctx context.Context) error {
	days := market.ByDate(f.quotes)
	p := market.NewPacer(f.rate)
	seq := uint64(0)
	for range f.loops {
		for _, day := range days {
			due := p.Wait(ctx, seq)
			for _, q := range day {
				seq++
				if err := f.send(seq, q, due); err != nil {
					return err
				}
			}
			f.fed.Store(int64(seq))
			if !p.Due(seq) {
				if err := f.flush(); err != nil {
					return err
				}
			}
		}
	}
	for _, strategy := range f.links {
		if err := strategy.End(); err != nil {
			return err
		}
	}
	return nil
}

// send sends q to the strategies that have asked for its symbol.
func (f *feed) send(seq uint64, q market.Quote, due int64) error {
	for _, strategy := range f.sendTo[q.Symbol] {
		m := market.Message{Kind: market.KindPrice, Symbol: q.Symbol, Seq: seq, Price: q.Price, Due: due}
		if err := strategy.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *feed) flush() error {
	for _, strategy := range f.links {
		if err := strategy.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// tellProgress tells from time to time how many prices have been sent, until
// stop is called. The sending goroutine has no part in it, so that it costs no
// latency.
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
