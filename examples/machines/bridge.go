package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"shmconn/examples/internal/market"
)

// The bridge takes prices from the feed handler to the stream of prices, and orders
// from their stream to the order gateway. It keeps nothing: what a new one, or a
// new session of the same one, has to go on with it asks the stream and the
// gateway.
type bridge struct {
	job
	control
}

func runBridge(ctx context.Context, j job, c control) error {
	b := &bridge{j, c}
	return sessions(ctx, j.NATS, b.serve)
}

// serve does what is left to do.
func (b *bridge) serve(s *session) error {
	last, stored, err := lastPrice(s)
	if err != nil {
		return fmt.Errorf("stream %s: %w", pricesStream, err)
	}
	orders, err := market.Dial(s.ctx, b.Transport.Dial, b.Gateway)
	if err != nil {
		return err
	}
	defer orders.Close()
	way, err := b.newWay(orders)
	if err != nil {
		return err
	}
	b.tell(report{Session: true, Prices: last.Seq, Bridged: stored, Orders: way.taken()})

	group, ctx := errgroup.WithContext(s.ctx)
	run := func(do func() error) {
		group.Go(func() error {
			err := do()
			if err != nil {
				orders.Close() // which ends acknowledged
			}
			return err
		})
	}
	if last.Kind != market.KindEnd {
		run(func() error { return b.prices(ctx, s, last.Seq, stored) })
	}
	run(func() error { return b.orders(ctx, s, way) })
	run(way.acknowledged)
	if err := group.Wait(); err != nil {
		return err
	}
	return orders.End()
}

// lastPrice returns the last message in the stream of prices, and its number there.
func lastPrice(s *session) (last market.Message, stored uint64, err error) {
	stream, err := s.js.Stream(s.ctx, pricesStream)
	if err != nil {
		return last, 0, err
	}
	stored = stream.CachedInfo().State.LastSeq
	if stored == 0 {
		return last, 0, nil
	}
	entry, err := stream.GetMsg(s.ctx, stored)
	if err != nil {
		return last, 0, err
	}
	last, err = parse(entry.Subject, entry.Data)
	return last, stored, err
}

// prices publishes the prices after one, up to the last. Each says how many must be
// in the stream before it. So a message that does not get there keeps out those
// after it, and two bridges that both believe to be the one do no harm.
func (b *bridge) prices(ctx context.Context, s *session, after, stored uint64) error {
	feed, err := market.Dial(ctx, b.Transport.Dial, b.Feed)
	if err != nil {
		return err
	}
	defer feed.Close()
	if err := subscribeTo(feed, b.Symbols, after); err != nil {
		return err
	}
	out := &outbox{s: s}
	before := stored
	defer b.progress(func() report { return report{Bridged: before + s.stored.Load()} })()
	for {
		m, err := feed.Receive()
		if err != nil {
			return fmt.Errorf("feed: %w", err)
		}
		if m.Kind == market.KindEnd {
			m.Seq = after
		}
		if err := out.price(m, stored); err != nil {
			return err
		}
		if m.Kind == market.KindEnd {
			return out.collect(0)
		}
		after = m.Seq
		stored++
	}
}

// price publishes a price, or that these were all, as the message after the first n.
func (o *outbox) price(m market.Message, n uint64) error {
	subject, id := priceSubject(m.Symbol), fmt.Sprintf("price-%d", m.Seq)
	if m.Kind == market.KindEnd {
		subject, id = endSubject, endSubject
	}
	return o.publish(subject, id, m, jetstream.WithExpectLastSequence(n))
}

