package inspect

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"shmconn/internal/ring"
	"shmconn/internal/segment"
)

// facts are what was found about the memory of one connection.
type facts struct {
	segmentFile
	path    string   // of its name in a directory, "" if it has none any more
	holders []holder // who has descriptors of it
	ends    []end    // who has it mapped
	lone    lone     // about the one that is left out, where only one end was seen

	// What reading it told.
	err    error
	copies [2][]byte // of the header, one later than the other
	uid    int       // owner; -1 if not known
	size   int64     // 0 if not known
	since  time.Time
	locked bool // somebody has it locked; of those that nobody was seen to have mapped
}

type holder struct{ pid, fd int }

// An end is a mapping of the segment.
type end struct {
	*process
	mapping
	role role
}

// A role is what an end is, as far as it can be told.
type role uint8

const (
	anyRole role = iota
	dialer
	acceptor
)

// lone is what the doorbells of the only end that was seen show about the other
// one.
type lone struct {
	bells int  // that can be this connection's
	gone  int  // of these, nobody is left to ring
	all   bool // every process was seen that could be it
}

// life says whether the other end of a lone one is alive.
type life uint8

const (
	lifeUnknown life = iota
	alive
	gone
)

func (l lone) life() life {
	switch {
	case l.bells == 0:
		return lifeUnknown
	case l.gone == 0:
		return alive
	case l.gone == l.bells:
		return gone
	}
	return lifeUnknown
}

// rings are the two rings of a connection.
type rings struct{ a, b ring.Snapshot } // to the acceptor, to the dialer

// generation returns which connection over the segment this is, by the dialer's
// word: it stores the number when it uses a segment again.
func (r rings) generation() uint32 { return max(1, r.a.ProducerSpare) }

// accepted reports whether the acceptor has ever done anything.
func (r rings) accepted() bool {
	return r.a.Consumed|r.a.ConsumerParked|r.b.Produced|r.b.ProducerParked != 0 || r.a.ConsumerClosed|r.b.ProducerClosed != 0
}

// closed counts the words that say that something is closed.
func (r rings) closed() (n int) {
	for _, word := range []uint32{r.a.ProducerClosed, r.a.ConsumerClosed, r.b.ProducerClosed, r.b.ConsumerClosed} {
		if word == r.generation() {
			n++
		}
	}
	return n
}

// oneClosed reports whether an end has closed in both directions.
func (r rings) oneClosed() bool {
	g := r.generation()
	return min(r.a.ProducerClosed, r.b.ConsumerClosed) == g || min(r.b.ProducerClosed, r.a.ConsumerClosed) == g
}

// judge says how the connection is that f is about.
func (f *facts) judge() Conn {
	c := Conn{
		Name: f.base, Directory: f.dir, Anonymous: f.dir == "", UID: f.uid, Since: f.since, key: f.key,
	}
	f.assign(&c)
	if f.nameless && f.base == "" {
		c.Name = "?"
	}
	if f.kind == segment.ConnFile && f.dir != "" && !f.nameless {
		c.ID = hex.EncodeToString(f.id[:])
	}
	if c.UID < 0 && c.Dialer != nil && !c.RolesUnknown {
		c.UID = c.Dialer.UID
	}
	if len(f.ends) > 0 {
		c.RingSize = f.ends[0].ring
	}
	r, err := f.decode(&c)
	switch {
	case f.err != nil && f.err != errTruncated:
		c.State = f.stateUnread()
		c.Note = "its memory may not be read: " + f.err.Error()
		if len(f.ends) == 0 {
			c.Note = "its file may not be read, and its processes are not seen"
		}
	case err != nil:
		c.State, c.Note = Corrupt, err.Error()
		if len(f.ends) == 0 && !f.locked {
			c.State = Stale // whatever it is, nobody has it
		}
	default:
		c.Readable = true
		c.State = f.state(r)
		c.ToAcceptor, c.ToDialer = flow(r.a, c.RingSize, r.generation()), flow(r.b, c.RingSize, r.generation())
		f.absent(&c)
	}
	f.note(&c)
	return c
}

// identify reports whether the memory is a connection's, and finds out whose:
// of a file that never had a name only the header shows that, or, where it is
// damaged or may not be read, how it is mapped.
func (f *facts) identify() bool {
	if !f.nameless {
		return true
	}
	if f.err == nil {
		if info, err := segment.DecodeConn(f.copies[1]); err == nil {
			f.base = info.Name
			return true
		}
	}
	return slices.ContainsFunc(f.ends, func(e end) bool { return e.shaped })
}

