//go:build linux

package shmhttp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/quick"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// serveEnv has this program, run again, serve a name.
const serveEnv = "SHMHTTP_TEST_SERVE"

func TestMain(m *testing.M) {
	if name := os.Getenv(serveEnv); name != "" {
		serveProcess(name)
	}
	shmtest.Main(m, nil)
}

// A server serves a name, and counts the connections made to it.
type server struct {
	http.Server
	conns atomic.Int64
}

func protocols(version string) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(version != "h2c")
	p.SetUnencryptedHTTP2(version != "http1")
	return p
}

// serve serves h on name in this process until the test ends.
func serve(t *testing.T, name string, h http.Handler) *server {
	t.Helper()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Server: http.Server{Handler: h, Protocols: protocols("both")}}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve on %s: %v", name, err)
		}
	})
	return s
}

// client returns a client of the version of HTTP, or of both where the server
// may choose.
func client(t *testing.T, d *shmconn.Dialer, version string) *http.Client {
	tr := &Transport{Dialer: d, Base: &http.Transport{Protocols: protocols(version), MaxIdleConnsPerHost: 8}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// get returns the body at the URL and fails the test where there is none.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(b)
}

func onVersions(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range []string{"http1", "h2c"} {
		t.Run(version, func(t *testing.T) { test(t, version) })
	}
}

// say answers with what, and with the request's protocol and host.
func say(what string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d %s", what, r.ProtoMajor, r.Host)
	})
}

// TestHost checks that net/url takes what Host writes, keeps it as it is, also
// through a relative reference, and that it says the name.
func TestHost(t *testing.T) {
	check := func(name string) bool {
		u, err := url.Parse(Scheme + "://" + Host(name) + "/a/b?q#f")
		if err != nil {
			t.Errorf("%q: %v", name, err)
			return false
		}
		if u, err = u.Parse("/c"); err != nil || u.Path != "/c" {
			t.Errorf("%q: %v, %v", name, u, err)
			return false
		}
		if u, err = url.Parse(u.String()); err != nil {
			t.Errorf("%q: %v", name, err)
			return false
		}
		got, err := nameIn(u)
		if err != nil || got != name {
			t.Errorf("%v is about %q, %v; want %q", u, got, err, name)
		}
		return err == nil && got == name
	}
	for name, want := range map[string]string{
		"feed":             "feed",
		"Feed.v2_x-y":      "Feed.v2_x-y",
		"/shared/feed":     ",shared,feed",
		"a/b":              "a,b",
		"/my dir/50%/feed": ",my=20dir,50=25,feed",
		"/a,b=c/x":         ",a=2Cb=3Dc,x",
		"/a:80/x":          ",a=3A80,x",
		"/größe/x":         ",gr=C3=B6=C3=9Fe,x",
	} {
		if got := Host(name); got != want {
			t.Errorf("Host(%q) = %q, want %q", name, got, want)
		}
		check(name)
	}
	if err := quick.Check(func(b []byte) bool { return len(b) == 0 || check(string(b)) }, nil); err != nil {
		t.Error(err)
	}
}

// TestURLs are URLs that reach a listener, and the Host header that it is sent.
func TestURLs(t *testing.T) {
	dir := filepath.Join(os.Getenv("SHMCONN_DIR"), "a dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	t.Run("", func(t *testing.T) { // which ends before dir is removed
		serve(t, "feed", say("feed"))
		serve(t, "Feed", say("Feed"))
		serve(t, filepath.Join(dir, "feed"), say("dir/feed"))
		host := Host(filepath.Join(dir, "feed"))
		for _, version := range []string{"http1", "h2c"} {
			major := map[string]string{"http1": "1", "h2c": "2"}[version]
			c := client(t, nil, version)
			for _, tt := range []struct{ url, want, host string }{
				{"http+shm://feed/", "feed", "feed"},
				{"http+shm://feed", "feed", "feed"},
				{"HTTP+SHM://feed/x?y=z#f", "feed", "feed"},
				{"http+shm://feed:/", "feed", "feed"},
				{"http+shm://feed:80/", "feed", "feed:80"},
				{"http+shm://feed:443/", "feed", "feed:443"},
				{"http+shm://Feed/", "Feed", "Feed"},
				{"http+shm://Feed:8080/", "Feed", "Feed:8080"},
				{"http+shm://" + host + "/", "dir/feed", "feed"},
				{"http+shm://" + host + ":80/", "dir/feed", "feed:80"},
				{"http+shm://" + Host(filepath.Join(os.Getenv("SHMCONN_DIR"), "feed")) + "/", "feed", "feed"},
			} {
				if got, want := get(t, c, tt.url), tt.want+" "+major+" "+tt.host; got != want {
					t.Errorf("%s, %s: %q, want %q", version, tt.url, got, want)
				}
			}
			req, _ := http.NewRequest("GET", "http+shm://feed/", nil)
			req.Host = "example.com"
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := "feed " + major + " example.com"; string(b) != want {
				t.Errorf("with a Host: %q, want %q", b, want)
			}
		}
	})
}

