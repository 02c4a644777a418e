package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"shmconn/examples/internal/market"
)

// A kill is one that is planned: of which kind of process, and when. The feed waits
// for it, but not at once, so that as a rule prices and orders are under way.
type kill struct {
	what   string   // "bridge", "strategy", "server"
	which  int      // of the strategies that are away
	stored uint64   // when so many prices are in the stream
	seen   []uint64 // and the strategies that are away have seen these
	hold   uint64   // the feed goes no further than this price before
}

// planKills spreads -kill kills of each kind over the prices.
func (c *config) planKills() ([]kill, error) {
	kinds := []string{"bridge", "strategy", "server"}
	if c.nats != "" {
		kinds = kinds[:2] // the server is not ours
	}
	if c.elsewhere {
		kinds = kinds[:1]
	}
	away := c.symbols[len(c.symbols)-c.away:]
	day := 0
	for _, d := range market.ByDate(c.quotes) {
		day = max(day, len(d))
	}
	n := uint64(c.kill * len(kinds))
	step := c.prices() / (n + 1)
	if step/2 <= uint64(day) {
		return nil, fmt.Errorf("-kill %d: there are too few prices, %d with up to %d of one date; give a larger -loops", c.kill, c.prices(), day)
	}
	var plan []kill
	for i := range n {
		at := step * (i + 1)
		k := kill{what: kinds[int(i)%len(kinds)], which: int(i) / len(kinds) % c.away, hold: at + step/2}
		k.stored, _ = c.among(slices.Concat(away...), at)
		for _, symbols := range away {
			_, last := c.among(symbols, at)
			k.seen = append(k.seen, last)
		}
		plan = append(plan, k)
	}
	return plan, nil
}

// killAll kills as planned.
func (w *show) killAll() {
	for _, k := range w.plan {
		m := map[string]*member{"bridge": w.bridge, "server": w.server}[k.what]
		if k.what == "strategy" {
			m = w.far[k.which]
		}
		w.await(func() bool {
			for i, far := range w.far {
				if w.of(far).price < k.seen[i] {
					return false
				}
			}
			return w.of(w.bridge).stored >= k.stored
		})
		if w.crew.ctx.Err() != nil {
			return
		}
		before := m.killed()
		w.note("%s: killed, process %d; %d or more prices were in their stream", m.name, m.kill(), k.stored)
		for m.killed() == before && w.crew.ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		w.feed.goOn()
	}
}

// An observer knows what the processes have said that can be killed.
type observer struct {
	ctx   context.Context
	began time.Time

	mu      sync.Mutex
	changed sync.Cond
	seen    map[*member]*state
	events  []string
}

// A state is how far a process is.
type state struct {
	sessions int
	stored   uint64 // bridge: prices in the stream
	price    uint64 // strategy: the last one that it has seen
}

func newObserver(ctx context.Context) *observer {
	o := &observer{ctx: ctx, began: time.Now(), seen: make(map[*member]*state)}
	o.changed.L = &o.mu
	context.AfterFunc(ctx, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.changed.Broadcast()
	})
	return o
}

// of returns the state of m.
func (o *observer) of(m *member) *state {
	if o.seen[m] == nil {
		o.seen[m] = new(state)
	}
	return o.seen[m]
}

// heard takes a report of a bridge or a strategy that is away.
func (o *observer) heard(m *member, r report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.of(m)
	s.stored = max(s.stored, r.Bridged)
	if r.Session {
		s.sessions++
	}
	switch {
	case !r.Session && m.job.Role == roleAway:
		s.price = r.Prices
	case r.Session && s.sessions > 1 && m.job.Role == roleAway:
		o.noteLocked("%s goes through the prices again; %d of its orders are in their stream", m.name, r.Orders)
	case r.Session && s.sessions > 1:
		o.noteLocked("%s goes on after price %d; %d orders are at the gateway", m.name, r.Prices, r.Orders)
	}
	o.changed.Broadcast()
}

// await waits until condition, which looks at states, is true, or the crew has been
// stopped.
func (o *observer) await(condition func() bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !condition() && o.ctx.Err() == nil {
		o.changed.Wait()
	}
}

// note notes an event.
func (o *observer) note(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noteLocked(format, args...)
}

func (o *observer) noteLocked(format string, args ...any) {
	o.events = append(o.events, fmt.Sprintf("  %.2f s: ", time.Since(o.began).Seconds())+fmt.Sprintf(format, args...))
}
