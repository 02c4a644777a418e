//go:build linux

package shmgrpc_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"shmconn"
	"shmconn/shmgrpc"
)

// serveEnv has this program, run again, serve a name.
const serveEnv = "SHMGRPC_TEST_SERVE"

// maxMessage is more than the largest message of a test.
const maxMessage = 20 << 20

// testDir is where names without a slash are.
var testDir string

func TestMain(m *testing.M) {
	if name := os.Getenv(serveEnv); name != "" {
		serveProcess(name)
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of their own, and fails when they
// leave a file in it.
func runTests(m *testing.M) int {
	var err error
	if testDir, err = os.MkdirTemp("/dev/shm", "shmconn-test-grpc-"); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(testDir)
	os.Setenv("SHMCONN_DIR", testDir)
	code := m.Run()
	if left, err := os.ReadDir(testDir); code == 0 && (err != nil || len(left) > 0) {
		fmt.Fprintln(os.Stderr, "FAIL: left in the directory:", left, err)
		return 1
	}
	return code
}

// service answers a call without a body with who it is, who calls, and by what
// authority, and any other with the body.
type service struct {
	grpc_testing.UnimplementedBenchmarkServiceServer
	name string
}

func (s service) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if len(r.GetPayload().GetBody()) > 0 {
		return &grpc_testing.SimpleResponse{Payload: r.Payload}, nil
	}
	cred, ok := shmgrpc.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no PeerCred")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	body := fmt.Sprint(s.name, " ", cred, " ", md[":authority"], " ", md["token"])
	return &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: []byte(body)}}, nil
}

func (service) StreamingCall(s grpc_testing.BenchmarkService_StreamingCallServer) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = s.Send(&grpc_testing.SimpleResponse{Payload: r.Payload})
		}
		if err != nil {
			return err
		}
	}
}

func newServer(name string) *grpc.Server {
	s := grpc.NewServer(append(shmgrpc.ServerOptions(), grpc.MaxRecvMsgSize(maxMessage))...)
	grpc_testing.RegisterBenchmarkServiceServer(s, service{name: name})
	return s
}

// serve serves name in this process until the test ends.
func serve(t *testing.T, name, says string) {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, newServer(says))
}

func serveOn(t *testing.T, l net.Listener, s *grpc.Server) {
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func connect(t *testing.T, target string, opts ...grpc.DialOption) grpc_testing.BenchmarkServiceClient {
	t.Helper()
	opts = append(opts, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return grpc_testing.NewBenchmarkServiceClient(cc)
}

func message(b []byte) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: b}}
}

func whoami(ctx context.Context, c grpc_testing.BenchmarkServiceClient, opts ...grpc.CallOption) (string, error) {
	r, err := c.UnaryCall(ctx, message(nil), opts...)
	return string(r.GetPayload().GetBody()), err
}

// own is this process, as a PeerCred prints it.
var own = fmt.Sprintf("pid=%d,uid=%d,gid=%d", os.Getpid(), os.Getuid(), os.Getgid())

// TestTargets are targets that reach a listener, and the authority that it is
// sent.
func TestTargets(t *testing.T) {
	dir := filepath.Join(testDir, "a dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	t.Run("", func(t *testing.T) { // which ends before dir is removed
		serve(t, "feed", "feed")
		serve(t, "Feed", "Feed")
		serve(t, filepath.Join(dir, "feed"), "dir/feed")
		for _, tt := range []struct {
			target, want, authority string
			opts                    []grpc.DialOption
		}{
			{target: "shm:///feed", want: "feed", authority: "feed"},
			{target: "shm:feed", want: "feed", authority: "feed"},
			{target: "shm:///Feed", want: "Feed", authority: "Feed"},
			{target: "shm:///" + testDir + "/feed", want: "feed", authority: "feed"},
			{target: "shm:///" + testDir + "/a%20dir/feed", want: "dir/feed", authority: "feed"},
			{target: "shm:///" + dir + "/feed", want: "dir/feed", authority: "feed"},
			{target: "passthrough:///feed", want: "feed", authority: "feed"},
			{target: "shm:///feed", want: "feed", authority: "example.com", opts: []grpc.DialOption{grpc.WithAuthority("example.com")}},
		} {
			c := connect(t, tt.target, append(shmgrpc.DialOptions(nil), tt.opts...)...)
			want := fmt.Sprintf("%s %s [%s] []", tt.want, own, tt.authority)
			if got, err := whoami(t.Context(), c); err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", tt.target, got, err, want)
			}
		}
	})
}

