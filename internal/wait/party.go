package wait

import (
	"sync"
	"time"
)

const (
	// partyStays is how long after a look at the party's processor time the next
	// one can say what the party has had since: longer ago says little about a
	// slice.
	partyStays = 100 * time.Millisecond

	// partyShare is the share of the processors from which on nobody else can
	// have taken a slice worth speaking of: one process that computes beside two
	// ends on two processors leaves them two thirds.
	partyShare = 0.8

	// maxParty is how many peers are asked at most, a microsecond each. With
	// more, others are taken to have had every slice.
	maxParty = 64
)

// A party is this process and its peers: whatever its waits wait for is done by
// one of them.
//
// A slice that one of the party has taken is not lost: it has worked meanwhile.
// Two processes with many connections, which both always have something to do,
// take slices from each other all the time.
type party struct {
	ask func(pid int) (time.Duration, processorSet) // of tests; nil: the kernel

	mu    sync.Mutex      // guards the following
	peers map[int]*member // by their process numbers

	own     time.Duration // processor time of this process, at the last look
	looked  time.Duration // when that was
	verdict bool          // what it has found
}

// A member is a peer.
type member struct {
	conns int
	cpu   time.Duration // processor time at the last look
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

// had reports whether the party itself has had the processors since the time
// from, when this process lost one of them. After a long time without a look it
// reports true, because it does not know: a slice that is lost now and then
// does no harm.
func (p *party) had(from, now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if from < p.looked {
		return p.verdict // another goroutine has looked since, for the same slice
	}
	if len(p.peers) > maxParty {
		p.looked, p.verdict = now, false
		return false
	}
	own, processors := p.usage(0)
	used := own - p.own
	p.own = own
	for pid, m := range p.peers {
		cpu, on := p.usage(pid)
		used += max(0, cpu-m.cpu)
		m.cpu = cpu
		processors.add(on)
	}
	since := now - p.looked
	p.looked = now
	p.verdict = since > partyStays || float64(used) >= partyShare*float64(since)*float64(processors.count())
	return p.verdict
}

// usage returns how much processor time a process has used, 0 being this one,
// and the processors that it may run on.
func (p *party) usage(pid int) (time.Duration, processorSet) {
	if p.ask != nil {
		return p.ask(pid)
	}
	return processorTime(pid), processorsOf(pid)
}