// TestErrors are URLs that reach nobody. The error says why, and does so once.
func TestErrors(t *testing.T) {
	c := client(t, nil, "http1")
	for _, tt := range []struct {
		url  string
		want string
		is   error
	}{
		{"http+shm://nobody/x", "dial " + shmtest.Network + " nobody: ", syscall.ECONNREFUSED},
		{"http+shm://nobody/x", os.Getenv("SHMCONN_DIR") + "/shmconn", syscall.ECONNREFUSED},
		{"http+shm://,no,such,dir,feed/x", "dial " + shmtest.Network + " /no/such/dir/feed: ", syscall.ECONNREFUSED},
		{"http+shm://a=20b/x", "dial " + shmtest.Network + " a b: name has characters other than letters", nil},
		{"http+shm://.feed/x", "dial " + shmtest.Network + " .feed: name starts with a dot", nil},
		{"http+shm://größe/x", "dial " + shmtest.Network + " größe: name has characters other", nil},
		{"http+shm:///shared/feed", "has no host: write http+shm://feed/ for the listener \"feed\", and http+shm://,shared,feed/ for \"/shared/feed\"", nil},
		{"http+shm:feed", "has no host", nil},
		{"http+shm://:80/", "has no host", nil},
		{"http+shm://[::1]/x", "is an IP address", nil},
		{"http+shm://a=2/x", "followed by two hexadecimal digits", nil},
		{"http+shm://a=/x", "followed by two hexadecimal digits", nil},
		{"http+shm://a=+1/x", "followed by two hexadecimal digits", nil},
		{"http://feed/x", "the scheme of \"http://feed/x\" is not http+shm", nil},
		{"http+shm://u:secret@[::1]/x", "\"http+shm://u:xxxxx@[::1]/x\"", nil},
		{"http+shm://%2Fshared%2Ffeed/x", "invalid URL escape \"%2F\"", nil}, // net/url's
	} {
		closed := false
		req, err := http.NewRequest("POST", tt.url, body{strings.NewReader("x"), &closed})
		if err == nil {
			_, err = c.Do(req)
			if !closed {
				t.Errorf("%s: the body is not closed", tt.url)
			}
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v; want %q", tt.url, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v says the password", tt.url, err)
		}
	}
	if _, err := new(Transport).RoundTrip(new(http.Request)); err == nil {
		t.Error("no error without a URL")
	}
}

// A body notes that it was closed.
type body struct {
	io.Reader
	closed *bool
}

func (b body) Close() error { *b.closed = true; return nil }

// TestRegister has one transport for TCP and for shared memory.
func TestRegister(t *testing.T) {
	serve(t, "feed", say("shm"))
	tcp := httptest.NewServer(say("tcp"))
	defer tcp.Close()
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Host != tcp.Listener.Addr().String() {
			t.Errorf("asked for a proxy for %v", r.URL)
		}
		return nil, nil
	}
	base.MaxResponseHeaderBytes = 1 << 10
	c := &http.Client{Transport: base}
	defer base.CloseIdleConnections()
	get(t, c, tcp.URL) // it is in use
	own := Register(base, nil)
	defer own.CloseIdleConnections()
	if got := get(t, c, "http+shm://feed/"); got != "shm 1 feed" {
		t.Error(got)
	}
	if got := get(t, c, tcp.URL); !strings.HasPrefix(got, "tcp 1 127.0.0.1:") {
		t.Error(got)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic where the scheme is registered already")
			}
		}()
		Register(base, nil)
	}()

	// The settings of base hold.
	serve(t, "long", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Long", strings.Repeat("x", 10<<10))
	}))
	if _, err := c.Get("http+shm://long/"); err == nil || !strings.Contains(err.Error(), "1024 bytes") {
		t.Errorf("a header above MaxResponseHeaderBytes: %v", err)
	}
}

