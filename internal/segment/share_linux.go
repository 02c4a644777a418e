package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Share says in the segment that other processes may have the socket: a dialer
// then asks the socket, and not only the lock, whether somebody listens. From
// here on no segment is used again.
func (l *Listener) Share() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.page.shared, l.page.reuse = 1, 0
	if l.closed || !l.locked {
		return nil // the process that has the lock has said so
	}
	return l.rewrite()
}

// rewrite stores l.page in a segment that is whole: it is so all the time.
func (l *Listener) rewrite() error {
	const behindMagic = 8
	return l.writeError(pwriteAt(l.file, bytesOf(&l.page)[behindMagic:], behindMagic))
}

// inUse reports whether the socket of base is open in some process, though
// nobody has the lock, which the caller has taken: the listener has shared its
// socket. fd is the segment. It connects to find out.
func (d *Dir) inUse(base string, fd int) bool {
	p := new(listenerPage)
	if pread(fd, bytesOf(p)) != nil || p.magic.Load() != listenerMagic || p.version != Version || p.shared == 0 {
		return false
	}
	to, err := d.OpenSocket(base)
	if err != nil {
		return false
	}
	defer to.Close()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return true // when in doubt
	}
	defer unix.Close(sock)
	err = unix.Connect(sock, &unix.SockaddrUnix{Name: to.Address()})
	return err == nil || err == unix.EAGAIN
}

// Adopt is Announce for a socket that listens already, and has the name base in
// dir: it was made by a listener in another process, or by a service manager.
// It returns the listener, whose geometry is that of the name where somebody
// listens or has listened on that, because dialers may wait who know it.
//
// The process that had the name keeps the lock, and looks after the files, for
// as long as it listens.
func Adopt(dir *Dir, base string, g Geometry, anyRing bool, mode fs.FileMode, backlog int) (*Listener, error) {
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	l := &Listener{Dir: dir, Base: base, Geo: g, mode: mode, backlog: backlog, proc: proc, file: -1}
	if err := l.adopt(anyRing); err != nil {
		l.Release(false)
		l.proc.Close()
		return nil, err
	}
	return l, nil
}

func (l *Listener) adopt(anyRing bool) error {
	there, err := statName(l.Dir.fd, socketName(l.Base), &l.socket)
	switch {
	case err != nil:
		return l.Dir.error("fstatat", socketName(l.Base), err)
	case !there:
		return fmt.Errorf("%s is not there any more: no dialer finds the socket", l.Dir.at(socketName(l.Base)))
	case l.socket.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s is not a socket", l.Dir.at(socketName(l.Base)))
	}
	for range 100 {
		joined, err := l.join()
		if err != nil {
			return err
		}
		if !joined {
			if err = l.take(); err == unix.EADDRINUSE {
				continue // somebody has locked it meanwhile
			}
		}
		if err != nil {
			return err
		}
		return l.keepGeometry(anyRing)
	}
	return unix.EADDRINUSE
}

// join opens the segment where another process has it locked. It reports false
// where nobody has.
func (l *Listener) join() (ok bool, err error) {
	name := Prefix + l.Base
	fd, err := unix.Openat(l.Dir.fd, name, unix.O_RDWR|openFlags, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, l.Dir.openError(name, err)
	}
	defer func() {
		if !ok {
			unix.Close(fd)
		}
	}()
	st, err := claimable(fd, l.Dir.at(name), func(uid uint32) bool { return uid == uint32(os.Geteuid()) })
	if err != nil || !lockedForWriting(fd) {
		return false, err
	}
	info, err := LookupFile(fd, l.Dir.at(name))
	if err != nil {
		return false, err
	}
	if !info.Shared {
		return false, fmt.Errorf("%s: a listener that has not shared its socket has the name: %w", info.Path, os.NewSyscallError("fcntl", unix.EADDRINUSE))
	}
	l.file, l.dev = fd, uint64(st.Dev)
	return true, nil
}