// decode reads the copies of the header, and says what is wrong with them.
func (f *facts) decode(c *Conn) (r rings, err error) {
	if f.err != nil {
		return r, f.err
	}
	var first rings
	for i, b := range f.copies {
		info, err := segment.DecodeConn(b)
		if err != nil {
			return r, err
		}
		if f.dir != "" && !f.nameless && info.ID != f.id {
			return r, errors.New("segment differs in id from its name")
		}
		if want := int64(segment.PageSize + 2*info.RingSize); f.size != 0 && f.size != want {
			return r, fmt.Errorf("segment has %d bytes, not %d", f.size, want)
		}
		if i == 1 && info.RingSize != c.RingSize {
			return r, errors.New("the ring size changes")
		}
		c.RingSize, c.ID = info.RingSize, hex.EncodeToString(info.ID[:])
		first, r = r, rings{ring.Decode(info.RingA), ring.Decode(info.RingB)}
	}
	g := r.generation()
	return r, cmp.Or(r.a.Check(first.a, c.RingSize, g), r.b.Check(first.b, c.RingSize, g))
}

// state judges by all there is.
func (f *facts) state(r rings) State {
	switch {
	case len(f.ends) == 0 && f.locked:
		return Waiting
	case len(f.ends) == 0:
		return Stale
	case len(f.ends) > 1 && r.closed() == 4:
		return Spare
	case r.oneClosed():
		return PeerClosed
	case len(f.ends) > 1:
		if r.closed() > 0 {
			return HalfClosed
		}
		return Established
	case f.lone.life() == gone:
		return PeerGone
	case r.accepted() && f.lone.life() == alive && r.closed() > 0:
		return HalfClosed
	case r.accepted() && f.lone.life() == alive:
		return Established
	case f.path != "", f.lone.all && f.lone.life() == alive:
		// An acceptor removes the name, if there is one, unless it is another
		// user in a directory like /dev/shm. It has done nothing else yet, if
		// it is there.
		return Waiting
	}
	return Unknown
}

// stateUnread judges by the mappings and doorbells alone.
func (f *facts) stateUnread() State {
	switch {
	case len(f.ends) > 1:
		return Established
	case len(f.ends) == 1 && f.lone.life() == gone:
		return PeerGone
	case len(f.ends) == 1 && f.path != "":
		return Waiting
	}
	return Unknown
}

// assign says who is the dialer and who the acceptor.
func (f *facts) assign(c *Conn) {
	switch len(f.ends) {
	case 0:
		return
	case 1:
		p := &f.ends[0].Process
		if f.ends[0].role == acceptor {
			c.Acceptor = p
		} else {
			c.Dialer = p
		}
		c.RolesUnknown = f.ends[0].role == anyRole
		return
	}
	a, b := f.ends[0], f.ends[1]
	if a.role == acceptor || b.role == dialer {
		a, b = b, a
	}
	c.Dialer, c.Acceptor = &a.Process, &b.Process
	c.RolesUnknown = a.PID != b.PID && a.role == anyRole && b.role == anyRole
}

func flow(s ring.Snapshot, size int, generation uint32) Flow {
	f := Flow{Written: s.Produced, Read: s.Consumed, Waiting: s.Waiting(size), Writer: Awake, Reader: Awake}
	switch {
	case s.ProducerClosed == generation:
		f.Writer = Closed
	case s.ProducerParked&1 != 0:
		f.Writer, f.WriterCause = Blocked, causeOf(s.ProducerCause)
	case f.Waiting == size:
		f.Writer = Full
	}
	switch {
	case s.ConsumerClosed == generation:
		f.Reader = Closed
	case s.ConsumerParked&1 != 0:
		f.Reader, f.ReaderCause = Parked, causeOf(s.ConsumerCause)
	}
	return f
}

// absent takes out what an end seemed to do when it was last there.
func (f *facts) absent(c *Conn) {
	none := c.State == Stale
	if none || c.State == Waiting || c.State == PeerGone && c.Acceptor == nil && !c.RolesUnknown {
		c.ToAcceptor.Reader, c.ToDialer.Writer = Absent, Absent
		c.ToAcceptor.ReaderCause, c.ToDialer.WriterCause = "", ""
	}
	if none || c.State == PeerGone && c.Dialer == nil && !c.RolesUnknown {
		c.ToAcceptor.Writer, c.ToDialer.Reader = Absent, Absent
		c.ToAcceptor.WriterCause, c.ToDialer.ReaderCause = "", ""
	}
}

// note says what the other fields cannot.
func (f *facts) note(c *Conn) {
	if c.Note != "" {
		return
	}
	switch {
	case len(f.ends) > 2:
		c.Note = fmt.Sprintf("%d processes have it mapped", len(f.ends))
	case c.State == Waiting && len(f.ends) == 0:
		c.Note = "its processes are not seen"
	case c.State == Unknown && f.lone.gone > 0:
		c.Note = fmt.Sprintf("%d of the %d unseen peers of this process are gone", f.lone.gone, f.lone.bells)
	case len(f.ends) == 1 && (c.State == Established || c.State == HalfClosed || c.State == Unknown):
		c.Note = "the other end's process is not seen"
	case c.RolesUnknown && len(f.ends) == 1:
		c.Note = "this may be the acceptor"
	case c.RolesUnknown:
		c.Note = "dialer and acceptor may be swapped"
	}
}