// TestKeepAlive makes many requests, some at once, and counts connections.
func TestKeepAlive(t *testing.T) {
	onVersions(t, func(t *testing.T, version string) {
		feed, other := serve(t, "feed", say("feed")), serve(t, "other", say("other"))
		c := client(t, nil, version)
		for i := range 1000 {
			for _, name := range []string{"feed", "other"} {
				url := "http+shm://" + name
				if i%2 == 1 {
					url += ":80"
				}
				if got := get(t, c, url); !strings.HasPrefix(got, name) {
					t.Fatalf("%s: %s", url, got)
				}
			}
		}
		for _, s := range []*server{feed, other} {
			if n := s.conns.Load(); n != 1 {
				t.Errorf("%d connections for requests one after the other, want 1", n)
			}
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					if got := get(t, c, "http+shm://feed/"); !strings.HasPrefix(got, "feed") {
						t.Errorf("%s", got)
					}
				}
			})
		}
		wg.Wait()
		// While one dials, net/http may hand it another's connection, and keeps
		// the new one, too: so a few more than 8 over HTTP/1.
		if n := feed.conns.Load(); n > 80 || version == "h2c" && n != 1 {
			t.Errorf("%d connections for 800 requests, 8 at once", n)
		}
		// Once the idle ones are closed, the next request makes a new one.
		before := feed.conns.Load()
		c.CloseIdleConnections()
		get(t, c, "http+shm://feed/")
		if n := feed.conns.Load(); n != before+1 {
			t.Errorf("%d connections after CloseIdleConnections, want %d", n, before+1)
		}
	})
}

// TestZero uses the zero Transport, and that it keeps a connection for each of
// many requests at once.
func TestZero(t *testing.T) {
	const many = 20
	var arrived sync.WaitGroup
	s := serve(t, "feed", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e := r.Header.Get("Accept-Encoding"); e != "" {
			t.Errorf("the client asks for %s", e)
		}
		arrived.Done()
		arrived.Wait()
	}))
	var tr Transport
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: &tr}
	for range 3 {
		arrived.Add(many)
		var wg sync.WaitGroup
		for range many {
			wg.Go(func() { get(t, c, "http+shm://feed/") })
		}
		wg.Wait()
	}
	if n := s.conns.Load(); n != many {
		t.Errorf("%d connections for %d requests at once, three times", n, many)
	}
}

// TestLarge sends bodies larger than the ring both ways, at once.
func TestLarge(t *testing.T) {
	onVersions(t, func(t *testing.T, version string) {
		serve(t, "echo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		}))
		c := client(t, nil, version)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				sent := bytes.Repeat([]byte{byte(i), 1, 2, 3, 5, 8, 13}, 600_000)
				resp, err := c.Post("http+shm://echo/", "", bytes.NewReader(sent))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				h := sha256.New()
				n, err := io.Copy(h, resp.Body)
				if want := sha256.Sum256(sent); err != nil || n != int64(len(sent)) || !bytes.Equal(h.Sum(nil), want[:]) {
					t.Errorf("%d bytes of %d, %v, or not the same", n, len(sent), err)
				}
			})
		}
		wg.Wait()
	})
}

