// Package stats adds up the counters of a program's connections, for package
// expvar and for anything else that publishes figures. A [Set] is an
// expvar.Var:
//
//	var conns stats.Set
//	expvar.Publish("shmconn", &conns)
//	http.Serve(conns.Listener(l), handler)
package stats

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"shmconn"
)

// A Set holds connections until they are closed, and the sums of those that
// were closed. The zero Set is empty and ready to use. Any number of goroutines
// may use it at the same time.
//
// A Set does not keep a connection alive. If a connection is dropped without
// Close, what it has counted since the last Snapshot is lost.
type Set struct {
	mu       sync.Mutex // guards the following
	conns    []*member
	doors    []*door
	names    map[string]*Name // sums of closed connections, and how many were added
	lastID   uint64
	lastDoor uint64
}

// A member is a connection of a Set.
type member struct {
	id   uint64
	name string
	conn weak.Pointer[shmconn.Conn]
	last shmconn.Stats
}

// A door is a listener of a Set.
type door struct {
	id       uint64
	name     string
	listener weak.Pointer[shmconn.Listener]
}

// A Snapshot is the contents of a [Set] at one moment.
type Snapshot struct {
	Names     []Name     // sorted
	Conns     []Conn     // those that are open, the oldest first
	Listeners []Listener // those that are listening, the oldest first
}

// A Listener is a listener that is open.
type Listener struct {
	ID   uint64 // of this Set, from 1
	Name string
	shmconn.ListenerStats
}

// A Name is the sum over all connections with one name, closed ones included.
// Only Open and Buffered ever fall.
type Name struct {
	Name         string
	Added        uint64 // connections, ever
	Open         int    // connections, now
	Buffered     int    // bytes that the peers have written and we have not read, now
	BytesRead    uint64
	BytesWritten uint64
	ReadCalls    uint64
	WriteCalls   uint64
	ReadWait     time.Duration // for something to read: the ring was empty
	WriteWait    time.Duration // for room: the ring was full
	Waits        uint64
	Parks        uint64
	Rings        uint64

	// Why waits went to sleep, as in [shmconn.Stats]: these make up Parks.
	ParksAlways, ParksGap, ParksContended, ParksNear, ParksSpent uint64
}

// A Conn is a connection that is open.
type Conn struct {
	ID        uint64 // of this Set, from 1
	Name      string
	PeerPID   int
	Buffered  int // bytes that the peer has written and we have not read: the depth of the queue
	Available int // bytes that can be written without a wait
	shmconn.Stats
}

// Add adds c to s.
func (s *Set) Add(c *shmconn.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	name := c.LocalAddr().String()
	s.conns = append(s.conns, &member{id: s.lastID, name: name, conn: weak.Make(c)})
	s.name(name).Added++
}

// name returns the sum of a name. The caller must hold mu while it uses the
// fields.
func (s *Set) name(name string) *Name {
	n := s.names[name]
	if n == nil {
		if s.names == nil {
			s.names = make(map[string]*Name)
		}
		n = &Name{Name: name}
		s.names[name] = n
	}
	return n
}

// Listener adds l to s until l is closed, and returns it with an Accept that
// adds to s the connections that it returns.
func (s *Set) Listener(l *shmconn.Listener) net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.doors, func(d *door) bool { return d.listener.Value() == l }) {
		return &listener{l, s}
	}
	s.lastDoor++
	s.doors = append(s.doors, &door{s.lastDoor, l.Addr().String(), weak.Make(l)})
	return &listener{l, s}
}

type listener struct {
	*shmconn.Listener
	set *Set
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.AcceptConn()
	if err != nil {
		return nil, err
	}
	l.set.Add(c)
	return c, nil
}

// DialContext returns d.DialContext, but with the connections that it returns
// added to s.
func (s *Set) DialContext(d *shmconn.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			s.Add(c.(*shmconn.Conn))
		}
		return c, err
	}
}

// Snapshot returns the contents of s now. It asks each connection, and waits
// for none.
func (s *Set) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var snap Snapshot
	s.conns = slices.DeleteFunc(s.conns, func(m *member) bool {
		c := m.conn.Value()
		closed := c == nil || errors.Is(c.Guard(func() {}), net.ErrClosed) // before its last figures
		if c != nil {
			m.last = c.Stats()
		}
		if closed {
			s.name(m.name).add(m.last)
			return true
		}
		pid, _, _ := c.PeerCred()
		snap.Conns = append(snap.Conns, Conn{m.id, m.name, pid, c.Buffered(), c.Available(), m.last})
		return false
	})
	sums := make(map[string]*Name, len(s.names))
	for name, n := range s.names {
		sum := *n
		sums[name] = &sum
	}
	for _, c := range snap.Conns {
		n := sums[c.Name]
		n.add(c.Stats)
		n.Open++
		n.Buffered += c.Buffered
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		snap.Names = append(snap.Names, *sums[name])
	}
	s.doors = slices.DeleteFunc(s.doors, func(d *door) bool {
		l := d.listener.Value()
		if l == nil {
			return true
		}
		st := l.Stats()
		if !st.Closed {
			snap.Listeners = append(snap.Listeners, Listener{d.id, d.name, st})
		}
		return st.Closed
	})
	return snap
}

func (n *Name) add(st shmconn.Stats) {
	n.BytesRead += st.BytesRead
	n.BytesWritten += st.BytesWritten
	n.ReadCalls += st.ReadCalls
	n.WriteCalls += st.WriteCalls
	n.ReadWait += st.ReadWait
	n.WriteWait += st.WriteWait
	n.Waits += st.Waits
	n.Parks += st.Parks
	n.Rings += st.Rings
	n.ParksAlways += st.ParksAlways
	n.ParksGap += st.ParksGap
	n.ParksContended += st.ParksContended
	n.ParksNear += st.ParksNear
	n.ParksSpent += st.ParksSpent
}

// String returns a Snapshot as JSON.
func (s *Set) String() string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	if err := e.Encode(s.Snapshot()); err != nil {
		return "null" // not reached: there are only numbers and strings
	}
	return strings.TrimSpace(b.String())
}
