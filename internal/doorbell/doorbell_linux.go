// Package doorbell wakes a process that sleeps, and reports when the process
// that could wake it is gone. A doorbell is a pipe: a byte in it means "look at
// everything", and its end means that no process is left that could ring.
package doorbell

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
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
		return -1, -1, pipeError(err)
	}
	// A byte is enough. The mode lets an acceptor of another user Adopt its
	// end; only a process that was handed a descriptor can find the pipe.
	unix.FcntlInt(uintptr(fd[0]), unix.F_SETPIPE_SZ, os.Getpagesize())
	if err := unix.Fchmod(fd[0], 0o666); err != nil {
		unix.Close(fd[0])
		unix.Close(fd[1])
		return -1, -1, os.NewSyscallError("fchmod", err)
	}
	return fd[0], fd[1], nil
}

func pipeError(err error) error {
	call := os.NewSyscallError("pipe2", err)
	switch err {
	case unix.EMFILE:
		return fmt.Errorf("a doorbell: %w (in this process: RLIMIT_NOFILE)", call)
	case unix.ENFILE:
		return fmt.Errorf("a doorbell: %w (of the machine, or of pipes of this user: fs.file-max, fs.pipe-user-pages-hard)", call)
	}
	return call
}

// Adopt returns a new descriptor for the end of a pipe that fd is. fd came from
// a process that is not trusted: the sender can change whether reads and writes
// on fd block, but not on the new descriptor. The caller still owns fd. access
// is unix.O_RDONLY or unix.O_WRONLY, and proc the directory /proc/self/fd.
//
// It opens only the kernel's own pipes, so that an error that reports a
// shortage is true: a file system that the sender serves can return any error.
func Adopt(proc *os.File, fd, access int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, fmt.Errorf("doorbell cannot be examined: %v", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_ACCMODE != access {
		return -1, errors.New("doorbell is not an end of a pipe")
	}
	var of unix.Statfs_t
	if err := unix.Fstatfs(fd, &of); err != nil || of.Type != unix.PIPEFS_MAGIC {
		return -1, errors.New("doorbell is a FIFO with a name, not a pipe")
	}
	raw, err := proc.SyscallConn()
	if err != nil {
		return -1, err
	}
	own := -1
	rawErr := raw.Control(func(proc uintptr) {
		own, err = unix.Openat(int(proc), strconv.Itoa(fd), access|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	switch cmp.Or(rawErr, err) {
	case nil:
		return own, nil
	case unix.EACCES:
		return -1, fmt.Errorf("doorbell, a pipe, may not be opened: %w", err)
	case unix.ENOENT, unix.ENOTDIR:
		return -1, fmt.Errorf("doorbell cannot be opened anew by way of /proc: %w", err)
	}
	return -1, &os.PathError{Op: "openat", Path: "doorbell", Err: cmp.Or(rawErr, err)}
}

// A Bell is the end that is waited on. One goroutine at a time holds it, and it
// alone may call Wait.
type Bell struct {
	file  *os.File // in the runtime's network poller
	raw   syscall.RawConn
	fd    int // the same, for Gone
	held  atomic.Bool
	stale bool // the deadline that Break has set is still there; owned by the holder

	// How Wait reads, see Trust. Owned by the holder.
	sysRead func(fd int, b []byte) (int, error)
	read    func(fd uintptr) (done bool) // once, and keeps what came of it
	buf     [64]byte
	n       int
}

// NewBell returns the Bell of a descriptor of Pipe, which it owns from now on,
// also when there is an error.
func NewBell(fd int) (*Bell, error) {
	b := &Bell{file: os.NewFile(uintptr(fd), "doorbell"), fd: fd}
	if err := b.file.SetReadDeadline(time.Time{}); err != nil {
		err = cmp.Or(pollError(fd), err)
		b.file.Close()
		return nil, fmt.Errorf("doorbell cannot be polled: %w", err)
	}
	b.raw, _ = b.file.SyscallConn() // which does not fail
	b.sysRead = unix.Read
	b.read = func(fd uintptr) bool {
		for {
			n, err := b.sysRead(int(fd), b.buf[:])
			if err != unix.EINTR {
				b.n = n
				return err != unix.EAGAIN
			}
		}
	}
	return b, nil
}

// Trust records that the peer belongs to our own user or root, and so will not
// hold the lock of the pipe, which could block a read of ours for as long as it
// likes. Wait may then make its system call without the scheduler. Call it
// before any Wait.
func (b *Bell) Trust() { b.sysRead = rawRead }

// pollError returns why the runtime's poller could not take fd, which it does
// not say: fs.epoll.max_user_watches is reached (ENOSPC), or there is no memory
// for it.
func pollError(fd int) error {
	p, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(p)
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p, unix.EPOLL_CTL_ADD, fd, new(unix.EpollEvent)))
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

// Wait waits until the bell is rung, broken, or will never be rung again. The
// caller first has to check the reasons for a Break: a Break before Hold is
// forgotten.
func (b *Bell) Wait() Event {
	b.n = 0
	err := b.raw.Read(b.read)
	switch {
	case b.n > 0:
		return Rung
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.stale = true
		return Broken
	}
	return Gone // io.EOF; no other error would ever go away
}

// Gone reports whether every process that could ring is gone. It does not wait,
// and may be called at any time: it leaves the bytes that are there to Wait. It
// does not even take the lock of the pipe, which a hostile peer could have,
// unless poll(2) fails.
func (b *Bell) Gone() bool {
	fds := []unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLIN}}
	for {
		switch _, err := unix.Poll(fds, 0); err {
		case nil:
			return fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		case unix.EINTR:
		default:
			return b.ended()
		}
	}
}

// ended is Gone where poll(2) fails: with RLIMIT_NOFILE 0 it is EINVAL for
// ever, and a filter of system calls can forbid it. A read needs neither. It
// takes out bytes that may have been meant for a Wait, so Break makes that Wait
// look at everything, as they would.
func (b *Bell) ended() bool {
	var buf [64]byte
	for {
		n, err := unix.Read(b.fd, buf[:])
		switch {
		case n > 0:
			b.Break()
			return false
		case err == unix.EAGAIN:
			return false
		case err != unix.EINTR:
			return true // the end, or an error that Wait takes for it, too
		}
	}
}

// Break ends the Wait of the holder, if there is one, or its next. It may be
// called at any time. The caller first stores the reason, which the holder
// checks after Hold and before Wait, so they cannot miss each other.
func (b *Bell) Break() {
	if b.held.Load() { // sync: bell
		b.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close closes the descriptor. No goroutine may hold the bell.
func (b *Bell) Close() { b.file.Close() }

// A Ringer is the other end. Ring may be called at any time; Close, after the
// last Ring.
type Ringer struct{ *ringer }

type ringer struct {
	mu       sync.RWMutex // held for reading while fd is used
	fd       int          // -1 once it is closed
	sysWrite func(fd int, b []byte) (int, error)
}

// NewRinger returns the Ringer of a descriptor of Pipe, which it owns from now
// on.
func NewRinger(fd int) Ringer { return Ringer{&ringer{fd: fd, sysWrite: unix.Write}} }

// Trust is for Ring what [Bell.Trust] is for Wait.
func (r Ringer) Trust() { r.sysWrite = rawWrite }

var one = []byte{1}

// Ring wakes the other end. It does not wait: if there is no room for a byte,
// there are enough of them. It ignores that no process reads any more.
//
// The kernel may have no page for the byte (ENOMEM). The other end would then
// sleep on although there is news, so Ring tries again for a while. If that
// does not help it closes the descriptor, which ends the sleep, and the
// connection.
func (r Ringer) Ring() {
	for range ringTries {
		if r.ring() {
			return
		}
		time.Sleep(ringPause)
	}
	r.Close()
}

const (
	ringTries = 100
	ringPause = time.Millisecond
)

// ring reports false if the other end may sleep on and another try may help.
func (r Ringer) ring() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.fd < 0 {
		return true
	}
	for {
		switch _, err := r.sysWrite(r.fd, one); err {
		case nil, unix.EAGAIN, unix.EPIPE:
			return true
		case unix.EINTR:
		default:
			return false
		}
	}
}

// Closed reports whether the descriptor is closed.
func (r Ringer) Closed() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.fd < 0
}

// Close closes the descriptor. If it was the last one, the Bell reports Gone.
func (r Ringer) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd >= 0 {
		unix.Close(r.fd)
		r.fd = -1
	}
}
