package segment

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Listener is a name that this process listens on: its segment, locked, and its
// socket. The segment is written to as a file: to whom it belongs can truncate it, and
// its memory would then fault.
type Listener struct {
	Dir  *Dir
	Base string
	Geo  Geometry

	mode    fs.FileMode
	backlog int

	mu     sync.Mutex // guards the following
	closed bool
	file   int          // the segment
	locked bool         // by us: the name is ours
	dev    uint64       // its file system
	page   listenerPage // what is in it
	socket unix.Stat_t  // the socket as it was made
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
	l.page.magic.Store(0)
	l.page.version = Version
	l.page.headerSize = uint32(PageSize)
	l.page.ringSize = uint64(l.Geo.RingSize)
	l.page.flags = l.Geo.flags()
	l.page.pid = uint32(os.Getpid())
	if err := l.write(); err != nil {
		return -1, err
	}
	socket, err = l.listen()
	if err != nil {
		return -1, err
	}
	l.page.magic.Store(listenerMagic)
	if err := l.write(); err != nil {
		unix.Close(socket)
		return -1, err
	}
	return socket, nil
}

// write stores l.page in the segment, the magic number last.
func (l *Listener) write() error {
	if err := unix.Ftruncate(l.file, int64(PageSize)); err != nil {
		return os.NewSyscallError("ftruncate", err)
	}
	for {
		err := unix.Fallocate(l.file, 0, 0, int64(PageSize))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("no room for the %d bytes of a listener: %w", PageSize, os.NewSyscallError("fallocate", err))
		}
		break
	}
	magic := l.page.magic.Swap(0)
	defer l.page.magic.Store(magic)
	if err := pwrite(l.file, bytesOf(&l.page)); err != nil || magic == 0 {
		return err
	}
	l.page.magic.Store(magic)
	return pwrite(l.file, bytesOf(&l.page)[:8])
}

// intact reports whether the segment is as it was written.
func (l *Listener) intact() bool {
	p := new(listenerPage)
	return pread(l.file, bytesOf(p)) == nil && bytes.Equal(bytesOf(p)[:countersAt], bytesOf(&l.page)[:countersAt])
}

// take opens, or makes, the listener segment and locks it.
func (l *Listener) take() error {
	own := func(uid uint32) bool { return uid == uint32(os.Geteuid()) }
	fd, st, err := l.Dir.claim(l.Base, unix.O_CREAT, own)
	if err != nil {
		return err
	}
	l.file, l.locked, l.dev = fd, true, uint64(st.Dev)
	if err := unix.Fchmod(l.file, uint32(0o600|l.mode&0o444)); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	return nil
}

// claim opens the listener segment of base, with more flags, and locks it. mine says
// whether the caller may have it by its owner.
func (d *Dir) claim(base string, flags int, mine func(uid uint32) bool) (fd int, st unix.Stat_t, err error) {
	name := Prefix + base
	for {
		fd, err = unix.Openat(d.fd, name, unix.O_RDWR|flags|openFlags, 0o600)
		if err != nil {
			return -1, st, openError(name, err)
		}
		if st, err = claimable(fd, name, mine); err != nil {
			unix.Close(fd)
			return -1, st, err
		}
		err = lockFor(fd, 100*time.Millisecond)
		if err == nil && sameFile(d.fd, name, fd) {
			if st.Nlink == 1 {
				return fd, st, nil
			}
			// A file of ours that somebody has given this name, too: that goes, and the
			// file stays as it is.
			if err := unix.Unlinkat(d.fd, name, 0); err != nil {
				unix.Close(fd)
				return -1, st, os.NewSyscallError("unlinkat", err)
			}
			flags |= unix.O_CREAT
		}
		if err == unix.EADDRINUSE {
			if lockedForWriting(fd) {
				unix.Close(fd)
				return -1, st, err
			}
			// No listener has it: some dialer has a lock, for reading, which is all
			// that it may have. It is welcome to the old file.
			unlinkIfSame(d.fd, name, fd)
			flags |= unix.O_CREAT
		} else if err != nil {
			unix.Close(fd)
			return -1, st, os.NewSyscallError("fcntl", err)
		}
		// Or its listener has closed, and removed the name, since we opened it.
		unix.Close(fd)
	}
}

// claimable reports what is in the way of locking the file behind fd.
func claimable(fd int, name string, mine func(uid uint32) bool) (st unix.Stat_t, err error) {
	if err := unix.Fstat(fd, &st); err != nil {
		return st, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, fmt.Errorf("%s is not a regular file", name)
	}
	if !mine(st.Uid) {
		if lock(fd) == nil {
			return st, fmt.Errorf("%s belongs to another user: %w", name, fs.ErrPermission)
		}
		return st, unix.EADDRINUSE
	}
	if st.Mode&othersWrite != 0 {
		return st, writableError(name)
	}
	return st, nil
}

