//go:build linux

package wait

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ms = time.Millisecond

// fakes are processes that have used some processor time. 0 is this one, which
// may run on the processors on, as the others may, if they have none of theirs.
type fakes struct {
	used       map[int]time.Duration
	on, theirs processorSet
}

func (f *fakes) ask(pid int) (time.Duration, processorSet) {
	if pid == os.Getpid() {
		return f.used[0], f.on
	}
	if f.theirs.count() > 0 {
		return f.used[pid], f.theirs
	}
	return f.used[pid], f.on
}

func (f *fakes) run(used map[int]time.Duration) {
	for pid, d := range used {
		f.used[pid] += d
	}
}

type uses = map[int]time.Duration

// TestPartyHad has this process (0), peers and strangers use some processors
// for 10 ms, and then again.
func TestPartyHad(t *testing.T) {
	for _, tt := range []struct {
		name  string
		on    processorSet
		peers []int
		used  uses
		want  bool
	}{
		{"this process and its peer", processorSet{3}, []int{7}, uses{0: 9 * ms, 7: 9 * ms}, true},
		{"just so much", processorSet{3}, []int{7}, uses{0: 10 * ms, 7: 6 * ms}, true},
		{"a little less", processorSet{3}, []int{7}, uses{0: 10 * ms, 7: 6*ms - 1}, false},
		{"beside one that computes", processorSet{3}, []int{7}, uses{0: 7 * ms, 7: 6 * ms, 99: 7 * ms}, false},
		{"of two peers", processorSet{3}, []int{7, 8}, uses{0: 6 * ms, 7: 6 * ms, 8: 6 * ms}, true},
		{"of peers with several connections", processorSet{3}, []int{7, 8, 7}, uses{0: 6 * ms, 7: 6 * ms}, false},
		{"a stranger without a number", processorSet{3}, []int{0, -1}, uses{0: 9 * ms, -1: 9 * ms}, false},
		{"a number that another process has now", processorSet{3}, []int{7}, uses{0: 17 * ms, 7: -5 * ms}, true},
		{"alone", processorSet{3}, nil, uses{0: 20 * ms}, true},
		{"one processor", processorSet{1}, []int{7}, uses{0: 4 * ms, 7: 4 * ms}, true},
		{"one processor, and a stranger", processorSet{1}, []int{7}, uses{0: 4 * ms, 7: 4*ms - 1}, false},
		{"eight processors", processorSet{255}, []int{7}, uses{0: 40 * ms, 7: 36 * ms}, true},
		{"a stranger on one of eight processors", processorSet{255}, []int{7}, uses{0: 40 * ms, 7: 34 * ms}, false},
		{"processors unknown", processorSet{}, []int{7}, uses{0: 10 * ms, 7: 10 * ms}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fakes{uses{0: 500 * ms, 7: 100 * ms, 8: 200 * ms, 99: 300 * ms}, tt.on, processorSet{}}
			p := party{ask: f.ask}
			for _, pid := range tt.peers {
				p.join(pid)
			}
			if p.had(1000*ms, 1001*ms) {
				t.Error("it is known at the first look")
			}
			f.run(uses{0: 80 * ms})
			p.keepLooking(1021*ms - 1) // not due yet
			if at := time.Duration(p.looked.Load()); at != 1001*ms {
				t.Errorf("it looks again after %v", at-1001*ms)
			}
			p.keepLooking(1200 * ms)
			for now := 1210 * ms; now < 1240*ms; now += 10 * ms {
				f.run(tt.used)
				p.had(now-3*ms, now)
			}
			f.run(tt.used)
			if got := p.had(1237*ms, 1240*ms); got != tt.want {
				t.Errorf("had() = %v, want %v", got, tt.want)
			}
			// Another goroutine has lost the same slice.
			f.run(uses{0: time.Second})
			if got := p.had(1238*ms, 1241*ms-1); got != tt.want {
				t.Errorf("had() = %v for another goroutine, want %v", got, tt.want)
			}
			// One that it has lost since then.
			if got := p.had(1238*ms, 1241*ms); got != (tt.on.count() > 0) {
				t.Errorf("had() = %v after so much more time, want %v", got, !got)
			}
		})
	}
}

// TestPartyPinned has this process and its peer on a processor each.
func TestPartyPinned(t *testing.T) {
	for _, tt := range []struct {
		own, peer time.Duration // of 10 ms
		want      bool
	}{{9 * ms, 8 * ms, true}, {9 * ms, 4 * ms, false}} {
		f := &fakes{uses{}, processorSet{1}, processorSet{2}}
		p := party{ask: f.ask}
		p.join(7)
		var got bool
		for now := 1000 * ms; now <= 1040*ms; now += 10 * ms {
			got = p.had(now, now)
			f.run(uses{0: tt.own, 7: tt.peer})
		}
		if got != tt.want {
			t.Errorf("had() = %v after %v and %v of 10 ms, want %v", got, tt.own, tt.peer, tt.want)
		}
	}
}

