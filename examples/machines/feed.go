package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"sync"
	"sync/atomic"

	"shmconn/examples/internal/market"
)

// A feed is the feed handler. The price of a number is always the same, and the
// feed keeps when it was due; so a subscriber can have the prices that come after
// any of them, as often as it likes, and nobody is held up by another.
type feed struct {
	quotes int
	days   [][]market.Quote // of one loop
	first  []uint64         // the number of prices before each day of a loop
	total  int              // days of all loops
	holds  []uint64         // before these prices it waits to be told to go on

	mu          sync.Mutex
	changed     sync.Cond
	subscribers int
	dues        []int64 // of the days so far
	stopped     bool
}

func newFeed(j job) *feed {
	f := &feed{quotes: len(j.Quotes), days: market.ByDate(j.Quotes), holds: j.Holds}
	f.changed.L = &f.mu
	f.total = j.Loops * len(f.days)
	n := uint64(0)
	for _, day := range f.days {
		f.first = append(f.first, n)
		n += uint64(len(day))
	}
	return f
}

// before returns how many prices there are before day d, counted over all loops.
func (f *feed) before(d int) uint64 {
	return uint64(d/len(f.days)*f.quotes) + f.first[d%len(f.days)]
}

// dayOf returns the day of the price after the first n.
func (f *feed) dayOf(n uint64) int {
	return sort.Search(f.total, func(d int) bool { return f.before(d+1) > n })
}

// runFeed runs the feed handler: it listens, waits for as many subscribers as the
// job says, and then lets the prices become due. It takes subscribers, and those
// that come again, until it is told to stop.
func runFeed(ctx context.Context, j job, c control) error {
	l, err := j.Transport.Listen(ctx, j.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	c.tell(report{Address: l.Addr().String()})
	f := newFeed(j)
	stop := context.AfterFunc(ctx, f.stop)
	defer stop()
	defer f.stop()

	accepted := make(chan error, 1)
	go func() {
		accepted <- f.accept(ctx, l)
		f.stop()
	}()
	if f.awaitSubscribers(j.Subscribers) {
		go f.pace(ctx, j.Rate, c)
	}
	return <-accepted
}

// accept serves all that dial. One that fails, or dies, can come again: that is up
// to it.
func (f *feed) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return market.OrCause(ctx, err)
		}
		go func() {
			link := market.NewLink(ctx, conn)
			defer link.Close()
			if err := f.serve(link); err != nil {
				fmt.Fprintln(os.Stderr, "subscriber:", err)
			}
		}()
	}
}

// serve receives a subscription and sends its prices, until there are no more.
func (f *feed) serve(link *market.Link) error {
	asked, after, err := f.subscription(link)
	if err != nil {
		return fmt.Errorf("subscription: %w", err)
	}
	f.addSubscriber()
	var dues []int64 // of the days that are known to have come
	for d := f.dayOf(after); d < f.total; d++ {
		if d >= len(dues) {
			if err := link.Flush(); err != nil {
				return err
			}
			if dues = f.await(d); d >= len(dues) {
				return nil
			}
		}
		for i, q := range f.days[d%len(f.days)] {
			seq := f.before(d) + uint64(i) + 1
			if seq <= after || !asked[q.Symbol] {
				continue
			}
			m := market.Message{Kind: market.KindPrice, Symbol: q.Symbol, Seq: seq, Price: q.Price, Due: dues[d]}
			if err := link.Send(m); err != nil {
				return err
			}
		}
	}
	return link.End()
}

// subscription receives what a subscriber wants: which symbols, and what comes
// after which price.
func (f *feed) subscription(link *market.Link) (asked map[market.Symbol]bool, after uint64, err error) {
	asked = make(map[market.Symbol]bool)
	for {
		m, err := link.Receive()
		switch {
		case err != nil:
			return nil, 0, err
		case m.Kind == market.KindSubscribe:
			asked[m.Symbol] = true
		case m.Kind == market.KindStart && m.Seq > f.before(f.total):
			return nil, 0, fmt.Errorf("there are %d prices, and none after %d", f.before(f.total), m.Seq)
		case m.Kind == market.KindStart:
			return asked, m.Seq, nil
		default:
			return nil, 0, fmt.Errorf("unexpected message of %v", m.Kind)
		}
	}
}

func (f *feed) addSubscriber() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers++
	f.changed.Broadcast()
}

// awaitSubscribers waits until n have subscribed. It returns false if the feed was
// stopped before that.
func (f *feed) awaitSubscribers(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.subscribers < n && !f.stopped {
		f.changed.Wait()
	}
	return !f.stopped
}

// await waits until day d is due, and returns when the days so far were: not that
// of d if the feed was stopped.
func (f *feed) await(d int) []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.dues) <= d && !f.stopped {
		f.changed.Wait()
	}
	return f.dues
}

func (f *feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.changed.Broadcast()
}

// pace lets the prices become due, those of one day together, and tells how far it
// is.
func (f *feed) pace(ctx context.Context, rate int, c control) {
	p := market.NewPacer(rate)
	var n atomic.Uint64
	defer c.progress(func() report { return report{Prices: n.Load()} })()
	for d := range f.total {
		for len(f.holds) > 0 && f.before(d+1) > f.holds[0] {
			f.holds = f.holds[1:]
			select {
			case <-c.goOn:
			case <-ctx.Done():
				return
			}
		}
		due := p.Wait(ctx, f.before(d))
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		f.dues = append(f.dues, due)
		f.changed.Broadcast()
		f.mu.Unlock()
		n.Store(f.before(d + 1))
	}
}
