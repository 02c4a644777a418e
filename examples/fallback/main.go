// Command fallback is a client that does not care where its server is: on this machine
// it dials shared memory, elsewhere TCP with TLS. Both ends are what they would be
// otherwise; the choice is the function Server.Dial.
//
//	go run ./examples/fallback
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"shmconn"
)

// A Server is where one is: by its name on this machine, and by its address. It keeps
// connections that are idle.
type Server struct {
	Name    string
	Address string
	TLS     *tls.Config
	Shm     shmconn.Dialer

	idle pool
}

// Dial connects to the server over shared memory if it listens on this machine, and over
// TCP with TLS if not. Via says which: "shm" or "tls". A connection that was Put back is
// taken before a new one is made.
//
// What it falls back on is that nobody listens. That somebody does who is not to be
// trusted, or that memory is short, is an error, which is not to be hidden by a
// connection that works.
func (s *Server) Dial(ctx context.Context) (c net.Conn, via string, err error) {
	if c = s.idle.get("shm", s.Name); c != nil {
		return c, "shm", nil
	}
	c, err = s.Shm.DialContext(ctx, "shm", s.Name)
	if err == nil {
		return c, "shm", nil
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, errors.ErrUnsupported) {
		return nil, "", err
	}
	if c = s.idle.get("tls", s.Address); c != nil {
		return c, "tls", nil
	}
	c, err = (&tls.Dialer{Config: s.TLS}).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, "", err
	}
	return c, "tls", nil
}

// Put gives a connection back that Dial has returned.
func (s *Server) Put(c net.Conn, via string) {
	if via == "shm" {
		s.idle.put(via, s.Name, c)
	} else {
		s.idle.put(via, s.Address, c)
	}
}

// Close closes the connections that are idle.
func (s *Server) Close() { s.idle.close() }

// A pool keeps connections that are idle, under a key that says what they are made of: a
// server that has come to this machine, or has left it, is not reached the old way.
type pool struct {
	mu   sync.Mutex
	idle map[poolKey][]net.Conn
}

type poolKey struct{ via, address string }

// get returns an idle connection that is not known to have ended, or nil.
func (p *pool) get(via, address string) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := poolKey{via, address}
	for n := len(p.idle[k]) - 1; n >= 0; n-- {
		c := p.idle[k][n]
		p.idle[k] = p.idle[k][:n]
		if shm, ok := c.(*shmconn.Conn); ok {
			if n, err := shm.TryRead(make([]byte, 1)); n > 0 || err != nil {
				c.Close() // it has ended, or says something that nobody has asked for
				continue
			}
		}
		return c
	}
	return nil
}

// put keeps c for a later get with the same key.
func (p *pool) put(via, address string, c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = make(map[poolKey][]net.Conn)
	}
	k := poolKey{via, address}
	p.idle[k] = append(p.idle[k], c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.idle {
		for _, c := range list {
			c.Close()
		}
	}
	p.idle = nil
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fallback:", err)
		os.Exit(1)
	}
}

// run serves on both, asks twice, ends the server on shared memory, and asks twice again.
func run(ctx context.Context, stdout io.Writer) error {
	serverTLS, clientTLS, err := certificates()
	if err != nil {
		return err
	}
	far, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		return err
	}
	defer far.Close()
	go serve(far)
	near, err := shmconn.Listen(fmt.Sprintf("fallback-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer near.Close()
	gone := make(chan struct{})
	go func() {
		serve(near)
		close(gone)
	}()

	s := &Server{Name: near.Addr().String(), Address: far.Addr().String(), TLS: clientTLS}
	defer s.Close()
	for range 2 {
		for range 2 {
			if err := ask(ctx, s, stdout); err != nil {
				return err
			}
		}
		near.Close() // as if the server were elsewhere
		<-gone
	}
	return nil
}

// serve greets each line, whatever l is made of, until l is closed.
func serve(l net.Listener) {
	for n := 1; ; n++ {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		go func() {
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "hello, %s, on connection %d\n", lines.Text(), n)
			}
		}()
	}
}

func ask(ctx context.Context, s *Server, stdout io.Writer) error {
	c, via, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(c, "gopher")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return err
	}
	s.Put(c, via)
	fmt.Fprintf(stdout, "over %s: %s", via, line)
	return nil
}

// certificates returns the configurations of a server with a new key and of a client
// that trusts it.
func certificates() (server, client *tls.Config, err error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}},
		&tls.Config{RootCAs: pool}, nil
}
