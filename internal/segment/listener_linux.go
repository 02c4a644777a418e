package segment

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Listener is a name that this process listens on: its segment, locked, and
// its socket. The segment is written as a file: its owner can truncate it, and
// its memory would then fault.
type Listener struct {
	Dir  *Dir
	Base string
	Geo  Geometry

	mode    fs.FileMode
	backlog int
	proc    *os.File // see Proc

	mu     sync.Mutex // guards the following
	closed bool
	file   int          // the segment
	locked bool         // by us: the name is ours
	dev    uint64       // its file system
	page   listenerPage // what is in it
	socket unix.Stat_t  // the socket as it was made
}

// Announce takes the name base in dir, and opens and returns its socket for
// listening, which the caller must close. The error is EADDRINUSE if a listener
// has the name, and fs.ErrPermission if another user's leftovers have it.
func Announce(dir *Dir, base string, g Geometry, mode fs.FileMode, backlog int) (*Listener, int, error) {
	proc, err := openProc()
	if err != nil {
		return nil, -1, err
	}
	l := &Listener{Dir: dir, Base: base, Geo: g, mode: mode, backlog: backlog, proc: proc, file: -1}
	socket, err := l.announce()
	if err != nil {
		l.Close()
		return nil, -1, err
	}
	return l, socket, nil
}

// Proc returns the directory in which this process's descriptors can be opened
// anew, by their numbers. It is open until Close.
func (l *Listener) Proc() *os.File { return l.proc }

func (l *Listener) announce() (socket int, err error) {
	if err := l.take(); err != nil {
		return -1, err
	}
	if l.Dir.inUse(l.Base, l.file) {
		l.locked = false // and the files are not ours to remove
		return -1, unix.EADDRINUSE
	}
	// The name belongs to this process from here on.
	l.Dir.sweep(l.Base)
	l.page.magic.Store(0)
	l.fill()
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

// fill puts into l.page what dialers have to know.
func (l *Listener) fill() {
	l.page.version = Version
	l.page.headerSize = uint32(PageSize)
	l.page.ringSize = uint64(l.Geo.RingSize)
	l.page.flags = l.Geo.flags()
	l.page.pid = uint32(os.Getpid())
	if l.page.reuse = l.Geo.reuse(); l.page.shared != 0 {
		l.page.reuse = 0
	}
}

// write stores l.page in the segment, the magic number last. To write allocates
// what is needed: the page is never mapped.
func (l *Listener) write() error {
	err := unix.Ftruncate(l.file, int64(PageSize))
	for err == unix.EINTR {
		err = unix.Ftruncate(l.file, int64(PageSize))
	}
	if err != nil {
		return l.Dir.error("ftruncate", Prefix+l.Base, err)
	}
	magic := l.page.magic.Swap(0)
	defer l.page.magic.Store(magic)
	if err := pwriteAt(l.file, bytesOf(&l.page), 0); err == unix.ENOSPC {
		return l.Dir.noRoom(fmt.Sprintf("the %d bytes of a listener", PageSize), err)
	} else if err != nil || magic == 0 {
		return l.writeError(err)
	}
	l.page.magic.Store(magic)
	return l.writeError(pwriteAt(l.file, bytesOf(&l.page)[:8], 0))
}

func (l *Listener) writeError(err error) error {
	if err == nil {
		return nil
	}
	return l.Dir.error("pwrite", Prefix+l.Base, err)
}

// intact reports whether the segment is as it was written.
func (l *Listener) intact() bool {
	p := new(listenerPage)
	return pread(l.file, bytesOf(p)) == nil && bytes.Equal(bytesOf(p)[:countersAt], bytesOf(&l.page)[:countersAt])
}

// listen opens the socket under a short random name, and renames it when it is
// ready. The caller has the listener's name.
func (l *Listener) listen() (_ int, err error) {
	name := socketName(l.Base)
	if _, err := l.Dir.staleSocket(l.Base, func(uid uint32) bool { return uid == uint32(os.Geteuid()) }); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, Explain(os.NewSyscallError("socket", err))
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var random [draftRandom]byte
	rand.Read(random[:])
	draft := draftPrefix(l.Base) + hex.EncodeToString(random[:])
	switch err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.Dir.address(draft)}); err {
	case nil:
	case unix.ENOSPC:
		return -1, l.Dir.noRoom("the listener's socket", err)
	case unix.ENOENT:
		if proc, procErr := openProc(); procErr == nil {
			proc.Close()
			return -1, fmt.Errorf("the directory %s was removed: %w", l.Dir.path, err)
		}
		return -1, fmt.Errorf("%s: the socket cannot be made: %w", l.Dir.at(name), ErrNoProc)
	default:
		return -1, l.Dir.error("bind", draft, err)
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
		return -1, l.Dir.error("listen", draft, err)
	}
	if err := unix.Renameat(l.Dir.fd, draft, l.Dir.fd, name); err != nil {
		return -1, l.Dir.error("renameat", name, err)
	}
	return fd, nil
}

