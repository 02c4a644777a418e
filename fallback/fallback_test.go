package fallback

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// serveName is the environment variable that makes the test binary a server on
// that name, in a process that can be killed.
const serveName = "SHMCONN_FALLBACK_SERVE"

func TestMain(m *testing.M) {
	if name := os.Getenv(serveName); name != "" {
		l, err := shmconn.Listen(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("listens")
		new(greeter).serve(l)
	}
	os.Exit(m.Run())
}

// A greeter answers lines, and counts the connections that it has accepted.
type greeter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (g *greeter) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		g.conns = append(g.conns, c)
		n := len(g.conns)
		g.mu.Unlock()
		go func() {
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "%s %d\n", lines.Text(), n)
			}
		}()
	}
}

// hangUp closes the connections.
func (g *greeter) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
}

// newServer returns a Server of which nothing listens on this machine yet, and
// what listens for TLS.
func newServer(t *testing.T) (*Server, *greeter) {
	t.Helper()
	t.Setenv("SHMCONN_DIR", t.TempDir())
	serverTLS, clientTLS := certificates(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		t.Fatal(err)
	}
	g := new(greeter)
	go g.serve(l)
	s := &Server{Name: "quotes", Address: l.Addr().String(), TLS: clientTLS}
	t.Cleanup(func() {
		s.Close()
		l.Close()
		g.hangUp()
	})
	return s, g
}

// listen lets the server be on this machine, until t ends or the listener is
// closed.
func listen(t *testing.T, name string) (*shmconn.Listener, *greeter) {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	g := new(greeter)
	go g.serve(l)
	t.Cleanup(func() {
		l.Close()
		g.hangUp()
	})
	return l, g
}

func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}},
		&tls.Config{RootCAs: pool}
}

// get gets a connection, which has to be of that kind and to get that answer.
func get(t *testing.T, s *Server, wantVia Via, want string) net.Conn {
	t.Helper()
	c, via, err := s.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if via != wantVia || ViaOf(c) != wantVia {
		t.Errorf("Get is via %q, with a %T; want %q", via, c, wantVia)
	}
	fmt.Fprintln(c, "hello")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != want+"\n" {
		t.Fatalf("over %s: %q, %v; want %q", via, line, err, want)
	}
	return c
}

// The server comes to this machine and leaves it.
func TestComesAndGoes(t *testing.T) {
	s, _ := newServer(t)
	s.Put(get(t, s, TLS, "hello 1"))
	s.Put(get(t, s, TLS, "hello 1")) // which was idle
	near, g := listen(t, s.Name)
	first := get(t, s, Shm, "hello 1")
	s.Put(get(t, s, Shm, "hello 2"))
	s.Put(first)
	s.Put(get(t, s, Shm, "hello 1")) // the one that was put last
	near.Close()
	s.Put(get(t, s, Shm, "hello 1")) // connections outlive their listener
	g.hangUp()
	s.Put(get(t, s, TLS, "hello 1")) // which was idle all the time
}

// Dial makes a new connection whatever is idle, and knows no name as well.
func TestDial(t *testing.T) {
	s, _ := newServer(t)
	listen(t, s.Name)
	s.Put(get(t, s, Shm, "hello 1"))
	for _, want := range []Via{Shm, TLS} {
		c, via, err := s.Dial(t.Context())
		if err != nil || via != want || ViaOf(c) != want {
			t.Fatalf("Dial = %T, %q, %v; want %q", c, via, err, want)
		}
		defer c.Close()
		fmt.Fprintln(c, "hello")
		if line, err := bufio.NewReader(c).ReadString('\n'); want == Shm && line != "hello 2\n" {
			t.Errorf("%q, %v", line, err)
		}
		s.Name = ""
	}
}

// What the server has ended, or has said unasked, is not returned.
func TestIdleEnded(t *testing.T) {
	for _, via := range []Via{Shm, TLS} {
		t.Run(string(via), func(t *testing.T) {
			s, g := newServer(t)
			if via == Shm {
				_, g = listen(t, s.Name)
			}
			s.Put(get(t, s, via, "hello 1"))
			g.hangUp()
			noticed(t, s, via)
			s.Put(get(t, s, via, "hello 2"))
			g.mu.Lock()
			fmt.Fprintln(g.conns[1], "unasked")
			g.mu.Unlock()
			noticed(t, s, via)
			get(t, s, via, "hello 3").Close()
		})
	}
}

