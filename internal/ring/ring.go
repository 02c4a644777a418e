// Package ring is a single-producer single-consumer byte ring in memory that
// two processes share. It knows nothing about files, waiting or connections.
//
// Each end keeps its own position, and a copy of the other's that it loads anew
// only when the copy says that the ring is full or empty. The idea is that of
// FastForward's and MCRingBuffer's cached indices (Giacomoni et al., PPoPP
// 2008; Lee et al., ANCS 2010).
//
// The other end is not trusted. A shared word is loaded once into a local, held
// against the bounds that this end knows by itself, and used only then.
package ring

import (
	"fmt"
	"structs"
	"sync/atomic"
	"unsafe"
)

// Line is how far apart words with different writers are: two cache lines,
// because the hardware fetches them in pairs.
const Line = 128

// HeaderSize is how many bytes a Header takes.
const HeaderSize = 4 * Line

// An End holds the words, besides its position, that one end stores and the
// other loads.
//
//	offset  size  field   meaning
//	     0     8  Parked  odd while this end sleeps on its doorbell, and then never the same number twice
//	     8     4  Closed  the last generation in which this end has said that it moves its position no more
//	    12     4  CPU     1 + the processor it was on at one of its last waits or rings, 0 unknown
//	    16     4  Cause   why it went to sleep last, 0 unknown
//	    20     4  Spare   the next generation, once this end is ready for it
//	    24     4  Watched the last generation in which this end wants a doorbell to end with the other end
//
// A generation is one connection over a segment. The first is 1, and each that
// uses the same segment after it is one more. Spare and Watched are what two
// ends that reuse segments agree by; ends that do not leave them 0.
//
// CPU is a hint for how the other end should wait, and Cause is for people to
// look at. Nothing else depends on them.
type End struct {
	_       structs.HostLayout
	Parked  atomic.Uint64
	Closed  atomic.Uint32
	CPU     atomic.Uint32
	Cause   atomic.Uint32
	Spare   atomic.Uint32
	Watched atomic.Uint32
	_       [Line - 28]byte
}

// Park stores an odd number, by which the other end sees that this one is about
// to sleep. Loads after it, which check whether this end may sleep, come after
// the store.
func (e *End) Park(epoch uint64) { store64(&e.Parked, epoch) }

// Close stores that this end's position will not move any more in the
// generation.
func (e *End) Close(generation uint32) { store32(&e.Closed, generation) }

// ClosedIn reports whether this end has said that its position will not move
// any more in the generation.
func (e *End) ClosedIn(generation uint32) bool { return e.Closed.Load() >= generation }

// SaySpare and SayWatched store the two words so that what this end loads next
// is loaded after that.
func (e *End) SaySpare(generation uint32)   { store32(&e.Spare, generation) }
func (e *End) SayWatched(generation uint32) { store32(&e.Watched, generation) }

// A Header starts each ring. Two processes map it, so it is part of format 1
// (FORMAT.md): any change here is a new format.
//
//	offset  size  field     stored by  meaning
//	     0     8  produced  producer   bytes ever written
//	   128     8  consumed  consumer   bytes ever read; consumed <= produced <= consumed+size
//	   256    28  consumer  consumer   its End
//	   384    28  producer  producer   its End
type Header struct {
	_        structs.HostLayout
	produced atomic.Uint64
	_        [Line - 8]byte
	consumed atomic.Uint64
	_        [Line - 8]byte
	consumer End
	producer End
}

// A field that has moved is an "invalid array index" when this is built.
var (
	_ = [1]struct{}{}[unsafe.Offsetof(Header{}.consumed)-1*Line]
	_ = [1]struct{}{}[unsafe.Offsetof(Header{}.consumer)-2*Line]
	_ = [1]struct{}{}[unsafe.Offsetof(Header{}.producer)-3*Line]
	_ = [1]struct{}{}[unsafe.Offsetof(End{}.Closed)-8]
	_ = [1]struct{}{}[unsafe.Offsetof(End{}.CPU)-12]
	_ = [1]struct{}{}[unsafe.Offsetof(End{}.Cause)-16]
	_ = [1]struct{}{}[unsafe.Offsetof(End{}.Spare)-20]
	_ = [1]struct{}{}[unsafe.Offsetof(End{}.Watched)-24]
	_ = [1]struct{}{}[unsafe.Sizeof(Header{})-HeaderSize]
)

// A Violation says that a shared word holds what the other end may not store.
type Violation struct {
	What    string
	Seen    uint64
	Allowed uint64
}