// TestErrors are targets that reach nobody, and the error of a call.
func TestErrors(t *testing.T) {
	for target, want := range map[string]string{
		"shm:///nobody":           testDir + "/shmconn.nobody",
		"shm:////no/such/dir/x":   "dial shm /no/such/dir/x: ",
		"shm:///.x":               "dial shm .x: name starts with a dot",
		"shm://feed":              `has "feed" where a URL has a host: the name "feed" is written shm:///feed`,
		"shm://feed/":             `the name "feed" is written shm:///feed`,
		"shm://shared/feed":       `the name "/shared/feed" is written shm:////shared/feed`,
		"shm:///":                 "has no name: write shm:///feed",
		"passthrough:///.x":       "dial shm .x: name starts with a dot",
		"shm:///dir/":             "dial shm dir/: name, or its last element, is empty",
		"shm:///" + "größe":       "dial shm größe: name has characters other",
		"shm:///nobody%2Fnothing": "dial shm nobody/nothing: ",
	} {
		cc, err := grpc.NewClient(target, shmgrpc.DialOptions(nil)...)
		if err == nil {
			_, err = whoami(t.Context(), grpc_testing.NewBenchmarkServiceClient(cc))
			if status.Code(err) != codes.Unavailable {
				t.Errorf("%s: %v", target, err)
			}
			cc.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", target, err, want)
		}
	}
}

// token is sent only where the connection is private.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": "secret"}, nil
}
func (token) RequireTransportSecurity() bool { return true }

// TestPeerCred has a server in another process: each end finds the other's
// numbers.
func TestPeerCred(t *testing.T) {
	cmd := startServer(t, "other")
	defer end(cmd)
	c := connect(t, "shm:///other", append(shmgrpc.DialOptions(nil), grpc.WithPerRPCCredentials(token{}))...)
	var p peer.Peer
	got, err := whoami(t.Context(), c, grpc.Peer(&p), grpc.CallAuthority("elsewhere"))
	if want := fmt.Sprintf("%d %s [elsewhere] [secret]", cmd.Process.Pid, own); err != nil || got != want {
		t.Errorf("the server finds %q, %v; want %q", got, err, want)
	}
	cred, ok := p.AuthInfo.(shmgrpc.PeerCred)
	if !ok || cred.PID != cmd.Process.Pid || cred.UID != uint32(os.Getuid()) || cred.GID != uint32(os.Getgid()) ||
		cred.SecurityLevel != credentials.PrivacyAndIntegrity || cred.AuthType() != "shm" {
		t.Errorf("the client finds %+v, and the server is %d", p.AuthInfo, cmd.Process.Pid)
	}
	end(cmd)
	sweep(t, "other")
}

// TestOtherConnections has the credentials refuse what is not a connection of
// shmconn, at both ends.
func TestOtherConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	serveOn(t, l, newServer("tcp"))
	c := connect(t, addr, grpc.WithTransportCredentials(shmgrpc.Credentials()))
	_, err = whoami(t.Context(), c)
	if want := "the connection to " + addr + " over tcp has no PeerCred"; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), want) {
		t.Errorf("a client: %v; want %q", err, want)
	}
	c = connect(t, addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if got, err := whoami(t.Context(), c); status.Code(err) != codes.Unavailable {
		t.Errorf("a server over TCP answers %q, %v", got, err)
	}

	// And where a server has no such credentials, FromContext says so.
	shm, err := shmconn.Listen("plain")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_testing.RegisterBenchmarkServiceServer(s, service{})
	serveOn(t, shm, s)
	c = connect(t, "shm:///plain", shmgrpc.DialOptions(nil)...)
	if got, err := whoami(t.Context(), c); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a server without credentials: %q, %v", got, err)
	}
	if cred, ok := shmgrpc.FromContext(t.Context()); ok {
		t.Errorf("FromContext of no call: %v", cred)
	}
}

