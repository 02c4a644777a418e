package segment

import (
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// RemoveListener removes the files that a dead listener on base has left, and
// returns their names. With dry it only returns the names.
//
// It takes the name as Announce does, by the same lock, and so never from a
// living listener: the error is EADDRINUSE then, and fs.ErrNotExist if there is
// nothing. It leaves alone a socket without a segment: no listener that dies
// leaves that, and a listener whose segment was removed is about to put it
// back.
func RemoveListener(dir *Dir, base string, dry bool) (gone []string, err error) {
	page := Prefix + base
	if err := removable(dir, page, dry); err != nil {
		return nil, err
	}
	var fd int
	if !dry {
		if fd, _, err = dir.claim(base, 0, removes); err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		if dir.inUse(base, fd) {
			return nil, unix.EADDRINUSE
		}
	}
	there, err := removeSocket(dir, base, dry)
	if err != nil {
		return nil, err
	}
	if there {
		gone = append(gone, socketName(base))
	}
	if dry || unlinkIfSame(dir.fd, page, fd) {
		gone = append(gone, page)
	}
	return gone, nil
}

// removeSocket removes the socket of base, whose name the caller has, and
// reports whether there was one.
func removeSocket(dir *Dir, base string, dry bool) (there bool, err error) {
	name := socketName(base)
	if there, err := dir.staleSocket(base, removes); !there || err != nil {
		return false, err
	}
	if !dry {
		if err := unix.Unlinkat(dir.fd, name, 0); err != nil {
			return false, dir.error("unlinkat", name, err)
		}
	}
	return true, nil
}

// staleSocket reports whether there is a socket with base's name, and returns
// an error if it must not be removed because it is not mine, or no listener's.
// The caller has the name.
func (d *Dir) staleSocket(base string, mine func(uid uint32) bool) (there bool, err error) {
	name := socketName(base)
	fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, d.error("openat", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		return false, d.error("fstat", name, err)
	case !mine(st.Uid):
		return false, fmt.Errorf("%s belongs to another user: %w", d.at(name), fs.ErrPermission)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return false, fmt.Errorf("%s is not a socket", d.at(name))
	}
	// A socket of another type on which a process listens is another program's.
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, Explain(os.NewSyscallError("socket", err))
	}
	defer unix.Close(sock)
	if unix.Connect(sock, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", fd)}) == unix.EPROTOTYPE {
		return false, fmt.Errorf("%s is another program's socket: it is left as it is", d.at(name))
	}
	return true, nil
}

// RemoveConns removes the unlocked connection segments that dead dialers of
// base have left, and returns their names. With dry it only returns the names.
func RemoveConns(dir *Dir, base string, dry bool) (gone []string, err error) {
	return dir.removeConns(base, removes, dry)
}

// removes reports whether the caller removes what belongs to the user uid.
func removes(uid uint32) bool { return os.Geteuid() == 0 || uid == uint32(os.Geteuid()) }

// removable returns an error if the file page must not be removed: a listener
// lives, or the file only has a name like ours.
func removable(dir *Dir, page string, dry bool) error {
	fd, err := unix.Openat(dir.fd, page, unix.O_RDONLY|openFlags, 0)
	if err != nil {
		return dir.openError(page, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return dir.error("fstat", page, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is not a regular file", dir.at(page))
	}
	if dry && (Locked(fd) || dir.inUse(strings.TrimPrefix(page, Prefix), fd)) { // otherwise wait for the lock
		return unix.EADDRINUSE
	}
	if !removes(st.Uid) {
		return fmt.Errorf("%s belongs to another user: %w", dir.at(page), fs.ErrPermission)
	}
	if err := isListener(fd, dir.at(page)); err != nil {
		return err
	}
	p := new(listenerPage)
	if err := pread(fd, bytesOf(p)); err == nil && p.version > Version {
		return fmt.Errorf("%s is not a listener segment of this version, %d, but of %d", dir.at(page), Version, p.version)
	}
	return nil
}
