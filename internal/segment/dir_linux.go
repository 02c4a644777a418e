package segment

import (
	"errors"
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

// Path returns the directory's path, which is absolute.
func (d *Dir) Path() string { return d.path }

// at returns the path of name in the directory.
func (d *Dir) at(name string) string { return filepath.Join(d.path, name) }

// error is the error of a system call about name in the directory.
func (d *Dir) error(call, name string, err error) error {
	return Explain(&os.PathError{Op: call, Path: d.at(name), Err: err})
}

// Explain adds the remedy to err, if there is one.
func Explain(err error) error {
	switch {
	case err == nil:
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w (in this process: RLIMIT_NOFILE)", err)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w (of the machine: fs.file-max)", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (of the machine or the control group; addresses: RLIMIT_AS; mappings: vm.max_map_count)", err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w (another directory: SHMCONN_DIR, or a name with a slash)", err)
	}
	return err
}

// A Socket is a listener's socket, which can be connected to.
type Socket struct {
	fd   int
	Name SocketName
}

// A SocketName is a socket's name with its directory, and the file that it led
// to.
type SocketName struct {
	path     string
	dev, ino uint64
}

// Path returns the name.
func (n SocketName) Path() string { return n.path }

// Short reports whether the name is short enough for an address.
func (n SocketName) Short() bool { return len(n.path) <= maxAddress }

// Same reports whether the name leads to the same file as it did.
func (n SocketName) Same() bool {
	var st unix.Stat_t
	return unix.Fstatat(unix.AT_FDCWD, n.path, &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		uint64(st.Dev) == n.dev && st.Ino == n.ino
}

// OpenSocket finds the socket of name base. The caller closes it.
func (d *Dir) OpenSocket(base string) (*Socket, error) {
	name := socketName(base)
	fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, &NobodyError{Path: d.at(name), Why: "there is no such socket", Soon: true}
	}
	if err != nil {
		return nil, d.error("openat", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, d.error("fstat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is not a socket", d.at(name))
	}
	return &Socket{fd, SocketName{d.at(name), uint64(st.Dev), st.Ino}}, nil
}

// Path returns the socket's name with its directory.
func (s *Socket) Path() string { return s.Name.path }

// Address returns an address to connect to, by way of /proc: the name can be
// too long for one, and lead elsewhere by now. Without /proc connect says that
// it is absent, whatever the socket does.
func (s *Socket) Address() string { return fmt.Sprintf("/proc/self/fd/%d", s.fd) }

// maxAddress is how long the path of a socket can be: sockaddr_un.sun_path with
// its 0.
const maxAddress = 108 - 1

// ByName returns the address to connect to where there is no /proc: the name of
// the socket. Once connected, the caller asks Same.
func (s *Socket) ByName() (string, error) {
	if !s.Name.Short() {
		return "", fmt.Errorf("%s: %w, and the path is longer than the %d bytes of a socket's address", s.Path(), ErrNoProc, maxAddress)
	}
	return s.Path(), nil
}

// Same reports whether the socket's name leads to it still.
func (s *Socket) Same() (bool, error) { return sameFile(unix.AT_FDCWD, s.Path(), s.fd) }

// Close closes the descriptor.
func (s *Socket) Close() { unix.Close(s.fd) }

// ErrNoProc means that /proc is needed.
var ErrNoProc = errors.New("/proc is not mounted here, or does not show this process")

// openProc opens the directory of this process's descriptors, by which they can
// be opened anew: later on too, when the process has another root.
func openProc() (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), "/proc/self/fd"), nil
	case unix.ENOENT, unix.ENOTDIR:
		return nil, ErrNoProc
	}
	return nil, Explain(&os.PathError{Op: "open", Path: "/proc/self/fd", Err: err})
}

func socketName(base string) string { return Prefix + base + "@sock" }

// draftPrefix is what the name of base's socket starts with until that is
// ready. It has a hash in it because base can be too long for a socket's
// address.
func draftPrefix(base string) string {
	h := fnv.New64a()
	h.Write([]byte(base))
	return fmt.Sprintf("%s@%016x", Prefix, h.Sum64())
}

// isDraft reports whether name is one that a draft of base's socket can have.
func isDraft(name, base string) bool {
	random, ok := strings.CutPrefix(name, draftPrefix(base))
	return ok && len(random) == 2*draftRandom && strings.Trim(random, "0123456789abcdef") == ""
}