// keepGeometry takes the geometry from the segment, or gives one to it that was
// just made.
func (l *Listener) keepGeometry(anyRing bool) error {
	l.Geo.Reuse = false
	info, err := LookupFile(l.file, l.Dir.at(Prefix+l.Base))
	// What nobody has shared nobody waits with.
	fresh := errors.Is(err, ErrNoListener) || err == nil && l.locked && !info.Shared
	switch {
	case fresh:
	case err != nil:
		return err
	default:
		if err := info.Fits(l.Geo, anyRing); err != nil {
			return err
		}
		l.Geo.RingSize, l.Geo.Anonymous = info.RingSize, info.Anonymous
	}
	l.fill()
	l.page.shared = 1
	l.page.magic.Store(listenerMagic)
	switch {
	case fresh:
		l.Dir.sweep(l.Base)
		return l.write()
	case l.locked:
		return l.rewrite()
	}
	return nil
}

// Fits returns an error if a listener that was asked for connections of g, or
// with anyRing for rings of any size, cannot have the socket of the one that
// info is of.
func (info Info) Fits(g Geometry, anyRing bool) error {
	if !anyRing && info.RingSize != g.RingSize {
		return fmt.Errorf("%s has rings of %d bytes, and dialers may wait with such: this listener cannot have rings of %d",
			info.Path, info.RingSize, g.RingSize)
	}
	if g.Anonymous && !info.Anonymous {
		return fmt.Errorf("%s is of connections in files, and dialers may wait with such: this listener cannot be Anonymous", info.Path)
	}
	return nil
}

// Succeed takes the lock at once that Restore would take, where nobody has it.
func (l *Listener) Succeed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && !l.locked {
		l.succeed()
	}
}

// succeed takes the lock of a listener that has ended and left the name to this
// one. It reports whether this process has it now.
func (l *Listener) succeed() bool {
	if lock(l.file) != nil {
		return false
	}
	l.locked = true
	l.rewrite() // where that fails Restore tries again: the page is not intact
	return true
}

// Release closes the segment, and lets go of the name so. It removes the files
// that are still the listener's own before, if nobody else has the socket.
func (l *Listener) Release(remove bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	if remove && !l.locked && l.file >= 0 && l.page.shared != 0 {
		l.locked = lock(l.file) == nil
	}
	l.locked = l.locked && remove
	l.remove()
}

// address returns one to bind a socket to that is to have name in d: by d's
// path, so that a process that is given the socket knows where it is, or by
// way of /proc where that is too long or leads elsewhere.
func (d *Dir) address(name string) string {
	if same, err := sameFile(unix.AT_FDCWD, d.path, d.fd); err == nil && same && len(d.at(name)) <= maxAddress {
		return d.at(name)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name)
}

// SocketListener returns the directory and the name of the listener whose
// socket is bound to address. hint is what it may be called where the address
// does not say.
func SocketListener(address, hint string) (dir, base string, err error) {
	dir, file := path.Split(address)
	if kind, base, _ := ParseFile(file); kind == SocketFile && path.IsAbs(dir) {
		return filepath.Clean(dir), base, nil
	}
	if path.IsAbs(dir) && !strings.HasPrefix(dir, "/proc/self/fd/") {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", "", err
		}
		for _, e := range entries {
			if kind, base, _ := ParseFile(e.Name()); kind == SocketFile && isDraft(file, base) {
				return filepath.Clean(dir), base, nil
			}
		}
	}
	if dir, base, err := ParseName(hint); err == nil && isDraft(file, base) {
		return dir, base, nil
	}
	return "", "", fmt.Errorf("a socket that is bound to %q is not, or no longer, one at %sNAME@sock in a directory", address, Prefix)
}

// DisplayName returns what base in dir is called: just base, where that leads
// there.
func DisplayName(dir, base string) string {
	usual, _, err := ParseName(base)
	if err == nil {
		if usual, err = filepath.Abs(usual); err == nil && usual == dir {
			return base
		}
	}
	return dir + "/" + base
}

// LeadsTo reports whether the name of base's socket leads to a file with this
// inode, of which the kernel has told 32 bits, on this device.
func (d *Dir) LeadsTo(base string, dev uint64, ino uint32) bool {
	var st unix.Stat_t
	there, err := statName(d.fd, socketName(base), &st)
	return err != nil || !there || uint64(st.Dev) == dev && uint32(st.Ino) == ino
}
