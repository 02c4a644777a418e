package main

import (
	"context"
	"io"
	"sync"
)

type pongCmd struct {
	Name string `arg:"" predictor:"name" help:"Name to listen on."`

	pollFlags
	listenFlags
}

func (c *pongCmd) Help() string {
	return `It answers any number of pings at the same time, until interrupted: whatever comes it
sends back.

Example:

    shmconn pong echo`
}

func (c *pongCmd) Run(ctx context.Context, s stdio) error {
	l, err := c.config(c.pollFlags).Listen(c.Name)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		conn, err := l.AcceptConn()
		if ctx.Err() != nil {
			return interrupted(true)
		}
		if err != nil {
			return err
		}
		answering.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			io.Copy(conn, conn) // the other end sees how it ended
		})
	}
}
