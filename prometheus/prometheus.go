// Package prometheus gives what a [stats.Set] holds to Prometheus. It is a module of its
// own, so that only who imports it takes the dependency.
package prometheus

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"shmconn/stats"
)

// A Collector is a [prometheus.Collector] of the connections in a set. The sums have the
// label "name"; what is of one connection also has "conn", its ID in the set, and is
// gone once the connection is closed.
type Collector struct{ set *stats.Set }

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector returns the collector of set, to be registered.
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
	{desc("waits_total", "Waits that the first spin did not end.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Waits) }},
	{desc("parks_total", "Waits that went to sleep.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Parks) }},
	{desc("rings_total", "System calls made to wake a peer.", "name"), prometheus.CounterValue, func(n stats.Name) float64 { return float64(n.Rings) }},
}

// depths are the metrics of a connection.
var depths = []struct {
	desc  *prometheus.Desc
	value func(stats.Conn) int
}{
	{desc("buffered_bytes", "Bytes that the peer has written and that are not read yet.", "name", "conn"), func(c stats.Conn) int { return c.Buffered }},
	{desc("available_bytes", "Bytes that can be written without a wait.", "name", "conn"), func(c stats.Conn) int { return c.Available }},
	{desc("ring_bytes", "Size of the ring of each direction.", "name", "conn"), func(c stats.Conn) int { return c.RingSize }},
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range sums {
		out <- m.desc
	}
	for _, m := range depths {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector]. It takes one [stats.Snapshot].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	snap := c.set.Snapshot()
	for _, n := range snap.Names {
		for _, m := range sums {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(n), n.Name)
		}
	}
	for _, conn := range snap.Conns {
		for _, m := range depths {
			out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, float64(m.value(conn)), conn.Name, strconv.FormatUint(conn.ID, 10))
		}
	}
}
