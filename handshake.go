//go:build linux

package shmconn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/doorbell"
	"shmconn/internal/segment"
)

// The introduction is one message over the listener's socket, from the dialer:
// helloMagic, the id of the segment, and three descriptors: the segment, the end of
// the dialer's doorbell that rings, the end of the acceptor's that is waited on. The
// dialer closes these and the socket, and is connected. When the listener dies or
// closes before it has taken them, the kernel closes them, and the dialer finds that
// nobody is left to ring its bell, as it would if its peer had died later.
const (
	helloMagic = "shmconn\x01"
	helloSize  = len(helloMagic) + len(segment.ID{})
	helloFDs   = 3

	introductionTimeout = 2 * time.Second // for a dialer that has connected to say something
	maxIntroductions    = 64              // that have connected and said nothing yet
	promptness          = 20 * time.Microsecond

	maxLooks = 16 // of a dialer at a listener that changes

	attachPatience = 50 * time.Millisecond // for the kernel to say what was sent
	maxAttachments = 16                    // of a user that are under way
)

// dial is Dialer.Dial, see there.
func dial(ctx context.Context, d *Dialer, name string) (*Conn, error) {
	if !lockFree {
		return nil, errors.ErrUnsupported
	}
	dirPath, base, err := segment.ParseName(name)
	if err != nil {
		return nil, err
	}
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		return nil, refused(err)
	}
	defer dir.Close()
	var s *stream
	for range maxLooks {
		if err = ctx.Err(); err != nil {
			return nil, err
		}
		if s, err = d.introduce(ctx, dir, base, Addr{name}); err != errReplaced {
			break
		}
	}
	if err != nil {
		return nil, refused(err)
	}
	return newConn(s), nil
}

// errReplaced says that another listener has taken the name meanwhile, with another
// kind of connections.
var errReplaced = errors.New("listener was replaced")

// introduce makes a connection and hands the listener its end. All is made before the
// listener is connected to: so that wakes it once, and it finds what it was woken for.
func (d *Dialer) introduce(ctx context.Context, dir *segment.Dir, base string, addr Addr) (_ *stream, err error) {
	info, err := segment.Lookup(dir, base)
	if err != nil {
		return nil, err
	}
	if !d.allows(info.UID) {
		return nil, fmt.Errorf("listener's files belong to user %d: %w", info.UID, fs.ErrPermission)
	}
	if !info.Alive {
		return nil, segment.ErrNoListener
	}
	o, err := newOffer(dir, base, info.Geometry)
	if err != nil {
		return nil, err
	}
	defer o.close()

	at, path, err := dir.OpenSocket(base)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	sock, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(sock) }()
	peer, err := peerCred(sock)
	if err != nil {
		return nil, err
	}
	if !d.allows(peer.uid) {
		return nil, fmt.Errorf("listener runs as user %d: %w", peer.uid, fs.ErrPermission)
	}
	if now, err := segment.Lookup(dir, base); err != nil {
		return nil, err
	} else if now.Geometry != info.Geometry {
		return nil, errReplaced
	}
	if sock, err = sendHello(ctx, sock, path, o.message(), o.rights()); err != nil {
		return nil, err
	}
	return o.stream(addr, peer, d.BusyPoll)
}

// allows reports whether a listener run by uid may be dialed.
func (d *Dialer) allows(uid uint32) bool {
	if d.AllowUID != nil {
		return d.AllowUID(uid)
	}
	return uid == 0 || uid == uint32(os.Geteuid())
}

// refused returns ECONNREFUSED for all that means that nobody listens.
func refused(err error) error {
	for _, absent := range []error{
		fs.ErrNotExist, segment.ErrNoListener, syscall.ECONNREFUSED,
		syscall.EPIPE, syscall.ECONNRESET, // it closed while we were introducing ourselves
	} {
		if errors.Is(err, absent) {
			return syscall.ECONNREFUSED
		}
	}
	return err
}

// connect returns a socket that is connected to path. It waits while the backlog is
// full: the kernel has no call that does so with a deadline.
func connect(ctx context.Context, path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return fd, nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			unix.Close(fd)
			return -1, os.NewSyscallError("connect", err)
		}
		if err := doze(ctx, pause); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
}

func peerCred(sock int) (cred, error) {
	u, err := unix.GetsockoptUcred(sock, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return cred{}, os.NewSyscallError("getsockopt", err)
	}
	return cred{u.Pid, u.Uid, u.Gid}, nil
}

func mem(header, data []byte) ringMem { return ringMem{header, data} }

// A hello is what an acceptor was sent.
type hello struct {
	id                 segment.ID
	file, ringer, bell int
}

// receive returns the message that a dialer has sent over sock, or EAGAIN if it has
// not yet. Where the process is out of descriptors it can be called again.
func receive(sock int) (h hello, err error) {
	for range 100 {
		if h, err = receiveOnce(sock); err != errAgain {
			return h, err
		}
	}
	return h, errors.New("introduction cannot be received")
}

// errAgain says that what was received may be another thing when looked at again.
var errAgain = errors.New("look again")

