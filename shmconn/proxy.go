package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"shmconn"
)

type proxyCmd struct {
	From endpoint `arg:"" predictor:"endpoint" help:"Where to listen: shm:NAME, unix:PATH or tcp:HOST:PORT."`
	To   endpoint `arg:"" predictor:"endpoint" help:"What to connect to: shm:NAME, unix:PATH or tcp:HOST:PORT."`

	Max         int     `help:"Carry at most N connections at a time; others wait. 0: any number." placeholder:"N"`
	Grace       seconds `help:"When told to stop, let connections go on for D, in seconds or like 500ms, and then cut them off. Default 10s." default:"10s" placeholder:"D"`
	DialTimeout seconds `help:"Wait up to D for TO to take a connection. Default 10s." default:"10s" placeholder:"D"`
	JSON        bool    `name:"json" help:"Log in JSON."`
	Quiet       bool    `short:"q" help:"Log only what goes wrong."`

	pollFlags
	dialFlags   `group:"Where TO is shm:"`
	listenFlags `group:"Where FROM is shm or, for --mode, unix:"`
}

func (p *proxyCmd) Help() string {
	return `For each connection that FROM takes, the proxy makes one to TO and carries the
bytes of both, in both directions, until both have ended. Half close passes
through.

So does a reset: when TO refuses, or one end dies or resets its connection, the
other end gets what was carried and then a reset, and does not take a part for
the whole. Unix sockets are an exception: they have no reset of their own, so an
end that dies looks closed, and the other end reads a reset only if it has sent
something that the proxy has not read.

The proxy logs a line for each connection when that has ended: the bytes up to
TO, the bytes down from TO, how long it took, and the error if there was one.
SIGTERM and Ctrl-C end the proxy: it takes no more connections, and those that
it has may go on for the time of --grace.

Example: redis-cli speaks to a Redis server over shared memory. A client that
uses shmconn itself needs the second proxy only.

    shmconn proxy unix:cli.sock shm:redis &
    shmconn proxy shm:redis tcp:localhost:6379 &
    redis-cli -s cli.sock ping`
}

func (p *proxyCmd) Validate() error {
	switch {
	case p.Max < 0:
		return errors.New("--max is negative")
	case p.From == p.To && p.From != endpoint{}:
		return fmt.Errorf("FROM and TO are both %v: it would connect to itself", p.From)
	}
	return nil
}

func (p *proxyCmd) Run(ctx context.Context, s stdio) error {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if p.Quiet {
		options.Level = slog.LevelWarn
	}
	var handler slog.Handler = slog.NewTextHandler(s.err, options)
	if p.JSON {
		handler = slog.NewJSONHandler(s.err, options)
	}
	lc := p.config(p.pollFlags)
	l, err := p.From.listen(lc)
	if err != nil {
		return err
	}
	r := &relay{
		log:         slog.New(handler),
		to:          p.To,
		dialer:      p.dialer(p.pollFlags),
		dialTimeout: time.Duration(p.DialTimeout),
	}
	if p.Max > 0 {
		r.slots = make(chan struct{}, p.Max)
	}
	from := endpoint{p.From.net, l.Addr().String()}
	r.log.Info("listening", "from", from.String(), "to", p.To.String())
	return r.serve(ctx, l, time.Duration(p.Grace))
}

// A relay serves the connections of a proxy.
type relay struct {
	log         *slog.Logger
	to          endpoint
	dialer      *shmconn.Dialer
	dialTimeout time.Duration
	slots       chan struct{} // has a value for each connection that is carried; nil: no limit
	links       sync.WaitGroup
}

// serve carries the connections that l takes until ctx ends, and closes l. Then
// it waits for those that are left: for as long as grace says, after which they
// are cut off. The error is one of l that does not pass; it does not end the
// connections that are there, either.
func (r *relay) serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	cut, cutOff := context.WithCancel(context.Background())
	defer cutOff()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	a := &acceptor{Listener: l, say: func(err error) {
		r.log.Warn("cannot accept, connections wait", "error", err)
	}}
	var failed error
	for n := 1; r.acquireSlot(ctx); n++ {
		c, err := a.next(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failed = err
			break
		}
		r.links.Go(func() {
			r.serveConn(cut, c.(conn), n)
			r.releaseSlot()
		})
	}
	l.Close()
	ended := make(chan struct{})
	go func() {
		r.links.Wait()
		close(ended)
	}()
	if failed != nil {
		r.log.Error("cannot accept any more", "error", failed)
		select {
		case <-ended:
			return status(1)
		case <-ctx.Done():
		}
	}
	r.log.Info("stopping", "grace", grace)
	select {
	case <-ended:
	case <-time.After(grace):
		cutOff()
		<-ended
	}
	if failed != nil {
		return status(1)
	}
	return nil
}

// acquireSlot waits until one more connection may be carried, and reports false
// when ctx has ended.
func (r *relay) acquireSlot(ctx context.Context) bool {
	if r.slots == nil {
		return ctx.Err() == nil
	}
	select {
	case r.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *relay) releaseSlot() {
	if r.slots != nil {
		<-r.slots
	}
}

// serveConn carries one connection, the nth.
func (r *relay) serveConn(cut context.Context, client conn, n int) {
	start := time.Now()
	arm(client)
	log := r.log.With("conn", n)
	if peer := peerOf(client); peer != "" {
		log = log.With("peer", peer)
	}
	dialing, cancel := context.WithTimeout(cut, r.dialTimeout)
	server, err := r.to.dial(dialing, r.dialer)
	cancel()
	if err != nil {
		log.Error("cannot connect", "to", r.to.String(), "error", err)
		abort(client, 0) // nothing was sent
		return
	}
	arm(server)
	l := new(link)
	l.client.conn, l.server.conn = client, server
	err = l.carry(cut)
	log = log.With("up", l.up, "down", l.down, "duration", time.Since(start).Round(time.Microsecond))
	if err != nil {
		log.Warn("ended", "error", err)
		return
	}
	log.Info("ended")
}
