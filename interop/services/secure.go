//go:build linux

package services

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// newKey returns a key that is the same one in every process.
func newKey(who byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = who
	return ed25519.NewKeyFromSeed(seed)
}

// Whose keys there are.
const (
	ofServer = iota
	ofClient
	ofStranger
)

// certificate returns a certificate that vouches for itself.
func certificate(who byte, name string) (tls.Certificate, error) {
	key := newKey(who)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(int64(who) + 1),
		DNSNames:     []string{name},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// tlsConfigs returns the configurations of two ends that both want to see a
// certificate. The client's is who's, and the server accepts only ofClient's.
func tlsConfigs(who byte) (server, client *tls.Config, err error) {
	var certs [3]tls.Certificate
	for i, name := range []string{"server.test", "client.test", "stranger.test"} {
		if certs[i], err = certificate(byte(i), name); err != nil {
			return nil, nil, err
		}
	}
	servers, clients := x509.NewCertPool(), x509.NewCertPool()
	servers.AddCert(certs[ofServer].Leaf)
	clients.AddCert(certs[ofClient].Leaf)
	server = &tls.Config{
		Certificates: certs[:1],
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	}
	client = &tls.Config{
		// Not Certificates, of which one that the server does not ask for is
		// not sent.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[who], nil },
		RootCAs:              servers,
		ServerName:           "server.test",
	}
	return server, client, nil
}

func serveTLS(c net.Conn) {
	config, _, err := tlsConfigs(ofClient)
	if err != nil {
		panic(err)
	}
	t := tls.Server(c, config)
	io.Copy(t, t)
	t.Close()
}

func newTLSClient(dial Dial) (Client, error) {
	_, config, err := tlsConfigs(ofClient)
	if err != nil {
		return nil, err
	}
	c, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, config)
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return &streamClient{t, []func() error{t.Close}}, nil
}

// serveSSH sends back what comes on each channel.
func serveSSH(c net.Conn) {
	host, err := ssh.NewSignerFromKey(newKey(ofServer))
	if err != nil {
		panic(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(host)
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		wg.Go(func() {
			io.Copy(ch, ch)
			ch.Close()
		})
	}
}

func newSSHClient(dial Dial) (Client, error) {
	c, err := dial(context.Background())
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewPublicKey(newKey(ofServer).Public())
	if err != nil {
		return nil, err
	}
	conn, channels, requests, err := ssh.NewClientConn(c, "service", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(host)})
	if err != nil {
		c.Close()
		return nil, err
	}
	client := ssh.NewClient(conn, channels, requests)
	ch, requests, err := client.OpenChannel("echo", nil)
	if err != nil {
		client.Close()
		return nil, err
	}
	go ssh.DiscardRequests(requests)
	return &streamClient{ch, []func() error{ch.Close, client.Close}}, nil
}
