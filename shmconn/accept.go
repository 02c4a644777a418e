package main

import (
	"context"
	"errors"
	"net"
	"time"
)

// An acceptor is the accept loop of every command that listens.
type acceptor struct {
	net.Listener
	say    func(error) // reports an error that next lives through
	failed time.Time   // when accepting failed last
}

// oneShortage is how far apart two errors may be that are reported as one.
const oneShortage = time.Minute

// next waits for the next connection. A shortage, of descriptors for example,
// passes: next reports it once and tries again, and the connections wait. The
// error is one that does not pass, or that of ctx.
func (a *acceptor) next(ctx context.Context) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		c, err := a.Accept()
		switch {
		case err == nil && ctx.Err() == nil:
			return c, nil
		case err == nil:
			c.Close()
			return nil, ctx.Err()
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !passes(err):
			return nil, err
		}
		if now := time.Now(); a.failed.IsZero() || now.Sub(a.failed) > oneShortage {
			a.say(err)
		}
		a.failed = time.Now()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// passes reports whether a listener that has failed with err may yet accept.
// One over shared memory says so by Temporary. Of a socket's errors the system
// calls Temporary some only, and all but its being closed may pass.
func passes(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	var op *net.OpError
	return errors.As(err, &op) && (op.Net != "shm" || op.Temporary())
}
