package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Listener is a name that this process listens on: its segment, locked, and its
// socket.
type Listener struct {
	Dir  *Dir
	Base string
	Geo  Geometry

	mode    fs.FileMode
	backlog int

	mu     sync.Mutex // guards the following
	closed bool
	file   int  // the segment
	locked bool // by us: the name is ours
	page   *listenerPage
	socket unix.Stat_t // the socket as it was made
}

// Announce takes the name base in dir and opens its socket for listening, which is
// returned and the caller's to close. The error is EADDRINUSE when somebody has the
// name, fs.ErrPermission when somebody else's leftovers do.
func Announce(dir *Dir, base string, g Geometry, mode fs.FileMode, backlog int) (*Listener, int, error) {
	l := &Listener{Dir: dir, Base: base, Geo: g, mode: mode, backlog: backlog, file: -1}
	socket, err := l.announce()
	if err != nil {
		l.Close()
		return nil, -1, err
	}
	return l, socket, nil
}

func (l *Listener) announce() (socket int, err error) {
	if err := l.take(); err != nil {
		return -1, err
	}
	// The name is this process's from here on.
	l.Dir.sweep(l.Base)
	p := l.page
	p.magic.Store(0)
	p.version = Version
	p.headerSize = uint32(PageSize)
	p.ringSize = uint64(l.Geo.RingSize)
	p.flags = l.Geo.flags()
	p.pid = uint32(os.Getpid())
	p.accepted.Store(0)
	p.refused.Store(0)
	socket, err = l.listen()
	if err != nil {
		return -1, err
	}
	p.magic.Store(listenerMagic)
	return socket, nil
}

