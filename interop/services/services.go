//go:build linux

// Package services has libraries that know nothing of shmconn, each as a server
// that echoes and its client, for the tests beside it and for cmd/compare. A
// server is given a net.Listener and a client a dial function. What these are
// made of, shared memory or a Unix socket, nothing in a service depends on.
package services

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
)

// A Dial makes a connection to a service.
type Dial func(context.Context) (net.Conn, error)

// dialContext is d as most libraries ask for it. There is one server that it
// can reach.
func (d Dial) dialContext(ctx context.Context, _, _ string) (net.Conn, error) { return d(ctx) }

// A Client calls a service. It makes one call at a time.
type Client interface {
	Call(request []byte) (reply []byte, err error)
	Close() error
}

// A Service is a library's server and client.
type Service struct {
	Name string

	// Serve starts to accept from l. Stop closes l, waits for what Serve has
	// started, and is called once no client is left.
	Serve func(l net.Listener) (stop func() error, err error)

	// NewClient returns a client with a connection of its own.
	NewClient func(dial Dial) (Client, error)
}

// All are the services, in the order of cmd/compare's table.
var All = []Service{
	{"grpc", serveGRPC, newGRPCClient},
	{"http1", serveHTTP, newHTTPClient("http1")},
	{"h2c", serveHTTP, newHTTPClient("h2c")},
	{"connect", serveHTTP, newConnectClient},
	{"websocket", serveHTTP, newWebSocketClient},
	{"tls", serveEach(serveTLS), newTLSClient},
	{"ssh", serveEach(serveSSH), newSSHClient},
	{"yamux", serveEach(serveYamux), newYamuxClient},
	{"smux", serveEach(serveSmux), newSmuxClient},
	{"net/rpc", serveEach(serveRPC), newRPCClient},
	{"redis", serveRedis, newRedisClient},
	{"nats", serveNATS, newNATSClient},
	{"go-plugin", servePlugin, newPluginClient},
}

// Named returns the service of that name.
func Named(name string) (Service, bool) {
	i := slices.IndexFunc(All, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return All[i], true
}

// serveEach makes a server of what serves one connection.
func serveEach(handle func(net.Conn)) func(net.Listener) (func() error, error) {
	return func(l net.Listener) (func() error, error) {
		var wg sync.WaitGroup
		var failed error
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						failed = err
					}
					return
				}
				wg.Go(func() {
					defer c.Close()
					handle(c)
				})
			}
		})
		return func() error {
			err := l.Close()
			wg.Wait()
			return errors.Join(err, failed)
		}, nil
	}
}

// A streamClient is the client of a service that sends back the bytes it gets.
type streamClient struct {
	io.ReadWriter
	closers []func() error // in this order
}

// pipelined is from how many bytes a request is written while the reply is
// read: no more than the buffers of any stream.
const pipelined = 16 << 10

func (c *streamClient) Call(request []byte) ([]byte, error) {
	sent := make(chan error, 1)
	if write := func() { _, err := c.Write(request); sent <- err }; len(request) < pipelined {
		write()
	} else {
		go write()
	}
	reply := make([]byte, len(request))
	_, err := io.ReadFull(c, reply)
	return reply, errors.Join(err, <-sent)
}

func (c *streamClient) Close() (err error) {
	for _, f := range c.closers {
		err = errors.Join(err, f())
	}
	return err
}

// A funcClient is a client made of functions.
type funcClient struct {
	call  func([]byte) ([]byte, error)
	close func() error
}

func (c *funcClient) Call(request []byte) ([]byte, error) { return c.call(request) }
func (c *funcClient) Close() error                        { return c.close() }

// closed says that a Close which returns nothing has been called.
func closed(f func()) func() error { return func() error { f(); return nil } }

// reader makes an io.Reader of b that net/http knows the length of.
func reader(b []byte) *bytes.Reader { return bytes.NewReader(b) }
