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

	looked atomic.Int64 // when the last look was

	mu         sync.Mutex      // guards the following
	peers      map[int]*member // by their process numbers
	self       member
	idler      idler
	idled      time.Duration // by the last look; 0: not known
	processors int           // that any of the party may run on; 0: not known
	spent      time.Duration // by the party or nobody, as far as the kernel has counted
	past       [3]moment     // of looks, at least partyLook apart; the last is the latest
	judged     time.Duration // when had was last asked
	verdict    bool          // what it has answered
}

// A member is a process of the party.
type member struct {
	conns  int
	looked time.Duration // when its time was last looked at; 0: never
	used   time.Duration // processor time by then
}

// A moment is when a look was, and what the party had spent by then.
type moment struct{ at, spent time.Duration }

// Join says that this process has a connection to another one, and Leave that
// it has one less. A process whose number is not known (0) is a stranger.
func Join(pid int)  { process.party.join(pid) }
func Leave(pid int) { process.party.leave(pid) }

// Peers returns how many other processes have joined and not left, for tests
// that count leaks.
func Peers() int { return process.party.size() }

// open makes p able to tell idle time, for as long as the process lives.
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
	if now-time.Duration(p.looked.Load()) >= partyLook && p.mu.TryLock() {
		defer p.mu.Unlock()
		p.look(now)
	}
}

// look finds out what the party has used since the last look. The caller has
// p.mu.
func (p *party) look(now time.Duration) {
	last := time.Duration(p.looked.Swap(int64(now)))
	if len(p.peers) > maxParty {
		return
	}
	processors := p.lookAt(os.Getpid(), &p.self, last, now)
	for pid, m := range p.peers {
		processors.add(p.lookAt(pid, m, last, now))
	}
	p.processors = processors.count()
	p.lookAtIdle()
	if latest := len(p.past) - 1; now-p.past[latest].at >= partyLook {
		copy(p.past[:], p.past[1:])
		p.past[latest] = moment{now, p.spent}
	}
}

// lookAt adds what a member has used since the last look, and returns where it
// may run. A member that was not there then has used nothing.
func (p *party) lookAt(pid int, m *member, last, now time.Duration) processorSet {
	used, on := p.usage(pid)
	if m.looked == last && last > 0 {
		p.spent += max(0, used-m.used)
	}
	m.used, m.looked = used, now
	return on
}

// lookAtIdle adds for how long processors were idle: no stranger has had that
// time. The kernel tells it for all processors together.
func (p *party) lookAtIdle() {
	idle, processors := p.idle()
	if processors != p.processors {
		idle = 0
	}
	if p.idled > 0 {
		p.spent += max(0, idle-p.idled)
	}
	p.idled = idle
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

// judge reports whether nobody else has had the processors in the last 40 ms or
// more, or since looks began. The kernel counts what runs on another processor
// at its next tick, and idle time in steps of 10 ms.
func (p *party) judge(now time.Duration) bool {
	for _, then := range p.past {
		length := now - then.at
		if then.at == 0 || length > partyStays {
			continue
		}
		others := time.Duration(p.processors)*length - (p.spent - then.spent)
		return p.processors > 0 && length >= slice && float64(others) <= partySpares*float64(min(p.processors, 2))*float64(length)
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

// idle returns for how long the processors of the machine have been idle in
// all, 0 if that is not known, and how many processors there are.
func (p *party) idle() (idle time.Duration, processors int) {
	if p.unused != nil {
		return p.unused()
	}
	return p.idler.read()
}
