//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// An entry is a line of a proxy's log.
type entry struct {
	Level, Msg, From, Peer, Error string
	Conn                          int
	Up, Down, Duration            int64
}

// entries reads a log in JSON.
func entries(r io.Reader) <-chan entry {
	c := make(chan entry, 10000)
	go func() {
		defer close(c)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var e entry
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e.Msg = lines.Text()
			}
			c <- e
		}
	}()
	return c
}

// await returns the next entry that says msg.
func await(t *testing.T, log <-chan entry, msg string) entry {
	t.Helper()
	for e := range log {
		if e.Msg == msg {
			return e
		}
		t.Logf("%+v", e)
	}
	t.Fatalf("the log ended without %q", msg)
	return entry{}
}

// A proxy is a proxy in this process.
type proxy struct {
	at   endpoint     // where it listens
	log  <-chan entry // after "listening"
	stop func() int   // ends it and returns its exit status
}

func startProxy(t *testing.T, from, to endpoint, flags ...string) *proxy {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"proxy", "--json", from.String(), to.String()}, flags...), stdio{nil, w, w})
		w.Close()
	}()
	p := &proxy{log: entries(r)}
	p.stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { p.stop() })
	if err := p.at.UnmarshalText([]byte(await(t, p.log, "listening").From)); err != nil {
		t.Fatal(err)
	}
	return p
}

var kinds = []string{"shm", "unix", "tcp"}

// spot returns an endpoint of a kind, free to listen at.
func spot(t *testing.T, kind string) endpoint {
	switch kind {
	case "shm":
		return endpoint{kind, fmt.Sprintf("test-%d", places.Add(1))}
	case "unix":
		return endpoint{kind, filepath.Join(t.TempDir(), "s")}
	}
	return endpoint{kind, "127.0.0.1:0"}
}

var places atomic.Int64

// serve listens at a place of a kind and has handle handle each connection.
func serve(t *testing.T, kind string, handle func(c conn)) endpoint {
	t.Helper()
	e := spot(t, kind)
	l, err := e.listen(new(shmconn.ListenConfig))
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer c.Close()
				handle(c.(conn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		handlers.Wait()
	})
	return endpoint{kind, l.Addr().String()}
}