const draftRandom = 8 // bytes

// othersWrite are the permission bits that none of our files but sockets has:
// with them, any user may have written to the file.
const othersWrite = 0o022

func writableError(path string) error {
	return fmt.Errorf("%s can be written by others: %w", path, fs.ErrPermission)
}

// openError explains err if name cannot be opened because of its type.
func (d *Dir) openError(name string, err error) error {
	if err == unix.ELOOP || err == unix.EISDIR || err == unix.ENXIO {
		return fmt.Errorf("%s is not a regular file: %w", d.at(name), os.NewSyscallError("openat", err))
	}
	if err == unix.ENOSPC {
		return d.noRoom("the file "+name, err)
	}
	return d.error("openat", name, err)
}

// noRoom explains why there is no room for what in the directory, with the
// bytes or files of its file system.
func (d *Dir) noRoom(what string, err error) error {
	var st unix.Statfs_t
	if unix.Fstatfs(d.fd, &st) != nil {
		return fmt.Errorf("no room for %s in %s: %w", what, d.path, err)
	}
	if st.Files > 0 && st.Ffree == 0 {
		return fmt.Errorf("no room for %s in %s, whose file system has no inode left of %d: "+
			"remove files there, or mount it with more (nr_inodes): %w", what, d.path, st.Files, err)
	}
	return fmt.Errorf("no room for %s in %s, whose file system has %d bytes free: "+
		"smaller rings need less (RingSize), anonymous memory none of it (Anonymous): %w",
		what, d.path, st.Bavail*uint64(st.Bsize), err)
}

// sameFile reports whether name in the directory dir is the file behind fd. An
// error means that it cannot find out now; an absent name is no error.
func sameFile(dir int, name string, fd int) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(fd, &b); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	there, err := statName(dir, name, &a)
	return there && a.Dev == b.Dev && a.Ino == b.Ino, err
}

// statName says what has the name, and whether anything has.
func statName(dir int, name string, st *unix.Stat_t) (there bool, err error) {
	for {
		switch err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW); err {
		case nil:
			return true, nil
		case unix.ENOENT:
			return false, nil
		case unix.EINTR:
		default:
			return false, os.NewSyscallError("fstatat", err)
		}
	}
}

// unlinkIfSame removes name if it is the file behind fd, and reports whether it
// did.
func unlinkIfSame(dir int, name string, fd int) bool {
	same, _ := sameFile(dir, name, fd)
	return same && unix.Unlinkat(dir, name, 0) == nil
}

// lock takes the lock of the file behind fd, for as long as any descriptor of
// this opening of it lives, in whichever process. It does not wait.
func lock(fd int) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// locked reports whether err means that another process has the lock.
func locked(err error) bool { return err == unix.EAGAIN || err == unix.EACCES }

// lockFor is lock that tries for a while: a child of the holder, between its
// fork and its exec, can have the descriptor for some milliseconds after the
// holder has closed it.
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

// sweep removes what killed processes of the caller's user have left of base:
// sockets that were not ready yet, and unlocked connection segments with a
// name. The caller has the name, so no other process is making one of these.
func (d *Dir) sweep(base string) {
	d.removeConns(base, func(uid uint32) bool { return uid == uint32(os.Geteuid()) }, false)
	names, _ := d.names()
	for _, name := range names {
		if isDraft(name, base) {
			d.sweepDraft(name)
		}
	}
}

// names returns the names of all that is in the directory.
func (d *Dir) names() ([]string, error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.error("openat", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	return f.Readdirnames(-1)
}

// removeConns removes the connection segments of base that have a name and are
// not locked, if their owners are mine, and returns their names. With dry it
// only returns the names.
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
			mine(st.Uid) && (dry && !Locked(fd) || !dry && lock(fd) == nil) && isConn(fd, st.Size) {
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
func pwrite(fd int, b []byte) error { return os.NewSyscallError("pwrite", pwriteAt(fd, b, 0)) }

func pwriteAt(fd int, b []byte, at int) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, int64(at))
		if err != nil && err != unix.EINTR {
			return err
		}
		if err == nil {
			b, at = b[n:], at+n
		}
	}
	return nil
}
