//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/doorbell"
	"shmconn/internal/segment"
	"shmconn/internal/stream"
)

// A dialEnd is a connection of which the listener does not know yet.
type dialEnd struct {
	seg    *segment.Segment // nil once it is the stream's
	id     segment.ID
	size   int
	bell   *doorbell.Bell
	ringer int

	theirBell, theirRinger int // the acceptor's ends
}

// newDialEnd makes the segment and the doorbells of a connection.
func newDialEnd(ctx context.Context, dir *segment.Dir, base string, g segment.Geometry) (*dialEnd, error) {
	o := &dialEnd{size: g.RingSize, ringer: -1, theirBell: -1, theirRinger: -1}
	if err := o.make(ctx, dir, base, g); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *dialEnd) make(ctx context.Context, dir *segment.Dir, base string, g segment.Geometry) (err error) {
	if o.seg, o.id, err = segment.Create(ctx, dir, base, g); err != nil {
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

// message and rights are what the dialer sends to the acceptor.
func (o *dialEnd) message() []byte { return append([]byte(magic), o.id[:]...) }

func (o *dialEnd) rights() []byte {
	return unix.UnixRights(o.seg.File(), o.theirRinger, o.theirBell)
}

// stream makes our end, once the acceptor's end was sent. It calls prepare with
// the stream before anything else can use it.
func (o *dialEnd) stream(peer stream.Cred, busyPoll time.Duration, prepare func(*stream.Stream)) (*stream.Stream, error) {
	o.seg.HandedOver()
	s := stream.New(peer, o.seg, o.size, o.bell, doorbell.NewRinger(o.ringer), busyPoll)
	prepare(s)
	if err := s.Connect(segment.RingB); err != nil {
		return nil, err
	}
	o.seg = nil
	return s, nil
}

// close closes the acceptor's ends, and ours unless they are the stream's.
func (o *dialEnd) close() {
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
