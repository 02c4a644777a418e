package bench

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"shmconn"
)

// A Contender is one of those that are measured in a workload.
type Contender struct {
	Name  string
	Spec  Spec
	Limit bool // no connection, but what the hardware allows

	// Program is what its processes run, as far as it is not this one: a program
	// that calls [Main], and was made of other sources.
	Program string
}

// A Workload is measured for several contenders in interleaved slices.
type Workload struct {
	Name       string // key=value elements, as of benchmarks of go test
	Title      string
	Metric     Metric
	Baseline   string // the contender that the others are compared with
	Slice      time.Duration
	MinSlice   time.Duration // shorter ones say nothing
	OneCore    bool          // both processes on one processor
	TwoCores   bool          // all processes on two processors
	Pairs      int           // so many clients, each with a server, at once; 0: one
	MaxProcs   int           // GOMAXPROCS of both processes
	Pinned     bool          // the server on one processor, the client on another
	Neighbours Neighbours    // what else runs meanwhile
	Contenders []Contender
}

func (w Workload) pairs() int { return max(w.Pairs, 1) }

// Contender returns the contender of that name, or nil.
func (w *Workload) Contender(name string) *Contender {
	i := slices.IndexFunc(w.Contenders, func(c Contender) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &w.Contenders[i]
}

// A Metric makes one figure of a slice.
type Metric struct {
	Name   string
	Unit   string // "ns", "msg/s", "B/s", "cores", "allocs", "conn/s"
	Higher bool   // more is better
	of     func([]sample) float64
}

// A sample is a slice of one pair of processes.
type sample struct {
	spec           Spec
	client, server Result
	helpers        []Result
}

func (x sample) helperCPU() (d time.Duration) {
	for _, h := range x.helpers {
		d += h.CPU
	}
	return d
}

func sum(v []sample, f func(sample) float64) (s float64) {
	for _, x := range v {
		s += f(x)
	}
	return s
}

func ops(x sample) float64     { return float64(x.client.Ops) }
func allOps(x sample) float64  { return float64(x.client.AllOps) }
func elapsed(x sample) float64 { return float64(x.client.Elapsed) }
func seconds(x sample) float64 { return x.client.Elapsed.Seconds() }
func cpu(x sample) float64     { return float64(x.client.CPU + x.server.CPU + x.helperCPU()) }

// rate is the sum over pairs that ran at the same time.
func rate(v []sample) float64 {
	return sum(v, func(x sample) float64 { return ops(x) / seconds(x) })
}

var (
	timePerOp = Metric{"time per round trip", "ns", false, func(v []sample) float64 {
		return sum(v, elapsed) / sum(v, ops)
	}}
	messages = Metric{"messages received per second", "msg/s", true, rate}
	trips    = Metric{"round trips per second", "msg/s", true, func(v []sample) float64 {
		return sum(v, func(x sample) float64 { return allOps(x) / seconds(x) })
	}}
	requests = Metric{"a request and its reply", "ns", false, timePerOp.of}
	dials    = Metric{"dial, accept, close", "ns", false, timePerOp.of}
	bytesPer = Metric{"bytes received per second", "B/s", true, func(v []sample) float64 {
		return sum(v, func(x sample) float64 { return ops(x) * float64(x.spec.Size) / seconds(x) })
	}}
	median = Metric{"p50 of round trips", "ns", false, func(v []sample) float64 {
		return float64(mergeHists(v).ValueAtQuantile(50))
	}}
	p90 = Metric{"p90 of latencies", "ns", false, func(v []sample) float64 {
		return float64(mergeHists(v).ValueAtQuantile(90))
	}}
	lateness = Metric{"p50 of latencies, from when a message was due", "ns", false, median.of}
	opening  = Metric{"p50 of the time until a byte is back", "ns", false, median.of}
	cpuPerOp = Metric{"CPU per message, both processes", "ns", false, func(v []sample) float64 {
		return sum(v, cpu) / sum(v, allOps)
	}}
	cores = Metric{"cores used, both processes", "cores", false, func(v []sample) float64 {
		return sum(v, func(x sample) float64 { return cpu(x) / float64(x.client.Wall) })
	}}
	allocs = Metric{"allocations per Read or Write", "allocs", false, func(v []sample) float64 {
		// A round trip is a Read and a Write in both processes.
		return sum(v, func(x sample) float64 { return float64(x.client.Mallocs + x.server.Mallocs) }) / (4 * sum(v, allOps))
	}}
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// With returns contenders of these names, or of networks of these names, that
// do what s says.
func With(s Spec, names ...string) (cs []Contender) {
	for _, name := range names {
		c := Contender{Name: name, Spec: s}
		c.Spec.Net = name
		switch name {
		case "shm-64KiB":
			c.Spec.Net, c.Spec.RingSize = "shm", 64*kib
		case "shm-1MiB":
			c.Spec.Net, c.Spec.RingSize = "shm", mib
		case "shm-4MiB":
			c.Spec.Net, c.Spec.RingSize = "shm", 4*mib
		case "shm-zerocopy-4MiB":
			c.Spec.Net, c.Spec.RingSize = "shm-zerocopy", 4*mib
		case "shm-parked":
			c.Spec.Net, c.Spec.BusyPoll = "shm", 1
		case "shm-polling":
			c.Spec.Net, c.Spec.BusyPoll = "shm", -1
		case "ping-pong":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "memory", "pingpong"
		case "ring-ping-pong":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "memory", "pingpong-ring"
			c.Spec.RingSize = 2 * shmconn.DefaultRingSize // for two rings
		case "int-ring":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "memory", "ints"
		case "int-ring-cached":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "memory", "ints-cached"
		case "memcpy", "memcpy-1MiB", "memcpy-4MiB":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "memory", "memory-copy"
			c.Spec.RingSize = map[string]int{"memcpy": 0, "memcpy-1MiB": mib, "memcpy-4MiB": 4 * mib}[name]
		case "pacing":
			c.Limit, c.Spec.Net, c.Spec.Loop = true, "none", "pace"
		}
		cs = append(cs, c)
	}
	return cs
}

// Workloads returns all workloads, in the order in which they are run.
func Workloads() []Workload {
	var ws []Workload
	add := func(w Workload) {
		if w.Baseline == "" {
			w.Baseline = "unix"
		}
		if w.Slice == 0 {
			w.Slice = 40 * time.Millisecond
		}
		ws = append(ws, w)
	}
	rings := []string{"shm", "shm-1MiB", "shm-4MiB", "unix", "tcp", "pipe"}
	nets := []string{"shm", "unix", "tcp", "pipe"}
	for _, size := range []int{1, 64, kib, 16 * kib, 64 * kib} {
		add(Workload{
			Name: fmt.Sprintf("roundtrip/size=%d", size), Title: "Round trip, " + Bytes(size), Metric: timePerOp,
			Contenders: With(Spec{Loop: "roundtrip", Size: size}, append(rings, "shm-exclusive", "ping-pong", "ring-ping-pong")...),
		})
	}
	for _, loop := range []string{"write", "bufio"} {
		for _, size := range []int{4, 8, 16, 32, 64} {
			title := map[string]string{"write": "Unbuffered writes, ", "bufio": "Writes through bufio, "}[loop] + Bytes(size)
			names := rings
			if size == 4 {
				names = append(rings[:6:6], "shm-exclusive", "shm-groups", "int-ring", "int-ring-cached")
			}
			add(Workload{
				Name: fmt.Sprintf("%s/size=%d", loop, size), Title: title, Metric: messages,
				Contenders: With(Spec{Loop: loop, Size: size}, names...),
			})
		}
	}
	for _, size := range []int{4 * kib, 64 * kib, mib} {
		add(Workload{
			Name: fmt.Sprintf("stream/size=%d", size), Title: "Stream, " + Bytes(size) + " writes", Metric: bytesPer,
			Contenders: With(Spec{Loop: "stream", Size: size}, append(rings, "memcpy", "memcpy-1MiB", "memcpy-4MiB")...),
		})
	}
	add(Workload{
		Name: "zerocopy/size=64", Title: "Messages in place, 64 B", Metric: messages,
		Contenders: With(Spec{Loop: "messages", Size: 64}, "shm-zerocopy", "shm-inplace", "shm-exclusive-zerocopy", "shm", "unix"),
	})
	add(Workload{
		Name: "pause/ms=5", Title: "Round trip after 5 ms idle, 64 B", Metric: median,
		Slice: 200 * time.Millisecond, MinSlice: 50 * time.Millisecond,
		Contenders: With(Spec{Loop: "pause", Size: 64, Pause: 5 * time.Millisecond}, nets...),
	})
	for _, hz := range []int{1000, 10000} {
		add(Workload{
			Name: fmt.Sprintf("rate/hz=%d", hz), Title: fmt.Sprintf("Round trips at %d a second, 64 B", hz), Metric: cpuPerOp,
			Slice: 200 * time.Millisecond, MinSlice: 50 * time.Millisecond,
			Contenders: With(Spec{Loop: "rate", Size: 64, Rate: hz}, append(nets, "pacing")...),
		})
	}
	for _, n := range []int{1, 100, 500} {
		add(Workload{
			Name: fmt.Sprintf("idle/conns=%d", n), Title: fmt.Sprintf("Idle connections: %d", n), Metric: cores,
			Slice: 200 * time.Millisecond, MinSlice: 100 * time.Millisecond,
			Contenders: With(Spec{Loop: "idle", Conns: n}, "shm", "unix", "tcp"),
		})
	}
	for _, n := range []int{1, 8, 64, 512} {
		add(Workload{
			Name: fmt.Sprintf("echo/conns=%d", n), Title: fmt.Sprintf("Echo connections: %d, 64 B", n), Metric: messages,
			Slice:      100 * time.Millisecond,
			Contenders: With(Spec{Loop: "echo", Size: 64, Conns: n}, "shm", "unix", "tcp"),
		})
	}
	// Connections that were closed haunt TCP's port numbers for a minute.
	add(Workload{
		Name: "dial", Title: "Dial, accept, close", Metric: dials, Slice: 60 * time.Millisecond,
		Contenders: With(Spec{Loop: "dial", MaxOps: 1000}, "shm", "shm-64KiB", "shm-1MiB", "unix", "tcp"),
	})
	add(Workload{
		Name: "dial-byte", Title: "Dial, accept, a byte each way, close", Metric: dials, Slice: 60 * time.Millisecond,
		Contenders: With(Spec{Loop: "dial-byte", MaxOps: 1000}, "shm", "shm-64KiB", "unix", "tcp"),
	})
	add(Workload{
		Name: "http", Title: "HTTP, a connection a request", Metric: requests, Slice: 60 * time.Millisecond,
		Contenders: With(Spec{Loop: "http", MaxOps: 1000}, "shm", "unix", "tcp"),
	})
	rt := Spec{Loop: "roundtrip", Size: 64}
	add(Workload{
		Name: "onecore", Title: "Both processes on one core, round trip, 64 B", Metric: timePerOp,
		OneCore: true, Slice: 60 * time.Millisecond, Contenders: With(rt, nets...),
	})
	add(Workload{
		Name: "fourprocs", Title: "Four processes on two cores, round trip, 64 B", Metric: timePerOp,
		TwoCores: true, Pairs: 2, Slice: 100 * time.Millisecond, Contenders: With(rt, nets...),
	})
	add(Workload{
		Name: "neighbours", Title: "All cores but one busy with something else, round trip, 64 B", Metric: timePerOp,
		Neighbours: Neighbours{Kind: Computing, N: runtime.NumCPU() - 1}, Slice: 100 * time.Millisecond, Contenders: With(rt, "shm", "shm-parked", "unix", "tcp", "pipe"),
	})
	add(Workload{
		Name: "gomaxprocs=1", Title: "GOMAXPROCS=1, round trip, 64 B", Metric: timePerOp,
		MaxProcs: 1, Contenders: With(rt, nets...),
	})
	add(Workload{
		Name: "parked", Title: "Parked on both ends, round trip, 64 B", Metric: timePerOp,
		Contenders: With(rt, "shm-parked", "unix", "tcp", "pipe"),
	})
	add(Workload{
		Name: "beside", Title: "TCP round trip next to 4 polling shm connections, 64 B", Metric: median,
		Slice: 100 * time.Millisecond, Baseline: "alone",
		Contenders: []Contender{
			{Name: "alone", Spec: Spec{Net: "tcp", Loop: "beside", Size: 64}},
			{Name: "beside", Spec: Spec{Net: "tcp", Loop: "beside", Size: 64, Pollers: 4}},
			{Name: "beside-both", Spec: Spec{Net: "tcp", Loop: "beside", Size: 64, Pollers: 4, PollBoth: true}},
		},
	})
	add(Workload{
		Name: "allocs", Title: "Allocations, 64 B", Metric: allocs,
		Contenders: With(Spec{Loop: "echo", Size: 64, Allocs: true}, "shm", "shm-parked", "unix", "tcp"),
	})
	return append(ws, Scenes()...)
}

// Bytes writes a size.
func Bytes(n int) string {
	switch {
	case n >= mib && n%mib == 0:
		return fmt.Sprintf("%d MiB", n/mib)
	case n >= kib && n%kib == 0:
		return fmt.Sprintf("%d KiB", n/kib)
	}
	return fmt.Sprintf("%d B", n)
}