// TestPartyIdle has processors idle that this process and its peer do not use.
func TestPartyIdle(t *testing.T) {
	for _, tt := range []struct {
		name    string
		used    time.Duration // by each of the two, of the 20 ms that there are
		idle    time.Duration
		machine int // its processors; 0: not known
		quota   float64
		want    bool
	}{
		{"idle otherwise", 5 * ms, 10 * ms, 2, unlimited, true},
		{"just so much", 5 * ms, 6 * ms, 2, unlimited, true},
		{"a little less", 5 * ms, 6*ms - 1, 2, unlimited, false},
		{"not idle", 5 * ms, 0, 2, unlimited, false},
		{"not known", 5 * ms, 10 * ms, 0, unlimited, false},
		{"of a machine with more processors", 5 * ms, 10 * ms, 3, unlimited, false},
		{"of a machine with fewer", 5 * ms, 10 * ms, 1, unlimited, false},
		{"a clock that goes back", 10 * ms, -10 * ms, 2, unlimited, true},
		{"a quota of all processors", 5 * ms, 10 * ms, 2, 2, true},
		{"a quota of fewer", 5 * ms, 10 * ms, 2, 1.9, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			idle := time.Hour
			f := &fakes{uses{}, processorSet{3}, processorSet{}}
			p := party{
				ask: f.ask, unused: func() (time.Duration, int) { return idle, tt.machine },
				quota: func() float64 { return tt.quota },
			}
			p.join(7)
			var got bool
			for now := 1000 * ms; now <= 1040*ms; now += 10 * ms {
				if got = p.had(now, now); got && now == 1000*ms {
					t.Error("it is known at the first look")
				}
				f.run(uses{0: tt.used, 7: tt.used})
				idle += tt.idle
			}
			if got != tt.want {
				t.Errorf("had() = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestPartyIdleKnown has it become known and unknown how long processors were
// idle. What they were before that counts for nothing.
func TestPartyIdleKnown(t *testing.T) {
	idle, machine := time.Hour, 0
	f := &fakes{uses{}, processorSet{3}, processorSet{}}
	p := party{ask: f.ask, unused: func() (time.Duration, int) { return idle, machine }}
	for i, known := range []bool{false, false, true, false, true, true, true, true, true} {
		if machine = 0; known {
			machine = 2
		}
		now := time.Duration(100+i) * 10 * ms
		// The 40 ms before look 8 begin at look 4.
		if got, want := p.had(now, now), i == 8; got != want {
			t.Errorf("look %d: had() = %v, want %v", i, got, want)
		}
		idle += 20 * ms
	}
}

// TestPartyIdleLeaps has strangers use all processors, and the kernel tell much
// idle time at once, which was long ago.
func TestPartyIdleLeaps(t *testing.T) {
	idle := time.Hour
	f := &fakes{uses{}, processorSet{3}, processorSet{}}
	p := party{ask: f.ask, unused: func() (time.Duration, int) { return idle, 2 }}
	for now := 1000 * ms; now <= 1100*ms; now += 20 * ms {
		if now == 1060*ms {
			idle += time.Second
		}
		if p.had(now, now) {
			t.Errorf("had() = true after %v", now-1000*ms)
		}
	}
}

// TestPartyLately has strangers come and go: what counts is the last 40 to 60
// ms, if there are looks all the time.
func TestPartyLately(t *testing.T) {
	f := &fakes{used: uses{}, on: processorSet{3}}
	p := party{ask: f.ask}
	for now := 1000 * ms; now <= 1300*ms; now += 5 * ms {
		if want := now >= 1140*ms && now < 1215*ms; p.had(now, now) != want {
			t.Errorf("had() = %v after %v, want %v", !want, now, want)
		}
		if now >= 1100*ms && now < 1200*ms {
			f.run(uses{0: 10 * ms})
		}
	}
}

// TestPartyForgets has a long time pass between two looks.
func TestPartyForgets(t *testing.T) {
	for _, tt := range []struct {
		gap  time.Duration
		want bool
	}{{heartbeat - 1, false}, {heartbeat, true}, {partyStays, true}, {partyStays + 1, false}, {time.Hour, false}} {
		f := &fakes{used: uses{}, on: processorSet{3}}
		p := party{ask: f.ask}
		p.keepLooking(1000 * ms)
		f.run(uses{0: 2 * tt.gap})
		if got := p.had(1000*ms+tt.gap, 1000*ms+tt.gap); got != tt.want {
			t.Errorf("had() = %v after %v, want %v", got, tt.gap, tt.want)
		}
	}
}

// TestPartyBegins asks at the first looks of a process that has just begun.
func TestPartyBegins(t *testing.T) {
	f := &fakes{used: uses{}, on: processorSet{3}}
	p := party{ask: f.ask}
	for now := 5 * ms; now <= 70*ms; now += 5 * ms {
		// The first look that is kept is at 20 ms.
		if got, want := p.had(now, now), now > 20*ms; got != want {
			t.Errorf("had() = %v after %v, want %v", got, now, want)
		}
		f.run(uses{0: 10 * ms})
	}
}

// TestIdler asks the kernel.
func TestIdler(t *testing.T) {
	if idle, n := new(idler).read(); idle != 0 || n != 0 {
		t.Errorf("before it is known: %v idle on %d processors", idle, n)
	}
	if idle, _ := (&idler{-1, 2}).read(); idle != 0 {
		t.Errorf("without the file: %v idle", idle)
	}
	i := openIdler()
	first, n := i.read()
	if first == 0 {
		t.Skip("this /proc, or /sys, does not say how long processors were idle")
	}
	defer unix.Close(i.fd)
	file, err := os.ReadFile("/proc/uptime")
	last, _ := i.read()
	// It can go back a little, where a processor waits for a disk.
	if now := parseUptime(file); err != nil || now < first-time.Second || now > last+time.Second {
		t.Errorf("%v idle by /proc/uptime (%v), %v before that, %v later", now, err, first, last)
	}
	if all := processorsOf(os.Getpid()); n < all.count() {
		t.Errorf("%d processors, this process may run on %d", n, all.count())
	}
	Prepare()
	process.party.mu.Lock()
	defer process.party.mu.Unlock()
	if got := process.party.idler.processors; got != n {
		t.Errorf("Prepare finds %d processors, want %d", got, n)
	}
}

// TestPartyIdleSteps has looks more often than idle time goes on, and
// processors that are idle all the time, or not at all but before.
func TestPartyIdleSteps(t *testing.T) {
	for _, used := range []time.Duration{0, 2 * ms} { // by strangers, of 2 ms
		f := &fakes{uses{}, processorSet{3}, processorSet{}}
		idle := time.Hour
		p := party{ask: f.ask, unused: func() (time.Duration, int) { return idle / idleStep * idleStep, 2 }}
		p.keepLooking(1000 * ms)
		idle += 9 * ms
		for now := 1001 * ms; now <= 1060*ms; now += ms {
			// Of strangers a step says nothing for the first 6 ms.
			if got := p.had(now, now); now > 1006*ms && got != (used == 0) {
				t.Errorf("strangers used %v of 2 ms: had() = %v after %v", used, got, now-1000*ms)
			}
			if idle += 2*ms - used; now == 1001*ms {
				idle += ms
			}
		}
	}
}

// TestPartyLate asks for a time before the last look.
func TestPartyLate(t *testing.T) {
	f := &fakes{used: uses{}, on: processorSet{3}}
	p := party{ask: f.ask}
	p.keepLooking(1000 * ms)
	for now := 1020 * ms; now <= 1060*ms; now += 20 * ms {
		f.run(uses{0: 40 * ms})
		p.keepLooking(now)
		others := p.others
		if !p.had(now-5*ms, now-5*ms) || p.others != others || time.Duration(p.looked.Load()) != now {
			t.Errorf("at %v a goroutine looks at what it was before", now)
		}
	}
}

// TestOnlineProcessors has files that are not the kernel's.
func TestOnlineProcessors(t *testing.T) {
	path := t.TempDir() + "/online"
	if n := onlineProcessors(path); n != 0 {
		t.Errorf("%d processors by a file that is not there", n)
	}
	if err := os.WriteFile(path, []byte("0-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := onlineProcessors(path); n != 0 {
		t.Errorf("%d processors by a file that is not the kernel's", n)
	}
	for list, want := range map[string]int{
		"0\n": 1, "0-1\n": 2, "0-2,7\n": 4, "3,5-6,8\n": 4, "": 0, "\n": 0, "some\n": 0, "0-\n": 0, "3-1\n": 0, "0-1,x\n": 0,
	} {
		if n := countList(list); n != want {
			t.Errorf("%q has %d numbers, want %d", list, n, want)
		}
	}
}

func TestParseUptime(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"3600.25 7000.05\n": 7000*time.Second + 50*ms, "1.00 0.01\n": 10 * ms, "12.50 0.00\n": 0, "9.00 9223372036.86\n": 0,
		"9.00 9223372036.85\n": 9223372036*time.Second + 850*ms,
		"":                     0, "12.50\n": 0, "12.50 x.yz\n": 0, "12.50 7\n": 0, "12.50 7.5\n": 0, "12.50 7.500\n": 0, "12.50 -7.50\n": 0,
	} {
		if got := parseUptime([]byte(s)); got != want {
			t.Errorf("parseUptime(%q) = %v, want %v", s, got, want)
		}
	}
}

// TestLooksWhileResting has waits during a rest, which is when the party has to
// be looked at, too.
func TestLooksWhileResting(t *testing.T) {
	r := newPollers()
	r.party.ask = (&fakes{used: uses{}, on: processorSet{3}}).ask
	now := Now() + time.Second
	r.others.until.Store(int64(now + time.Hour))
	for _, later := range []time.Duration{0, partyLook} {
		w := NewWaiter(never{})
		if cause := r.poll(w, now+later, time.Second); cause != Contended {
			t.Errorf("a wait during a rest ends because of %v", cause)
		}
		if at := time.Duration(r.party.looked.Load()); at != now+later {
			t.Errorf("the last look was %v before the wait", now+later-at)
		}
	}
}

// never is a Condition that never becomes true.
type never struct{}

func (never) Ready() bool                   { return false }
func (never) Tick()                         {}
func (never) Where() (near, elsewhere bool) { return false, false }

// TestPartyMembers has peers come and go.
func TestPartyMembers(t *testing.T) {
	f := &fakes{used: uses{}, on: processorSet{3}}
	p := party{ask: f.ask}
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

	now, before := 1000*ms, false
	had := func(what string, used time.Duration, want bool) {
		t.Helper()
		defer func() { before = want }()
		for i := range 10 {
			now += 10 * ms
			f.run(uses{0: used})
			// The 60 ms before a look count.
			if got := p.had(now, now); got != want && (i >= 6 || before == want) {
				t.Errorf("%s: had() = %v, want %v", what, got, want)
			}
		}
	}
	had("alone", 20*ms, true)
	// What a peer used before it came does not count.
	f.run(uses{9: time.Hour})
	had("idle", 0, false)
	p.join(9)
	had("with a new peer", 0, false)
	p.leave(9)
	f.run(uses{9: time.Hour})
	p.join(9)
	had("with a peer that comes again", 0, false)
	for pid := range maxParty - 1 {
		p.join(100 + pid)
	}
	had("as many as are asked", 20*ms, true)
	p.join(200)
	had("one more", 20*ms, false)
	p.leave(200)
	had("as many again, after a time without a look", 1*ms, false)
}

// TestLost loses slices to the party, and to others.
func TestLost(t *testing.T) {
	for _, tt := range []struct {
		used time.Duration // of 20 ms
		want bool
	}{{0, true}, {20 * ms, false}} {
		f := &fakes{used: uses{}, on: processorSet{3}}
		r := newPollers()
		r.party.ask = f.ask
		r.party.join(7)
		now := 1000 * ms
		for range 3 {
			r.party.keepLooking(now)
			now += partyLook
			f.run(uses{0: tt.used, 7: tt.used})
		}
		r.others.lost(now-5*ms, now-3*ms) // one can be chance
		if r.lost(now-slice+1, now) || r.others.rests(now) {
			t.Errorf("less than a slice is lost")
		}
		if r.party.judged != 0 {
			t.Errorf("the party is asked for less than a slice")
		}
		if got := r.lost(now-slice, now); got != tt.want || r.others.rests(now) != tt.want {
			t.Errorf("the party has used %v: lost() = %v, rests() = %v, want %v", tt.used, got, r.others.rests(now), tt.want)
		}
	}
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
	self, pid := os.Getpid(), worker.Process.Pid
	own := processorTime(self)
	eventually(func() bool { return processorTime(pid) > 20*time.Millisecond }) // which works
	all := processorsOf(self)
	if n := all.count(); n == 0 {
		t.Error("this process may run nowhere")
	}
	if of := processorsOf(pid); of != all {
		t.Errorf("the child may run on %v, this process on %v", of, all)
	}
	eventually(func() bool { return processorTime(self) > own })
	worker.Process.Kill()
	worker.Wait()
	if got := processorTime(pid); got != 0 {
		t.Errorf("a process that is gone has used %v", got)
	}
	if of := processorsOf(pid); of.count() != 0 {
		t.Errorf("a process that is gone may run on %v", of)
	}
}
