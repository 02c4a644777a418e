package wait

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A party is this process and its peers: whatever its waits wait for is done by
// one of them.
//
// A slice that one of the party has taken is not lost: it has worked meanwhile.
// Two processes with many connections, which both always have something to do,
// take slices from each other all the time. Nor do strangers have the time for
// which a processor idles.
type party struct {
	ask    func(pid int) (time.Duration, processorSet) // of tests; nil: the kernel
	unused func() (idle time.Duration, processors int) // of tests; nil: the kernel
	quota  func() float64                              // of processors; nil: none

	looked atomic.Int64 // when the last look was

	mu      sync.Mutex      // guards the following
	peers   map[int]*member // by their process numbers
	self    member
	idler   idler
	idle    time.Duration // by the last look, since boot; 0: not known
	spare   time.Duration // up to idleStep that idle time may still count for: see idled
	others  time.Duration // what others have had, but for a constant
	n       int           // processors that any of the party may run on; 0: not known
	past    [3]moment     // of looks, at least partyLook apart; the last is the latest
	judged  time.Duration // when had was last asked
	verdict bool          // what it has answered
}

// A member is a process of the party.
type member struct {
	conns  int
	looked time.Duration // when its time was last looked at; 0: never
	used   time.Duration // processor time by then
}

// A moment is what a look has found.
type moment struct{ at, others time.Duration }

// Join says that this process has a connection to another one, and Leave that
// it has one less. A process whose number is not known (0) is a stranger.
func Join(pid int)  { process.party.join(pid) }
func Leave(pid int) { process.party.leave(pid) }

// Peers returns how many other processes have joined and not left, for tests
// that count leaks.
func Peers() int { return process.party.size() }

// open makes p able to measure idle time, for as long as the process lives.
func (p *party) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idler = openIdler()
}

func (p *party) join(pid int) {
	if pid <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.peers[pid]
	if m == nil {
		if p.peers == nil {
			p.peers = make(map[int]*member)
		}
		m = new(member)
		p.peers[pid] = m
	}
	m.conns++
}

func (p *party) leave(pid int) {
	if pid <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.peers[pid]
	if m.conns--; m.conns == 0 {
		delete(p.peers, pid)
	}
}

func (p *party) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.peers)
}

// keepLooking looks at the party if that is due, so that had knows. It is for a
// goroutine that polls, or would if there were no rest.
func (p *party) keepLooking(now time.Duration) {
	due := func() bool { return now-time.Duration(p.looked.Load()) >= partyLook }
	if due() && p.mu.TryLock() {
		defer p.mu.Unlock()
		if due() {
			p.look(now)
		}
	}
}

// look adds up what others have had of the processors since the last look. The
// caller has p.mu.
func (p *party) look(now time.Duration) {
	last := time.Duration(p.looked.Load())
	if now <= last {
		return // another goroutine has looked since then
	}
	p.looked.Store(int64(now))
	if now-last > partyStays {
		p.past = [3]moment{}
	}
	if len(p.peers) > maxParty {
		p.n, p.past = 0, [3]moment{}
		return
	}
	used, on := p.usedBy(os.Getpid(), &p.self, last, now)
	for pid, m := range p.peers {
		more, too := p.usedBy(pid, m, last, now)
		used += more
		on.add(too)
	}
	p.n = on.count()
	capacity := time.Duration(p.n) * (now - last)
	p.others += capacity - used - p.idled(capacity)
	if latest := len(p.past) - 1; now-p.past[latest].at >= partyLook {
		copy(p.past[:], p.past[1:])
		p.past[latest] = moment{now, p.others}
	}
}

// usedBy returns what a member has used since the last look, as far as the
// kernel has counted, and where it may run. A member that was not there then
// has used nothing.
func (p *party) usedBy(pid int, m *member, last, now time.Duration) (used time.Duration, on processorSet) {
	total, on := p.usage(pid)
	if m.looked == last && last > 0 {
		used = max(0, total-m.used)
	}
	m.used, m.looked = total, now
	return used, on
}

// idled returns for how long the party's processors have been idle since the
// last look, during which they could have worked for the time of capacity. The
// kernel counts it for all processors of the machine, in steps, and some
// kernels in leaps: over several looks no more counts than their capacity and a
// step. With a quota a processor can be idle although the party wants it.
func (p *party) idled(capacity time.Duration) (d time.Duration) {
	idle, processors := p.idleTime()
	if processors != p.n || p.quota != nil && p.quota() < float64(p.n) {
		idle = 0
	}
	if p.idle > 0 {
		d = min(max(0, idle-p.idle), capacity+p.spare)
	}
	p.idle = idle
	p.spare = min(idleStep, capacity+p.spare-d)
	return d
}

// had reports whether the party itself has had the processors since the time
// from, when this process lost one of them; false if it is not known.
func (p *party) had(from, now time.Duration) bool {
	if !p.mu.TryLock() {
		return true // another goroutine looks, and decides
	}
	defer p.mu.Unlock()
	if from >= p.judged || now-p.judged >= slice { // otherwise it is the same slice
		p.look(now)
		p.judged, p.verdict = now, p.judge(now)
	}
	return p.verdict
}

// judge reports whether others have had next to nothing of the processors for
// the last 40 to 60 ms, or 120 where looks are rarer; for less, down to a
// heartbeat, if they have just begun (again). What was before a time without
// looks says nothing: who worked then may be gone.
//
// The kernel counts to some ms. Where the party has nearly all of the
// processors, little is left to be counted late; but in the first ms a step of
// idle time can hide a stranger.
func (p *party) judge(now time.Duration) bool {
	for _, then := range p.past {
		if then.at == 0 {
			continue
		}
		length := now - then.at
		limit := partySpares * float64(min(p.n, 2)) * float64(length)
		return p.n > 0 && length >= heartbeat && float64(p.others-then.others) <= limit
	}
	return false
}

// usage returns how much processor time a process has used, and the processors
// that it may run on.
func (p *party) usage(pid int) (time.Duration, processorSet) {
	if p.ask != nil {
		return p.ask(pid)
	}
	return processorTime(pid), processorsOf(pid)
}

// idleTime returns for how long the processors of the machine have been idle in
// all, since boot, and how many there are. idle is 0 if it is not known.
func (p *party) idleTime() (idle time.Duration, processors int) {
	if p.unused != nil {
		return p.unused()
	}
	return p.idler.read()
}
