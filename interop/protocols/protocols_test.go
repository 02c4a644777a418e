//go:build linux

package protocols

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"shmconn"
)

// A server is what serves a protocol.
type server struct {
	stop func() error // lets calls end, and returns when nothing is left
	kill func()       // ends calls that are under way
}

// serve starts a server of a protocol, which accepts from l and closes it. A
// server without a kill is stopped by the clients that it has and by its
// listener.
var serve = map[string]func(l net.Listener) server{
	"grpc":     func(l net.Listener) server { return serveGRPC(l) },
	"grpc-tls": func(l net.Listener) server { return serveGRPC(l, grpc.Creds(credentials.NewTLS(serverTLS()))) },
	"yamux":    func(l net.Listener) server { return serveConns(l, serveYamux) },
	"http1":    func(l net.Listener) server { return serveHTTP(l, "http1") },
	"h2c":      func(l net.Listener) server { return serveHTTP(l, "h2c") },
	"h2":       func(l net.Listener) server { return serveHTTP(l, "h2") },
	"gob":      func(l net.Listener) server { return serveConns(l, func(c net.Conn) { newRPC().ServeConn(c) }) },
	"json": func(l net.Listener) server {
		return serveConns(l, func(c net.Conn) { newRPC().ServeCodec(jsonrpc.NewServerCodec(c)) })
	},
}

// serveConns calls handle for each connection.
func serveConns(l net.Listener, handle func(net.Conn)) server {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				panic(err)
			}
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	return server{stop: func() error {
		err := l.Close()
		wg.Wait()
		return err
	}}
}

// roleEnv tells this binary, run again, what to serve: protocol, ring size and
// name.
const roleEnv = "SHMCONN_PROTOCOLS_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(serveRole(role))
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own and fails when they leave
// a file in it. By its name the tests of shmconn remove one that a run left
// which was killed.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-protocols-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("SHMCONN_DIR", dir)
	code := m.Run()
	if left, err := os.ReadDir(dir); code == 0 && (err != nil || len(left) > 0) {
		fmt.Fprintln(os.Stderr, "FAIL: left in the directory:", left, err)
		return 1
	}
	return code
}

// serveRole serves until standard input ends.
func serveRole(role string) int {
	var protocol, name string
	var ring int
	_, err := fmt.Sscan(role, &protocol, &ring, &name)
	if err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		return 2
	}
	l, err := (&shmconn.ListenConfig{RingSize: ring}).Listen(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := serve[protocol](l)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	if err := s.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	waitUnmapped()
	return 0
}

// waitUnmapped waits until no connection is left in this process: that is how
// long a library takes to close those that it has done with, and forever if it,
// or shmconn, forgets one.
func waitUnmapped() {
	dir := os.Getenv("SHMCONN_DIR")
	for {
		maps, err := os.ReadFile("/proc/self/maps")
		if err == nil && !bytes.Contains(maps, []byte(dir)) {
			return
		}
		runtime.Gosched()
	}
}

// A place is where a server is and what its connections are like.
type place struct {
	apart bool // in another process
	ring  int
}

var places = []place{{false, 4096}, {false, 0}, {true, 4096}, {true, 0}}

func (p place) String() string {
	s := "one_process"
	if p.apart {
		s = "two_processes"
	}
	if p.ring != 0 {
		s += ",ring=" + strconv.Itoa(p.ring)
	}
	return s
}