func (v *Violation) Error() string {
	return fmt.Sprintf("%s is %d, allowed is %d", v.What, v.Seen, v.Allowed)
}

// A Producer is the writing end. Its methods may not run at the same time, but
// for Outstanding and Published.
type Producer struct {
	Own, Peer *End // the words of this end, and of the consumer

	header *Header
	data   []byte
	size   uint64

	pos        uint64 // bytes ever written; published up to header.produced
	cachedPeer uint64 // header.consumed as last loaded: pos-size <= cachedPeer <= pos
	from       uint64 // pos as it was at first

	mirror mirror
}

// NewProducer makes the writing end of an empty ring at a position, which is 0
// if the ring is fresh. data is the ring's memory, whose length is a power of
// two.
func NewProducer(h *Header, data []byte, from uint64) Producer {
	return Producer{Own: &h.producer, Peer: &h.consumer, header: h, data: data, size: uint64(len(data)),
		pos: from, cachedPeer: from, from: from}
}

// Next returns the writing end of the ring as it goes on after p, for which the
// consumer has read all that p has written. It touches no memory of the ring.
func (p *Producer) Next() Producer {
	n := *p
	n.cachedPeer, n.from = n.pos, n.pos
	return n
}

// Free returns how many bytes there is room for, of which it is sure without a
// look at the consumer's position.
func (p *Producer) Free() int { return int(p.size - (p.pos - p.cachedPeer)) }

// Refresh loads the consumer's position and returns how many bytes there is
// room for now.
func (p *Producer) Refresh() (int, error) {
	consumed := p.header.consumed.Load() // sync: consume
	if consumed-p.cachedPeer > p.pos-p.cachedPeer {
		return 0, &Violation{"the consumer's position", consumed, p.pos}
	}
	p.cachedPeer = consumed
	return p.Free(), nil
}

// Moved reports whether the consumer's position is another than the one that
// was loaded last.
func (p *Producer) Moved() bool { return p.header.consumed.Load() != p.cachedPeer }

// Span returns the free bytes that follow those put in so far: n of them, or
// fewer where they wrap and the ring has no mirror. There must be room for n.
func (p *Producer) Span(n int) []byte {
	i := p.pos & (p.size - 1)
	if end := i + uint64(n); end <= p.size {
		return p.data[i:end]
	}
	return p.mirror.span(p.data, i, n)
}

// Mirror makes spans contiguous that wrap. m is the end of the ring and, behind
// that, its front: equally many bytes of both, the same memory as the ring's. A
// span that is longer than one of the two may still wrap.
func (p *Producer) Mirror(m []byte) { p.mirror = m }

// Pieces is Span in two pieces, of which the second is empty unless the span
// wraps. It needs no mirror.
func (p *Producer) Pieces(n int) (first, second []byte) {
	return pieces(p.data, p.pos&(p.size-1), n)
}

// Put copies as much of b as Free says there is room for, and returns how much.
// The consumer sees it after the next Publish.
func (p *Producer) Put(b []byte) int {
	n := min(len(b), p.Free())
	p.PutAll(b[:n])
	return n
}

// PutAll is Put where Free says that there is room for all of b.
func (p *Producer) PutAll(b []byte) {
	if n := copyBytes(p.data[p.pos&(p.size-1):], b); n < len(b) {
		copy(p.data, b[n:])
	}
	p.pos += uint64(len(b))
}

// Skip counts n bytes as put in that the caller has stored into Span or Pieces.
func (p *Producer) Skip(n int) { p.pos += uint64(n) }

// Unput takes back the last n bytes that were put in, and not published.
func (p *Producer) Unput(n int) { p.pos -= uint64(n) }

// Publish hands all that was put in over to the consumer.
func (p *Producer) Publish() {
	store64(&p.header.produced, p.pos) // sync: produce
}

// Written returns the number of bytes that this Producer has put in.
func (p *Producer) Written() uint64 { return p.pos - p.from }

// Outstanding returns how many bytes the consumer has not said to have read. It
// may run at any time.
func (p *Producer) Outstanding() int { return p.header.outstanding(p.size) }

// Published returns how many bytes this Producer has published. It may run at
// any time.
func (p *Producer) Published() uint64 { return p.header.produced.Load() - p.from }

// A Consumer is the reading end. Its methods may not run at the same time, but
// for Outstanding and Published.
type Consumer struct {
	Own, Peer *End // the words of this end, and of the producer

	header *Header
	data   []byte
	size   uint64

	pos        uint64 // bytes ever read
	cachedPeer uint64 // header.produced as last loaded: pos <= cachedPeer <= pos+size
	published  uint64 // header.consumed as last stored: published <= pos
	from       uint64 // pos as it was at first

	mirror mirror
}

