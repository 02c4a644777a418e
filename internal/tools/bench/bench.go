// Package bench measures connections over shared memory, and compares them with
// their rivals and with the limits of the hardware.
//
// A [Workload] is measured for several [Contender]s in rounds: a slice of some
// tens of milliseconds for the first, then for the second, and so on, and again
// from the first. Machines change their speed from one second to the next, all
// the more those that are shared; two slices of one round are milliseconds
// apart and can be compared, so a ratio is taken within a round, and what is
// reported is the median of these ratios and their quartiles.
//
// Each contender has processes of its own: a client and a server, and between
// or beside them what the workload has. They are this same program, run again
// (see [Main]), or one built of other sources (see [Build]). They are connected
// once and stay for all rounds of a workload, unless [Options] say otherwise;
// between slices they wait for a line on a pipe and use no processor. The
// process that was started by the user only says whose turn it is. All
// contenders run through the same loops.
//
// Every message carries a number, which its receiver checks, and the receiver
// says at the end of a slice how many it has seen: a transport that loses,
// repeats or garbles something fails instead of being fast. Throughput is what
// the receiver has confirmed, up to the moment at which the confirmation came.
//
// What else is to run meanwhile, a workload's [Neighbours], the bench starts
// itself. [Scenes] are the workloads that are about them.
//
// [Run] does all that; the packages report and cli below this one print it.
package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// A Spec says what the processes of a contender do. It travels to them as
// JSON, so that it names networks and loops instead of holding them.
type Spec struct {
	Net      string        `json:"net"`                    // the [Network]
	Loop     string        `json:"loop"`                   // what to do, see loops
	Dir      string        `json:"dir,omitempty"`          // for files of this run; filled in when it starts
	Size     int           `json:"size,omitempty"`         // bytes in a message or a write
	RingSize int           `json:"ring_size,omitempty"`    // bytes in a ring, 0: the network's default
	BusyPoll time.Duration `json:"busy_poll_ns,omitempty"` // as in shmconn.Dialer, for both ends
	Conns    int           `json:"conns,omitempty"`        // connections, 0: one
	Rate     int           `json:"rate,omitempty"`         // messages a second, 0: one after the other
	Pause    time.Duration `json:"pause_ns,omitempty"`     // rest before each message, or before each time For
	For      time.Duration `json:"for_ns,omitempty"`       // exchange messages so long after a rest, 0: one
	MaxOps   int           `json:"max_ops,omitempty"`      // end a slice after so many, 0: no limit
	Pollers  int           `json:"pollers,omitempty"`      // busy-polling shm connections beside it
	PollBoth bool          `json:"poll_both,omitempty"`    // they poll in both processes, not in the client only
	Allocs   bool          `json:"allocs,omitempty"`       // count allocations
	Busy     int           `json:"busy,omitempty"`         // of the connections only so many carry anything, 0: all
	FromDue  bool          `json:"from_due,omitempty"`     // latency counts from when a message was due, whatever made it late
	Burst    int           `json:"burst,omitempty"`        // messages that are due at once, 0: one
	Sleeps   bool          `json:"sleeps,omitempty"`       // the sender spins only for the last 50 us before a message is due
	Relays   int           `json:"relays,omitempty"`       // processes between the client and the server, in a chain
	Victim   string        `json:"victim,omitempty"`       // network of a connection of the client's on which a third process beats
	Compute  int           `json:"compute,omitempty"`      // goroutines of the client that compute meanwhile
}

func (s Spec) conns() int { return max(s.Conns, 1) }

// helpers returns how many processes there are besides the client and the
// server.
func (s Spec) helpers() int {
	if s.Victim != "" {
		return 1
	}
	return s.Relays
}

// A Result is what one process has measured in one slice.
type Result struct {
	Ops     uint64        // operations within Elapsed
	Elapsed time.Duration // without individual timing of operations
	AllOps  uint64        // operations within Wall, the timed ones included
	Wall    time.Duration // the whole slice
	CPU     time.Duration // user and system time of the process within Wall
	Mallocs uint64        // objects allocated by the process within Wall, where asked for
	Hist    []byte        `json:",omitempty"` // latencies in ns, an encoded HDR histogram
}

// A Network makes connections between two processes.
//
// What Accept and Dial return is used through Read and Write if it is an
// [io.ReadWriter], unless it is a [Messenger]; the limits are neither, and have
// loops that know them.
type Network struct {
	Name   string
	Listen func(Spec) (Listener, error)
	Dial   func(s Spec, addr string) (io.Closer, error)
}

// A Listener is the server's side of a [Network].
type Listener interface {
	Accept() (io.Closer, error)
	Addr() string // for Dial in the other process, one line of text
	Close() error
}

// A Messenger is a connection whose own best way to move a message is not Read
// and Write. Both methods wait. A message has size bytes and starts with head,
// of which it has room for [HeadBytes](size) bytes.
type Messenger interface {
	Send(size int, head uint64) error
	Receive(size int) (head uint64, err error)
}

var networks = map[string]Network{}

// Register adds a network. It is called before [Main], in both processes.
func Register(n Network) { networks[n.Name] = n }

func network(name string) (Network, error) {
	n, ok := networks[name]
	if !ok {
		return n, fmt.Errorf("bench: no network %q in this program", name)
	}
	return n, nil
}

// HeadBytes returns how many bytes the head of a message of that size has.
func HeadBytes(size int) int {
	switch {
	case size >= 8:
		return 8
	case size >= 4:
		return 4
	}
	return 1
}

// PutHead stores a head into the first bytes of the message b.
func PutHead(b []byte, head uint64) {
	switch {
	case len(b) >= 8:
		binary.LittleEndian.PutUint64(b, head)
	case len(b) >= 4:
		binary.LittleEndian.PutUint32(b, uint32(head))
	default:
		b[0] = byte(head)
	}
}

// Head returns what PutHead has stored.
func Head(b []byte) uint64 {
	switch {
	case len(b) >= 8:
		return binary.LittleEndian.Uint64(b)
	case len(b) >= 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return uint64(b[0])
}

// last returns the bit of a head that marks the last message of a slice. The
// bits below it are the message's number.
func last(size int) uint64 { return 1 << (8*HeadBytes(size) - 1) }

// byteMessenger sends messages by Write and receives them by Read.
type byteMessenger struct {
	io.ReadWriter
	out, in []byte
}

func newByteMessenger(rw io.ReadWriter, size int) *byteMessenger {
	return &byteMessenger{rw, make([]byte, size), make([]byte, size)}
}

func (m *byteMessenger) Send(size int, head uint64) error {
	PutHead(m.out[:size], head)
	_, err := m.Write(m.out[:size])
	return err
}

func (m *byteMessenger) Receive(size int) (uint64, error) {
	n, err := m.Read(m.in[:size])
	if n < size && err == nil {
		_, err = io.ReadFull(m, m.in[n:size])
	}
	if err != nil {
		return 0, err
	}
	return Head(m.in[:size]), nil
}
