//go:build linux

package shmconn

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/doorbell"
	"shmconn/internal/segment"
)

const maxSends = 16 // of an introduction, by a dialer that was dropped before

// An offer is a connection that the listener has not been told of yet.
type offer struct {
	seg    *segment.Segment // nil once it is the stream's
	id     segment.ID
	size   int
	bell   *doorbell.Bell
	ringer int

	theirBell, theirRinger int // the acceptor's ends
}

// newOffer makes the segment and the doorbells of a connection.
func newOffer(dir *segment.Dir, base string, g segment.Geometry) (*offer, error) {
	o := &offer{size: g.RingSize, ringer: -1, theirBell: -1, theirRinger: -1}
	if err := o.make(dir, base, g); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *offer) make(dir *segment.Dir, base string, g segment.Geometry) (err error) {
	if o.seg, o.id, err = segment.Create(dir, base, g); err != nil {
		return err
	}
	bell, theirRinger, err := doorbell.Pipe()
	if err != nil {
		return err
	}
	o.theirRinger = theirRinger
	if o.bell, err = doorbell.NewBell(bell); err != nil {
		return err
	}
	o.theirBell, o.ringer, err = doorbell.Pipe()
	return err
}

// message and rights are what the acceptor is sent.
func (o *offer) message() []byte { return append([]byte(helloMagic), o.id[:]...) }
func (o *offer) rights() []byte {
	return unix.UnixRights(o.seg.File(), o.theirRinger, o.theirBell)
}

// stream makes our end, once the acceptor has been sent its own.
func (o *offer) stream(addr Addr, peer cred, busyPoll time.Duration) (*stream, error) {
	o.seg.HandedOver()
	s := newStream(addr, peer, o.seg, o.size, o.bell, doorbell.NewRinger(o.ringer), busyPoll)
	if err := s.connect(mem(o.seg.RingB()), mem(o.seg.RingA())); err != nil {
		return nil, err
	}
	o.seg = nil
	return s, nil
}

// close closes the acceptor's ends, and ours unless they are the stream's.
func (o *offer) close() {
	closeAll([]int{o.theirBell, o.theirRinger})
	if o.seg == nil {
		return
	}
	o.seg.Close()
	closeAll([]int{o.ringer})
	if o.bell != nil {
		o.bell.Close()
	}
}

// sendHello sends an introduction over sock and returns the socket that is connected now.
//
// A listener with too many silent dialers drops the eldest, which can be this one if it was
// kept from speaking. It is there when it is dialed again. And a user may have so many
// descriptors only on their way: then the backlog is full for him.
func sendHello(ctx context.Context, sock int, path string, message, rights []byte) (int, error) {
	for sends, pause := 1, 100*time.Microsecond; ; {
		err := unix.Sendmsg(sock, message, rights, nil, unix.MSG_NOSIGNAL)
		switch {
		case (err == unix.EPIPE || err == unix.ECONNRESET) && sends < maxSends:
			sends++
			again, err := connect(ctx, path)
			if err != nil {
				return sock, err
			}
			unix.Close(sock)
			sock = again
		case err == unix.ETOOMANYREFS:
			if err := doze(ctx, pause); err != nil {
				return sock, err
			}
			pause = min(2*pause, 10*time.Millisecond)
		default:
			return sock, os.NewSyscallError("sendmsg", err)
		}
	}
}

// doze lets d pass, unless ctx ends before.
func doze(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
