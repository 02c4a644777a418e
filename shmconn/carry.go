package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"shmconn"
)

// A link is two connections, and what was carried between them.
type link struct {
	client, server leg
	up, down       int64 // bytes to the server, bytes to the client
}

// A leg is one of the two connections of a link.
type leg struct {
	conn
	sentAll atomic.Bool // all that there was to be written was written, and its end follows
}

// carry carries bytes both ways until both ways have ended, and closes the
// connections. When ctx ends before that, both are aborted at once. The error
// says why a way ended, unless everything that there was had been carried.
func (l *link) carry(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.abort(0) })()
	var upErr error
	var wg sync.WaitGroup
	wg.Go(func() { l.up, upErr = l.pour(&l.server, &l.client) })
	n, downErr := l.pour(&l.client, &l.server)
	l.down = n
	wg.Wait()
	if ctx.Err() != nil {
		return errors.New("cut off")
	}
	closeOrderly(l.client.conn)
	closeOrderly(l.server.conn)
	if upErr == nil || errors.Is(upErr, net.ErrClosed) {
		return downErr // the cause, where one way has ended the other
	}
	return upErr
}

// pour carries bytes from src to dst until the end, and passes on how it ended.
// So a peer never takes a stream for whole that was cut short.
func (l *link) pour(dst, src *leg) (n int64, err error) {
	n, err = io.Copy(dst.conn, src.conn)
	if err == nil && src.wasReset() {
		err = syscall.ECONNRESET
	}
	switch {
	case err == nil:
		dst.sentAll.Store(true)
		dst.CloseWrite()
	case errors.Is(err, syscall.EPIPE):
		// The peer behind dst does not read any more, but may still write. Had
		// it died, the other way would notice.
		src.CloseRead()
	default:
		l.abort(sendLimit)
	}
	return n, err
}

// wasReset reports whether l, whose peer's bytes have come to an end, was reset
// and not closed. The kernel reports a reset once, and a call that writes at
// the same time may have taken the report away: then reads find an end that
// looks orderly. A TCP connection shows it by its state: one whose peer has
// closed waits for us to do so, unless we have. The other way may do that right
// now: it stores sentAll first, so the state is looked at before sentAll.
func (l *leg) wasReset() bool {
	return closedByKernel(l.conn) && !l.sentAll.Load()
}

// abort aborts both connections. Each peer still gets what was carried, if it
// takes that within the limit, and then, as far as its kind of connection has
// one, a reset.
func (l *link) abort(limit time.Duration) {
	// At the same time, because one may have to wait.
	var wg sync.WaitGroup
	wg.Go(func() { abort(l.client.conn, limit) })
	wg.Go(func() { abort(l.server.conn, limit) })
	wg.Wait()
}

// arm prepares c: however this process ends, the peer gets a reset unless c is
// closed by closeOrderly. Shared memory is like that, and Unix sockets have
// nothing of the kind.
func arm(c conn) {
	if c, ok := c.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
}

// closeOrderly closes c, which arm has prepared.
func closeOrderly(c conn) {
	if c, ok := c.(*net.TCPConn); ok {
		c.SetLinger(-1)
	}
	c.Close()
}

// sendLimit is how long a peer has to take what was sent before its connection
// is reset.
const sendLimit = 5 * time.Second

// abort closes c, which arm has prepared, so that the peer gets what was
// written to c, within the limit, and then a reset. The peer of a Unix socket
// gets a reset only if it has sent something that nobody has read: the kernel
// has no other.
func abort(c conn, limit time.Duration) {
	switch c := c.(type) {
	case *shmconn.Conn:
		c.Abort()
	case *net.TCPConn:
		// With its reset the kernel drops what it has not sent yet.
		for end := time.Now().Add(limit); unsent(c) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		c.Close()
	default:
		c.Close()
	}
}
