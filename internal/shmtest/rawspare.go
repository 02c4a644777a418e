//go:build linux

package shmtest

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// Where the words of a connection segment are that make the next connection
// over it: see FORMAT.md, "Reuse".
const (
	reuseOffset     = 28
	ConsumerSpare   = 276
	ConsumerWatched = 280
	ProducerSpare   = 404

	AcceptorSpare   = RingA + ConsumerSpare
	DialerSpare     = RingB + ConsumerSpare
	Taken           = RingA + ProducerSpare
	DialerWatched   = RingB + ConsumerWatched
	AcceptorWatched = RingA + ConsumerWatched
)

// RawReusable is RawDialer for a segment that can be used again.
func RawReusable(t testing.TB, name string, s Shape) *RawPeer {
	t.Helper()
	p := RawDialer(t, name, s)
	p.PutWord(reuseOffset, 1)
	return p
}

// PutWord stores a word of 32 bits.
func (p *RawPeer) PutWord(off int, v uint32) {
	p.t.Helper()
	p.Write(off, binary.NativeEndian.AppendUint32(nil, v))
}

// Word loads a word of 32 bits.
func (p *RawPeer) Word(off int) uint32 {
	p.t.Helper()
	return binary.NativeEndian.Uint32(p.Read(off, 4))
}

// Retire ends generation g in order: it takes all that is there for read,
// and closes both halves. Offer comes after it.
func (p *RawPeer) Retire(g uint32) {
	p.t.Helper()
	p.Put(RingB+Consumed, p.Get(RingB+Produced))
	p.PutWord(RingA+ProducerClosed, g)
	p.PutWord(RingB+ConsumerClosed, g)
	p.Knock()
}

// Offer says that this end is ready for generation g.
func (p *RawPeer) Offer(g uint32) { p.t.Helper(); p.PutWord(DialerSpare, g) }

// AwaitOffer waits until the acceptor is ready for generation g.
func (p *RawPeer) AwaitOffer(g uint32) {
	p.t.Helper()
	Eventually(func() bool { return p.Word(AcceptorSpare) == g })
}

// Take takes the spare for generation g.
func (p *RawPeer) Take(g uint32) { p.t.Helper(); p.PutWord(Taken, g) }

// ReuseMessage is the message of a dialer that has taken a spare.
func ReuseMessage(id [16]byte, g uint32) []byte {
	return binary.NativeEndian.AppendUint32(append([]byte(helloText), id[:]...), g)
}

// Introduce connects once more, says message with the descriptors, and closes
// the socket.
func (p *RawPeer) Introduce(name string, message []byte, fds ...int) {
	p.t.Helper()
	again := &RawPeer{t: p.t}
	var err error
	if again.Sock, err = rawConnect(name); err != nil {
		p.t.Fatal(err)
	}
	defer unix.Close(again.Sock)
	again.Say(message, fds)
}

// TryIntroduce is Introduce to a listener that may be fed up.
func (p *RawPeer) TryIntroduce(name string, message []byte) {
	sock, err := rawConnect(name)
	if err != nil {
		return
	}
	defer unix.Close(sock)
	unix.Sendmsg(sock, message, nil, nil, unix.MSG_NOSIGNAL)
}
