// Command fallback is a client that does not care where its server is: on this
// machine it dials shared memory, elsewhere TCP with TLS. Both ends are what
// they would be otherwise; the choice is that of package shmconn/fallback.
//
//	go run ./examples/fallback
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"

	"shmconn"
	"shmconn/fallback"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: fallback\n\nIt asks a server over shared memory, ends that, and asks over TCP with TLS.")
	}
	flag.Parse()
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fallback:", err)
		os.Exit(1)
	}
}

// run serves on both, asks twice, ends the server on shared memory, and asks
// twice again.
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

	s := &fallback.Server{Name: near.Addr().String(), Address: far.Addr().String(), TLS: clientTLS}
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

func ask(ctx context.Context, s *fallback.Server, stdout io.Writer) error {
	c, via, err := s.Get(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(c, "gopher")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return err
	}
	s.Put(c)
	fmt.Fprintf(stdout, "over %s: %s", via, line)
	return nil
}

// certificates returns the configurations of a server with a new key and of a
// client that trusts it.
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