// onPlaces runs test for a server of the protocol at each place.
func onPlaces(t *testing.T, protocol string, test func(t *testing.T, name string, p place, s server)) {
	for _, p := range places {
		t.Run(protocol+","+p.String(), func(t *testing.T) {
			name := newName()
			s := p.start(t, protocol, name)
			test(t, name, p, s)
			if err := s.stop(); err != nil {
				t.Errorf("stopping the server: %v", err)
			}
			waitUnmapped()
			if left, err := os.ReadDir(os.Getenv("SHMCONN_DIR")); err != nil || len(left) > 0 {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
		})
	}
}

var nameCount atomic.Int64

// newName returns a name that nobody has.
func newName() string { return fmt.Sprintf("p%d-%d", os.Getpid(), nameCount.Add(1)) }

// start starts a server, which listens when start returns. It can be stopped,
// and killed, any number of times.
func (p place) start(t *testing.T, protocol, name string) server {
	t.Helper()
	if !p.apart {
		l, err := (&shmconn.ListenConfig{RingSize: p.ring}).Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		s := serve[protocol](l)
		stop := sync.OnceValue(s.stop)
		return server{stop: stop, kill: func() { s.kill(); stop() }}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", roleEnv, protocol, p.ring, name),
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0") // a second each, with -race
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // of a test that failed; otherwise it is gone
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server's process says %q, %v", line, err)
	}
	var killed atomic.Bool
	stop := sync.OnceValue(func() error {
		in.Close()
		if err := cmd.Wait(); err != nil && !killed.Load() {
			return err
		}
		return nil
	})
	return server{stop: stop, kill: func() {
		killed.Store(true)
		cmd.Process.Kill()
		stop()
	}}
}

// random returns n bytes that are the same for the same seed.
func random(n, seed int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// each calls f in n goroutines and waits for them.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// cert is a certificate for itself, the same one in every process.
var cert = sync.OnceValue(func() tls.Certificate {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"shmconn.test"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

func serverTLS() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{cert()}} }

func clientTLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(cert().Leaf)
	return &tls.Config{RootCAs: pool, ServerName: "shmconn.test"}
}

// gRPC.

// echo sends back what it was sent.
type echo struct {
	grpc_testing.UnimplementedBenchmarkServiceServer
}

func (echo) UnaryCall(_ context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return &grpc_testing.SimpleResponse{Payload: r.Payload}, nil
}

func (echo) StreamingCall(s grpc_testing.BenchmarkService_StreamingCallServer) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.SimpleResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

func request(body []byte) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: body}}
}

const maxMessage = 16 << 20

func serveGRPC(l net.Listener, opts ...grpc.ServerOption) server {
	s := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage))...)
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	grpc_testing.RegisterBenchmarkServiceServer(s, echo{})
	grpc_testing.RegisterTestServiceServer(s, interop.NewTestServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return server{
		stop: func() error {
			h.Shutdown() // tells those who watch
			s.GracefulStop()
			return <-served
		},
		kill: s.Stop,
	}
}

func newGRPCClient(t *testing.T, protocol, name string) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if protocol == "grpc-tls" {
		creds = credentials.NewTLS(clientTLS())
	}
	cc, err := grpc.NewClient("passthrough:///"+name,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
			return new(shmconn.Dialer).DialContext(ctx, "shm", name)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond},
			MinConnectTimeout: time.Hour,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestGRPCInterop runs the interoperability tests of gRPC's authors; one that
// fails ends the process.
func TestGRPCInterop(t *testing.T) {
	tests := []struct {
		name string
		do   func(context.Context, grpc_testing.TestServiceClient, ...grpc.CallOption)
	}{
		{"EmptyUnaryCall", interop.DoEmptyUnaryCall},
		{"LargeUnaryCall", interop.DoLargeUnaryCall},
		{"ClientStreaming", interop.DoClientStreaming},
		{"ServerStreaming", interop.DoServerStreaming},
		{"PingPong", interop.DoPingPong},
		{"EmptyStream", interop.DoEmptyStream},
		{"TimeoutOnSleepingServer", interop.DoTimeoutOnSleepingServer},
		{"CancelAfterBegin", interop.DoCancelAfterBegin},
		{"CancelAfterFirstResponse", interop.DoCancelAfterFirstResponse},
		{"CustomMetadata", interop.DoCustomMetadata},
		{"StatusCodeAndMessage", interop.DoStatusCodeAndMessage},
		{"SpecialStatusMessage", interop.DoSpecialStatusMessage},
	}
	for _, protocol := range []string{"grpc", "grpc-tls"} {
		onPlaces(t, protocol, func(t *testing.T, name string, _ place, _ server) {
			cc := newGRPCClient(t, protocol, name)
			defer cc.Close()
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					tt.do(t.Context(), grpc_testing.NewTestServiceClient(cc))
				})
			}
			interop.DoUnimplementedService(t.Context(), grpc_testing.NewUnimplementedServiceClient(cc))
			interop.DoUnimplementedMethod(t.Context(), cc)
		})
	}
}

