package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

// An outcome is what came out of one run.
type outcome struct {
	scene
	result
}

// A show is one run of the pipeline, under way.
type show struct {
	*config
	scene
	crew   *crew
	bar    *progressbar.ProgressBar
	result *result
	here   []int // strategies
	there  []int // strategies that are away

	gateway, feed, bridge *member
	server                *member   // nil if it is not the command's
	near, far             []*member // the strategies

	*observer
}

// run runs the pipeline, and returns when all its processes have ended and nothing
// of it is left.
func (c *config) run(ctx context.Context, s scene, stdout io.Writer) (*outcome, error) {
	w := &show{config: c, scene: s, crew: newCrew(ctx), bar: newBar(s.name, int(c.prices()))}
	w.observer = newObserver(w.crew.ctx)
	for n := range c.symbols {
		if s.away > 0 && c.isAway(n) {
			w.there = append(w.there, n)
		} else {
			w.here = append(w.here, n)
		}
	}
	cleanUp, err := w.start(stdout)
	if err != nil {
		w.crew.fail(err)
	}
	err = w.crew.wait()
	w.bar.Exit()
	if ctx.Err() != nil {
		err = context.Cause(ctx) // that processes lose each other follows from it
	}
	cleanUp()
	if err != nil {
		// A process that was killed has left its names.
		shm.Remove(feedName())
		shm.Remove(gatewayName())
		return nil, err
	}
	for _, e := range w.events {
		fmt.Fprintln(stdout, e)
	}
	return &outcome{s, *w.result}, nil
}

var shm = transport.Transport{Network: "shm"}

func feedName() string    { return fmt.Sprintf("machines-%d-prices", os.Getpid()) }
func gatewayName() string { return fmt.Sprintf("machines-%d-orders", os.Getpid()) }

// start starts all processes. If one fails, the crew is stopped, and starts no
// more. What start returns is to be called when all have ended.
func (w *show) start(stdout io.Writer) (cleanUp func(), err error) {
	address, cleanUp, err := w.startServer()
	if err != nil {
		return cleanUp, err
	}
	w.startEnds()
	feed, gateway := w.crew.listening(w.feed), w.crew.listening(w.gateway)
	for _, n := range w.there {
		if w.elsewhere {
			fmt.Fprintf(stdout, "to be started elsewhere: machines strategy -nats %s -number %d -symbols '%s'\n",
				address, n, symbolList(w.symbols[n]))
			continue
		}
		m := &member{name: fmt.Sprintf("strategy %d", n), again: true, job: job{
			Role: roleAway, Strategy: n, Symbols: w.symbols[n], NATS: address,
		}}
		m.handle = func(r report) { w.heard(m, r) }
		w.far = append(w.far, w.crew.start(m))
	}
	for _, m := range w.far {
		w.await(func() bool { return w.of(m).sessions > 0 })
	}
	for _, n := range w.here {
		w.near = append(w.near, w.crew.start(&member{name: fmt.Sprintf("strategy %d", n), job: job{
			Role: roleStrategy, Transport: shm, Strategy: n, Symbols: w.symbols[n], Feed: feed, Gateway: gateway,
		}}))
	}
	if len(w.there) > 0 {
		w.bridge = &member{name: "bridge", again: true, job: job{
			Role: roleBridge, Transport: shm, Away: w.there, Symbols: w.bridged(), Feed: feed, Gateway: gateway, NATS: address,
		}}
		w.bridge.handle = func(r report) { w.heard(w.bridge, r) }
		w.crew.start(w.bridge)
	}
	if w.crew.ctx.Err() != nil {
		return cleanUp, nil
	}
	w.printProcesses(stdout)
	w.bar.RenderBlank()
	if len(w.plan) > 0 {
		w.crew.running.Go(w.killAll)
	}
	return cleanUp, nil
}

// startEnds starts the feed handler and the order gateway.
func (w *show) startEnds() {
	w.gateway = w.crew.start(&member{name: "order gateway", job: job{
		Role: roleGateway, Transport: shm, Name: gatewayName(), Strategies: len(w.symbols), Away: w.there, Orders: w.orders,
	}, handle: func(r report) {
		w.result = r.Result
		w.crew.stop() // that was all
	}})
	j := job{
		Role: roleFeed, Transport: shm, Name: feedName(), Subscribers: len(w.here),
		Quotes: w.quotes, Loops: w.loops, Rate: w.rate,
	}
	if len(w.there) > 0 {
		j.Subscribers++
	}
	for _, k := range w.plan {
		j.Holds = append(j.Holds, k.hold)
	}
	w.feed = w.crew.start(&member{name: "feed handler", job: j, handle: func(r report) { w.bar.Set64(int64(r.Prices)) }})
}

// startServer starts a NATS server, if there has to be one, and creates the
// streams.
func (w *show) startServer() (address string, cleanUp func(), err error) {
	cleanUp = func() {}
	ctx := w.crew.ctx
	if len(w.there) == 0 {
		return "", cleanUp, nil
	}
	if w.nats != "" {
		if w.remove {
			if err := removeStreams(ctx, w.nats); err != nil {
				return "", cleanUp, err
			}
		}
		if err := createStreams(ctx, w.nats); err != nil {
			return "", cleanUp, err
		}
		return w.nats, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := removeStreams(ctx, w.nats); err != nil {
				fmt.Fprintln(os.Stderr, "the streams are left behind:", err)
			}
		}, nil
	}
	dir, err := os.MkdirTemp("", "machines")
	if err != nil {
		return "", cleanUp, err
	}
	cleanUp = func() { os.RemoveAll(dir) }
	w.server = w.crew.start(&member{name: "server", again: true, job: job{Role: roleServer, Store: dir}})
	if address = w.crew.listening(w.server); address == "" {
		return "", cleanUp, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", cleanUp, err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return "", cleanUp, err
	}
	w.server.keepPort(port)
	return address, cleanUp, createStreams(ctx, address)
}

// bridged returns the symbols of the strategies that are away.
func (w *show) bridged() []market.Symbol {
	var symbols []market.Symbol
	for _, n := range w.there {
		symbols = append(symbols, w.symbols[n]...)
	}
	return symbols
}

func (w *show) printProcesses(stdout io.Writer) {
	var b strings.Builder
	list := func(name string, members ...*member) {
		if len(members) == 0 {
			return
		}
		b.WriteString(name)
		for _, m := range members {
			fmt.Fprintf(&b, " %d", m.pid())
		}
	}
	list("feed handler", w.feed)
	list(", order gateway", w.gateway)
	list(", strategies here", w.near...)
	if w.bridge != nil {
		list(", bridge", w.bridge)
	}
	if w.server != nil {
		list(", server", w.server)
	}
	list(", strategies away", w.far...)
	fmt.Fprintf(stdout, "%s: %s\n", w.scene.name, &b)
}

// newBar returns a progress bar for so many prices, on stderr if that is a terminal.
func newBar(name string, prices int) *progressbar.ProgressBar {
	return progressbar.NewOptions(prices,
		progressbar.OptionSetDescription(name),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionShowCount(),
		progressbar.OptionSetItsString("prices"),
		progressbar.OptionClearOnFinish())
}
