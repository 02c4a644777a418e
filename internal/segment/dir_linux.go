package segment

import (
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Dir is an open directory in which names live.
type Dir struct {
	fd   int
	path string // absolute
}

// OpenDir opens the directory at path.
func OpenDir(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(abs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: abs, Err: err}
	}
	return &Dir{fd: fd, path: abs}, nil
}

// Close closes the directory.
func (d *Dir) Close() { unix.Close(d.fd) }

// OpenSocket returns a descriptor for the socket of name base, to be closed by the
// caller, and a path to connect to while it is open: the real one can be too long for a
// socket's address.
func (d *Dir) OpenSocket(base string) (fd int, path string, err error) {
	fd, err = unix.Openat(d.fd, socketName(base), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", os.NewSyscallError("openat", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, "", os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return -1, "", fmt.Errorf("%s is not a socket", socketName(base))
	}
	return fd, fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

func socketName(base string) string { return Prefix + base + "@sock" }

// draftPrefix is what the name of base's socket starts with until that is ready. It has
// a hash in it because base can be too long for a socket's address.
func draftPrefix(base string) string {
	h := fnv.New64a()
	h.Write([]byte(base))
	return fmt.Sprintf("%s@%016x", Prefix, h.Sum64())
}

// othersWrite are the permission bits that none of our files but sockets has: with them,
// who has written to it cannot be told.
const othersWrite = 0o022

func writableError(name string) error {
	return fmt.Errorf("%s can be written by others: %w", name, fs.ErrPermission)
}

// openError says so if name cannot be opened because of what it is.
func openError(name string, err error) error {
	call := os.NewSyscallError("openat", err)
	if err == unix.ELOOP || err == unix.EISDIR || err == unix.ENXIO {
		return fmt.Errorf("%s is not a regular file: %w", name, call)
	}
	return call
}

// sameFile reports whether name in the directory dir is the file behind fd.
func sameFile(dir int, name string, fd int) bool {
	var a, b unix.Stat_t
	return unix.Fstat(fd, &b) == nil &&
		unix.Fstatat(dir, name, &a, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

// unlinkIfSame removes name if it is the file behind fd, and reports whether it did.
func unlinkIfSame(dir int, name string, fd int) bool {
	return sameFile(dir, name, fd) && unix.Unlinkat(dir, name, 0) == nil
}

// lock takes the lock of the file behind fd, for as long as any descriptor of this
// opening of it lives, in whichever process. It does not wait.
func lock(fd int) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// locked reports whether err says that somebody else has the lock.
func locked(err error) bool { return err == unix.EAGAIN || err == unix.EACCES }

// lockFor is lock that tries for a while: a child of the holder, between its fork
// and its exec, can have the descriptor for some milliseconds after the holder has
// closed it.
func lockFor(fd int, d time.Duration) error {
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		err := lock(fd)
		if err == nil || !locked(err) {
			return err
		}
		if time.Now().After(end) {
			return unix.EADDRINUSE
		}
	}
}

// sweep removes what killed processes of the caller's user have left of base: the
// connection segments that nobody has locked, and sockets that were not ready yet. The
// caller has the name, so that nobody else is making one of these.
func (d *Dir) sweep(base string) {
	d.removeConns(base, func(uid uint32) bool { return uid == uint32(os.Geteuid()) }, false)
	names, _ := d.names()
	for _, name := range names {
		if strings.HasPrefix(name, draftPrefix(base)) {
			d.sweepDraft(name)
		}
	}
}

// names returns the names of all that is in the directory.
func (d *Dir) names() ([]string, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// removeConns removes the connection segments of base that nobody has locked, if their
// owners are mine, and returns their names. With dry it does nothing else.
func (d *Dir) removeConns(base string, mine func(uid uint32) bool, dry bool) (gone []string, err error) {
	names, err := d.names()
	for _, name := range names {
		if kind, of, _ := ParseFile(name); kind != ConnFile || of != base {
			continue
		}
		fd, err := unix.Openat(d.fd, name, unix.O_RDWR|openFlags, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&othersWrite == 0 &&
			mine(st.Uid) && (dry && !Locked(fd) || !dry && lock(fd) == nil) {
			if dry || unlinkIfSame(d.fd, name, fd) {
				gone = append(gone, name)
			}
		}
		unix.Close(fd)
	}
	return gone, err
}

func (d *Dir) sweepDraft(name string) {
	var st unix.Stat_t
	if unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFSOCK && st.Uid == uint32(os.Geteuid()) {
		unix.Unlinkat(d.fd, name, 0)
	}
}

// pread fills b from the start of the file behind fd.
func pread(fd int, b []byte) error {
	for off := 0; off < len(b); {
		n, err := unix.Pread(fd, b[off:], int64(off))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("pread", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			off += n
		}
	}
	return nil
}

// pwrite writes b to the start of the file behind fd.
func pwrite(fd int, b []byte) error {
	for off := 0; off < len(b); {
		n, err := unix.Pwrite(fd, b[off:], int64(off))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("pwrite", err)
		default:
			off += n
		}
	}
	return nil
}
