package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"shmconn"
)

// A conn is what all connections here are: both directions of it can be closed
// alone.
type conn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// An endpoint is where a proxy listens, or what it connects to.
type endpoint struct {
	net  string // shm, unix or tcp
	addr string
}

func (e endpoint) String() string { return e.net + ":" + e.addr }

func (e *endpoint) UnmarshalText(text []byte) error {
	kind, addr, ok := strings.Cut(string(text), ":")
	if !ok || addr == "" || kind != "shm" && kind != "unix" && kind != "tcp" {
		return fmt.Errorf("%q is not shm:NAME, unix:PATH or tcp:HOST:PORT", text)
	}
	if _, _, err := net.SplitHostPort(addr); kind == "tcp" && err != nil {
		return fmt.Errorf("%q is not tcp:HOST:PORT", text)
	}
	*e = endpoint{kind, addr}
	return nil
}

// listen listens at e. What it returns has e's kind of address, with the port
// that was chosen if e has port 0.
func (e endpoint) listen(lc *shmconn.ListenConfig) (net.Listener, error) {
	switch {
	case e.net == "shm":
		return lc.Listen(e.addr)
	case e.net == "unix" && lc.Mode != 0:
		l, err := net.Listen(e.net, e.addr)
		if err != nil {
			return nil, err
		}
		if err := os.Chmod(e.addr, lc.Mode); err != nil {
			l.Close()
			return nil, err
		}
		return l, nil
	}
	return net.Listen(e.net, e.addr)
}

// dial connects to e.
func (e endpoint) dial(ctx context.Context, d *shmconn.Dialer) (conn, error) {
	if e.net == "shm" {
		return d.DialConn(ctx, e.addr)
	}
	c, err := new(net.Dialer).DialContext(ctx, e.net, e.addr)
	if err != nil {
		return nil, err
	}
	return c.(conn), nil
}

// peerOf says who is at the other end of c, "" if it is not known.
func peerOf(c net.Conn) string {
	switch c := c.(type) {
	case *shmconn.Conn:
		pid, uid, _ := c.PeerCred()
		return fmt.Sprintf("pid %d uid %d", pid, uid)
	case *net.TCPConn:
		return c.RemoteAddr().String()
	}
	return ""
}
