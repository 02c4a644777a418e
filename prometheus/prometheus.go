// Package prometheus exports the contents of a [stats.Set] to Prometheus. It is
// a module of its own, so that only programs that import it depend on
// Prometheus.
package prometheus

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"shmconn"
	"shmconn/stats"
)

// A Collector is a [prometheus.Collector] of the connections in a set. Sums
// have the label "name". Metrics of one connection or listener also have "conn"
// or "listener", its ID in the set, and end when it is closed.
type Collector struct{ set *stats.Set }

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector returns a collector of set, for you to register.
func NewCollector(set *stats.Set) *Collector { return &Collector{set} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("shmconn_"+name, help, labels, nil)
}

// sums are the metrics of a name.
var sums = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(stats.Name) float64
}{
	{desc("connections_total", "Connections that were made.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Added) }},
	{desc("connections_open", "Connections that are open.", "name"), prometheus.GaugeValue, func(n stats.Name) float64 { return float64(n.Open) }},
	{desc("read_bytes_total", "Bytes read.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.BytesRead) }},
	{desc("written_bytes_total", "Bytes written.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.BytesWritten) }},
	{desc("read_calls_total", "Calls that took bytes.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.ReadCalls) }},
	{desc("write_calls_total", "Calls that wrote bytes.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.WriteCalls) }},
	{desc("read_wait_seconds_total", "Time that calls waited for something to read.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return n.ReadWait.Seconds() }},
	{desc("write_wait_seconds_total", "Time that calls waited for room.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return n.WriteWait.Seconds() }},
	{desc("waits_total", "Waits that the first spin did not end.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Waits) }},
	{desc("parks_total", "Waits that went to sleep.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Parks) }},
	{desc("rings_total", "System calls made to wake a peer.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Rings) }},
}

// causes are why waits went to sleep: they make up parks_total.
var causes = []struct {
	name  string
	value func(stats.Name) uint64
}{
	{"always", func(n stats.Name) uint64 { return n.ParksAlways }},
	{"gap", func(n stats.Name) uint64 { return n.ParksGap }},
	{"contended", func(n stats.Name) uint64 { return n.ParksContended }},
	{"near", func(n stats.Name) uint64 { return n.ParksNear }},
	{"spent", func(n stats.Name) uint64 { return n.ParksSpent }},
}

var parks = desc("parks_by_cause_total", "Waits that went to sleep, by why they did not poll.", "name", "cause")

// depths are the metrics of a connection.
var depths = []struct {
	desc  *prometheus.Desc
	value func(stats.Conn) int
}{
	{desc("buffered_bytes", "Bytes that the peer has written and that are not read yet.", "name", "conn"), func(c stats.Conn) int { return c.Buffered }},
	{desc("available_bytes", "Bytes that can be written without a wait.", "name", "conn"), func(c stats.Conn) int { return c.Available }},
	{desc("ring_bytes", "Size of the ring of each direction.", "name", "conn"), func(c stats.Conn) int { return c.RingSize }},
}

// doors are the metrics of a listener.
var doors = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(shmconn.ListenerStats) float64
}{
	{desc("listener_pending", "Dialers that wait for Accept.", "name", "listener"), prometheus.GaugeValue, func(l shmconn.ListenerStats) float64 { return float64(l.Pending) }},
	{desc("listener_accepted_total", "Connections that Accept has returned.", "name", "listener"), prometheus.CounterValue, func(l shmconn.ListenerStats) float64 { return float64(l.Accepted) }},
	{desc("listener_refused_total", "Dialers that were dropped.", "name", "listener"), prometheus.CounterValue, func(l shmconn.ListenerStats) float64 { return float64(l.Refused) }},
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range sums {
		out <- m.desc
	}
	out <- parks
	for _, m := range depths {
		out <- m.desc
	}
	for _, m := range doors {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector]. It takes one [stats.Snapshot].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	snap := c.set.Snapshot()
	for _, n := range snap.Names {
		for _, m := range sums {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(n), label(n.Name))
		}
		for _, c := range causes {
			out <- prometheus.MustNewConstMetric(parks, prometheus.CounterValue, float64(c.value(n)), label(n.Name), c.name)
		}
	}
	for _, l := range snap.Listeners {
		for _, m := range doors {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(l.ListenerStats), label(l.Name), strconv.FormatUint(l.ID, 10))
		}
	}
	for _, conn := range snap.Conns {
		for _, m := range depths {
			out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, float64(m.value(conn)), label(conn.Name), strconv.FormatUint(conn.ID, 10))
		}
	}
}

// label returns a name as the value of a label, which has to be UTF-8. The
// directory in a name may be anything: bytes that are not UTF-8 become \xff.
func label(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, name[0])
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}