// TestGRPC checks the bytes of calls, many at a time and larger than the ring,
// and that a server that is stopped lets a watcher know and is not there
// afterwards.
func TestGRPC(t *testing.T) {
	for _, protocol := range []string{"grpc", "grpc-tls"} {
		onPlaces(t, protocol, func(t *testing.T, name string, _ place, s server) {
			cc := newGRPCClient(t, protocol, name)
			defer cc.Close()
			c := grpc_testing.NewBenchmarkServiceClient(cc)

			each(16, func(i int) { // unary
				for j := range 5 {
					want := random(1+i*j*777, i)
					got, err := c.UnaryCall(t.Context(), request(want))
					if err != nil || !bytes.Equal(got.GetPayload().GetBody(), want) {
						t.Errorf("call %d of %d: wrong bytes, or %v", j, i, err)
					}
				}
			})

			want := random(1<<20+1, 1) // larger than any ring
			got, err := c.UnaryCall(t.Context(), request(want))
			if err != nil || !bytes.Equal(got.GetPayload().GetBody(), want) {
				t.Errorf("a large call: wrong bytes, or %v", err)
			}

			each(8, func(i int) { // both directions of a stream at the same time
				stream, err := c.StreamingCall(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				const n = 20
				sent := make(chan error, 1)
				go func() {
					for j := range n {
						if err := stream.Send(request(random(j*1000, i))); err != nil {
							sent <- err
							return
						}
					}
					sent <- stream.CloseSend()
				}()
				for j := range n {
					got, err := stream.Recv()
					if err != nil || !bytes.Equal(got.GetPayload().GetBody(), random(j*1000, i)) {
						t.Errorf("message %d of stream %d: wrong bytes, or %v", j, i, err)
						break
					}
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
				if _, err := stream.Recv(); err != io.EOF {
					t.Errorf("after the last message: %v", err)
				}
			})

			// A deadline, on a stream that has begun.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			stream, err := c.StreamingCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			wantCode(t, "past the deadline", err, codes.DeadlineExceeded)

			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			w, err := grpc_health_v1.NewHealthClient(cc).Watch(ctx, new(grpc_health_v1.HealthCheckRequest))
			if err != nil {
				t.Fatal(err)
			}
			r, err := w.Recv()
			if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
				t.Errorf("before the stop: %v, %v", r, err)
			}
			stopped := make(chan error, 1)
			go func() { stopped <- s.stop() }()
			r, err = w.Recv()
			if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
				t.Errorf("at the stop: %v, %v", r, err)
			}
			cancel() // which the stop waits for
			_, err = w.Recv()
			wantCode(t, "a call that was canceled", err, codes.Canceled)
			if err := <-stopped; err != nil {
				t.Errorf("stop: %v", err)
			}
			_, err = c.UnaryCall(t.Context(), request(nil))
			wantCode(t, "after the stop", err, codes.Unavailable)
		})
	}
}

