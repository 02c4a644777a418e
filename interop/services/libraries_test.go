//go:build linux

package services

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// newBenchmarkClient returns a client of the gRPC service.
func newBenchmarkClient(t *testing.T, dial Dial, opts ...grpc.DialOption) grpc_testing.BenchmarkServiceClient {
	t.Helper()
	cc, err := dialGRPC(dial, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return grpc_testing.NewBenchmarkServiceClient(cc)
}

// TestGRPCLargeMessage sends a message of 64 MB and gets it back; but one of 8
// MB over the smallest ring, whose ends hand each other the processor for every
// 4 KiB of it.
func TestGRPCLargeMessage(t *testing.T) {
	for _, n := range networks {
		t.Run("net="+n.String(), func(t *testing.T) {
			size := 64 << 20
			if n.RingSize != 0 && !*long {
				size = 8 << 20
			}
			want := random(size, 1)
			dial, _ := start(t, "grpc", n)
			r, err := newBenchmarkClient(t, dial).UnaryCall(t.Context(), message(want))
			if got := r.GetPayload().GetBody(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes that are equal: %v; %v", len(got), bytes.Equal(got, want), err)
			}
		})
	}
}

// TestGRPCStream sends and receives at the same time on one stream, cancels
// another that waits, and has the first one outlive that.
func TestGRPCStream(t *testing.T) {
	onNetworks(t, "grpc", func(t *testing.T, dial Dial, _ func() error) {
		c := newBenchmarkClient(t, dial)
		s, err := c.StreamingCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waiting, err := c.StreamingCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		canceled := make(chan error, 1)
		go func() {
			_, err := waiting.Recv()
			canceled <- err
		}()
		const n = 200
		go func() {
			for i := range n {
				if i == n/2 {
					cancel()
				}
				if err := s.Send(message(random(i*101, i))); err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
			}
			s.CloseSend()
		}()
		for i := range n {
			r, err := s.Recv()
			if err != nil || !bytes.Equal(r.GetPayload().GetBody(), random(i*101, i)) {
				t.Fatalf("message %d: wrong bytes, or %v", i, err)
			}
		}
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("after the last message: %v", err)
		}
		if err := <-canceled; status.Code(err) != codes.Canceled {
			t.Errorf("the stream that was canceled: %v", err)
		}
	})
}

// TestGRPCGracefulStop stops a server while a stream is under way: the stream
// goes on to its end, new calls fail, and the server ends.
func TestGRPCGracefulStop(t *testing.T) {
	onNetworks(t, "grpc", func(t *testing.T, dial Dial, stop func() error) {
		c := newBenchmarkClient(t, dial)
		s, err := c.StreamingCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exchange := func(i int) {
			t.Helper()
			if err := s.Send(message(random(10_000, i))); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Recv(); err != nil || !bytes.Equal(r.GetPayload().GetBody(), random(10_000, i)) {
				t.Fatalf("message %d: wrong bytes, or %v", i, err)
			}
		}
		exchange(0)
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		for { // until the stop has come as far as that nobody listens
			conn, err := dial(t.Context())
			if err != nil {
				break
			}
			conn.Close()
		}
		exchange(1)
		select {
		case err := <-stopped:
			t.Fatalf("the server ended with a stream under way: %v", err)
		default:
		}
		s.CloseSend()
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("the end of the stream: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("the server: %v", err)
		}
		if _, err := c.UnaryCall(t.Context(), message(nil)); status.Code(err) != codes.Unavailable {
			t.Errorf("a call after the stop: %v", err)
		}
	})
}

// TestGRPCKeepalive is a client that answers one question whether it is there,
// and then no more: the server has to hang up, and not before its time limit
// has passed.
func TestGRPCKeepalive(t *testing.T) {
	for _, n := range networks {
		t.Run("net="+n.String(), func(t *testing.T) {
			t.Parallel() // it mostly waits
			dial, _ := start(t, "grpc", n)
			c := dial.connect(t)
			f := http2.NewFramer(c, c)
			if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			var asked []time.Time
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					if len(asked) < 2 || err != io.EOF {
						t.Fatalf("after %d questions: %v", len(asked), err)
					}
					break
				}
				p, ok := frame.(*http2.PingFrame)
				if !ok || p.IsAck() {
					continue
				}
				if asked = append(asked, time.Now()); len(asked) == 1 {
					if err := f.WritePing(true, p.Data); err != nil {
						t.Fatal(err)
					}
				}
			}
			// The first of them may be the server's estimate of the bandwidth.
			if d := time.Since(asked[0]); d < pingTimeout {
				t.Errorf("the server hung up %v after its first question, want at least %v", d, pingTimeout)
			}
			t.Logf("hung up %v after the last of %d questions", time.Since(asked[len(asked)-1]), len(asked))
		})
	}
}

