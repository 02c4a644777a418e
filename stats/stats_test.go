//go:build linux

package stats_test

import (
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"testing"
	"time"

	"shmconn"
	"shmconn/stats"
)

var _ expvar.Var = new(stats.Set)

// pair returns the two ends of a connection, made through s.
func pair(t *testing.T, s *stats.Set) (client, server *shmconn.Conn) {
	t.Helper()
	t.Setenv("SHMCONN_DIR", t.TempDir())
	l, err := shmconn.Listen("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ends [2]net.Conn
	if ends[0], err = s.DialContext(new(shmconn.Dialer))(t.Context(), "shm", "feed"); err != nil {
		t.Fatal(err)
	}
	if ends[1], err = s.Listener(l).Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range ends {
		t.Cleanup(func() { c.Close() })
	}
	return ends[0].(*shmconn.Conn), ends[1].(*shmconn.Conn)
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v\nwant %+v", what, got, want)
	}
}

// mustRead reads n bytes.
func mustRead(t *testing.T, c *shmconn.Conn, n int) {
	t.Helper()
	if got, err := c.Read(make([]byte, n)); got != n || err != nil {
		t.Fatalf("Read: %d, %v, want %d", got, err, n)
	}
}

func TestSnapshot(t *testing.T) {
	var s stats.Set
	want(t, "an empty set", s.Snapshot(), stats.Snapshot{})
	client, server := pair(t, &s)
	client.Write(make([]byte, 1000))
	mustRead(t, server, 600)

	ring := shmconn.DefaultRingSize
	snap := s.Snapshot()
	want(t, "connections", snap.Conns, []stats.Conn{
		{1, "feed", os.Getpid(), 0, ring - 1000, shmconn.Stats{Network: shmconn.Addr{}.Network(), RingSize: ring, BytesWritten: 1000, WriteCalls: 1}},
		{2, "feed", os.Getpid(), 400, ring, shmconn.Stats{Network: shmconn.Addr{}.Network(), RingSize: ring, BytesRead: 600, ReadCalls: 1}},
	})
	want(t, "sums", snap.Names, []stats.Name{{Name: "feed", Added: 2, Open: 2, Buffered: 400, BytesRead: 600, BytesWritten: 1000, ReadCalls: 1, WriteCalls: 1}})

	// Where one was closed its figures stay in the sum.
	client.Close()
	snap = s.Snapshot()
	want(t, "connections", len(snap.Conns), 1)
	want(t, "sums", snap.Names, []stats.Name{{Name: "feed", Added: 2, Open: 1, Buffered: 400, BytesRead: 600, BytesWritten: 1000, ReadCalls: 1, WriteCalls: 1}})
	mustRead(t, server, 400)
	server.Close()
	for range 2 { // and are counted once
		want(t, "all closed", s.Snapshot(), stats.Snapshot{
			Names: []stats.Name{{Name: "feed", Added: 2, BytesRead: 1000, BytesWritten: 1000, ReadCalls: 2, WriteCalls: 1}},
		})
	}
}

// Waits, parks and rings are those of the connections.
func TestWaits(t *testing.T) {
	var s stats.Set
	client, server := pair(t, &s)
	done := make(chan error, 1)
	go func() {
		_, err := server.Read(make([]byte, 1))
		done <- err
	}()
	for server.Stats().Parks == 0 {
		runtime.Gosched()
	}
	client.Write([]byte{1})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a, b, sum := client.Stats(), server.Stats(), s.Snapshot().Names[0]
	want(t, "waits, parks, rings", []uint64{sum.Waits, sum.Parks, sum.Rings},
		[]uint64{a.Waits + b.Waits, a.Parks + b.Parks, a.Rings + b.Rings})
	want(t, "time", []time.Duration{sum.ReadWait, sum.WriteWait}, []time.Duration{a.ReadWait + b.ReadWait, a.WriteWait + b.WriteWait})
	if causes := sum.ParksAlways + sum.ParksGap + sum.ParksContended + sum.ParksNear + sum.ParksSpent; causes != sum.Parks {
		t.Errorf("%d parks, whose causes are %d", sum.Parks, causes)
	}
	if sum.Waits == 0 || sum.Parks == 0 || a.Network == "shm" && sum.Rings == 0 || sum.ReadWait == 0 || sum.WriteWait != 0 {
		t.Errorf("a Read that slept was not counted: %+v", sum)
	}
}

// Who waits for Accept is counted for each listener, until that is closed.
func TestListeners(t *testing.T) {
	var s stats.Set
	t.Setenv("SHMCONN_DIR", t.TempDir())
	for _, name := range []string{"feed", "orders"} {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s.Listener(l)
		if name == "orders" {
			for range 3 {
				c, err := shmconn.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			c, err := s.Listener(l).Accept() // a second time
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			orders := shmconn.ListenerStats{Pending: 2, Accepted: 1}
			want(t, "listeners", s.Snapshot().Listeners, []stats.Listener{{1, "feed", shmconn.ListenerStats{}}, {2, "orders", orders}})
			l.Close()
			want(t, "listeners", s.Snapshot().Listeners, []stats.Listener{{1, "feed", shmconn.ListenerStats{}}})
		}
	}
}

// A Set does not keep a connection that its user has dropped.
func TestDropped(t *testing.T) {
	var s stats.Set
	t.Setenv("SHMCONN_DIR", t.TempDir())
	l, err := shmconn.Listen("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	func() {
		c, err := shmconn.Dial("feed")
		if err != nil {
			t.Fatal(err)
		}
		s.Add(c)
		c.Write([]byte("last words"))
		s.Snapshot()
	}()
	server, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for len(s.Snapshot().Conns) > 0 { // or forever, which ends by -timeout
		runtime.GC()
	}
	want(t, "sums", s.Snapshot().Names, []stats.Name{{Name: "feed", Added: 1, BytesWritten: 10, WriteCalls: 1}})
}

func TestString(t *testing.T) {
	var s stats.Set
	client, _ := pair(t, &s)
	client.Write(make([]byte, 7))
	var got stats.Snapshot
	if err := json.Unmarshal([]byte(s.String()), &got); err != nil {
		t.Fatalf("%v in %s", err, s.String())
	}
	want(t, "JSON", got, s.Snapshot())
}

// published is what the example publishes.
var published stats.Set

func init() { expvar.Publish("shmconn", &published) }

// A server whose connections are seen at /debug/vars.
func Example() {
	l, err := shmconn.Listen("web")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(published.Listener(l))
	defer srv.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: new(shmconn.Dialer).DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://web/")
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body) // so that the connection stays
	resp.Body.Close()
	var seen stats.Snapshot
	json.Unmarshal([]byte(expvar.Get("shmconn").String()), &seen)
	fmt.Println(seen.Conns[0].Name, seen.Conns[0].BytesWritten > 0)
	// Output: web true
}

func ExampleSet_Add() {
	var conns stats.Set
	l, err := shmconn.Listen("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	c, err := shmconn.Dial("feed")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	conns.Add(c)
	c.Write([]byte("tick"))
	fmt.Println(conns.Snapshot().Names[0].BytesWritten)
	// Output: 4
}
