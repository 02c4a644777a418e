//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const httpReply = "ok\n"

// getRequests sends HTTP requests one after the other, over a connection each.
func getRequests(e *end, q quota) (Result, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			c, err := e.net.Dial(e.spec, e.addr)
			if err != nil {
				return nil, err
			}
			return c.(net.Conn), nil
		},
	}}
	return countConns(e, q, func() error {
		resp, err := client.Get("http://bench/")
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && string(body) != httpReply {
			err = fmt.Errorf("bench: HTTP reply %q", body)
		}
		return err
	})
}

// serveRequests answers them, on all the slices' behalf.
func serveRequests(e *end, _ quota) (Result, error) {
	e.background.Do(func() {
		go func() {
			err := http.Serve(httpListener{e.listener}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				e.dials.Add(1)
				io.WriteString(w, httpReply)
			}))
			e.failed.CompareAndSwap(nil, &err)
		}()
	})
	return answerCount(e)
}

// An httpListener is a Listener of a network whose connections are net.Conns.
type httpListener struct{ l Listener }

func (h httpListener) Accept() (net.Conn, error) {
	c, err := h.l.Accept()
	if err != nil {
		return nil, err
	}
	return c.(net.Conn), nil
}

func (h httpListener) Close() error   { return h.l.Close() }
func (h httpListener) Addr() net.Addr { return &net.UnixAddr{Name: h.l.Addr()} }

// countConns calls f, which makes and ends a connection, as often as q says.
// Then the server says how many it has seen.
func countConns(e *end, q quota, f func() error) (r Result, err error) {
	limit := uint64(e.spec.MaxOps)
	if q.D == 0 {
		limit = q.N
	}
	start := time.Now()
	for (q.D == 0 || time.Since(start) < q.D) && r.Ops < limit {
		if err := f(); err != nil {
			return r, err
		}
		r.Ops++
	}
	r.Elapsed, r.AllOps = time.Since(start), r.Ops
	// The connection that was made first says how it ends.
	m := e.msgs[0]
	if err := m.Send(8, r.Ops); err != nil {
		return r, err
	}
	got, err := m.Receive(8)
	if err == nil && got != r.Ops {
		err = fmt.Errorf("bench: %d connections, the server has seen %d", r.Ops, got)
	}
	return r, err
}

// answerCount is the server's part of countConns.
func answerCount(e *end) (Result, error) {
	m := e.msgs[0]
	if _, err := m.Receive(8); err != nil {
		return Result{}, err
	}
	n := e.dials.Swap(0)
	err := m.Send(8, n)
	if failed := e.failed.Load(); failed != nil {
		err = errors.Join(err, *failed)
	}
	return Result{Ops: n, AllOps: n}, err
}