// TestGRPCRestart ends a server while a call waits for it, and starts another
// one under the same name, which the same client finds.
func TestGRPCRestart(t *testing.T) {
	for _, protocol := range []string{"grpc", "grpc-tls"} {
		onPlaces(t, protocol, func(t *testing.T, name string, p place, s server) {
			cc := newGRPCClient(t, protocol, name)
			defer cc.Close()
			c := grpc_testing.NewBenchmarkServiceClient(cc)
			for i := range 3 {
				stream, err := c.StreamingCall(t.Context(), grpc.WaitForReady(true))
				if err != nil {
					t.Fatal(err)
				}
				want := random(10000, i)
				if err := stream.Send(request(want)); err != nil {
					t.Fatal(err)
				}
				got, err := stream.Recv()
				if err != nil || !bytes.Equal(got.GetPayload().GetBody(), want) {
					t.Fatalf("server %d: wrong bytes, or %v", i, err)
				}
				s.kill()
				_, err = stream.Recv()
				wantCode(t, "at the end of the server", err, codes.Unavailable)
				s = p.start(t, protocol, name)
			}
			want := random(10000, 3)
			got, err := c.UnaryCall(t.Context(), request(want), grpc.WaitForReady(true))
			if err != nil || !bytes.Equal(got.GetPayload().GetBody(), want) {
				t.Errorf("the last server: wrong bytes, or %v", err)
			}
			cc.Close()
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// yamux.

// yamuxConfig is the default, but for the time after which a write fails, and
// without a log: it warns of updates of the window that come after a stream's
// end.
func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.ConnectionWriteTimeout = time.Hour
	c.LogOutput = io.Discard
	return c
}

// serveYamux sends back what comes on each stream.
func serveYamux(c net.Conn) {
	session, err := yamux.Server(c, yamuxConfig())
	if err != nil {
		panic(err)
	}
	defer session.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		stream, err := session.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			io.Copy(stream, stream)
			stream.Close()
		})
	}
}

// TestYamux checks the bytes of many streams on one connection, and that the
// end of the session ends a stream that waits.
func TestYamux(t *testing.T) {
	onPlaces(t, "yamux", func(t *testing.T, name string, _ place, _ server) {
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		session, err := yamux.Client(c, yamuxConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		each(64, func(i int) {
			stream, err := session.Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer stream.Close()
			want := random(20000+i*101, i)
			if i == 0 {
				want = random(1<<20, i) // more than a ring and a window
			}
			sent := make(chan error, 1)
			go func() {
				_, err := stream.Write(want)
				sent <- errors.Join(err, stream.Close()) // closes this direction
			}()
			got, err := io.ReadAll(stream)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: wrong bytes, or %v", i, err)
			}
			if err := <-sent; err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
		if _, err := session.Ping(); err != nil {
			t.Errorf("Ping: %v", err)
		}

		stream, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		stream.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := stream.Read(make([]byte, 1)); err != yamux.ErrTimeout {
			t.Errorf("past the deadline: %v", err)
		}
		stream.SetReadDeadline(time.Time{})
		ended := make(chan error, 1)
		go func() {
			_, err := stream.Read(make([]byte, 1))
			ended <- err
		}()
		if err := session.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("a Read returned without an error after the end of its session")
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the session did not close its connection: %v", err)
		}
	})
}

// net/http.

func protocols(protocol string) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(protocol == "http1")
	p.SetUnencryptedHTTP2(protocol == "h2c")
	p.SetHTTP2(protocol == "h2")
	return p
}

// serveHTTP has /echo, which sends back what comes as it comes, and /wait,
// which never ends by itself.
func serveHTTP(l net.Listener, protocol string) server {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			panic(err)
		}
		c.Flush()
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			c.Flush()
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := &http.Server{
		Handler:   mux,
		Protocols: protocols(protocol),
		ErrorLog:  log.New(os.Stderr, "http: ", 0),
	}
	served := make(chan error, 1)
	if protocol == "h2" {
		s.TLSConfig = serverTLS()
		go func() { served <- s.ServeTLS(l, "", "") }()
	} else {
		go func() { served <- s.Serve(l) }()
	}
	return server{
		stop: func() error {
			err := s.Shutdown(context.Background()) // waits for the handlers
			if serr := <-served; serr != http.ErrServerClosed {
				return errors.Join(err, serr)
			}
			return err
		},
		kill: func() { s.Close() },
	}
}

