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

	Max         int           `help:"Carry at most N connections at a time; others wait. 0: any number." placeholder:"N"`
	Grace       time.Duration `help:"Once told to stop, let connections go on for D before they are cut off. Default 10s." default:"10s" placeholder:"D"`
	DialTimeout time.Duration `help:"Wait D for TO to take a connection. Default 10s." default:"10s" placeholder:"D"`
	JSON        bool          `name:"json" help:"Log in JSON."`
	Quiet       bool          `short:"q" help:"Log only what goes wrong."`

	pollFlags
	dialFlags   `group:"Where TO is shm:"`
	listenFlags `group:"Where FROM is shm or, for --mode, unix:"`
}

func (p *proxyCmd) Help() string {
	return `For each connection that FROM takes, the proxy makes one to TO and carries the bytes of
both, either way, until both ways have ended. Half close passes through.

It logs a line for each connection when it has ended: the bytes up to TO, the bytes down
from it, how long it took, and the error if there was one. SIGTERM and Ctrl-C end it: it
takes no more connections and gives those that it has the time of --grace.

Example: redis-cli speaks to a Redis server over shared memory, and a program that has
shmconn does without the first proxy.

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
		dialTimeout: p.DialTimeout,
	}
	if p.Max > 0 {
		r.seats = make(chan struct{}, p.Max)
	}
	from := endpoint{p.From.net, l.Addr().String()}
	r.log.Info("listening", "from", from.String(), "to", p.To.String())
	r.serve(ctx, l, p.Grace)
	return nil
}

// A relay serves the connections of a proxy.
type relay struct {
	log         *slog.Logger
	to          endpoint
	dialer      *shmconn.Dialer
	dialTimeout time.Duration
	seats       chan struct{} // has room for one value for each connection at a time; nil: no limit
	links       sync.WaitGroup
}

// serve carries the connections that l takes until ctx ends, and closes l. Then it waits
// for those that are left: for as long as grace says, and then they are cut off.
func (r *relay) serve(ctx context.Context, l net.Listener, grace time.Duration) {
	cut, cutOff := context.WithCancel(context.Background())
	defer cutOff()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for n := 1; r.sit(ctx); n++ {
		c, ok := r.accept(ctx, l)
		if !ok {
			break
		}
		r.links.Go(func() {
			r.serveConn(cut, c, n)
			r.rise()
		})
	}
	l.Close()
	ended := make(chan struct{})
	go func() {
		r.links.Wait()
		close(ended)
	}()
	r.log.Info("stopping", "grace", grace)
	select {
	case <-ended:
	case <-time.After(grace):
		cutOff()
		<-ended
	}
}

// sit waits for room for one more connection, and reports false when ctx has ended.
func (r *relay) sit(ctx context.Context) bool {
	if r.seats == nil {
		return ctx.Err() == nil
	}
	select {
	case r.seats <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *relay) rise() {
	if r.seats != nil {
		<-r.seats
	}
}

// accept takes the next connection, and reports false when ctx has ended. What keeps it
// from that, such as too many open files, may pass.
func (r *relay) accept(ctx context.Context, l net.Listener) (c conn, ok bool) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c, err := l.Accept()
		if err == nil {
			return c.(conn), true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		r.log.Warn("cannot accept", "error", err)
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(pause):
		}
	}
}

// serveConn serves one connection, the nth.
func (r *relay) serveConn(cut context.Context, client conn, n int) {
	start := time.Now()
	log := r.log.With("conn", n)
	if peer := peerOf(client); peer != "" {
		log = log.With("peer", peer)
	}
	dialing, cancel := context.WithTimeout(cut, r.dialTimeout)
	server, err := r.to.dial(dialing, r.dialer)
	cancel()
	if err != nil {
		log.Error("cannot connect", "to", r.to.String(), "error", err)
		client.Close()
		return
	}
	l := &link{client: client, server: server}
	err = l.carry(cut)
	log = log.With("up", l.up, "down", l.down, "duration", time.Since(start).Round(time.Microsecond))
	if err != nil {
		log.Warn("ended", "error", err)
		return
	}
	log.Info("ended")
}