// orders takes orders from their stream, until the gateway has them all.
func (b *bridge) orders(ctx context.Context, s *session, w *way) error {
	consumer, err := s.js.CreateOrUpdateConsumer(ctx, ordersStream, jetstream.ConsumerConfig{
		Durable: "bridge", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 1 << 16,
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", ordersStream, err)
	}
	return s.consume(ctx, consumer, w.finished, func(entry jetstream.Msg, m market.Message) (last bool, err error) {
		return false, w.pass(entry, m)
	})
}

// ackWait is when the server sends an order again that was not acknowledged, as
// that was sent to a bridge that has died.
const ackWait = time.Second

// A way leads from the stream of orders to the order gateway. The server sends what
// it has sent a bridge that died a second time, but only after a while, and newer
// orders before. So the way holds orders back until those before them have come.
type way struct {
	link     *market.Link  // only pass sends, only acknowledged receives
	finished chan struct{} // closed when the gateway has all orders

	mu    sync.Mutex
	lanes map[int]*lane
}

// A lane is the way of one strategy. Its entries are the strategy's orders, by their
// numbers, and after them the message that these were all.
type lane struct {
	next    uint64 // to be given to the gateway
	taken   uint64 // up to this the gateway has them
	done    bool   // it has them all
	entries map[uint64]entry
}

// An entry is one that the gateway does not have, as far as is known.
type entry struct {
	jetstream.Msg
	m market.Message
}

// newWay logs on to the gateway, and learns what that has.
func (b *bridge) newWay(link *market.Link) (*way, error) {
	if err := link.LogOn(market.Shared); err != nil {
		return nil, err
	}
	w := &way{link: link, finished: make(chan struct{}), lanes: make(map[int]*lane)}
	for _, n := range b.Away {
		w.lanes[n] = &lane{next: 1, entries: make(map[uint64]entry)}
	}
	for range b.Away {
		m, err := link.Receive()
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		if _, err := w.heard(m); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// taken returns how many orders the gateway has.
func (w *way) taken() (n uint64) {
	for _, l := range w.lanes {
		n += l.taken
		if l.done {
			n-- // the last entry was none
		}
	}
	return n
}

// pass gives an entry to the gateway, and those that waited for it.
func (w *way) pass(e jetstream.Msg, m market.Message) error {
	ready, err := w.admit(e, m)
	if err != nil {
		return err
	}
	for _, m := range ready {
		if err := w.link.Send(m); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
	}
	return w.link.Flush()
}

// admit notes an entry, and returns what can be given to the gateway now.
func (w *way) admit(e jetstream.Msg, m market.Message) (ready []market.Message, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lanes[int(m.Strategy)]
	n := m.Seq
	switch {
	case l == nil:
		return nil, broken("%s: unexpected strategy %d", e.Subject(), m.Strategy)
	case m.Kind == market.KindDone:
		n++
	case m.Kind != market.KindOrder:
		return nil, broken("%s: unexpected message of %v", e.Subject(), m.Kind)
	}
	if n <= l.taken {
		return nil, e.Ack() // the bridge before this one died in between
	}
	l.entries[n] = entry{e, m}
	for ; l.entries[l.next].Msg != nil; l.next++ {
		ready = append(ready, l.entries[l.next].m)
	}
	return ready, nil
}

// acknowledged acknowledges the entries that the gateway says to have, until it has
// all.
func (w *way) acknowledged() error {
	for {
		if w.allDone() {
			close(w.finished)
			return nil
		}
		m, err := w.link.Receive()
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		entries, err := w.heard(m)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := e.Ack(); err != nil {
				return err
			}
		}
	}
}

// heard notes what the gateway says to have, and returns what can be acknowledged
// by that.
func (w *way) heard(m market.Message) (entries []entry, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lanes[int(m.Strategy)]
	if l == nil || m.Kind != market.KindAck && m.Kind != market.KindDone {
		return nil, broken("gateway: unexpected message of %v for strategy %d", m.Kind, m.Strategy)
	}
	upTo := m.Seq
	if m.Kind == market.KindDone {
		upTo++
		l.done = true
	}
	for ; l.taken < upTo; l.taken++ {
		if e, ok := l.entries[l.taken+1]; ok {
			entries = append(entries, e)
			delete(l.entries, l.taken+1)
		}
	}
	l.next = max(l.next, upTo+1)
	return entries, nil
}

func (w *way) allDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lanes {
		if !l.done {
			return false
		}
	}
	return true
}