// TestSizes sends messages smaller and larger than the ring, calls and streams,
// from several goroutines, to another process.
func TestSizes(t *testing.T) {
	cmd := startServer(t, "sizes")
	defer end(cmd)
	c := connect(t, "shm:///sizes", shmgrpc.DialOptions(nil)...)
	sizes := []int{1, 64, 4096, 65_535, 65_536, 131_072, 262_144, 1 << 20, 16 << 20}
	body := func(n, seed int) []byte { return bytes.Repeat([]byte{byte(seed), 1, 2, 3, 5, 8, 13}, n/7+1)[:n] }
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for _, n := range sizes {
				want := body(n, i)
				r, err := c.UnaryCall(t.Context(), message(want))
				if err != nil || !bytes.Equal(r.GetPayload().GetBody(), want) {
					t.Errorf("%d bytes: %v, or not the same", n, err)
				}
			}
		})
		wg.Go(func() {
			s, err := c.StreamingCall(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			var sent error
			var sending sync.WaitGroup
			sending.Go(func() {
				for _, n := range sizes {
					sent = errors.Join(sent, s.Send(message(body(n, 100+i))))
				}
				sent = errors.Join(sent, s.CloseSend())
			})
			for _, n := range sizes {
				r, err := s.Recv()
				if err != nil || !bytes.Equal(r.GetPayload().GetBody(), body(n, 100+i)) {
					t.Errorf("stream, %d bytes: %v, or not the same", n, err)
					break
				}
			}
			sending.Wait()
			if _, err := s.Recv(); err != io.EOF || sent != nil {
				t.Errorf("at the end of the stream: %v, %v", err, sent)
			}
		})
	}
	wg.Wait()
	end(cmd)
	sweep(t, "sizes")
}

// TestCancel cancels a dial that waits for a listener, and a call.
func TestCancel(t *testing.T) {
	c := connect(t, "shm:///nobody", shmgrpc.DialOptions(&shmconn.Dialer{Wait: -1})...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := whoami(ctx, c); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call that waits for a listener: %v", err)
	}
	serve(t, "feed", "feed")
	c = connect(t, "shm:///feed", shmgrpc.DialOptions(nil)...)
	ctx, cancel = context.WithCancel(t.Context())
	s, err := c.StreamingCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go cancel()
	if _, err := s.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("a stream that is canceled: %v", err)
	}
	if _, err := whoami(t.Context(), c); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestRestart kills the server's process and starts it again. A call that is
// made while nobody listens waits for the next process, as the dial does.
func TestRestart(t *testing.T) {
	c := connect(t, "shm:///again", shmgrpc.DialOptions(&shmconn.Dialer{Wait: -1})...)
	cmd := startServer(t, "again")
	defer func() { end(cmd) }()
	call := func() string {
		for {
			got, err := whoami(t.Context(), c)
			if status.Code(err) == codes.Unavailable && !strings.Contains(err.Error(), "connection refused") {
				continue // it went out on the connection to the dead
			}
			if err != nil {
				return err.Error()
			}
			return got
		}
	}
	want := func() string { return fmt.Sprintf("%d %s [again] []", cmd.Process.Pid, own) }
	if got := call(); got != want() {
		t.Errorf("%q, want %q", got, want())
	}
	for range 10 {
		end(cmd)
		got := make(chan string, 1)
		go func() { got <- call() }()
		cmd = startServer(t, "again")
		if got := <-got; got != want() {
			t.Errorf("%q, want %q", got, want())
		}
	}
	end(cmd)
	sweep(t, "again")
}

// serveProcess serves name, and says the number of its process, until it is
// killed.
func serveProcess(name string) {
	l, err := shmconn.Listen(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	fmt.Println(newServer(fmt.Sprint(os.Getpid())).Serve(l))
	os.Exit(1)
}

// startServer starts a process that serves name, and returns it when it
// listens.
func startServer(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	return cmd
}

// end kills the process, unless it has ended.
func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// sweep removes what the listener has left that was killed.
func sweep(t *testing.T, name string) {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
