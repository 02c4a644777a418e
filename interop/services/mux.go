//go:build linux

package services

import (
	"context"
	"io"
	"log"
	"net"
	"net/rpc"
	"sync"

	"github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

// echoStreams sends back what comes on each stream that accept returns.
func echoStreams[S io.ReadWriteCloser](accept func() (S, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s, err := accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			io.Copy(s, s)
			s.Close()
		})
	}
}

// yamuxConfig is the default without its log: it warns of updates of the window
// that come after a stream's end.
func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func serveYamux(c net.Conn) {
	s, err := yamux.Server(c, yamuxConfig())
	if err != nil {
		panic(err)
	}
	defer s.Close()
	echoStreams(s.AcceptStream)
}

func newYamuxClient(dial Dial) (Client, error) {
	c, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	session, err := yamux.Client(c, yamuxConfig())
	if err != nil {
		c.Close()
		return nil, err
	}
	s, err := session.OpenStream()
	if err != nil {
		session.Close()
		return nil, err
	}
	return &streamClient{s, []func() error{s.Close, session.Close}}, nil
}

func serveSmux(c net.Conn) {
	s, err := smux.Server(c, nil)
	if err != nil {
		panic(err)
	}
	defer s.Close()
	echoStreams(s.AcceptStream)
}

func newSmuxClient(dial Dial) (Client, error) {
	c, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	session, err := smux.Client(c, nil)
	if err != nil {
		c.Close()
		return nil, err
	}
	s, err := session.OpenStream()
	if err != nil {
		session.Close()
		return nil, err
	}
	return &streamClient{s, []func() error{s.Close, session.Close}}, nil
}

// Bytes is the service of net/rpc, and of the plugin.
type Bytes struct{}

// Echo sends back what it is sent.
func (Bytes) Echo(in []byte, out *[]byte) error { *out = in; return nil }

func serveRPC(c net.Conn) {
	s := rpc.NewServer()
	if err := s.Register(Bytes{}); err != nil {
		log.Panic(err)
	}
	s.ServeConn(c)
}

func newRPCClient(dial Dial) (Client, error) {
	conn, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	c := rpc.NewClient(conn)
	call := func(b []byte) (reply []byte, err error) {
		err = c.Call("Bytes.Echo", b, &reply)
		return reply, err
	}
	return &funcClient{call, c.Close}, nil
}
