//go:build linux && !shmconn_sockets

package handshake

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/bubble"
	"shmconn/internal/segment"
	"shmconn/internal/sema"
	"shmconn/internal/sockdiag"
)

// A socket can be open in several processes: in a listener and in the child
// that is to take its place, or in a service manager. They have the backlog in
// common, and each takes dialers off it. What such a *shared* listener does
// otherwise:
//
//   - It has no spares. A dialer that speaks of one has to come to the process
//     that has it, and any of them may accept that dialer.
//   - Its segment says so, for dialers to ask the socket whether somebody
//     listens. The lock, which shows that otherwise, is passed on with a gap.
//   - Its Close takes no more dialers off the socket, but Accept gives out
//     those that were taken. The last process to close removes the names.

// File returns a new descriptor of the socket that dialers connect to.
func (l *Listener) File() (*os.File, error) {
	s, err := l.share()
	if err != nil {
		return nil, err
	}
	var fd int
	rawErr := control(s.File, func(own int) { fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0) })
	if rawErr != nil {
		return nil, net.ErrClosed
	}
	if err != nil {
		return nil, temporary(segment.Explain(os.NewSyscallError("fcntl", err)))
	}
	return os.NewFile(uintptr(fd), l.name), nil
}

// SyscallConn returns the socket that dialers connect to, for Control.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	s, err := l.share()
	if err != nil {
		return nil, err
	}
	raw, err := s.SyscallConn()
	return controlOnly{raw}, err
}

// controlOnly is a RawConn whose Read and Write do nothing, as a listener's of
// package net.
type controlOnly struct{ syscall.RawConn }

func (controlOnly) Read(func(uintptr) bool) error  { return syscall.EINVAL }
func (controlOnly) Write(func(uintptr) bool) error { return syscall.EINVAL }

// share readies the listener for another process that takes dialers off its
// socket. It returns when no dialer is on its way that speaks of a spare, also
// where another call has begun.
func (l *Listener) share() (*socket, error) {
	l.sharing.Lock()
	defer l.sharing.Unlock()
	l.mu.Lock()
	if l.closed || l.draining {
		l.mu.Unlock()
		return nil, net.ErrClosed
	}
	s := l.sockets[len(l.sockets)-1]
	l.shared = true
	l.mu.Unlock()
	if l.ready {
		return s, nil
	}
	if err := l.files.Share(); err != nil {
		return nil, err
	}
	l.spares.withdraw()
	l.awaitSpares()
	if err := control(s.File, limitAccept); err != nil {
		return nil, net.ErrClosed
	}
	l.ready = true
	return s, nil
}

// awaitSpares waits until the dialers have come that have taken a spare, as
// long as a dialer may be silent.
func (l *Listener) awaitSpares() {
	if l.spares.n.Load() == 0 {
		return
	}
	var done sema.Sema
	bubble.Go(func() {
		for end := time.Now().Add(messageTimeout); l.spares.n.Load() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		done.Notify()
	})
	done.Wait()
}

// limitAccept bounds for how long accept4 waits. Whether it waits at all is up
// to every process that has the socket, as that is no matter of a descriptor.
func limitAccept(fd int) {
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 1000})
}

// control calls f with f's descriptor, unless that is closed.
func control(file *os.File, f func(fd int)) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// FileListener listens on the socket behind f, which stays the caller's, and
// returns the name, too. The error is not wrapped yet.
func FileListener(f *os.File, lc ListenOptions) (l *Listener, name string, err error) {
	if !lockFree {
		return nil, "", errors.ErrUnsupported
	}
	register()
	if err := lc.check(); err != nil {
		return nil, "", err
	}
	sock, address, err := dupListening(f)
	if err != nil {
		return nil, "", err
	}
	dirPath, base, err := segment.SocketListener(address, f.Name())
	if err != nil {
		unix.Close(sock)
		return nil, "", err
	}
	name = segment.DisplayName(dirPath, base)
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		unix.Close(sock)
		return nil, name, temporary(err)
	}
	files, err := lc.adopt(dir, base, sock)
	if err != nil {
		unix.Close(sock)
		dir.Close()
		return nil, name, temporary(err)
	}
	l, err = lc.begin(name, files, sock, true, func() error { return lc.listenOnceMore(sock) })
	return l, name, err
}

// adopt takes, or shares, the name base in dir, whose socket is behind sock.
func (lc *ListenOptions) adopt(dir *segment.Dir, base string, sock int) (*segment.Listener, error) {
	lc.SpareBytes = 0
	if err := isAt(dir, base, sock); err != nil {
		return nil, err
	}
	files, err := segment.Adopt(dir, base, lc.geometry(), lc.AnyRing, lc.Mode, lc.Backlog)
	if err != nil {
		return nil, err
	}
	limitAccept(sock)
	err = os.NewSyscallError("setnonblock", unix.SetNonblock(sock, true))
	if err != nil {
		files.Release(false)
		files.Close()
		return nil, err
	}
	return files, nil
}

// listenOnceMore sets the length of the backlog of a socket that listens
// already, and has the socket name this process to dialers.
func (lc *ListenOptions) listenOnceMore(sock int) error {
	return os.NewSyscallError("listen", unix.Listen(sock, lc.Backlog))
}

// isAt says what is wrong if the name does not lead to sock any more. A name is
// taken for right if the kernel does not say where it leads.
func isAt(dir *segment.Dir, base string, sock int) error {
	var st unix.Stat_t
	if err := unix.Fstat(sock, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	dev, ino, err := sockdiag.File(uint32(st.Ino))
	if err != nil {
		return nil
	}
	if !dir.LeadsTo(base, dev, ino) {
		return errors.New("the name leads to another socket by now: no dialer finds this one")
	}
	return nil
}

// dupListening returns a descriptor of the socket behind f, and the address
// that it is bound to.
func dupListening(f *os.File) (sock int, address string, err error) {
	rawErr := control(f, func(fd int) {
		if address, err = checkListening(fd); err != nil {
			return
		}
		sock, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		err = segment.Explain(os.NewSyscallError("fcntl", err))
	})
	if rawErr != nil {
		err = rawErr
	}
	return sock, address, err
}

// checkListening returns the address of a listener's socket, and an error if fd
// is none.
func checkListening(fd int) (address string, err error) {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return "", fmt.Errorf("not a listener's socket: %w", os.NewSyscallError("getsockopt", err))
	}
	var bound unix.Sockaddr
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil {
		bound, err = unix.Getsockname(fd)
	}
	at, ok := bound.(*unix.SockaddrUnix)
	if err != nil || !ok || kind != unix.SOCK_SEQPACKET || listening == 0 {
		return "", errors.New("not a listener's socket: that is of AF_UNIX and SOCK_SEQPACKET, and listens")
	}
	return at.Name, nil
}
