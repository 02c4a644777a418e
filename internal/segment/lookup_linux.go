package segment

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Info is the contents of a listener segment.
type Info struct {
	Geometry
	UID      uint32 // the owner of the file
	PID      int
	Accepted uint64
	Refused  uint64
	Alive    bool   // a listener has it locked
	Shared   bool   // without that, too, somebody may have the socket
	Path     string // as it was looked up
}

// ErrNoListener is what every NobodyError is.
var ErrNoListener = errors.New("nobody listens")

// A NobodyError means that nobody listens on a name: it is absent, was left by
// a listener that died, or is being made.
type NobodyError struct {
	Path string // the file, or directory, that shows it
	Why  string
	Soon bool  // a listener may exist in a moment
	Err  error // of the system, or nil
}

func (e *NobodyError) Error() string { return e.Path + ": " + e.Why }

func (e *NobodyError) Is(target error) bool { return target == ErrNoListener }

func (e *NobodyError) Unwrap() error { return e.Err }

// A Found is a listener segment that was looked up, and is open still.
type Found struct {
	Info
	dir  *Dir
	base string
	fd   int
	st   unix.Stat_t
}

// Find is Lookup for a caller that looks again. It must Close what it is
// given.
func Find(dir *Dir, base string) (*Found, error) {
	fd, err := openListener(dir, base)
	if err != nil {
		return nil, err
	}
	f := &Found{dir: dir, base: base, fd: fd}
	if f.Info, err = lookupFile(fd, dir.at(Prefix+base), &f.st); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Again is what Lookup returns now, but for Alive. It opens nothing if the name
// leads to the same file, which nobody else can have taken for another: it is
// open.
func (f *Found) Again() (Info, error) {
	var st unix.Stat_t
	path := f.dir.at(Prefix + f.base)
	err := unix.Fstatat(f.dir.fd, Prefix+f.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Dev != f.st.Dev || st.Ino != f.st.Ino {
		return Lookup(f.dir, f.base)
	}
	if err := checkFile(&st, path); err != nil {
		return Info{}, err
	}
	return readPage(f.fd, &st, path, f.Alive)
}

// Close closes the file.
func (f *Found) Close() { unix.Close(f.fd) }

// Lookup reads the listener segment of base.
func Lookup(dir *Dir, base string) (Info, error) {
	fd, err := openListener(dir, base)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(fd)
	return LookupFile(fd, dir.at(Prefix+base))
}

func openListener(dir *Dir, base string) (int, error) {
	name := Prefix + base
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|openFlags, 0)
	if err == unix.ENOENT {
		return -1, &NobodyError{Path: dir.at(name), Why: "nobody listens, there is no such file", Err: err}
	}
	if err != nil {
		return -1, dir.openError(name, err)
	}
	return fd, nil
}

// LookupFile is Lookup for the segment behind fd, at path.
func LookupFile(fd int, path string) (Info, error) {
	return lookupFile(fd, path, new(unix.Stat_t))
}

// lookupFile is LookupFile that keeps what fstat says.
func lookupFile(fd int, path string, st *unix.Stat_t) (Info, error) {
	if err := unix.Fstat(fd, st); err != nil {
		return Info{}, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if err := checkFile(st, path); err != nil {
		return Info{}, err
	}
	// Asked before the page is read: a listener says that it has shared its socket
	// before it lets go of the lock.
	alive := lockedForWriting(fd)
	return readPage(fd, st, path, alive)
}

// checkFile returns an error if a file cannot be a listener segment.
func checkFile(st *unix.Stat_t, path string) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode&othersWrite != 0 {
		return writableError(path)
	}
	return nil
}

// readPage reads the listener segment behind fd, of which st is known.
func readPage(fd int, st *unix.Stat_t, path string, alive bool) (Info, error) {
	p := new(listenerPage)
	switch err := pread(fd, bytesOf(p)); {
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && p.magic.Load() == 0:
		// A listener is making or repairing it, or has died while doing so.
		e := &NobodyError{Path: path, Why: "the listener has died while it began to listen"}
		if lockedForWriting(fd) {
			e.Why, e.Soon = "the listener is not ready", true
		}
		return Info{UID: st.Uid}, e
	case err != nil:
		return Info{}, &os.PathError{Op: "pread", Path: path, Err: err}
	case p.magic.Load() != listenerMagic:
		return Info{}, fmt.Errorf("%s is not a listener segment", path)
	}
	if p.version != Version {
		return Info{}, fmt.Errorf("%s has format version %d, this is version %d", path, p.version, Version)
	}
	ringSize := p.ringSize
	if ringSize > MaxRing || CheckRingSize(int(ringSize)) != nil || p.headerSize != uint32(PageSize) || p.flags&^flagAnonymous != 0 {
		return Info{}, fmt.Errorf("%s asks for rings of %d bytes after a header of %d", path, ringSize, p.headerSize)
	}
	return Info{
		Geometry: Geometry{RingSize: int(ringSize), Anonymous: p.flags&flagAnonymous != 0, Reuse: p.reuse != 0},
		UID:      st.Uid,
		Alive:    alive,
		Shared:   p.shared != 0,
		PID:      int(p.pid),
		Accepted: p.accepted.Load(),
		Refused:  p.refused.Load(),
		Path:     path,
	}, nil
}
