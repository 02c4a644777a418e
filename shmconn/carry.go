package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// A link is two connections, and what was carried between them.
type link struct {
	client, server conn
	up, down       int64 // bytes to the server, bytes to the client
}

// carry carries bytes both ways until both ways have ended, and closes the connections.
// When ctx ends before that they are closed at once. The error says why a way ended
// other than by the end of what there was to carry.
func (l *link) carry(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.close)()
	var upErr error
	var wg sync.WaitGroup
	wg.Go(func() { l.up, upErr = l.pour(l.server, l.client) })
	n, downErr := l.pour(l.client, l.server)
	l.down = n
	wg.Wait()
	l.close()
	if ctx.Err() != nil {
		return errors.New("cut off")
	}
	if upErr == nil || errors.Is(upErr, net.ErrClosed) {
		return downErr // the cause, where one way has ended the other
	}
	return upErr
}

func (l *link) close() {
	l.client.Close()
	l.server.Close()
}

// pour carries bytes from src to dst until the end, and passes the end on.
func (l *link) pour(dst, src conn) (n int64, err error) {
	n, err = io.Copy(dst, src)
	switch {
	case err == nil || died(err):
		// The kernel closes the sockets of a process that ends, in order as far as the
		// peer can tell. One that had shared memory is no different.
		dst.CloseWrite()
	case errors.Is(err, syscall.EPIPE):
		// dst does not read any more, but may still write.
		src.CloseRead()
	default:
		// A reset is passed on as far as the kind of connection has one.
		if c, ok := dst.(*net.TCPConn); ok && errors.Is(err, syscall.ECONNRESET) {
			c.SetLinger(0)
		}
		l.close()
	}
	return n, err
}

// died reports whether err, of copying from a connection over shared memory, says that the
// process at its other end is dead.
func died(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Net == "shm" && op.Op == "writeto" && op.Err == syscall.ECONNRESET
}