// TestCancel cancels a request that the server works on, one that waits for a
// connection, and one whose response is being read.
func TestCancel(t *testing.T) {
	onVersions(t, func(t *testing.T, version string) {
		arrived, gone := make(chan bool, 1), make(chan bool, 1)
		serve(t, "feed", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/quick" {
				return
			}
			if r.URL.Path == "/body" {
				w.Write([]byte("x"))
				http.NewResponseController(w).Flush()
			}
			arrived <- true
			<-r.Context().Done()
			gone <- true
		}))
		do := func(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Do(req)
		}
		c := client(t, nil, version)

		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		if _, err := do(ctx, c, "http+shm://feed/"); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		<-gone

		ctx, cancel = context.WithCancel(t.Context())
		resp, err := do(ctx, c, "http+shm://feed/body")
		if err != nil {
			t.Fatal(err)
		}
		<-arrived
		if n, err := io.ReadFull(resp.Body, make([]byte, 1)); n != 1 {
			t.Error(err)
		}
		go cancel()
		if b, err := io.ReadAll(resp.Body); len(b) > 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("canceled while the body is read: %q, %v", b, err)
		}
		resp.Body.Close()
		<-gone

		waits := client(t, &shmconn.Dialer{Wait: -1}, version)
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := do(ctx, waits, "http+shm://nobody/"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the deadline, while it waits for a listener: %v", err)
		}
		cancel()
		get(t, c, "http+shm://feed/quick") // it can be used on
	})
}

// TestRedirect follows redirections to other paths, with the body, and gives
// Location what it needs.
func TestRedirect(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/from", http.RedirectHandler("/to?x=1", http.StatusTemporaryRedirect))
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	name := filepath.Join(os.Getenv("SHMCONN_DIR"), "feed")
	serve(t, name, mux)
	c := client(t, nil, "http1")
	from := "http+shm://" + Host(name) + "/from"
	resp, err := c.Post(from, "", strings.NewReader("the body"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	to := "http+shm://" + Host(name) + "/to?x=1"
	if string(b) != "the body" || resp.Request.URL.String() != to {
		t.Errorf("%q from %v, want %v", b, resp.Request.URL, to)
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if resp, err = c.Get(from); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if u, err := resp.Location(); err != nil || u.String() != to {
		t.Errorf("Location: %v, %v; want %v", u, err, to)
	}
}

// TestReverseProxy has a server on TCP pass requests on, an upgraded one
// included.
func TestReverseProxy(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/api/", say("backend"))
	mux.HandleFunc("/api/upgrade", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	})
	serve(t, "backend", mux)
	target, err := url.Parse("http+shm://backend/api/")
	if err != nil {
		t.Fatal(err)
	}
	tr := new(Transport)
	defer tr.CloseIdleConnections()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: tr,
	})
	defer front.Close()
	if got := get(t, front.Client(), front.URL+"/x"); got != "backend 1 backend" {
		t.Error(got)
	}

	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /upgrade HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	io.WriteString(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// serveProcess serves name, with the number of its process, until it is killed.
func serveProcess(name string) {
	l, err := shmconn.Listen(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	s := http.Server{Handler: say(fmt.Sprint(os.Getpid())), Protocols: protocols("both")}
	err = s.Serve(l)
	fmt.Println(err)
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

// getRestarted gets the body, or the error's text. On HTTP/1 no error is in
// order. On HTTP/2 one may be: a request that goes out on a connection before
// its end shows is sent again by net/http on HTTP/1 alone, as the package
// comment says.
func getRestarted(c *http.Client, version string) string {
	for {
		resp, err := c.Get("http+shm://restarted/")
		if version == "h2c" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			continue
		}
		if err != nil {
			return err.Error()
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
}

// TestRestart kills the server's process between two requests, again and again.
// The next request goes to the process after it, whether that listens before or
// only while the request waits.
func TestRestart(t *testing.T) {
	onVersions(t, func(t *testing.T, version string) {
		c := client(t, &shmconn.Dialer{Wait: time.Minute}, version)
		major := map[string]int{"http1": 1, "h2c": 2}[version]
		cmd := startServer(t, "restarted")
		for i := range 10 {
			want := fmt.Sprintf("%d %d restarted", cmd.Process.Pid, major)
			for range 3 {
				if got := getRestarted(c, version); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}
			cmd.Process.Kill()
			cmd.Wait()
			if i%2 == 0 {
				cmd = startServer(t, "restarted")
				continue
			}
			got := make(chan string, 1)
			go func() { got <- getRestarted(c, version) }()
			cmd = startServer(t, "restarted")
			if got, want := <-got, fmt.Sprintf("%d %d restarted", cmd.Process.Pid, major); got != want {
				t.Errorf("a request made while nobody listens: %q, want %q", got, want)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		_, err := client(t, nil, version).Get("http+shm://restarted/")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the last one was killed: %v", err)
		}
		// What a listener that died has left is swept by the next.
		l, err := shmconn.Listen("restarted")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}
