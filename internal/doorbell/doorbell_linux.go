// Package doorbell wakes a process that sleeps, and tells it when the one that
// could wake it is gone. A doorbell is a pipe: a byte in it means "look at
// everything", and its end means that nobody is left who could ring.
package doorbell

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An Event is what ended a wait for a Bell.
type Event uint8

const (
	Rung   Event = iota // a byte or more
	Broken              // Break was called
	Gone                // every process that could ring is gone
)

// Pipe makes a doorbell and returns its two descriptors, close-on-exec and
// non-blocking. One is for NewBell, one for NewRinger, in whichever process.
func Pipe() (bell, ringer int, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	// A byte is enough. The mode lets an acceptor of another user Adopt its end;
	// only who is handed a descriptor can find the pipe.
	unix.FcntlInt(uintptr(fd[0]), unix.F_SETPIPE_SZ, os.Getpagesize())
	if err := unix.Fchmod(fd[0], 0o666); err != nil {
		unix.Close(fd[0])
		unix.Close(fd[1])
		return -1, -1, os.NewSyscallError("fchmod", err)
	}
	return fd[0], fd[1], nil
}

// Adopt returns another descriptor for the end of a pipe that fd is, which came from
// somebody who is not trusted. With fd, which stays the caller's, the sender has a
// hand on whether reads and writes block; not so with the new one. access is
// unix.O_RDONLY or unix.O_WRONLY.
func Adopt(fd, access int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, os.NewSyscallError("fstat", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_ACCMODE != access {
		return -1, errors.New("doorbell is not an end of a pipe")
	}
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), access|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "doorbell", Err: err} // ENXIO: a named FIFO
	}
	return own, nil
}

// A Bell is the end that is waited on. One goroutine at a time holds it, and it
// alone may call Wait.
type Bell struct {
	file  *os.File // in the runtime's network poller
	fd    int      // the same, for Gone
	held  atomic.Bool
	stale bool // the deadline that Break has set is still there; owned by the holder
}

// NewBell returns the Bell of a descriptor of Pipe, which it owns from now on, also
// when there is an error.
func NewBell(fd int) (*Bell, error) {
	b := &Bell{file: os.NewFile(uintptr(fd), "doorbell"), fd: fd}
	if err := b.file.SetReadDeadline(time.Time{}); err != nil {
		b.file.Close()
		return nil, fmt.Errorf("doorbell cannot be polled: %w", err) // max_user_watches, say
	}
	return b, nil
}

// Hold makes the caller the holder, unless there is one.
func (b *Bell) Hold() bool {
	if !b.held.CompareAndSwap(false, true) { // sync: bell
		return false
	}
	b.mend()
	return true
}

// mend clears the deadline of an earlier Break.
func (b *Bell) mend() {
	if b.stale {
		b.stale = false
		b.file.SetReadDeadline(time.Time{})
	}
}

// Release ends Hold.
func (b *Bell) Release() { b.held.Store(false) }

// Wait waits until the bell is rung, broken, or will never be rung again. Before it
// the caller has to look at what Break stands for: what was broken before Hold
// is forgotten.
func (b *Bell) Wait() Event {
	var buf [64]byte
	n, err := b.file.Read(buf[:])
	switch {
	case n > 0:
		return Rung
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.stale = true
		return Broken
	}
	return Gone // io.EOF; no other error would ever go away
}

// Gone reports whether every process that could ring is gone. It does not wait, and
// may be called at any time: it leaves the bytes that are there to Wait. It does not
// even take the lock of the pipe, which a hostile peer could have.
func (b *Bell) Gone() bool {
	fds := []unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}}
	for {
		switch _, err := unix.Poll(fds, 0); err {
		case nil:
			return fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		case unix.EINTR:
		default:
			return false
		}
	}
}

// Break ends the Wait of the holder, if there is one, or its next. It may be called
// at any time. The caller first stores the reason, which the holder looks at after
// Hold and before Wait: so they cannot miss each other.
func (b *Bell) Break() {
	if b.held.Load() { // sync: bell
		b.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close closes the descriptor. Nobody may be holding the bell.
func (b *Bell) Close() { b.file.Close() }

// A Ringer is the other end. Ring may be called at any time, Close once it is not
// any more.
type Ringer struct{ fd int }

// NewRinger returns the Ringer of a descriptor of Pipe, which it owns from now on.
func NewRinger(fd int) Ringer { return Ringer{fd} }

var one = []byte{1}

// Ring wakes the other end. It does not wait: where there is no room for a byte,
// there are enough of them. That nobody listens any more is not its business.
func (r Ringer) Ring() {
	for {
		if _, err := unix.Write(r.fd, one); err != unix.EINTR {
			return
		}
	}
}

// Close closes the descriptor. When it was the last one, the Bell says Gone.
func (r Ringer) Close() { unix.Close(r.fd) }