// NewConsumer makes the reading end of an empty ring; see [NewProducer].
func NewConsumer(h *Header, data []byte, from uint64) Consumer {
	return Consumer{Own: &h.consumer, Peer: &h.producer, header: h, data: data, size: uint64(len(data)),
		pos: from, cachedPeer: from, published: from, from: from}
}

// Next returns the reading end of the ring as it goes on after c, which has
// read all that was written. It touches no memory of the ring.
func (c *Consumer) Next() Consumer {
	n := *c
	n.cachedPeer, n.published, n.from = n.pos, n.pos, n.pos
	return n
}

// Ready returns how many bytes there are to read, of which it is sure without a
// look at the producer's position.
func (c *Consumer) Ready() int { return int(c.cachedPeer - c.pos) }

// Refresh loads the producer's position and returns how many bytes there are to
// read now.
func (c *Consumer) Refresh() (int, error) {
	produced := c.header.produced.Load() // sync: produce
	if produced-c.cachedPeer > c.published+c.size-c.cachedPeer {
		return 0, &Violation{"the producer's position", produced, c.published + c.size}
	}
	c.cachedPeer = produced
	return c.Ready(), nil
}

// Moved reports whether the producer's position is another than the one that
// was loaded last.
func (c *Consumer) Moved() bool { return c.header.produced.Load() != c.cachedPeer }

// Span returns the first n bytes to read, or fewer where they wrap and the ring
// has no mirror. There must be n.
func (c *Consumer) Span(n int) []byte {
	i := c.pos & (c.size - 1)
	if end := i + uint64(n); end <= c.size {
		return c.data[i:end]
	}
	return c.mirror.span(c.data, i, n)
}

// Mirror is [Producer.Mirror].
func (c *Consumer) Mirror(m []byte) { c.mirror = m }

// Pieces is Span in two pieces, of which the second is empty unless the span
// wraps. It needs no mirror.
func (c *Consumer) Pieces(n int) (first, second []byte) {
	return pieces(c.data, c.pos&(c.size-1), n)
}

// Take copies as much into b as Ready says there is, and returns how much.
func (c *Consumer) Take(b []byte) int {
	n := min(len(b), c.Ready())
	c.TakeAll(b[:n])
	return n
}

// TakeAll is Take where Ready says that there is enough to fill b.
func (c *Consumer) TakeAll(b []byte) {
	if n := copyBytes(b, c.data[c.pos&(c.size-1):]); n < len(b) {
		copy(b[n:], c.data)
	}
	c.pos += uint64(len(b))
}

// Skip counts n of the bytes that are ready as read.
func (c *Consumer) Skip(n int) { c.pos += uint64(n) }

// AckDue reports whether a quarter of the ring, or more, was read since the
// last Publish.
func (c *Consumer) AckDue() bool { return c.pos-c.published >= c.size/4 }

// AckDueAfter reports whether AckDue will be true after a Skip of n.
func (c *Consumer) AckDueAfter(n int) bool { return c.pos+uint64(n)-c.published >= c.size/4 }

// Acked reports whether the producer knows of all that was read.
func (c *Consumer) Acked() bool { return c.published == c.pos }

// Publish gives the room of all that was read back to the producer.
func (c *Consumer) Publish() {
	c.published = c.pos
	store64(&c.header.consumed, c.pos) // sync: consume
}

// Consumed returns the number of bytes that this Consumer has read.
func (c *Consumer) Consumed() uint64 { return c.pos - c.from }

// Outstanding returns how many bytes there are to read, and up to a quarter of
// the ring more while somebody reads. It may run at any time.
func (c *Consumer) Outstanding() int { return c.header.outstanding(c.size) }

// Published returns how many bytes the producer knows this Consumer to have
// read. It may run at any time.
func (c *Consumer) Published() uint64 { return c.header.consumed.Load() - c.from }

// copyBytes is copy. It copies an integer of 4 or 8 bytes without a call, which
// takes longer than the bytes.
func copyBytes(to, from []byte) int {
	n := min(len(to), len(from))
	switch n {
	case 4:
		*(*[4]byte)(to) = [4]byte(from)
	case 8:
		*(*[8]byte)(to) = [8]byte(from)
	default:
		copy(to, from)
	}
	return n
}

// outstanding loads the consumer's position first: it is never ahead of the
// other.
func (h *Header) outstanding(size uint64) int {
	consumed := h.consumed.Load()
	return int(min(h.produced.Load()-consumed, size))
}