func TestWebSocketClose(t *testing.T) {
	onNetworks(t, "websocket", func(t *testing.T, dial Dial, _ func() error) {
		c, _, err := websocket.Dial(t.Context(), "ws://service/websocket", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: newTransport(dial, "http1")},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if err := c.Write(t.Context(), websocket.MessageText, []byte("text")); err != nil {
			t.Fatal(err)
		}
		kind, b, err := c.Read(t.Context())
		if err != nil || kind != websocket.MessageText || string(b) != "text" {
			t.Errorf("%v, %q, %v", kind, b, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := c.Read(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a read that was canceled: %v", err)
		}
	})
}

// TestTLSStranger is a client whose certificate the server does not accept.
func TestTLSStranger(t *testing.T) {
	onNetworks(t, "tls", func(t *testing.T, dial Dial, _ func() error) {
		for who, want := range map[byte]bool{ofClient: true, ofStranger: false} {
			_, config, err := tlsConfigs(who)
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(dial.connect(t), config)
			_, err = c.Write([]byte("hello")) // in version 1.3 the answer may come later
			b := make([]byte, 5)
			if err == nil {
				_, err = io.ReadFull(c, b)
			}
			if ok := err == nil && string(b) == "hello"; ok != want {
				t.Errorf("key %d: %q, %v, want ok %v", who, b, err, want)
			}
		}
	})
}

// TestSSHTransfer has many bytes go through a channel and back.
func TestSSHTransfer(t *testing.T) {
	blocks := 16
	if *long {
		blocks = 100
	}
	block := random(1_000_000, 7)
	onNetworks(t, "ssh", func(t *testing.T, dial Dial, _ func() error) {
		client, err := newSSHClient(dial)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ch := client.(*streamClient)
		sent := sha256.New()
		done := make(chan error, 1)
		go func() {
			for i := range blocks {
				block := append([]byte{byte(i)}, block...) // no two are the same
				sent.Write(block)
				if _, err := ch.Write(block); err != nil {
					done <- err
					return
				}
			}
			done <- ch.ReadWriter.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got := sha256.New()
		n, err := io.Copy(got, ch)
		if werr := <-done; err != nil || werr != nil {
			t.Fatalf("%d bytes, then %v, %v", n, err, werr)
		}
		if want := int64(blocks * (len(block) + 1)); n != want || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
			t.Errorf("%d bytes came back of %d, or other ones", n, want)
		}
	})
}

// TestRedis has values set and got by two clients, one by one and in a
// pipeline.
func TestRedis(t *testing.T) {
	onNetworks(t, "redis", func(t *testing.T, dial Dial, _ func() error) {
		a, b := dialRedis(dial), dialRedis(dial)
		defer a.Close()
		defer b.Close()
		value := func(i int) string { return string(random(i*5003, i)) }
		const n = 50
		if _, err := a.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := range n {
				p.Set(t.Context(), fmt.Sprint("key", i), value(i), 0)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if got, err := b.Get(t.Context(), fmt.Sprint("key", i)).Result(); err != nil || got != value(i) {
				t.Errorf("key%d: wrong bytes, or %v", i, err)
			}
		}
		if _, err := b.Get(t.Context(), "another").Result(); err != redis.Nil {
			t.Errorf("a key that is not there: %v", err)
		}
	})
}

// TestNATS has one client publish what another has subscribed to.
func TestNATS(t *testing.T) {
	onNetworks(t, "nats", func(t *testing.T, dial Dial, _ func() error) {
		const n = 500
		var clients [2]*nats.Conn
		for i := range clients {
			c, err := dialNATS(dial)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients[i] = c
		}
		got := make(chan *nats.Msg, n) // NATS drops what a subscriber has no room for
		if _, err := clients[0].ChanSubscribe("feed.>", got); err != nil {
			t.Fatal(err)
		}
		if err := clients[0].Flush(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for i := range n {
				if err := clients[1].Publish(fmt.Sprint("feed.", i), random(i*37, i)); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
			clients[1].Flush()
		}()
		for i := range n {
			m := <-got
			if m.Subject != fmt.Sprint("feed.", i) || !bytes.Equal(m.Data, random(i*37, i)) {
				t.Fatalf("message %d: %s with wrong bytes, or another one", i, m.Subject)
			}
		}
	})
}

// TestPluginOutput wants what the plugin prints at the host.
func TestPluginOutput(t *testing.T) {
	onNetworks(t, "go-plugin", func(t *testing.T, dial Dial, _ func() error) {
		host, c, err := dialPlugin(dial)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		defer c.Close()
		out, in := net.Pipe()
		if err := host.SyncStreams(in, io.Discard); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(printed))
		if _, err := io.ReadFull(out, b); err != nil || string(b) != printed {
			t.Errorf("%q, %v", b, err)
		}
		if err := host.Ping(); err != nil {
			t.Errorf("Ping: %v", err)
		}
	})
}