// chmodSocket gives the socket its mode. In a directory that others may write
// to, its name could lead elsewhere by now.
func (l *Listener) chmodSocket(name string) error {
	fd, err := unix.Openat(l.Dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return l.Dir.error("openat", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &l.socket); err != nil {
		return l.Dir.error("fstat", name, err)
	}
	if l.socket.Mode&unix.S_IFMT != unix.S_IFSOCK || l.socket.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s was replaced by another process: %w", l.Dir.at(name), fs.ErrPermission)
	}
	if err := unix.Fchmodat(int(l.proc.Fd()), strconv.Itoa(fd), uint32(l.mode&0o666), 0); err != nil {
		return l.Dir.error("fchmodat", name, err)
	}
	return nil
}

// Restore checks whether the listener's files are still there. If not, it puts
// them back and returns a new socket to listen on; the old one only serves its
// backlog. It returns -1 if there was nothing to do.
func (l *Listener) Restore() (socket int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return -1, nil
	}
	same, err := sameFile(l.Dir.fd, Prefix+l.Base, l.file)
	if err != nil {
		return -1, nil // the next check may find out
	}
	if !l.locked && same && !l.succeed() {
		return -1, nil // the files are another process's to look after
	}
	if !same {
		file, locked := l.file, l.locked
		l.file, l.locked = -1, false
		if socket, err = l.announce(); err != nil {
			l.remove()
			l.file, l.locked = file, locked
			l.page.magic.Store(listenerMagic)
			if !locked && errors.Is(err, unix.EADDRINUSE) {
				return -1, nil // that process has put them back
			}
			return -1, fmt.Errorf("the name was removed from outside and cannot be put back: %w", err)
		}
		unix.Close(file)
		return socket, nil
	}
	if !l.intact() {
		if err := l.write(); err != nil {
			return -1, fmt.Errorf("the listener's file was damaged from outside and cannot be repaired: %w", err)
		}
	}
	if there, err := l.socketThere(); there || err != nil {
		return -1, nil
	}
	if socket, err = l.listen(); err != nil {
		return -1, fmt.Errorf("the socket was removed from outside and cannot be put back: %w", err)
	}
	return socket, nil
}

// Unserved records that nobody listens on the socket that was returned last, so
// that Restore makes another.
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

// Accepted counts a connection, also for tools, and returns how many there
// were.
func (l *Listener) Accepted() uint64 { return l.count(&l.page.accepted) }

// Refused counts a dialer that was dropped, for tools.
func (l *Listener) Refused() { l.count(&l.page.refused) }

// Counts returns how often the two were called.
func (l *Listener) Counts() (accepted, refused uint64) {
	return l.page.accepted.Load(), l.page.refused.Load()
}

func (l *Listener) count(n *atomic.Uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := n.Add(1)
	if !l.closed && l.locked {
		unix.Pwrite(l.file, bytesOf(&l.page)[countersAt:], countersAt)
	}
	return count
}

// socketThere is sameFile for the socket.
func (l *Listener) socketThere() (bool, error) {
	var st unix.Stat_t
	there, err := statName(l.Dir.fd, socketName(l.Base), &st)
	return there && st.Ino == l.socket.Ino && st.Dev == l.socket.Dev, err
}

// Close removes what is still the listener's own and closes its files.
func (l *Listener) Close() {
	l.Release(true)
	l.proc.Close()
}

func (l *Listener) remove() {
	if l.locked {
		if there, _ := l.socketThere(); there {
			unix.Unlinkat(l.Dir.fd, socketName(l.Base), 0)
		}
		unlinkIfSame(l.Dir.fd, Prefix+l.Base, l.file)
	}
	if l.file >= 0 {
		unix.Close(l.file)
		l.file = -1
	}
}