// take opens, or makes, the listener segment and locks it.
func (l *Listener) take() error {
	name := Prefix + l.Base
	for {
		fd, err := unix.Openat(l.Dir.fd, name, unix.O_RDWR|unix.O_CREAT|openFlags, 0o600)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		l.file = fd
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return os.NewSyscallError("fstat", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("%s is not a regular file", name)
		}
		if st.Uid != uint32(os.Geteuid()) {
			if lock(fd) == nil {
				return fmt.Errorf("%s belongs to another user: %w", name, fs.ErrPermission)
			}
			return unix.EADDRINUSE
		}
		if err := lockFor(fd, 100*time.Millisecond); err != nil {
			return err
		}
		if sameFile(l.Dir.fd, name, fd) {
			l.locked = true
			break
		}
		// Its listener has closed, and removed the name, since we opened it.
		unix.Close(fd)
		l.file = -1
	}
	if err := unix.Fchmod(l.file, uint32(0o600|l.mode&0o444)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	if err := unix.Ftruncate(l.file, int64(PageSize)); err != nil {
		return os.NewSyscallError("ftruncate", err)
	}
	if err := unix.Fallocate(l.file, 0, 0, int64(PageSize)); err != nil {
		return fmt.Errorf("no room for the %d bytes of a listener: %w", PageSize, os.NewSyscallError("fallocate", err))
	}
	var err error
	l.page, err = mapPage(l.file)
	return err
}

// listen opens the socket. The name must be taken.
func (l *Listener) listen() (fd int, err error) {
	name := socketName(l.Base)
	var st unix.Stat_t
	switch err := unix.Fstatat(l.Dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Uid != uint32(os.Geteuid()):
		return -1, fmt.Errorf("%s belongs to another user: %w", name, fs.ErrPermission)
	case err == nil:
		if err := unix.Unlinkat(l.Dir.fd, name, 0); err != nil {
			return -1, os.NewSyscallError("unlinkat", err)
		}
	case err != unix.ENOENT:
		return -1, os.NewSyscallError("fstatat", err)
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// Nobody can connect until listen is called, whatever the umask has made of
	// the socket's mode until then.
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: l.Dir.SocketPath(l.Base)}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	err = unix.Fchmodat(l.Dir.fd, name, uint32(l.mode&0o666), 0)
	if err == nil {
		err = unix.Fstatat(l.Dir.fd, name, &l.socket, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil {
		err = unix.Listen(fd, l.backlog)
	}
	if err != nil {
		unix.Close(fd)
		unix.Unlinkat(l.Dir.fd, name, 0)
		return -1, os.NewSyscallError("listen", err)
	}
	return fd, nil
}

// Restore looks whether the listener's files are still there. If not, it puts
// them back and returns a new socket to listen on; the old one is of no more use
// but for what waits in its backlog. It returns -1 when nothing was to be done.
func (l *Listener) Restore() (socket int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return -1, nil
	}
	if !sameFile(l.Dir.fd, Prefix+l.Base, l.file) {
		file, page := l.file, l.page
		l.file, l.locked, l.page = -1, false, nil
		if socket, err = l.announce(); err != nil {
			l.remove()
			l.file, l.locked, l.page = file, true, page
			return -1, fmt.Errorf("the name was removed from outside and cannot be put back: %w", err)
		}
		l.page.accepted.Store(page.accepted.Load())
		l.page.refused.Store(page.refused.Load())
		unmapPage(page)
		unix.Close(file)
		return socket, nil
	}
	if l.socketThere() {
		return -1, nil
	}
	if socket, err = l.listen(); err != nil {
		return -1, fmt.Errorf("the socket was removed from outside and cannot be put back: %w", err)
	}
	return socket, nil
}

// Accepted counts a connection, for tools.
func (l *Listener) Accepted() { l.count(func(p *listenerPage) { p.accepted.Add(1) }) }

// Refused counts a dialer that was dropped, for tools.
func (l *Listener) Refused() { l.count(func(p *listenerPage) { p.refused.Add(1) }) }

func (l *Listener) count(f func(*listenerPage)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.page != nil {
		f(l.page)
	}
}

func (l *Listener) socketThere() bool {
	var st unix.Stat_t
	return unix.Fstatat(l.Dir.fd, socketName(l.Base), &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Ino == l.socket.Ino && st.Dev == l.socket.Dev
}

// Close removes what is still the listener's own and closes its files.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.remove()
}

func (l *Listener) remove() {
	if l.locked {
		if l.socketThere() {
			unix.Unlinkat(l.Dir.fd, socketName(l.Base), 0)
		}
		unlinkIfSame(l.Dir.fd, Prefix+l.Base, l.file)
	}
	if l.page != nil {
		unmapPage(l.page)
		l.page = nil
	}
	if l.file >= 0 {
		unix.Close(l.file)
		l.file = -1
	}
}

// Info is what a listener segment tells.
type Info struct {
	Geometry
	UID      uint32 // the owner of the file
	PID      int
	Accepted uint64
	Refused  uint64
}

// ErrNoListener says that a name is absent, or was left by a listener that died.
var ErrNoListener = errors.New("nobody listens")

// Lookup reads the listener segment of base. It does not tell whether the listener
// is alive.
func Lookup(dir *Dir, base string) (Info, error) {
	name := Prefix + base
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|openFlags, 0)
	if err != nil {
		return Info{}, os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Info{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Info{}, fmt.Errorf("%s is not a regular file", name)
	}
	p := new(listenerPage)
	if err := pread(fd, bytesOf(p)); err != nil {
		return Info{UID: st.Uid}, ErrNoListener // it is being made
	}
	switch p.magic.Load() {
	case listenerMagic:
	case 0:
		return Info{UID: st.Uid}, ErrNoListener // likewise
	default:
		return Info{}, fmt.Errorf("%s is not a listener segment", name)
	}
	if p.version != Version {
		return Info{}, fmt.Errorf("%s has format version %d, this is version %d", name, p.version, Version)
	}
	ringSize := p.ringSize
	if ringSize > MaxRing || CheckRingSize(int(ringSize)) != nil || p.headerSize != uint32(PageSize) || p.flags&^flagAnonymous != 0 {
		return Info{}, fmt.Errorf("%s asks for rings of %d bytes after a header of %d", name, ringSize, p.headerSize)
	}
	return Info{
		Geometry: Geometry{RingSize: int(ringSize), Anonymous: p.flags&flagAnonymous != 0},
		UID:      st.Uid,
		PID:      int(p.pid),
		Accepted: p.accepted.Load(),
		Refused:  p.refused.Load(),
	}, nil
}
