package doorbell

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An End waits for the end of a doorbell's pipe and for nothing else. It takes
// no byte out, so the holder of the Bell can go on reading.
//
// It is an epoll instance that watches the pipe for no event at all, which
// leaves those that epoll always reports: EPOLLHUP and EPOLLERR. A ring does
// not wake it, and the runtime's poller waits for it without a thread.
type End struct {
	f   *os.File
	raw syscall.RawConn
}

// End returns an End of b, which must not be closed meanwhile, nor during Wait.
func (b *Bell) End() (*End, error) {
	p, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.EpollCtl(p, unix.EPOLL_CTL_ADD, b.fd, new(unix.EpollEvent)); err != nil {
		unix.Close(p)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	if err := unix.SetNonblock(p, true); err != nil { // so that os.NewFile gives it to the poller
		unix.Close(p)
		return nil, os.NewSyscallError("fcntl", err)
	}
	e := &End{f: os.NewFile(uintptr(p), "the end of a doorbell")}
	if e.raw, err = e.f.SyscallConn(); err == nil {
		err = e.f.SetReadDeadline(time.Time{})
	}
	if err != nil {
		e.f.Close()
		return nil, err
	}
	return e, nil
}

// Wait waits for the end, and reports whether it has come. It returns false
// after Close.
func (e *End) Wait() bool {
	ended := false
	e.raw.Read(func(p uintptr) bool {
		var events [1]unix.EpollEvent
		for {
			n, err := unix.EpollWait(int(p), events[:], 0)
			if err != unix.EINTR {
				ended = n > 0
				return n != 0 // an error would be there again
			}
		}
	})
	return ended
}

// Close ends the Wait under way, and all later ones. It may be called at any
// time.
func (e *End) Close() { e.f.Close() }
