//go:build linux

package bench

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// Every loop works between two processes and within one, on a network that is
// as good as any.
func TestLoops(t *testing.T) {
	for _, w := range Workloads() {
		for _, c := range w.Contenders {
			if c.Spec.Loop == "" || loops[c.Spec.Loop].client == nil || loops[c.Spec.Loop].server == nil {
				t.Errorf("%s, %s: no loop %q", w.Name, c.Name, c.Spec.Loop)
			}
			if _, err := network(c.Spec.Net); err != nil {
				t.Errorf("%s, %s: %v", w.Name, c.Name, err)
			}
		}
	}
	for _, tt := range []struct {
		Spec
		n uint64
	}{
		{Spec{Net: "unix", Loop: "roundtrip", Size: 1}, 300},
		{Spec{Net: "pipe", Loop: "roundtrip", Size: 64}, 300},
		{Spec{Net: "tcp", Loop: "echo", Size: 64, Conns: 3}, 100},
		{Spec{Net: "pipe", Loop: "echo", Size: 64, Conns: 3}, 100},
		{Spec{Net: "unix", Loop: "write", Size: 4}, 10000},
		{Spec{Net: "unix", Loop: "bufio", Size: 16}, 10000},
		{Spec{Net: "unix", Loop: "stream", Size: 64 << 10}, 50},
		{Spec{Net: "unix", Loop: "messages", Size: 64}, 1000},
		{Spec{Net: "unix", Loop: "dial"}, 10},
		{Spec{Net: "unix", Loop: "dial-byte"}, 10},
		{Spec{Net: "memory", Loop: "pingpong", Size: 64}, 300},
		{Spec{Net: "memory", Loop: "pingpong-ring", Size: 1}, 300},
		{Spec{Net: "memory", Loop: "pingpong-ring", Size: 64 << 10}, 300},
		{Spec{Net: "memory", Loop: "ints"}, 100000},
		{Spec{Net: "memory", Loop: "ints-cached"}, 100000},
		{Spec{Net: "memory", Loop: "memory-copy", Size: 1 << 20}, 5},
		{Spec{Net: "shm", Loop: "roundtrip", Size: 64}, 300},
		{Spec{Net: "shm", Loop: "write", Size: 4}, 10000},
		{Spec{Net: "shm-zerocopy", Loop: "messages", Size: 64}, 1000},
		{Spec{Net: "shm-inplace", Loop: "messages", Size: 64}, 1000},
		{Spec{Net: "shm", Loop: "dial"}, 10},
		{Spec{Net: "shm", Loop: "dial-byte"}, 10},
		{Spec{Net: "shm", Loop: "http"}, 10},
		{Spec{Net: "unix", Loop: "http"}, 10},
	} {
		for _, goroutine := range []bool{false, true} {
			p, err := StartPeer(tt.Spec, goroutine)
			if err != nil {
				t.Errorf("%+v: %v", tt.Spec, err)
				continue
			}
			// Twice, as what is left of a slice is the next one's.
			for range 2 {
				if err := p.Do(int(tt.n)); err != nil {
					t.Errorf("%+v: %v", tt.Spec, err)
				}
			}
			if err := p.Close(); err != nil {
				t.Errorf("%+v: Close: %v", tt.Spec, err)
			}
		}
	}
}

// garbler is a network that is fast, as it does not care.
type garbler struct{ none }

func (g *garbler) Receive(size int) (uint64, error) { return g.head &^ 1, nil }

func TestWrongIsNotFast(t *testing.T) {
	e := &end{spec: Spec{Size: 64}, msgs: []Messenger{new(garbler)}, hist: newHist()}
	if r, err := roundTrips(e, quota{N: 10}); err == nil {
		t.Errorf("round trips over a network that garbles: %+v, no error", r)
	}
	if r, err := receiveMessages(e, quota{}); err == nil {
		t.Errorf("messages from a network that repeats: %+v, no error", r)
	}
}