func dial(t *testing.T, e endpoint) conn {
	t.Helper()
	c, err := e.dial(context.Background(), new(shmconn.Dialer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pairs runs f for every kind of FROM and TO.
func pairs(t *testing.T, f func(t *testing.T, from, to string)) {
	for _, from := range kinds {
		for _, to := range kinds {
			t.Run(from+"-"+to, func(t *testing.T) { f(t, from, to) })
		}
	}
}

// Many connections at a time: the server answers when it has seen the end, so
// half close is carried, and the client sees the end of the answer.
func TestProxyCarries(t *testing.T) {
	clients := 20
	if *long {
		clients = 500
	}
	pairs(t, func(t *testing.T, from, to string) {
		server := serve(t, to, func(c conn) {
			b, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			if _, err := c.Write(b); err != nil {
				t.Error(err)
			}
		})
		p := startProxy(t, spot(t, from), server)
		var total atomic.Int64
		var wg sync.WaitGroup
		for i := range clients {
			c := dial(t, p.at)
			wg.Go(func() {
				random := rand.New(rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}))
				question := make([]byte, random.IntN(400_000)*min(i, 1)) // the first is empty
				for j := range question {
					question[j] = byte(random.Uint32())
				}
				if _, err := c.Write(question); err != nil {
					t.Error(err)
				}
				c.CloseWrite()
				answer, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(answer, question) {
					t.Errorf("%d bytes came back of %d, or others; %v", len(answer), len(question), err)
				}
				total.Add(int64(len(question)))
			})
		}
		wg.Wait()
		var up, down int64
		seen := map[int]bool{}
		for range clients {
			e := await(t, p.log, "ended")
			if e.Error != "" || e.Level != "INFO" || e.Duration <= 0 || seen[e.Conn] || from != "unix" && e.Peer == "" {
				t.Errorf("the log has %+v", e)
			}
			seen[e.Conn] = true
			up, down = up+e.Up, down+e.Down
		}
		if n := total.Load(); up != n || down != n {
			t.Errorf("the log has %d bytes up and %d down, want %d", up, down, n)
		}
		if code := p.stop(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
}

// The server's half may end first, and what the client sends still arrives.
func TestProxyServerEndsFirst(t *testing.T) {
	pairs(t, func(t *testing.T, from, to string) {
		got := make(chan string, 1)
		server := serve(t, to, func(c conn) {
			io.WriteString(c, "greeting")
			c.CloseWrite()
			b, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			got <- string(b)
		})
		c := dial(t, startProxy(t, spot(t, from), server).at)
		if b, err := io.ReadAll(c); err != nil || string(b) != "greeting" {
			t.Fatalf("%q, %v", b, err)
		}
		io.WriteString(c, "answer")
		c.CloseWrite()
		if s := <-got; s != "answer" {
			t.Errorf("%q arrived", s)
		}
	})
}

// A server that closes while the client sends stops the client.
func TestProxyServerCloses(t *testing.T) {
	pairs(t, func(t *testing.T, from, to string) {
		server := serve(t, to, func(c conn) { c.Read(make([]byte, 1)) })
		c := dial(t, startProxy(t, spot(t, from), server).at)
		if _, err := io.Copy(c, rand.NewChaCha8([32]byte{})); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
}

// A server that does not read any more stops the client, too, who may go on
// reading. TCP does not tell that, and a writer whose Unix socket is full does
// not see it.
func TestProxyServerStopsReading(t *testing.T) {
	for _, to := range []string{"shm", "unix"} {
		t.Run("shm-"+to, func(t *testing.T) {
			stopped := make(chan bool)
			server := serve(t, to, func(c conn) {
				c.CloseRead()
				io.WriteString(c, "!")
				<-stopped
				io.WriteString(c, "still here")
			})
			c := dial(t, startProxy(t, spot(t, "shm"), server).at)
			io.ReadFull(c, make([]byte, 1))
			if _, err := io.Copy(c, rand.NewChaCha8([32]byte{})); !errors.Is(err, syscall.EPIPE) {
				t.Error(err)
			}
			close(stopped)
			if b, err := io.ReadAll(c); err != nil || string(b) != "still here" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// With --max that many connections are carried at a time, and the others in
// their turn.
func TestProxyMax(t *testing.T) {
	const most, clients = 3, 12
	pairs(t, func(t *testing.T, from, to string) {
		var now, high atomic.Int64
		full := make(chan bool)
		var once sync.Once
		server := serve(t, to, func(c conn) {
			n := now.Add(1)
			for h := high.Load(); n > h && !high.CompareAndSwap(h, n); h = high.Load() {
			}
			if n == most {
				once.Do(func() {
					time.Sleep(50 * time.Millisecond) // for one more to come, which must not
					close(full)
				})
			}
			<-full
			now.Add(-1) // before the proxy can know that the connection ends
			c.Write([]byte{1})
		})
		p := startProxy(t, spot(t, from), server, "--max", fmt.Sprint(most))
		var all []conn
		for range clients {
			c := dial(t, p.at)
			c.CloseWrite()
			all = append(all, c)
		}
		var wg sync.WaitGroup
		for _, c := range all {
			wg.Go(func() {
				if n, err := io.Copy(io.Discard, c); n != 1 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				c.Close()
			})
		}
		wg.Wait()
		if high.Load() != most {
			t.Errorf("%d connections at a time, want %d", high.Load(), most)
		}
	})
}

// echo is a server's handler that sends back what comes.
func echo(c conn) { io.Copy(c, c) }

func exchange(t *testing.T, c conn) {
	t.Helper()
	var b [1]byte
	if _, err := c.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != 7 {
		t.Fatalf("%d came back, %v", b[0], err)
	}
}

// After SIGTERM nobody gets in any more, and who is in goes on. Then the
// process ends.
func TestProxySigterm(t *testing.T) {
	for _, from := range kinds {
		t.Run(from, func(t *testing.T) {
			p, log := startLogging(t, "shmconn", "proxy", "--json", "--grace", "1h", spot(t, from).String(), serve(t, "unix", echo).String())
			var at endpoint
			if err := at.UnmarshalText([]byte(await(t, log, "listening").From)); err != nil {
				t.Fatal(err)
			}
			c := dial(t, at)
			exchange(t, c)
			p.Process.Signal(syscall.SIGTERM)
			await(t, log, "stopping")
			if late, err := at.dial(context.Background(), new(shmconn.Dialer)); err == nil {
				late.Close()
				t.Error("it still listens")
			}
			exchange(t, c)
			c.Close()
			if e := await(t, log, "ended"); e.Error != "" || e.Up != 2 || e.Down != 2 {
				t.Errorf("the log has %+v", e)
			}
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// startLogging starts a proxy of its own, and reads its log.
func startLogging(t *testing.T, args ...string) (*exec.Cmd, <-chan entry) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		r.Close()
	})
	return cmd, entries(r)
}

// A proxy that is out of descriptors goes on when it has some again.
func TestProxyOutOfDescriptors(t *testing.T) {
	for _, from := range kinds {
		t.Run(from, func(t *testing.T) {
			p, log := startLogging(t, "sh", "-c", `ulimit -n 24; exec shmconn proxy --json "$@"`, "sh", spot(t, from).String(), serve(t, "unix", echo).String())
			var at endpoint
			if err := at.UnmarshalText([]byte(await(t, log, "listening").From)); err != nil {
				t.Fatal(err)
			}
			// The proxy resets what it cannot connect to its target, and a dial
			// may be the first to see that.
			dialOrReset := func() conn {
				c, err := at.dial(context.Background(), new(shmconn.Dialer))
				if errors.Is(err, syscall.ECONNRESET) {
					return nil
				}
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			var all []conn
			for range 30 {
				if c := dialOrReset(); c != nil {
					all = append(all, c)
				}
			}
			for e := range log { // a line for what it cannot do
				if e.Level != "INFO" {
					t.Logf("%+v", e)
					break
				}
			}
			for _, c := range all {
				c.Close()
			}
			for {
				c := dialOrReset()
				if c == nil {
					continue
				}
				c.Write([]byte{7})
				n, _ := c.Read(make([]byte, 1))
				c.Close()
				if n == 1 {
					break // and not dropped, because something was still closing
				}
			}
			p.Process.Signal(syscall.SIGTERM)
			await(t, log, "stopping")
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// When the time of --grace is over, who is still in is cut off.
func TestProxyGrace(t *testing.T) {
	for _, from := range kinds {
		t.Run(from, func(t *testing.T) {
			p := startProxy(t, spot(t, from), serve(t, "shm", echo), "--grace", "1ms")
			c := dial(t, p.at)
			exchange(t, c)
			if code := p.stop(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			wantReset(t, c, from)
			if e := await(t, p.log, "ended"); e.Error != "cut off" || e.Up != 1 || e.Down != 1 {
				t.Errorf("the log has %+v", e)
			}
		})
	}
}
