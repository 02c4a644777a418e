// Command tls is a TLS server, and its client in another process, over shared
// memory; each wants to see the other's certificate. The kernel tells who a
// peer is by user (see shmconn.Conn.PeerCred); TLS is for where that is not
// enough, and for programs that speak it anyway.
//
//	go run ./examples/tls
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"shmconn"
	"shmconn/examples/internal/again"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tls:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("tls", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: tls [name directory certificate]\n\nWithout arguments it serves, and runs itself again as the client of that server.")
	}
	flags.Parse(args)
	switch args := flags.Args(); len(args) {
	case 0:
		return serve(ctx, fmt.Sprintf("tls-%d", os.Getpid()), stdout)
	case 3:
		return client(args[0], args[1], args[2], stdout)
	}
	return errors.New("usage: tls [name directory certificate]")
}

// config returns the configuration of the end called self, which talks to
// other. The keys and certificates of both are files in dir.
func config(dir, self, other string) (*tls.Config, error) {
	path := func(name string) string { return filepath.Join(dir, name+".pem") }
	own, err := tls.LoadX509KeyPair(path(self), path(self))
	if err != nil {
		return nil, err
	}
	trusted, err := os.ReadFile(path(other))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	return &tls.Config{
		Certificates: []tls.Certificate{own},
		RootCAs:      pool, ServerName: other, // of a client
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, // of a server
	}, nil
}

// serve says hello to whom it knows, for as long as the client runs.
func serve(ctx context.Context, name string, stdout io.Writer) error {
	dir, err := os.MkdirTemp("", "tls")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, who := range []string{"server", "client"} {
		if err := newCertificate(dir, who); err != nil {
			return err
		}
	}
	config, err := config(dir, "server", "client")
	if err != nil {
		return err
	}
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	defer l.Close()
	secure := tls.NewListener(l, config) // as over TCP
	go func() {
		for {
			c, err := secure.Accept()
			if err != nil {
				return
			}
			go hello(c.(*tls.Conn))
		}
	}()
	return again.Run(ctx, stdout, name, dir, "client")
}

func hello(c *tls.Conn) {
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return // the client has been told
	}
	fmt.Fprintln(c, "hello,", c.ConnectionState().PeerCertificates[0].DNSNames[0])
}

// client prints what the server says.
func client(name, dir, self string, stdout io.Writer) error {
	config, err := config(dir, self, "server")
	if err != nil {
		return err
	}
	conn, err := shmconn.Dial(name)
	if err != nil {
		return err
	}
	c := tls.Client(conn, config) // as over TCP
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s", c.ConnectionState().PeerCertificates[0].DNSNames[0], line)
	return nil
}

// newCertificate makes a key and a certificate that vouches for itself.
func newCertificate(dir, who string) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{who},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return os.WriteFile(filepath.Join(dir, who+".pem"), b, 0o600)
}
