//go:build linux

package shmhttp_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"

	"shmconn"
	"shmconn/shmhttp"
)

// hello serves the name until stop is called.
func hello(name string) (stop func()) {
	l, err := shmconn.Listen(name)
	if err != nil {
		log.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s, for %s", name, r.URL.Path)
	})}
	go s.Serve(l)
	return func() { s.Close() }
}

// Teach the scheme to the transport that http.Get and http.DefaultClient use.
func ExampleRegister() {
	defer hello("greeter")()
	shm := shmhttp.Register(http.DefaultTransport.(*http.Transport), nil)
	defer shm.CloseIdleConnections()

	resp, err := http.Get("http+shm://greeter/gopher")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: hello from greeter, for /gopher
}

// A client for shared memory alone, that waits for a server which is not there
// yet.
func ExampleTransport() {
	defer hello("patient")()
	c := &http.Client{Transport: &shmhttp.Transport{Dialer: &shmconn.Dialer{Wait: -1}}}
	defer c.CloseIdleConnections()

	resp, err := c.Get("http+shm://patient/x")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: hello from patient, for /x
}

// HTTP/2 without TLS: many requests at once on one connection.
func ExampleTransport_http2() {
	l, err := shmconn.Listen("h2c")
	if err != nil {
		log.Fatal(err)
	}
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &h2, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	})}
	go s.Serve(l)
	defer s.Close()

	c := &http.Client{Transport: &shmhttp.Transport{Base: &http.Transport{Protocols: &h2}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http+shm://h2c/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: HTTP/2.0
}

// A server on TCP that passes requests on to one in another process.
func ExampleTransport_reverseProxy() {
	defer hello("backend")()
	backend := &url.URL{Scheme: shmhttp.Scheme, Host: shmhttp.Host("backend")}
	shm := new(shmhttp.Transport)
	defer shm.CloseIdleConnections()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend); r.SetXForwarded() },
		Transport: shm,
	})
	defer front.Close()

	resp, err := http.Get(front.URL + "/through")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: hello from backend, for /through
}

// connKey is the key of the connection in a request's context.
type connKey struct{}

// A server that knows the process that asks.
func Example_peerCred() {
	l, err := shmconn.Listen("whoami")
	if err != nil {
		log.Fatal(err)
	}
	s := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			pid, uid, _ := r.Context().Value(connKey{}).(*shmconn.Conn).PeerCred()
			fmt.Fprint(w, pid == os.Getpid(), uid == uint32(os.Getuid()))
		}),
	}
	go s.Serve(l)
	defer s.Close()

	c := &http.Client{Transport: new(shmhttp.Transport)}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http+shm://whoami/")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output: true true
}

// The host for a name in another directory.
func ExampleHost() {
	fmt.Println("http+shm://" + shmhttp.Host("/shared/feed") + "/path")
	fmt.Println("http+shm://" + shmhttp.Host("/my dir/feed") + "/path")
	// Output:
	// http+shm://,shared,feed/path
	// http+shm://,my=20dir,feed/path
}
