// Package inspect finds the listeners and connections of a machine and reports
// their states, from outside: it reads what the kernel shows in /proc, and
// copies of the headers that the two ends of a connection share. It stores
// nothing, takes no lock and rings no doorbell.
//
// What it reads is written by others, who may be hostile: all is held against
// bounds, and what makes no sense is Corrupt.
package inspect

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"shmconn/internal/wait"
)

// A State is how a listener or connection is.
type State string

const (
	Listening   State = "listening"
	Stale       State = "stale"       // left by a process that died: "shmconn rm" removes it
	Waiting     State = "waiting"     // dialed; nobody is seen to have accepted it
	Established State = "established" // both ends are there
	HalfClosed  State = "half closed" // both are there, and a direction or more is closed
	PeerClosed  State = "peer closed" // one end has closed, the other one has not yet
	Spare       State = "spare"       // both have closed, and keep it for their next connection
	PeerGone    State = "peer gone"   // one end has died without closing
	Corrupt     State = "corrupt"     // its memory holds what neither end may store
	Unknown     State = "unknown"     // what could be read does not show it
)

// A Process is one that was seen.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	UID     int    `json:"uid"`               // -1 where it was not seen
	Stopped bool   `json:"stopped,omitempty"` // by a signal, or a debugger
}

// A Listener is a name that somebody listens on, or did.
type Listener struct {
	Name      string    `json:"name"`
	Directory string    `json:"directory"`
	State     State     `json:"state"`
	Process   *Process  `json:"process"` // nil where it is not seen
	UID       int       `json:"uid"`     // owner of the segment
	RingSize  int       `json:"ring_size"`
	Anonymous bool      `json:"anonymous"`
	Accepted  uint64    `json:"accepted"`
	Refused   uint64    `json:"refused"`
	Since     time.Time `json:"since,omitzero"`
	Note      string    `json:"note,omitempty"`
}

// An Activity is what one end does in one direction, as far as it can be told
// from outside: an end that polls looks like one that does something else.
type Activity string

const (
	Awake   Activity = "awake"   // polls, or has nothing to do here
	Parked  Activity = "parked"  // a reader sleeps until there is something to read
	Blocked Activity = "blocked" // a writer sleeps until there is room
	Full    Activity = "full"    // a writer is awake beside a full ring: polls for room, or writes nothing
	Closed  Activity = "closed"
	Absent  Activity = "" // the end is gone, not there yet, or could not be read
)

// A Flow is one direction of a connection.
type Flow struct {
	Written uint64   `json:"written"` // bytes so far
	Read    uint64   `json:"read"`    // as far as the reader has told: a quarter ring later at most
	Waiting int      `json:"waiting"` // written and not read
	Writer  Activity `json:"writer"`
	Reader  Activity `json:"reader"`

	// Why one that sleeps does not poll, by its own word.
	WriterCause string `json:"writer_cause,omitempty"`
	ReaderCause string `json:"reader_cause,omitempty"`
}

// causes are the numbers of FORMAT.md in words: why an end sleeps instead of
// polling.
var causes = []string{
	wait.Always:    "never polls",
	wait.Gap:       "long gaps",
	wait.Contended: "cores wanted",
	wait.Near:      "same core",
	wait.Spent:     "no news",
}

// causeOf returns the words for n, none for a number that means nothing.
func causeOf(n uint32) string {
	if n >= uint32(len(causes)) {
		return ""
	}
	return causes[n]
}

// A Conn is a connection.
type Conn struct {
	Name         string    `json:"name"`      // by the dialer's own word; "?" if it does not say, or may not be read
	Directory    string    `json:"directory"` // "" for anonymous memory
	ID           string    `json:"id"`        // "" if it could not be read
	State        State     `json:"state"`
	Dialer       *Process  `json:"dialer"`
	Acceptor     *Process  `json:"acceptor"`
	RolesUnknown bool      `json:"roles_unknown"` // who of the two dialed could not be told
	UID          int       `json:"uid"`           // owner of the memory, who is the dialer; -1 if not known
	RingSize     int       `json:"ring_size"`
	Anonymous    bool      `json:"anonymous"`
	Since        time.Time `json:"since,omitzero"`
	Readable     bool      `json:"readable"` // whether the following could be read
	ToAcceptor   Flow      `json:"to_acceptor"`
	ToDialer     Flow      `json:"to_dialer"`
	Note         string    `json:"note,omitempty"`

	key key
}

// Key identifies a connection as long as it lives.
func (c *Conn) Key() any {
	return struct {
		key
		id string
	}{c.key, c.ID}
}

// A key is the memory of a connection. The name tells file systems apart, whose
// device numbers /proc/PID/maps and stat do not always agree on; for files that
// never had a name there is nothing better.
type key struct {
	inode uint64
	file  string // without its directory
	dev   uint64 // 0 where there is a name
}

// A Snapshot is what was seen at one time.
type Snapshot struct {
	Time      time.Time  `json:"time"`
	Listeners []Listener `json:"listeners"`
	Conns     []Conn     `json:"connections"`
	Hidden    int        `json:"hidden"` // processes that the caller may not look into
}

// Select returns the part of s that is about name: in its directory if name
// says one, and all in the directory if it ends in a slash. Anonymous memory
// has no directory.
func (s *Snapshot) Select(name string) *Snapshot {
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:max(i, 1)], name[i+1:]
	}
	match := func(d, n string) bool {
		return (base == "" || n == base) && (dir == "" || d == dir || d == "" && base != "")
	}
	part := *s
	part.Listeners = slices.DeleteFunc(slices.Clone(s.Listeners), func(l Listener) bool { return !match(l.Directory, l.Name) })
	part.Conns = slices.DeleteFunc(slices.Clone(s.Conns), func(c Conn) bool { return !match(c.Directory, c.Name) })
	return &part
}

// sort orders by name; connections of a name with the oldest first.
func (s *Snapshot) sort() {
	slices.SortFunc(s.Listeners, func(a, b Listener) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Directory, b.Directory))
	})
	slices.SortFunc(s.Conns, func(a, b Conn) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID), cmp.Compare(a.key.inode, b.key.inode))
	})
}
