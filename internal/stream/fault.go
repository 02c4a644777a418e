//go:build linux && !shmconn_sockets

package stream

import (
	"errors"
	"net"
	"runtime/debug"
	"syscall"

	"shmconn/internal/ring"
	"shmconn/internal/segment"
)

// endCall ends a call that has the half h: it is deferred, with what
// SetPanicOnFault returned at the start. A fault becomes the call's error. At
// an address of the segment, which was then truncated, the error is a
// *ring.Violation. Any other address is in the caller's memory: the error is
// EFAULT, as of a system call, or a panic if the caller has set
// SetPanicOnFault, as Guard does. Any other panic goes on.
func (s *Stream) endCall(h *half, panicOnFault bool, err *error) {
	debug.SetPanicOnFault(panicOnFault)
	if p := recover(); p != nil {
		switch addr, ok := faultAddress(p); {
		case ok && s.seg.Holds(addr):
			*err = s.setCorrupt(s.truncated())
		case ok && !panicOnFault:
			*err = syscall.EFAULT
		default:
			h.turn.Unlock()
			panic(p)
		}
	}
	h.turn.Unlock()
}

// faultAddress returns the address that a panic is about, if it is a fault.
func faultAddress(p any) (addr uintptr, ok bool) {
	f, ok := p.(interface{ Addr() uintptr })
	if !ok {
		return 0, false
	}
	return f.Addr(), true
}

func (s *Stream) truncated() *ring.Violation {
	return &ring.Violation{What: "the size of the segment's memory (it was truncated, or a hole was made in it)", Seen: 0, Allowed: uint64(segment.PageSize + 2*s.size)}
}

// corrupted marks the connection as corrupt because of err.
func (s *Stream) corrupted(err error) error {
	var v *ring.Violation
	if errors.As(err, &v) {
		return s.setCorrupt(v)
	}
	return err
}

func (s *Stream) setCorrupt(c *ring.Violation) error {
	s.corrupt.CompareAndSwap(nil, c)
	s.aborted.Store(true) // the peer may not have read everything: it must not find an end in order
	for _, h := range s.halves() {
		h.stop.Or(stopCorrupt) // both before either wakes, and parks again
	}
	for _, h := range s.halves() {
		h.interrupt(stopCorrupt)
	}
	return s.corrupt.Load()
}

// ignoreFault is deferred, like endCall, by steps that must be done whether or
// not the segment is intact. At a fault in the segment it ends the caller, with
// the named results as they are then.
func (s *Stream) ignoreFault(panicOnFault bool) {
	debug.SetPanicOnFault(panicOnFault)
	if p := recover(); p != nil {
		if addr, ok := faultAddress(p); !ok || !s.seg.Holds(addr) {
			panic(p)
		}
	}
}

func (s *Stream) Guard(f func()) (err error) {
	if !s.rx.turn.Incref() {
		return net.ErrClosed
	}
	defer s.rx.turn.Decref()
	if err := s.rx.closedErr(); err != nil {
		return err // others are still in their Guards
	}
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			if addr, ok := faultAddress(p); !ok || !s.seg.Holds(addr) {
				panic(p)
			}
			err = s.setCorrupt(s.truncated())
		}
	}()
	f()
	return nil
}
