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

// Lookup reads the listener segment of base.
func Lookup(dir *Dir, base string) (Info, error) {
	name := Prefix + base
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|openFlags, 0)
	if err == unix.ENOENT {
		return Info{}, &NobodyError{Path: dir.at(name), Why: "nobody listens, there is no such file", Err: err}
	}
	if err != nil {
		return Info{}, dir.openError(name, err)
	}
	defer unix.Close(fd)
	return LookupFile(fd, dir.at(name))
}

// LookupFile is Lookup for the segment behind fd, at path.
func LookupFile(fd int, path string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Info{}, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Info{}, fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode&othersWrite != 0 {
		return Info{}, writableError(path)
	}
	// Asked before the page is read: a listener says that it has shared its socket
	// before it lets go of the lock.
	alive := lockedForWriting(fd)
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
