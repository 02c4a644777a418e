//go:build linux

package prometheus_test

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"shmconn"
	"shmconn/prometheus"
	"shmconn/stats"
)

// A registry that checks what it is given gives the figures of two connections,
// and of one when the other has been closed.
func TestCollector(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	l, err := shmconn.Listen("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var set stats.Set
	registry := prom.NewPedanticRegistry()
	if err := registry.Register(prometheus.NewCollector(&set)); err != nil {
		t.Fatal(err)
	}
	client, err := shmconn.Dial("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	set.Listener(l)
	set.Add(client)
	set.Add(server)
	client.Write(make([]byte, 1000))
	if n, err := server.Read(make([]byte, 600)); n != 600 || err != nil {
		t.Fatal(n, err)
	}
	compare := func(want string, metrics ...string) {
		t.Helper()
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), metrics...); err != nil {
			t.Error(err)
		}
	}
	compare(`
# HELP shmconn_buffered_bytes Bytes that the peer has written and that are not read yet.
# TYPE shmconn_buffered_bytes gauge
shmconn_buffered_bytes{conn="1",name="feed"} 0
shmconn_buffered_bytes{conn="2",name="feed"} 400
`, "shmconn_buffered_bytes")
	compare(`
# HELP shmconn_read_calls_total Calls that took bytes.
# TYPE shmconn_read_calls_total counter
shmconn_read_calls_total{name="feed"} 1
# HELP shmconn_write_calls_total Calls that wrote bytes.
# TYPE shmconn_write_calls_total counter
shmconn_write_calls_total{name="feed"} 1
# HELP shmconn_write_wait_seconds_total Time that calls waited for room.
# TYPE shmconn_write_wait_seconds_total counter
shmconn_write_wait_seconds_total{name="feed"} 0
`, "shmconn_read_calls_total", "shmconn_write_calls_total", "shmconn_write_wait_seconds_total")
	server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := io.ReadFull(server, make([]byte, 1000)); n != 400 || err == nil {
		t.Fatal(n, err)
	}
	metrics, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		if v := m.GetMetric()[0].GetCounter().GetValue(); m.GetName() == "shmconn_read_wait_seconds_total" && (v < 0.01 || v > 10) {
			t.Errorf("a Read that waited for 20 ms counts %v s", v)
		}
	}
	compare(`
# HELP shmconn_listener_accepted_total Connections that Accept has returned.
# TYPE shmconn_listener_accepted_total counter
shmconn_listener_accepted_total{listener="1",name="feed"} 1
# HELP shmconn_listener_pending Dialers that wait for Accept.
# TYPE shmconn_listener_pending gauge
shmconn_listener_pending{listener="1",name="feed"} 0
# HELP shmconn_listener_refused_total Dialers that were dropped.
# TYPE shmconn_listener_refused_total counter
shmconn_listener_refused_total{listener="1",name="feed"} 0
`, "shmconn_listener_accepted_total", "shmconn_listener_pending", "shmconn_listener_refused_total")
	totals := `
# HELP shmconn_read_bytes_total Bytes read.
# TYPE shmconn_read_bytes_total counter
shmconn_read_bytes_total{name="feed"} 1000
# HELP shmconn_written_bytes_total Bytes written.
# TYPE shmconn_written_bytes_total counter
shmconn_written_bytes_total{name="feed"} 1000
`
	compare(totals, "shmconn_read_bytes_total", "shmconn_written_bytes_total")
	client.Close()
	compare(totals+`
# HELP shmconn_connections_open Connections that are open.
# TYPE shmconn_connections_open gauge
shmconn_connections_open{name="feed"} 1
# HELP shmconn_connections_total Connections that were made.
# TYPE shmconn_connections_total counter
shmconn_connections_total{name="feed"} 2
# HELP shmconn_ring_bytes Size of the ring of each direction.
# TYPE shmconn_ring_bytes gauge
shmconn_ring_bytes{conn="2",name="feed"} 262144
`, "shmconn_read_bytes_total", "shmconn_written_bytes_total", "shmconn_connections_open", "shmconn_connections_total", "shmconn_ring_bytes")
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestNotUTF8 has a name in a directory whose name is not UTF-8, which a label
// has to be.
func TestNotUTF8(t *testing.T) {
	dir := t.TempDir() + "/\xff"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := shmconn.Listen(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := shmconn.Dial(dir + "/feed")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var set stats.Set
	set.Listener(l)
	set.Add(c)
	registry := prom.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewCollector(&set))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "shmconn_buffered_bytes" {
			if got := f.Metric[0].Label[1].GetValue(); !strings.HasSuffix(got, `/\xff/feed`) {
				t.Errorf("the label is %q", got)
			}
			return
		}
	}
	t.Error("no metric of the connection")
}