func TestHTTP(t *testing.T) {
	for _, protocol := range []string{"http1", "h2c", "h2"} {
		onPlaces(t, protocol, func(t *testing.T, name string, p place, s server) {
			tr := &http.Transport{
				DialContext:     new(shmconn.Dialer).DialContext,
				Protocols:       protocols(protocol),
				TLSClientConfig: clientTLS(),
			}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr}
			url, major := "http://"+name, 2
			switch protocol {
			case "http1":
				major = 1
			case "h2":
				url = "https://" + name
			}
			do := func(ctx context.Context, path string, body io.Reader) (*http.Response, error) {
				r, err := http.NewRequestWithContext(ctx, "POST", url+path, body)
				if err != nil {
					return nil, err
				}
				w, err := c.Do(r)
				if err == nil && (w.StatusCode != http.StatusOK || w.ProtoMajor != major) {
					t.Errorf("%s: %s, %s", path, w.Proto, w.Status)
				}
				return w, err
			}

			each(8, func(i int) {
				for j := range 3 {
					want := random(1+i*j*10007, i)
					if i == 0 {
						want = random(400<<10, j) // more than a ring
					}
					w, err := do(t.Context(), "/echo", bytes.NewReader(want))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(w.Body)
					w.Body.Close()
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("request %d of %d: wrong bytes, or %v", j, i, err)
					}
				}
			})

			// To and fro in one request.
			out, in := io.Pipe()
			w, err := do(t.Context(), "/echo", out)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(w.Body)
			for i := range 100 {
				want := strings.Repeat(strconv.Itoa(i), i) + "\n"
				if _, err := io.WriteString(in, want); err != nil {
					t.Fatal(err)
				}
				if got, err := lines.ReadString('\n'); got != want {
					t.Fatalf("%q, %v, want %q", got, err, want)
				}
			}
			in.Close()
			if _, err := lines.ReadByte(); err != io.EOF {
				t.Errorf("after the last line: %v", err)
			}
			w.Body.Close()

			// A request that is canceled ends its handler, which Shutdown waits for.
			ctx, cancel := context.WithCancel(t.Context())
			w, err = do(ctx, "/wait", nil)
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := w.Body.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
				t.Errorf("a request that was canceled: %v", err)
			}
			w.Body.Close()
			tr.CloseIdleConnections() // or Shutdown, in version 2, takes a second
			if err := s.stop(); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if _, err := do(t.Context(), "/echo", nil); err == nil {
				t.Error("a request was answered after Shutdown")
			}

			// A server that ends within a request, and the next one of that name.
			s = p.start(t, protocol, name)
			if w, err = do(t.Context(), "/wait", nil); err != nil {
				t.Fatal(err)
			}
			s.kill()
			if _, err := w.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("a request whose server has ended: %v", err)
			}
			w.Body.Close()
			s = p.start(t, protocol, name)
			if w, err = do(t.Context(), "/echo", strings.NewReader("again")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(w.Body); string(got) != "again" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			w.Body.Close()
			tr.CloseIdleConnections() // or Shutdown, in version 2, takes a second
			if err := s.stop(); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
	}
}

// net/rpc.

// Bytes is the service.
type Bytes struct{}

func (Bytes) Echo(in []byte, out *[]byte) error { *out = in; return nil }

func (Bytes) Fail(in string, _ *string) error { return errors.New(in) }

func newRPC() *rpc.Server {
	s := rpc.NewServer()
	if err := s.Register(Bytes{}); err != nil {
		panic(err)
	}
	return s
}

func TestRPC(t *testing.T) {
	for _, codec := range []string{"gob", "json"} {
		onPlaces(t, codec, func(t *testing.T, name string, _ place, _ server) {
			conn, err := shmconn.Dial(name)
			if err != nil {
				t.Fatal(err)
			}
			newClient := rpc.NewClient
			if codec == "json" {
				newClient = jsonrpc.NewClient
			}
			c := newClient(conn)
			defer c.Close()
			each(8, func(i int) {
				for j := range 5 {
					want := random(1+i*j*777, i)
					if i == 0 && j == 0 {
						want = random(400<<10, i) // more than a ring
					}
					var got []byte
					if err := c.Call("Bytes.Echo", want, &got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("call %d of %d: wrong bytes, or %v", j, i, err)
					}
				}
			})
			var s string
			if err := c.Call("Bytes.Fail", "an error", &s); err != rpc.ServerError("an error") {
				t.Errorf("Fail: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := c.Call("Bytes.Echo", []byte(nil), new([]byte)); err != rpc.ErrShutdown {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}
