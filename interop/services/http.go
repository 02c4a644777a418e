//go:build linux

package services

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"connectrpc.com/connect"
	"github.com/coder/websocket"
	"google.golang.org/grpc/interop/grpc_testing"
)

// procedure is the method of the Connect service.
const procedure = "/grpc.testing.BenchmarkService/UnaryCall"

// serveHTTP has /echo, /websocket, and the Connect service.
func serveHTTP(l net.Listener) (func() error, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		// Where HTTP/1 has read nothing of the body, it reads all before the reply.
		http.NewResponseController(w).EnableFullDuplex()
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /websocket", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client has been told
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, unaryConnect))
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: mux, Protocols: p}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return func() error {
		err := s.Shutdown(context.Background())
		if serr := <-served; serr != http.ErrServerClosed {
			err = errors.Join(err, serr)
		}
		return err
	}, nil
}

func unaryConnect(_ context.Context, r *connect.Request[grpc_testing.SimpleRequest]) (*connect.Response[grpc_testing.SimpleResponse], error) {
	return connect.NewResponse(&grpc_testing.SimpleResponse{Payload: r.Msg.Payload}), nil
}

// newTransport returns a client of one version of HTTP.
func newTransport(dial Dial, version string) *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(version == "http1")
	p.SetUnencryptedHTTP2(version == "h2c")
	return &http.Transport{DialContext: dial.dialContext, Protocols: p}
}

func newHTTPClient(version string) func(Dial) (Client, error) {
	major := map[string]int{"http1": 1, "h2c": 2}[version]
	return func(dial Dial) (Client, error) {
		t := newTransport(dial, version)
		c := &http.Client{Transport: t}
		call := func(b []byte) ([]byte, error) {
			r, err := c.Post("http://service/echo", "application/octet-stream", reader(b))
			if err != nil {
				return nil, err
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusOK || r.ProtoMajor != major {
				return nil, fmt.Errorf("%s, %s", r.Proto, r.Status)
			}
			return io.ReadAll(r.Body)
		}
		return &funcClient{call, closed(t.CloseIdleConnections)}, nil
	}
}

func newConnectClient(dial Dial) (Client, error) {
	t := newTransport(dial, "h2c")
	c := connect.NewClient[grpc_testing.SimpleRequest, grpc_testing.SimpleResponse](
		&http.Client{Transport: t}, "http://service"+procedure)
	call := func(b []byte) ([]byte, error) {
		r, err := c.CallUnary(context.Background(), connect.NewRequest(message(b)))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetPayload().GetBody(), nil
	}
	return &funcClient{call, closed(t.CloseIdleConnections)}, nil
}

func newWebSocketClient(dial Dial) (Client, error) {
	ctx := context.Background()
	c, _, err := websocket.Dial(ctx, "ws://service/websocket", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: newTransport(dial, "http1")},
	})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	call := func(b []byte) ([]byte, error) {
		sent := make(chan error, 1)
		go func() { sent <- c.Write(ctx, websocket.MessageBinary, b) }()
		_, reply, err := c.Read(ctx)
		return reply, errors.Join(err, <-sent)
	}
	return &funcClient{call, func() error { return c.Close(websocket.StatusNormalClosure, "") }}, nil
}
