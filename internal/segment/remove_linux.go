package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RemoveListener removes the files that a listener on base has left which died, and
// returns their names. With dry it only says which these are.
//
// It takes the name as Announce does, by the same lock, and so never from a living
// listener: the error is EADDRINUSE then, and fs.ErrNotExist where there is nothing. A
// socket without a segment is left alone: no listener that dies leaves that, and one
// whose segment somebody else has removed is about to put it back.
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

// removeSocket removes the socket of base, whose name the caller has, and reports
// whether there was one.
func removeSocket(dir *Dir, base string, dry bool) (there bool, err error) {
	name := socketName(base)
	var st unix.Stat_t
	switch err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("fstatat", err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return false, fmt.Errorf("%s is not a socket", name)
	case !removes(st.Uid):
		return false, fmt.Errorf("%s belongs to another user: %w", name, fs.ErrPermission)
	}
	if !dry {
		if err := unix.Unlinkat(dir.fd, name, 0); err != nil {
			return false, os.NewSyscallError("unlinkat", err)
		}
	}
	return true, nil
}

// RemoveConns removes the connection segments that dialers of base have left which
// died, those that nobody has locked, and returns their names. With dry it only says
// which these are.
func RemoveConns(dir *Dir, base string, dry bool) (gone []string, err error) {
	return dir.removeConns(base, removes, dry)
}

// removes reports whether the caller removes what belongs to the user uid.
func removes(uid uint32) bool { return os.Geteuid() == 0 || uid == uint32(os.Geteuid()) }

// removable reports why the file page may not be removed: a listener lives, or it looks
// like something else whose name happens to be like ours.
func removable(dir *Dir, page string, dry bool) error {
	fd, err := unix.Openat(dir.fd, page, unix.O_RDONLY|openFlags, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is not a regular file", page)
	}
	if dry && Locked(fd) { // else the lock is waited for
		return unix.EADDRINUSE
	}
	if !removes(st.Uid) {
		return fmt.Errorf("%s belongs to another user: %w", page, fs.ErrPermission)
	}
	var head [12]byte
	switch err := pread(fd, head[:]); {
	case errors.Is(err, io.ErrUnexpectedEOF) && st.Size == 0:
		return nil // its listener died while it made it
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	magic, version := binary.NativeEndian.Uint64(head[:]), binary.NativeEndian.Uint32(head[8:])
	if st.Size != int64(PageSize) || magic != 0 && magic != listenerMagic || version > Version {
		return fmt.Errorf("%s is not a listener segment of this version", page)
	}
	return nil
}
