package main

import (
	"context"
	"io"
	"net"
	"sync"
)

type pongCmd struct {
	Name string `arg:"" predictor:"name" help:"Name to listen on."`

	pollFlags
	listenFlags
}

func (c *pongCmd) Help() string {
	return `Serves any number of pings at the same time, until it is interrupted.

Example:

    shmconn pong echo`
}

func (c *pongCmd) Run(ctx context.Context, s stdio) error {
	l, err := c.config(c.pollFlags).Listen(c.Name)
	if err != nil {
		return err
	}
	var answering sync.WaitGroup
	defer answering.Wait()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	a := &acceptor{Listener: l, say: func(err error) { say(s, err) }}
	for {
		conn, err := a.next(ctx)
		if ctx.Err() != nil {
			return interrupted(true)
		}
		if err != nil {
			say(s, err) // at once: the connections that are there go on
			return status(1)
		}
		answering.Go(func() { answer(ctx, conn) })
	}
}

// answer sends back what arrives on conn, until that ends or ctx does.
func answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	io.Copy(conn, conn) // the peer sees how it ended
}