func receiveOnce(sock int) (hello, error) {
	// Asked before the message is looked at: if the dialer has closed its socket by
	// now, an empty message is the end. Else it may have sent and closed in between.
	ended := hungUp(sock)

	// The message is looked at and not taken: if there is no descriptor left for
	// one of those in it, it stays whole. Closing the socket throws it away.
	buf := make([]byte, helloSize+1)
	oob := make([]byte, unix.CmsgSpace(4*(helloFDs+1)))
	n, oobn, flags, _, err := unix.Recvmsg(sock, buf, oob, unix.MSG_PEEK|unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EINTR {
		return hello{}, errAgain
	}
	if err != nil {
		return hello{}, err
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return hello{}, err
	}
	if n == helloSize && string(buf[:len(helloMagic)]) == helloMagic && len(fds) == helloFDs && flags&unix.MSG_CTRUNC == 0 {
		return hello{segment.ID(buf[len(helloMagic):helloSize]), fds[0], fds[1], fds[2]}, nil
	}
	closeAll(fds)
	if n == 0 && oobn == 0 && !ended {
		return hello{}, errAgain
	}
	if flags&unix.MSG_CTRUNC != 0 && len(fds) < helloFDs {
		// No descriptors were left, unless there is something wrong with those
		// that were sent. Some may have become free since.
		if err := spare(sock, helloFDs); err != nil {
			return hello{}, err
		}
		return hello{}, errAgain
	}
	return hello{}, errors.New("introduction is not understood")
}

// hungUp reports whether the other end of sock is closed.
func hungUp(sock int) bool {
	fds := []unix.PollFd{{Fd: int32(sock), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// rights returns the descriptors in a control message.
func rights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds, nil
}

// spare returns nil if the process can have n more descriptors.
func spare(fd, n int) error {
	var fds []int
	defer func() { closeAll(fds) }()
	for range n {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return nil
}

// closeAll closes those of the descriptors that there are.
func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// close closes the descriptors.
func (h hello) close() { closeAll([]int{h.file, h.ringer, h.bell}) }

// attach makes the acceptor's stream of what the dialer has sent. The descriptors stay
// the caller's, who can try again when the process was short of something.
func (h hello) attach(l *listener, peer cred) (_ *stream, err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	seg, err := segment.Attach(h.file, l.files.Dev(), l.files.Geo, h.id)
	if err != nil {
		return nil, err
	}
	undo = append(undo, seg.Close)
	ringer, err := doorbell.Adopt(h.ringer, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { unix.Close(ringer) })
	bellFD, err := doorbell.Adopt(h.bell, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	bell, err := doorbell.NewBell(bellFD)
	if err != nil {
		return nil, err
	}
	undo = append(undo, bell.Close)
	s := newStream(l.addr, peer, seg, l.files.Geo.RingSize, bell, doorbell.NewRinger(ringer), l.busyPoll)
	if err := s.connect(mem(seg.RingA()), mem(seg.RingB())); err != nil {
		return nil, err
	}
	if !l.files.Geo.Anonymous {
		segment.RemoveName(l.files.Dir, l.files.Base, h.id, h.file)
	}
	return s, nil
}

// listen is ListenConfig.Listen, see there.
func listen(lc ListenConfig, name string) (*Listener, error) {
	if !lockFree {
		return nil, errors.ErrUnsupported
	}
	dirPath, base, err := segment.ParseName(name)
	if err != nil {
		return nil, err
	}
	g := segment.Geometry{RingSize: lc.RingSize, Anonymous: lc.Anonymous}
	if g.RingSize == 0 {
		g.RingSize = DefaultRingSize
	}
	if err := segment.CheckRingSize(g.RingSize); err != nil {
		return nil, err
	}
	if lc.Backlog < 0 {
		return nil, fmt.Errorf("backlog %d is negative", lc.Backlog)
	}
	if lc.Backlog == 0 {
		lc.Backlog = DefaultBacklog
	}
	if lc.Mode&^fs.ModePerm != 0 {
		return nil, fmt.Errorf("mode %v is more than permission bits", lc.Mode)
	}
	if lc.Mode == 0 {
		lc.Mode = 0o600
	}
	dir, err := segment.OpenDir(dirPath)
	if err != nil {
		return nil, err
	}
	files, sock, err := segment.Announce(dir, base, g, lc.Mode, lc.Backlog)
	if err != nil {
		dir.Close()
		return nil, err
	}
	l := &listener{
		addr:     Addr{name},
		busyPoll: lc.BusyPoll,
		files:    files,
		logger:   lc.Logger,
		news:     make(chan struct{}, 1),
		busy:     make(map[uint32]int),
		done:     make(chan struct{}),
	}
	l.taken = sync.NewCond(&l.mu)
	if err := l.open(sock); err != nil {
		files.Close()
		dir.Close()
		return nil, err
	}
	l.goroutines.Go(l.watch)
	return newListener(l), nil
}

// netListener makes a net.UnixListener of a socket that listens, which it closes.
func netListener(sock int) (*net.UnixListener, error) {
	f := os.NewFile(uintptr(sock), "introductions")
	defer f.Close()
	nl, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return nl.(*net.UnixListener), nil
}
