package ring

import "encoding/binary"

// A Snapshot is the contents of a copy of a Header, for tools that watch from
// outside.
type Snapshot struct {
	Produced, Consumed             uint64
	ConsumerParked, ProducerParked uint64
	ConsumerClosed, ProducerClosed uint32
	ConsumerCause, ProducerCause   uint32 // hints, whatever they hold
	ConsumerSpare, ProducerSpare   uint32
}

// Decode returns what the first HeaderSize bytes of b say, which are a copy of
// a Header. While the copy was made the words may have moved on, one more than
// another: see [Snapshot.Check].
func Decode(b []byte) Snapshot {
	_ = b[HeaderSize-1]
	n := binary.NativeEndian
	return Snapshot{
		Produced:       n.Uint64(b),
		Consumed:       n.Uint64(b[Line:]),
		ConsumerParked: n.Uint64(b[2*Line:]),
		ConsumerClosed: n.Uint32(b[2*Line+8:]),
		ConsumerCause:  n.Uint32(b[2*Line+16:]),
		ConsumerSpare:  n.Uint32(b[2*Line+20:]),
		ProducerParked: n.Uint64(b[3*Line:]),
		ProducerClosed: n.Uint32(b[3*Line+8:]),
		ProducerCause:  n.Uint32(b[3*Line+16:]),
		ProducerSpare:  n.Uint32(b[3*Line+20:]),
	}
}

// Check reports what two snapshots say that no ring of the size can, s having
// been taken after earlier. Only positions that were loaded in this order bound
// each other: the consumer's is never ahead of where the producer's was later
// on, nor the producer's more than a ring ahead of where the consumer's was
// later on.
//
// No closed word goes back, nor was it beyond the generation, which was loaded
// after earlier was.
func (s Snapshot) Check(earlier Snapshot, size int, generation uint32) error {
	switch {
	case s.Produced < earlier.Produced:
		return &Violation{"the producer's position", s.Produced, earlier.Produced}
	case s.Consumed < earlier.Consumed:
		return &Violation{"the consumer's position", s.Consumed, earlier.Consumed}
	case earlier.Consumed > s.Produced:
		return &Violation{"the consumer's position", earlier.Consumed, s.Produced}
	case earlier.Produced > s.Consumed && earlier.Produced-s.Consumed > uint64(size):
		return &Violation{"the producer's position", earlier.Produced, s.Consumed + uint64(size)}
	}
	for _, closed := range [][2]uint32{{earlier.ConsumerClosed, s.ConsumerClosed}, {earlier.ProducerClosed, s.ProducerClosed}} {
		if closed[1] < closed[0] || closed[0] > generation {
			return &Violation{"a closed word", uint64(closed[1]), uint64(generation)}
		}
	}
	return nil
}

// Waiting returns how many bytes have been written and not been read, as far as
// the reader has reported, in a ring of the size.
func (s Snapshot) Waiting(size int) int {
	if s.Consumed >= s.Produced {
		return 0 // the copy of its position is the older one
	}
	return int(min(s.Produced-s.Consumed, uint64(size)))
}
