package segment

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// take opens, or makes, the listener segment and locks it.
func (l *Listener) take() error {
	own := func(uid uint32) bool { return uid == uint32(os.Geteuid()) }
	fd, st, err := l.Dir.claim(l.Base, unix.O_CREAT, own)
	if err != nil {
		return err
	}
	l.file, l.locked, l.dev = fd, true, uint64(st.Dev)
	if err := unix.Fchmod(l.file, uint32(0o600|l.mode&0o444)); err != nil {
		return l.Dir.error("fchmod", Prefix+l.Base, err)
	}
	return nil
}

// isListener returns an error if no listener has made the file behind fd, at
// path: other files are never changed. A listener that was killed while it made
// the file has left an empty file, a page of zeros, or a page that is complete
// but for its magic number.
func isListener(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Size == 0 {
		return nil
	}
	if st.Size == int64(PageSize) {
		page := make([]byte, PageSize)
		if err := pread(fd, page); err != nil {
			return &os.PathError{Op: "pread", Path: path, Err: err}
		}
		p := new(listenerPage)
		rest := page[copy(bytesOf(p), page):]
		switch magic := p.magic.Load(); {
		case magic == listenerMagic:
			return nil
		case magic == 0 && (allZero(page) || p.valid() && allZero(rest)):
			return nil
		}
	}
	return fmt.Errorf("%s is not a listener segment but another file, of %d bytes: it is left as it is; "+
		"remove it, or take another name", path, st.Size)
}

// valid reports whether the page holds what a listener of this version writes,
// but for the magic number.
func (p *listenerPage) valid() bool {
	return p.version == Version && p.headerSize == uint32(PageSize) &&
		p.ringSize <= MaxRing && CheckRingSize(int(p.ringSize)) == nil && p.flags&^flagAnonymous == 0
}

// claim opens the listener segment of base, with more flags, and locks it. mine
// reports whether the caller may take a segment of that owner.
func (d *Dir) claim(base string, flags int, mine func(uid uint32) bool) (fd int, st unix.Stat_t, err error) {
	name := Prefix + base
	path := d.at(name)
	for {
		fd, err = unix.Openat(d.fd, name, unix.O_RDWR|flags|openFlags, 0o600)
		if err != nil {
			return -1, st, d.openError(name, err)
		}
		if st, err = claimable(fd, path, mine); err != nil {
			unix.Close(fd)
			return -1, st, err
		}
		err = lockFor(fd, 100*time.Millisecond)
		var same bool
		if err == nil {
			if same, err = sameFile(d.fd, name, fd); err != nil {
				unix.Close(fd)
				return -1, st, err
			}
		}
		if same {
			if st.Nlink == 1 {
				if err := isListener(fd, path); err != nil {
					unix.Close(fd)
					return -1, st, err
				}
				return fd, st, nil
			}
			// A file of ours that was linked to this name, too: the name is
			// removed, and the file stays as it is.
			if err := unix.Unlinkat(d.fd, name, 0); err != nil {
				unix.Close(fd)
				return -1, st, d.error("unlinkat", name, err)
			}
			flags |= unix.O_CREAT
		}
		if err == unix.EADDRINUSE {
			if lockedForWriting(fd) {
				unix.Close(fd)
				return -1, st, err
			}
			if err := isListener(fd, path); err != nil {
				unix.Close(fd)
				return -1, st, err
			}
			// No listener has it: some dialer has a lock for reading, the only
			// kind it can take. It may keep the old file.
			unlinkIfSame(d.fd, name, fd)
			flags |= unix.O_CREAT
		} else if err != nil {
			unix.Close(fd)
			return -1, st, d.error("fcntl", name, err)
		}
		// Or its listener has closed and removed the name since we opened it.
		unix.Close(fd)
	}
}

// claimable returns an error if the file behind fd must not be locked.
func claimable(fd int, path string, mine func(uid uint32) bool) (st unix.Stat_t, err error) {
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, fmt.Errorf("%s is not a regular file", path)
	}
	if !mine(st.Uid) {
		if lock(fd) == nil {
			return st, fmt.Errorf("%s belongs to another user: %w", path, fs.ErrPermission)
		}
		return st, unix.EADDRINUSE
	}
	if st.Mode&othersWrite != 0 {
		return st, writableError(path)
	}
	return st, nil
}

// lockedForWriting reports whether another process has a listener's lock on fd;
// in doubt, true.
func lockedForWriting(fd int) bool {
	l := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l) != nil || l.Type == unix.F_WRLCK
}