// noticed waits until what the server has done to the idle connection is here.
func noticed(t *testing.T, s *Server, via Via) {
	t.Helper()
	s.mu.Lock()
	i := s.idle[via][0]
	s.mu.Unlock()
	if via == TLS {
		i.read <- <-i.read
		return
	}
	c := i.conn.(*shmconn.Conn)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Peek(1); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Time{})
}

// A server on this machine that is killed is one to fall back from, also while
// a connection to it is idle.
func TestServerKilled(t *testing.T) {
	s, _ := newServer(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), serveName+"="+s.Name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	s.Put(get(t, s, Shm, "hello 1"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// Whatever looks at the connection may notice it, and what has to notice here
	// is that which watches the idle connection. So there is nothing to wait for.
	time.Sleep(300 * time.Millisecond)
	get(t, s, TLS, "hello 1").Close()
	// Listen takes over what the killed process has left, and Close removes it.
	l, err := shmconn.Listen(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// What is wrong with a listener that is there is no reason to fall back.
func TestNotTrusted(t *testing.T) {
	s, _ := newServer(t)
	listen(t, s.Name)
	s.Shm.AllowUID = func(uint32) bool { return false }
	for name, dial := range map[string]func(context.Context) (net.Conn, Via, error){"Dial": s.Dial, "Get": s.Get} {
		if c, via, err := dial(t.Context()); c != nil || via != "" || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s = %v, %q, %v; want %v", name, c, via, err, fs.ErrPermission)
		}
	}
}

// With no server anywhere the error is that of TCP; a context that ends is not
// a reason to fall back either.
func TestErrors(t *testing.T) {
	s, _ := newServer(t)
	trusted := s.TLS
	s.TLS = nil
	var unknown x509.UnknownAuthorityError
	if c, via, err := s.Dial(t.Context()); c != nil || via != "" || !errors.As(err, &unknown) {
		t.Errorf("server that is not to be trusted: %v, %q, %v", c, via, err)
	}
	s.TLS = trusted
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, via, err := s.Dial(ctx); c != nil || via != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %q, %v", c, via, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s.Address = l.Addr().String()
	var op *net.OpError
	if c, via, err := s.Dial(t.Context()); c != nil || via != "" || !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Net != "tcp" {
		t.Errorf("nobody listens: %v, %q, %v", c, via, err)
	}
}

// Put keeps so many of each kind, with no deadline, and none after Close.
func TestPut(t *testing.T) {
	s, _ := newServer(t)
	listen(t, s.Name)
	s.MaxIdle = 1
	first, second := get(t, s, Shm, "hello 1"), get(t, s, Shm, "hello 2")
	first.SetDeadline(time.Now().Add(-time.Second))
	s.Put(first)
	s.Put(second)
	if _, err := second.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("one above MaxIdle is open: %v", err)
	}
	first = get(t, s, Shm, "hello 1")
	s.Put(first)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := first.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what is idle is open after Close: %v", err)
	}
	third := get(t, s, Shm, "hello 3")
	s.Put(third)
	if _, err := third.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what is put after Close is open: %v", err)
	}
	a, b := net.Pipe()
	defer b.Close()
	s = &Server{}
	s.Put(a)
	if _, err := a.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("a connection of another kind is open: %v", err)
	}
	s.MaxIdle = -1
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Many goroutines at once; the race detector looks on. After the first round
// the listener is gone: there are up to DefaultMaxIdle connections over shared
// memory to go on with, and the others are over TLS. It closes between the
// rounds, as a connection that is not accepted yet is reset then.
func TestConcurrent(t *testing.T) {
	s, _ := newServer(t)
	l, _ := listen(t, s.Name)
	for range 2 {
		var all sync.WaitGroup
		for range 2 * DefaultMaxIdle {
			all.Go(func() {
				for i := range 50 {
					c, _, err := s.Get(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					fmt.Fprintln(c, i)
					var got, n int
					if _, err := fmt.Fscanf(c, "%d %d\n", &got, &n); err != nil || got != i {
						t.Errorf("%d, %v; want %d", got, err, i)
					}
					s.Put(c)
				}
			})
		}
		all.Wait()
		l.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle[Shm]) == 0 || len(s.idle[TLS]) == 0 {
		t.Errorf("idle: %d over shared memory, %d over TLS; want some of each", len(s.idle[Shm]), len(s.idle[TLS]))
	}
}