// lockedForWriting reports whether somebody else has a lock on fd that a listener has.
// When in doubt it says so.
func lockedForWriting(fd int) bool {
	l := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l) != nil || l.Type == unix.F_WRLCK
}

// listen opens the socket, under a short name that nobody knows, and when it is ready
// gives it its own. The listener's name must be taken.
func (l *Listener) listen() (_ int, err error) {
	name := socketName(l.Base)
	var st unix.Stat_t
	switch err := unix.Fstatat(l.Dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Uid != uint32(os.Geteuid()):
		return -1, fmt.Errorf("%s belongs to another user: %w", name, fs.ErrPermission)
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return -1, fmt.Errorf("%s is not a socket", name)
	case err != nil && err != unix.ENOENT:
		return -1, os.NewSyscallError("fstatat", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var random [8]byte
	rand.Read(random[:])
	draft := draftPrefix(l.Base) + hex.EncodeToString(random[:])
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", l.Dir.fd, draft)}); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	defer func() {
		if err != nil {
			unix.Unlinkat(l.Dir.fd, draft, 0)
		}
	}()
	if err := l.chmodSocket(draft); err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, l.backlog); err != nil {
		return -1, os.NewSyscallError("listen", err)
	}
	if err := unix.Renameat(l.Dir.fd, draft, l.Dir.fd, name); err != nil {
		return -1, os.NewSyscallError("renameat", err)
	}
	return fd, nil
}

// chmodSocket gives the socket its mode. In a directory that others may write to, its
// name could lead elsewhere by now.
func (l *Listener) chmodSocket(name string) error {
	fd, err := unix.Openat(l.Dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &l.socket); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if l.socket.Mode&unix.S_IFMT != unix.S_IFSOCK || l.socket.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s was replaced by somebody: %w", name, fs.ErrPermission)
	}
	return os.NewSyscallError("chmod", unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(l.mode&0o666)))
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
		file := l.file
		l.file, l.locked = -1, false
		if socket, err = l.announce(); err != nil {
			l.remove()
			l.file, l.locked = file, true
			l.page.magic.Store(listenerMagic)
			return -1, fmt.Errorf("the name was removed from outside and cannot be put back: %w", err)
		}
		unix.Close(file)
		return socket, nil
	}
	if !l.intact() {
		if err := l.write(); err != nil {
			return -1, fmt.Errorf("the listener's file was damaged from outside and cannot be mended: %w", err)
		}
	}
	if l.socketThere() {
		return -1, nil
	}
	if socket, err = l.listen(); err != nil {
		return -1, fmt.Errorf("the socket was removed from outside and cannot be put back: %w", err)
	}
	return socket, nil
}

// Unserved says that nobody listens on the socket that was returned last, so that
// Restore makes another one.
func (l *Listener) Unserved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.socket = unix.Stat_t{}
}

// Dev returns the file system that named segments of dialers are on.
func (l *Listener) Dev() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dev
}

// Accepted counts a connection, for tools.
func (l *Listener) Accepted() { l.count(&l.page.accepted) }

// Refused counts a dialer that was dropped, for tools.
func (l *Listener) Refused() { l.count(&l.page.refused) }

// Counts returns how often the two were called.
func (l *Listener) Counts() (accepted, refused uint64) {
	return l.page.accepted.Load(), l.page.refused.Load()
}

func (l *Listener) count(n *atomic.Uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n.Add(1)
	if !l.closed {
		unix.Pwrite(l.file, bytesOf(&l.page)[countersAt:], countersAt)
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
	Alive    bool // a listener has it locked
}

// ErrNoListener says that a name is absent, or was left by a listener that died.
var ErrNoListener = errors.New("nobody listens")

// Lookup reads the listener segment of base.
func Lookup(dir *Dir, base string) (Info, error) {
	name := Prefix + base
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|openFlags, 0)
	if err != nil {
		return Info{}, openError(name, err)
	}
	defer unix.Close(fd)
	return LookupFile(fd, name)
}

// LookupFile is Lookup for the segment behind fd, of that name.
func LookupFile(fd int, name string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Info{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Info{}, fmt.Errorf("%s is not a regular file", name)
	}
	if st.Mode&othersWrite != 0 {
		return Info{}, writableError(name)
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
		Alive:    lockedForWriting(fd),
		PID:      int(p.pid),
		Accepted: p.accepted.Load(),
		Refused:  p.refused.Load(),
	}, nil
}
