// Package segment makes, checks, maps and removes the files that connections
// and listeners are made of. It knows neither rings nor the messages over the
// socket: it returns the bytes of a connection segment.
package segment

import (
	"structs"
	"sync/atomic"
	"unsafe"
)

// Version is the version of the format of both kinds of segment.
const Version = 1

const (
	connMagic     = 0x0a6e6e6f636d6873 // "shmconn\n" in little-endian order
	listenerMagic = 0x0a6e7473696c6873 // "shlistn\n"
)

// Flags of a segment.
const flagAnonymous = 1 << 0 // connections are of anonymous memory

// MaxRing is the largest ring size, in bytes: 1 GiB, or 64 MiB where addresses
// have 32 bits. A connection takes two and a half times that of the address
// space, and three and a half times once a span of ring A has wrapped.
const MaxRing = 1 << (26 + 4*(^uint(0)>>63))

// A connHeader starts a connection segment, which is part of format 1
// (FORMAT.md): any change here is a new format. The dialer fills it in before
// any other process knows of the segment, and no process stores into it after
// that.
//
//	offset  size  field       meaning
//	     0     8  magic       "shmconn\n" as a little-endian number, stored last
//	     8     4  version     1
//	    12     4  headerSize  bytes before ring A: one page of the dialer's
//	    16     8  ringSize    bytes of a ring
//	    24     4  flags       bit 0: anonymous memory
//	    28     4  reuse       1 if the dialer can use the segment again
//	    32    16  id          random
//	    64   128  name        the listener's, for people to look at; 0 behind it
//	   512   512  ring A      header of the ring from dialer to acceptor
//	  1024   512  ring B      header of the ring from acceptor to dialer
type connHeader struct {
	_          structs.HostLayout
	magic      atomic.Uint64
	version    uint32
	headerSize uint32
	ringSize   uint64
	flags      uint32
	reuse      uint32
	id         ID
	_          [nameAt - 48]byte
	name       [maxName]byte
	_          [ringAHeader - headerUsed]byte
	ringA      [ringHeader]byte
	ringB      [ringHeader]byte
}

const (
	ringHeader               = 512
	ringAHeader, ringBHeader = 512, 1024 // offsets of the rings' headers

	nameAt     = 64               // offset of a connHeader's name
	headerUsed = nameAt + maxName // bytes of a connHeader before the rings
	countersAt = 64               // offset of a listenerPage's counters
)

// A listenerPage is the whole of a listener segment, and part of format 1
// (FORMAT.md). The listener alone stores into it.
//
//	offset  size  field       meaning
//	     0     8  magic       "shlistn\n" as a little-endian number, stored last
//	     8     4  version     1
//	    12     4  headerSize  bytes before ring A in connection segments
//	    16     8  ringSize    bytes of a ring
//	    24     4  flags       bit 0: connections are of anonymous memory
//	    28     4  pid         the listener's process, in its PID namespace
//	    32     4  reuse       1 if the listener can use segments again
//	    36     4  shared      1 if other processes may have the socket
//	    64     8  accepted    connections handed out by Accept
//	    72     8  refused     dialers that were dropped
type listenerPage struct {
	_          structs.HostLayout
	magic      atomic.Uint64
	version    uint32
	headerSize uint32
	ringSize   uint64
	flags      uint32
	pid        uint32
	reuse      uint32
	shared     uint32
	_          [64 - 40]byte
	accepted   atomic.Uint64
	refused    atomic.Uint64
}

// A field that has moved is an "invalid array index" when this is built.
var (
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.version)-8]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.ringSize)-16]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.reuse)-28]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.id)-32]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.name)-nameAt]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.ringA)-ringAHeader]
	_ = [1]struct{}{}[unsafe.Offsetof(connHeader{}.ringB)-ringBHeader]
	_ = [1]struct{}{}[unsafe.Offsetof(listenerPage{}.ringSize)-16]
	_ = [1]struct{}{}[unsafe.Offsetof(listenerPage{}.pid)-28]
	_ = [1]struct{}{}[unsafe.Offsetof(listenerPage{}.reuse)-32]
	_ = [1]struct{}{}[unsafe.Offsetof(listenerPage{}.shared)-36]
	_ = [1]struct{}{}[unsafe.Offsetof(listenerPage{}.accepted)-64]
)

// Geometry is what a listener decides about its connections.
type Geometry struct {
	RingSize  int
	Anonymous bool
	Reuse     bool // a segment may be used for more than one connection
}

// SameConns reports whether connections of g and of h have the same segments,
// whether these may be used again or not.
func (g Geometry) SameConns(h Geometry) bool {
	g.Reuse = h.Reuse
	return g == h
}

func (g Geometry) flags() uint32 {
	if g.Anonymous {
		return flagAnonymous
	}
	return 0
}

func (g Geometry) reuse() uint32 {
	if g.Reuse {
		return 1
	}
	return 0
}

// An ID distinguishes the connection segments of one listener.
type ID [16]byte
