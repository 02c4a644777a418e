//go:build linux

package bench

import (
	"context"
	"io"
	"testing"
	"time"
)

// Every scene runs, with every contender, and has figures that can be.
func TestScenes(t *testing.T) {
	t.Setenv("SHMCONN_DIR", t.TempDir())
	scenes := Scenes()
	r, err := Run(context.Background(), Options{Workloads: scenes, Rounds: 1, Slice: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Workloads) != len(scenes) {
		t.Fatalf("%d scenes were measured, want %d", len(r.Workloads), len(scenes))
	}
	for _, w := range r.Workloads {
		if w.Skipped != "" {
			t.Logf("%s: left out: %s", w.Name, w.Skipped)
			continue
		}
		if w.Regret == nil || w.Regret.N != 1 || w.Regret.Median <= 0 {
			t.Errorf("%s: regret %+v", w.Name, w.Regret)
		}
		for _, c := range w.Contenders {
			if c.Error != "" || len(c.Rounds) != 1 {
				t.Errorf("%s, %s: %d rounds, error %q", w.Name, c.Name, len(c.Rounds), c.Error)
				continue
			}
			round := c.Rounds[0]
			if round.Value <= 0 || round.Ops == 0 || round.AllOps == 0 || round.ElapsedNS <= 0 || round.ClientCPU <= 0 || c.CPU.Median <= 0 {
				t.Errorf("%s, %s: %+v", w.Name, c.Name, round)
			}
			if (c.Spec.helpers() > 0) != (round.HelperCPU > 0) {
				t.Errorf("%s, %s: %d helpers have used %d ns", w.Name, c.Name, c.Spec.helpers(), round.HelperCPU)
			}
			if l := c.Latency; w.Unit == "ns" && (l == nil || l.Count == 0 || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999) {
				t.Errorf("%s, %s: latency %+v", w.Name, c.Name, l)
			}
		}
	}
}

// A paced sender keeps to its rate, and a message that is late is timed from
// when it was due.
func TestPaced(t *testing.T) {
	s := Spec{Net: "unix", Loop: "oneway", Size: 64, Rate: 1000, Burst: 5, Relays: 1, Dir: t.TempDir()}
	p, err := environment{dir: s.Dir}.open(s, true)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	v, err := p.slice(quota{D: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if v.client.Ops != 100 || v.server.Ops != 100 || v.helpers[0].Ops != 100 {
		t.Errorf("%d sent, %d relayed, %d received, want 100", v.client.Ops, v.helpers[0].Ops, v.server.Ops)
	}
	if v.client.Elapsed < 95*time.Millisecond { // the last burst is due then
		t.Errorf("100 messages at 1000 a second took %v", v.client.Elapsed)
	}
	b := make([]byte, 16)
	stamp(b, monotonic()-int64(time.Second))
	if late := time.Duration(monotonic() - stamped(b)); late < time.Second || late > time.Minute {
		t.Errorf("a message that was due a second ago is %v late", late)
	}
}

// A slow network: its n-th message takes stall.
type slow struct {
	n, sent int
	head    uint64
	late    []time.Duration // of each message, when it was sent
}

const stall = 50 * time.Millisecond

func (s *slow) wait() {
	if s.sent++; s.sent == s.n {
		time.Sleep(stall)
	}
}

func (s *slow) Send(_ int, head uint64) error { s.wait(); s.head = head; return nil }
func (s *slow) Receive(int) (uint64, error)   { return s.head, nil }
func (s *slow) Read([]byte) (int, error)      { return 0, io.EOF }
func (s *slow) Close() error                  { return nil }

func (s *slow) Write(b []byte) (int, error) {
	s.wait()
	s.late = append(s.late, time.Duration(monotonic()-stamped(b)))
	return len(b), nil
}

// A stall of 50 ms counts for all messages that were due meanwhile, 50 of them:
// the first is 50 ms late, the next 49 ms, and so on.
func TestStallCounts(t *testing.T) {
	const least = 35 // more than 15 ms late
	for _, fromDue := range []bool{false, true} {
		e := &end{spec: Spec{Size: 64, Rate: 1000, FromDue: fromDue}, msgs: []Messenger{&slow{n: 20}}, hist: newHist()}
		if _, err := atRate(e, quota{D: 150 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		late := int64(0)
		for _, b := range e.hist.Distribution() {
			if b.From > int64(15*time.Millisecond) {
				late += b.Count
			}
		}
		if late < least {
			t.Errorf("round trips at 1000 a second (from due: %v): %d were late because of a stall, want %d", fromDue, late, least)
		}
	}
	c := &slow{n: 20}
	e := &end{spec: Spec{Size: 64, Rate: 1000}, conns: []io.Closer{c}, hist: newHist()}
	r, err := sendPaced(e, quota{D: 150 * time.Millisecond})
	if err != nil || r.Ops != 150 || len(c.late) != 150 {
		t.Fatalf("sent %d, %v", r.Ops, err)
	}
	late := 0
	for _, d := range c.late {
		if d > 15*time.Millisecond {
			late++
		}
	}
	if late < least {
		t.Errorf("one way at 1000 a second: %d were late because of a stall, want %d", late, least)
	}
}

// Of many connections only the busy ones carry messages.
func TestBusy(t *testing.T) {
	s := Spec{Net: "unix", Loop: "echo", Size: 64, Conns: 4, Dir: t.TempDir()}
	for busy, want := range map[int]uint64{0: 400, 1: 100, 3: 300} {
		s.Busy = busy
		p, err := environment{dir: s.Dir}.open(s, true)
		if err != nil {
			t.Fatal(err)
		}
		v, err := p.slice(quota{N: 100})
		if err != nil || v.client.Ops != want || v.server.Ops != want {
			t.Errorf("%d of 4 are busy: %d sent, %d echoed, want %d; %v", busy, v.client.Ops, v.server.Ops, want, err)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
		if used := p.used(); used < v.client.CPU || used == 0 {
			t.Errorf("its process has used %v, %v of it in a slice", used, v.client.CPU)
		}
	}
}

// Neighbours work, and are gone when they are stopped.
func TestNeighbours(t *testing.T) {
	cpus, err := allowed()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, n := range []Neighbours{
		{Computing, 2, false}, {Computing, 1, true}, {Yielding, 1, false}, {Compiling, 1, false}, {Polling, 1, false},
	} {
		// What others leave of the time is something, but on a busy machine it
		// can be little.
		var used time.Duration
		for wait := 300 * time.Millisecond; used < 20*time.Millisecond && wait < 20*time.Second; wait *= 4 {
			c, err := n.start(environment{dir: dir, cpus: cpus})
			if err != nil {
				t.Fatalf("%+v: %v", n, err)
			}
			time.Sleep(wait)
			if used, err = c.stop(); err != nil {
				t.Errorf("%+v: %v", n, err)
			}
		}
		if used < 20*time.Millisecond {
			t.Errorf("%+v have used %v, at last of 19 s", n, used)
		}
	}
	if c, err := (Neighbours{Kind: "snoring", N: 1}).start(environment{}); err == nil {
		c.stop()
		t.Error("neighbours of a kind that there is not were started")
	}
}

func TestRegret(t *testing.T) {
	of := func(higher bool, shm, parked, polling []float64) *Summary {
		w := WorkloadResult{Higher: higher, Baseline: "unix"}
		for name, v := range map[string][]float64{"shm": shm, "shm-parked": parked, "shm-polling": polling} {
			c := ContenderResult{Name: name}
			for _, x := range v {
				c.Rounds = append(c.Rounds, Round{Value: x, AllOps: 1})
			}
			w.Contenders = append(w.Contenders, c)
		}
		w.summarize()
		return w.Regret
	}
	// The better one is another in each round.
	if r := of(false, []float64{10, 30, 20}, []float64{5, 100, 20}, []float64{100, 10, 40}); r == nil || r.Median != 2 || r.Min != 1 || r.Max != 3 {
		t.Errorf("regret of times: %+v, want 1, 2 and 3", r)
	}
	if r := of(true, []float64{10, 30, 20}, []float64{20, 1, 20}, []float64{5, 90, 10}); r == nil || r.Median != 2 || r.Min != 1 || r.Max != 3 {
		t.Errorf("regret of rates: %+v, want 1, 2 and 3", r)
	}
	if r := of(false, []float64{1}, nil, []float64{1}); r != nil {
		t.Errorf("regret without one of the extremes: %+v", r)
	}
}
