//go:build linux

package wait

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// fakes are processes that have used some processor time, on two processors.
type fakes map[int]time.Duration

func (f fakes) ask(pid int) (time.Duration, processorSet) { return f[pid], processorSet{3} }

// TestPartyHad has this process (0), peers and strangers use two processors.
func TestPartyHad(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		peers []int
		used  fakes // in 10 ms
		want  bool
	}{
		{"this process and its peer", []int{7}, fakes{0: 9 * ms, 7: 9 * ms}, true},
		{"just so much", []int{7}, fakes{0: 10 * ms, 7: 6 * ms}, true},
		{"a little less", []int{7}, fakes{0: 10 * ms, 7: 6*ms - 1}, false},
		{"beside one that computes", []int{7}, fakes{0: 7 * ms, 7: 6 * ms, 99: 7 * ms}, false},
		{"of two peers", []int{7, 8}, fakes{0: 6 * ms, 7: 6 * ms, 8: 6 * ms}, true},
		{"of peers with several connections", []int{7, 8, 7}, fakes{0: 6 * ms, 7: 6 * ms, 8: 0}, false},
		{"a stranger without a number", []int{0, -1}, fakes{0: 9 * ms, -1: 9 * ms}, false},
		{"a number that another process has now", []int{7}, fakes{0: 17 * ms, 7: -5 * ms}, true},
		{"alone", nil, fakes{0: 20 * ms}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := fakes{0: 500 * ms, 7: 100 * ms, 8: 200 * ms, 99: 300 * ms}
			p := party{ask: now.ask}
			for _, pid := range tt.peers {
				p.join(pid)
			}
			if !p.had(1000*ms, 1001*ms) {
				t.Error("the first look knows something")
			}
			for pid, d := range tt.used {
				now[pid] += d
			}
			if got := p.had(1008*ms, 1011*ms); got != tt.want {
				t.Errorf("had() = %v, want %v", got, tt.want)
			}
			// Another goroutine has lost the same slice.
			now[0] += time.Second
			if got := p.had(1009*ms, 1012*ms); got != tt.want {
				t.Errorf("had() = %v for another goroutine, want %v", got, tt.want)
			}
			now[0] = 0
			if !p.had(1108*ms, 1111*ms+1) {
				t.Error("it remembers what was 100 ms ago")
			}
		})
	}
}

// TestPartyMembers has peers come and go.
func TestPartyMembers(t *testing.T) {
	used := fakes{}
	p := party{ask: used.ask}
	size := func(want int) {
		t.Helper()
		if got := p.size(); got != want {
			t.Errorf("%d peers, want %d", got, want)
		}
	}
	p.join(7)
	p.join(7)
	p.join(0)
	size(1)
	p.leave(0)
	p.leave(7)
	size(1)
	p.leave(7)
	size(0)

	had := func(want bool) {
		t.Helper()
		now := p.looked + time.Millisecond
		used[0] += 2 * time.Millisecond
		if got := p.had(p.looked, now); got != want {
			t.Errorf("with %d peers: had() = %v, want %v", p.size(), got, want)
		}
	}
	for pid := range maxParty {
		p.join(pid + 1)
	}
	had(true)
	p.join(maxParty + 1)
	had(false)
	p.leave(1)
	had(true)
}

// TestProcessorTime asks the kernel.
func TestProcessorTime(t *testing.T) {
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), "SHMCONN_TEST_WORK=1")
	if _, err := worker.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	own, pid := processorTime(0), worker.Process.Pid
	eventually(func() bool { return processorTime(pid) > 20*time.Millisecond }) // which works
	all := processorsOf(0)
	if n := all.count(); n == 0 {
		t.Error("this process may run nowhere")
	}
	if of := processorsOf(pid); of != all {
		t.Errorf("the child may run on %v, this process on %v", of, all)
	}
	eventually(func() bool { return processorTime(0) > own })
	worker.Process.Kill()
	worker.Wait()
	if got := processorTime(pid); got != 0 {
		t.Errorf("a process that is gone has used %v", got)
	}
	if of := processorsOf(pid); of.count() != 0 {
		t.Errorf("a process that is gone may run on %v", of)
	}
}
