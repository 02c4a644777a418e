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
// take slices from each other all the time.
type party struct {
	ask func(pid int) (time.Duration, processorSet) // of tests; nil: the kernel

	looked atomic.Int64 // when the last look was

	mu           sync.Mutex      // guards the following
	peers        map[int]*member // by their process numbers
	self         member
	last, before turn          // what the last two looks have found
	judged       time.Duration // when had was last asked
	verdict      bool          // what it has answered
}

// A member is a process of the party.
type member struct {
	conns  int
	looked time.Duration // when its time was last looked at; 0: never
	used   time.Duration // processor time by then
}

// A turn is the time from one look to the next.
type turn struct {
	length     time.Duration
	used       time.Duration // by the party, but for what the kernel counts at the next tick
	processors int           // that any of it may run on; 0: not known
}

// Join says that this process has a connection to another one, and Leave that
// it has one less. A process whose number is not known (0) is a stranger.
func Join(pid int)  { process.party.join(pid) }
func Leave(pid int) { process.party.leave(pid) }

// Peers returns how many other processes have joined and not left, for tests
// that count leaks.
func Peers() int { return process.party.size() }

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
// goroutine that polls.
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
	p.before, p.last = p.last, turn{length: now - last}
	if len(p.peers) > maxParty {
		return
	}
	processors := p.lookAt(os.Getpid(), &p.self, last, now)
	for pid, m := range p.peers {
		processors.add(p.lookAt(pid, m, last, now))
	}
	p.last.processors = processors.count()
}

// lookAt adds to the last turn what a member has used in it, and returns where
// it may run. A member that was not there at the last look has used nothing.
func (p *party) lookAt(pid int, m *member, last, now time.Duration) processorSet {
	used, on := p.usage(pid)
	if m.looked == last && last > 0 {
		p.last.used += max(0, used-m.used)
	}
	m.used, m.looked = used, now
	return on
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
		p.judged, p.verdict = now, p.judge()
	}
	return p.verdict
}

// judge reports whether the party has had the processors in the last two turns.
func (p *party) judge() bool {
	length := p.last.length + p.before.length
	n := p.last.processors
	if n == 0 || length > partyStays {
		return false
	}
	others := time.Duration(n)*length - p.last.used - p.before.used
	return float64(others) <= partySpares*float64(min(n, 2))*float64(length)
}

// usage returns how much processor time a process has used, and the processors
// that it may run on.
func (p *party) usage(pid int) (time.Duration, processorSet) {
	if p.ask != nil {
		return p.ask(pid)
	}
	return processorTime(pid), processorsOf(pid)
}
