package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderUsed is how many bytes of a connection segment's header page DecodeConn
// needs.
const HeaderUsed = ringBHeader + ringHeader

// A ConnInfo is the contents of a connection segment's header page.
type ConnInfo struct {
	Geometry
	ID           ID
	Name         string // of the listener, as the dialer wrote it; "" if it does not say
	RingA, RingB []byte // the headers of the rings
}

// DecodeConn reads a copy of the first HeaderUsed bytes of a connection
// segment, for tools that look on from outside. RingA and RingB are parts of b.
func DecodeConn(b []byte) (ConnInfo, error) {
	if len(b) < HeaderUsed {
		return ConnInfo{}, errors.New("segment is shorter than its header")
	}
	n := binary.NativeEndian
	magic, version, headerSize := n.Uint64(b), n.Uint32(b[8:]), n.Uint32(b[12:])
	ringSize, flags, reuse := n.Uint64(b[16:]), n.Uint32(b[24:]), n.Uint32(b[28:])
	switch {
	case magic == 0:
		return ConnInfo{}, ErrUnfinished
	case magic != connMagic:
		return ConnInfo{}, errors.New("segment has no magic number")
	case version != Version:
		return ConnInfo{}, fmt.Errorf("segment has format version %d, this is version %d", version, Version)
	case headerSize != uint32(PageSize), ringSize > MaxRing, CheckRingSize(int(ringSize)) != nil, flags&^flagAnonymous != 0:
		return ConnInfo{}, fmt.Errorf("segment has rings of %d bytes after a header of %d", ringSize, headerSize)
	}
	return ConnInfo{
		Geometry: Geometry{RingSize: int(ringSize), Anonymous: flags&flagAnonymous != 0, Reuse: reuse != 0},
		ID:       ID(b[32:]),
		Name:     decodeName(b[nameAt:][:maxName]),
		RingA:    b[ringAHeader:][:ringHeader],
		RingB:    b[ringBHeader:][:ringHeader],
	}, nil
}

// decodeName returns the name that is in b, or "" if that is none.
func decodeName(b []byte) string {
	name, _, _ := bytes.Cut(b, []byte{0})
	if checkBase(string(name)) != nil {
		return ""
	}
	return string(name)
}

// ErrUnfinished means that a connection segment has no header yet, or never got
// one.
var ErrUnfinished = errors.New("segment has no header")

// Locked reports whether another process has the lock that a living listener
// has on its segment, and a living dialer on a connection segment with a name.
// It takes no lock, so no process that wants the lock finds it taken. In doubt
// it returns true.
func Locked(fd int) bool { return lockedForWriting(fd) }
