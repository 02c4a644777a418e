// Package fallback connects to a server wherever it runs: over shared memory if
// the server listens on this machine, and over TCP with TLS otherwise. It
// reports which, and it keeps idle connections of the two kinds apart.
//
//	s := &fallback.Server{Name: "quotes", Address: "quotes.example.com:7001", TLS: config}
//	c, via, err := s.Dial(ctx) // via is fallback.Shm or fallback.TLS
//
// The server listens in both ways, by [shmconn.Listen] and by [tls.Listen], and
// serves both listeners by the same code.
//
// The package falls back for one reason only: nobody listens on the name. An
// untrusted listener, or a shortage of memory, is an error, which a connection
// over TLS would hide.
package fallback

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"shmconn"
)

// A Via says what a connection is made of.
type Via string

// The ways to a server.
const (
	Shm Via = "shm" // shared memory: the server is on this machine
	TLS Via = "tls" // TLS over TCP
)

// ViaOf returns what c is made of, or "" for a connection that this package
// does not make.
func ViaOf(c net.Conn) Via {
	switch c.(type) {
	case *shmconn.Conn:
		return Shm
	case *tls.Conn:
		return TLS
	}
	return ""
}

// DefaultMaxIdle is how many idle connections a [Server] keeps of each kind
// unless its MaxIdle says otherwise.
const DefaultMaxIdle = 4

// A Server has the addresses of a server, and idle connections to it.
//
// Its fields must not change after the first call of a method. All methods may
// run at once. A Server must not be copied after the first call.
type Server struct {
	// Name is what the server listens on if it is on this machine, as for
	// [shmconn.Dial]. With "" it is never on this machine.
	Name string

	// Address is the host and the port where the server listens for TLS, as for
	// [tls.Dial].
	Address string

	// TLS is the configuration of the client's end, as for [tls.Dialer]. nil
	// means that the system's certificates say which servers to trust. Shared
	// memory does not use it: there the kernel says which user the server is,
	// and Shm says which users to trust.
	TLS *tls.Config

	// Shm makes the connections over shared memory. For a dial to fall back at
	// once, its Wait must be 0; otherwise a dial first waits that long for a
	// listener on this machine.
	Shm shmconn.Dialer

	// TCP makes the connections under TLS. The zero value works.
	TCP net.Dialer

	// MaxIdle is how many idle connections to keep of each kind: 0 means
	// [DefaultMaxIdle], and less than 0 means none.
	MaxIdle int

	mu     sync.Mutex
	idle   map[Via][]*idle
	closed bool
}

// Dial makes a new connection to the server, and says what it is made of. A
// connection over shared memory is a [*shmconn.Conn], one over TLS a
// [*tls.Conn] whose handshake is done.
//
// Dial waits for the handshake of TLS, until ctx ends. It does not wait for a
// server on this machine, unless Shm.Wait says so.
//
// The error is that of the last attempt:
//
//   - If somebody listens on the name and the dial fails all the same, it is
//     the error of shared memory: [io/fs.ErrPermission] for a listener that
//     Shm does not trust, and whatever else [shmconn.Dialer] returns.
//   - Otherwise it is the error of TCP or TLS.
func (s *Server) Dial(ctx context.Context) (net.Conn, Via, error) {
	c, err := s.dialShm(ctx)
	if c != nil {
		return c, Shm, nil
	}
	if err != nil {
		return nil, "", err
	}
	return s.dialTLS(ctx)
}

// Get returns an idle connection that [Server.Put] has kept, or else a new one
// as [Server.Dial] does, with the same errors. It never returns a connection
// that is known to have ended, or that has bytes to read.
//
// Shared memory comes first. So once the server is on this machine, Get reaches
// it over shared memory, even while connections over TLS are idle.
func (s *Server) Get(ctx context.Context) (net.Conn, Via, error) {
	if c := s.take(Shm); c != nil {
		return c, Shm, nil
	}
	c, err := s.dialShm(ctx)
	if c != nil {
		return c, Shm, nil
	}
	if err != nil {
		return nil, "", err
	}
	if c := s.take(TLS); c != nil {
		return c, TLS, nil
	}
	return s.dialTLS(ctx)
}

// dialShm dials over shared memory. It returns neither a connection nor an
// error if nobody listens.
func (s *Server) dialShm(ctx context.Context) (net.Conn, error) {
	if s.Name == "" {
		return nil, nil
	}
	c, err := s.Shm.DialConn(ctx, s.Name)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, errors.ErrUnsupported):
		return nil, nil
	}
	return nil, err
}

func (s *Server) dialTLS(ctx context.Context) (net.Conn, Via, error) {
	c, err := (&tls.Dialer{NetDialer: &s.TCP, Config: s.TLS}).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, "", err
	}
	return c, TLS, nil
}

// Put keeps c, which Dial or Get has returned, for a later Get. The caller must
// not use c any more. No answer may be outstanding on it, and no deadline is
// left.
//
// Put closes c instead if there are MaxIdle of its kind already, if the Server
// is closed, or if c is of neither kind. It does not wait.
func (s *Server) Put(c net.Conn) {
	if !s.keep(c) {
		c.Close()
	}
}

func (s *Server) keep(c net.Conn) bool {
	via := ViaOf(c)
	limit := s.MaxIdle
	if limit == 0 {
		limit = DefaultMaxIdle
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || via == "" || len(s.idle[via]) >= limit || c.SetDeadline(time.Time{}) != nil {
		return false
	}
	if s.idle == nil {
		s.idle = make(map[Via][]*idle)
	}
	s.idle[via] = append(s.idle[via], newIdle(c))
	return true
}

// take returns the connection of a kind that was put last and has not ended, or
// nil.
func (s *Server) take(via Via) net.Conn {
	for {
		s.mu.Lock()
		list := s.idle[via]
		if len(list) == 0 {
			s.mu.Unlock()
			return nil
		}
		last := list[len(list)-1]
		s.idle[via] = list[:len(list)-1]
		s.mu.Unlock()
		if last.wake() {
			return last.conn
		}
		last.conn.Close()
	}
}

// Close closes the idle connections. Those in use stay open, and Put closes
// them. Dial and Get still make new ones. Close returns nil, even when it is
// called again.
func (s *Server) Close() error {
	s.mu.Lock()
	lists := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, list := range lists {
		for _, i := range list {
			i.conn.Close()
			i.wake()
		}
	}
	return nil
}

// An idle connection is one that no caller uses. It is watched for the server
// ending it: over shared memory by Done, and over TLS by a reader, because TLS
// has no call that checks without waiting.
type idle struct {
	conn net.Conn
	read chan bool // over TLS: the reader was woken, and has read nothing
}

func newIdle(c net.Conn) *idle {
	if shm, ok := c.(*shmconn.Conn); ok {
		shm.Done() // once it has noticed that the server died, TryRead knows
		return &idle{conn: c}
	}
	read := make(chan bool, 1)
	go func() {
		n, err := c.Read(make([]byte, 1))
		var timeout net.Error
		read <- n == 0 && errors.As(err, &timeout) && timeout.Timeout()
	}()
	return &idle{conn: c, read: read}
}

// wake ends the idleness of the connection, and reports whether it can be used.
func (i *idle) wake() bool {
	if shm, ok := i.conn.(*shmconn.Conn); ok {
		n, err := shm.TryRead(make([]byte, 1))
		return n == 0 && err == nil
	}
	i.conn.SetReadDeadline(time.Unix(1, 0)) // long ago: this wakes the reader
	return <-i.read && i.conn.SetReadDeadline(time.Time{}) == nil
}
