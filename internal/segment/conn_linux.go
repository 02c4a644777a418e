package segment

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a page, and of the header of a connection segment.
var PageSize = os.Getpagesize()

// CheckRingSize says what is wrong with a ring size.
func CheckRingSize(n int) error {
	if n < PageSize || n > MaxRing || n&(n-1) != 0 {
		return fmt.Errorf("ring size %d is not a power of two from %d to %d", n, PageSize, MaxRing)
	}
	return nil
}

// A Segment is the memory of one connection, mapped.
//
// The file holds a header page, ring A and ring B. They are mapped as header, A, A,
// B, B, so that any span of a ring up to its size is contiguous; that takes three
// mappings: header and A, A and B, B.
type Segment struct {
	mem  []byte // the whole range of addresses
	ring int    // bytes of a ring

	// For the dialer's end of a named segment, as long as the name may be there.
	file int    // locked, so that nobody sweeps the name away; -1 if none
	path string // its name, if it has one
}

// Create makes the segment of a connection with the name base in dir, initialised
// and mapped, and returns with it the descriptor to be handed to the acceptor. The
// segment closes it, if it is named in its Close, if not in HandedOver.
func Create(dir *Dir, base string, g Geometry) (*Segment, ID, error) {
	s := &Segment{ring: g.RingSize, file: -1}
	var id ID
	rand.Read(id[:])
	err := s.create(dir, base, g, id)
	if err != nil {
		s.Close()
		return nil, id, err
	}
	return s, id, nil
}

func (s *Segment) create(dir *Dir, base string, g Geometry, id ID) (err error) {
	size := PageSize + 2*g.RingSize
	if g.Anonymous {
		s.file, err = unix.MemfdCreate(Prefix+base, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
	} else {
		name := connName(base, id)
		s.file, err = unix.Openat(dir.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|openFlags, 0o600)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		s.path = filepath.Join(dir.path, name)
		// If the lock is taken, a sweep has found the file before it was locked, and
		// removes the name. The connection does not need it.
		if err := lock(s.file); err != nil && !locked(err) {
			return os.NewSyscallError("fcntl", err)
		}
	}
	// Without this a full directory would be a SIGBUS at some later store.
	for {
		err = unix.Fallocate(s.file, 0, 0, int64(size))
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("no room for the %d bytes of a connection: %w", size, os.NewSyscallError("fallocate", err))
	}
	if g.Anonymous {
		if _, err = unix.FcntlInt(uintptr(s.file), unix.F_ADD_SEALS, seals); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	h := &connHeader{
		version:    Version,
		headerSize: uint32(PageSize),
		ringSize:   uint64(g.RingSize),
		flags:      g.flags(),
		id:         id,
	}
	h.magic.Store(connMagic)
	if err := pwrite(s.file, bytesOf(h)[:headerUsed]); err != nil {
		return err
	}
	return s.mmap(s.file)
}

// File returns the descriptor of the segment, which stays the segment's.
func (s *Segment) File() int { return s.file }

// HandedOver closes the descriptor of an anonymous segment, which has done its duty.
func (s *Segment) HandedOver() {
	if s.path == "" {
		unix.Close(s.file)
		s.file = -1
	}
}

const (
	openFlags = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	seals     = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

// Attach maps the segment behind fd, which a dialer has handed over, after holding
// all that can be checked about it against what the listener knows by itself. fd
// stays the caller's.
//
// dev is the file system that a named segment must be on.
func Attach(fd int, dev uint64, g Geometry, id ID) (*Segment, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("segment is not a regular file")
	}
	if want := int64(PageSize + 2*g.RingSize); st.Size != want {
		return nil, fmt.Errorf("segment has %d bytes, not %d", st.Size, want)
	}
	if g.Anonymous {
		have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		if err != nil || have&seals != seals {
			return nil, errors.New("segment is not sealed")
		}
	} else if uint64(st.Dev) != dev {
		// A page fault on some other file system could block for ever.
		return nil, errors.New("segment is on another file system")
	}
	if err := check(fd, g, id); err != nil {
		return nil, err
	}
	s := &Segment{ring: g.RingSize, file: -1}
	if err := s.mmap(fd); err != nil {
		return nil, err
	}
	return s, nil
}

// check holds the header behind fd against what it has to be. It reads it as a
// file: the memory of a file that is being truncated would fault.
func check(fd int, g Geometry, id ID) error {
	h := new(connHeader)
	if err := pread(fd, bytesOf(h)); err != nil {
		return err
	}
	switch magic, version := h.magic.Load(), h.version; {
	case magic != connMagic:
		return errors.New("segment has no magic number")
	case version != Version:
		return fmt.Errorf("segment has format version %d, this is version %d", version, Version)
	case h.headerSize != uint32(PageSize), h.ringSize != uint64(g.RingSize), h.flags != g.flags():
		return errors.New("segment has another geometry than its listener")
	case h.id != id:
		return errors.New("segment has another id than was said")
	}
	return nil
}

// RemoveName removes the name of the segment behind fd, once both ends have it
// mapped. Where the directory does not allow it, the dialer does so at its Close.
func RemoveName(dir *Dir, base string, id ID, fd int) {
	unlinkIfSame(dir.fd, connName(base, id), fd)
}

func connName(base string, id ID) string { return Prefix + base + "@" + hex.EncodeToString(id[:]) }

// RingA returns the header and, twice in a row, the bytes of the ring from dialer
// to acceptor.
func (s *Segment) RingA() (header, data []byte) {
	return s.mem[ringAHeader:][:ringHeader], s.mem[PageSize:][: 2*s.ring : 2*s.ring]
}

// RingB is RingA for the ring from acceptor to dialer.
func (s *Segment) RingB() (header, data []byte) {
	return s.mem[ringBHeader:][:ringHeader], s.mem[PageSize+2*s.ring:][: 2*s.ring : 2*s.ring]
}

// Close unmaps the segment and removes its name if it is still there.
func (s *Segment) Close() {
	s.munmap()
	s.forget()
}

// Abandon is Close that keeps the addresses taken, as private zero pages, for
// spans that are still in a caller's hands.
func (s *Segment) Abandon() {
	s.zero()
	s.forget()
}

func (s *Segment) forget() {
	if s.file >= 0 {
		if s.path != "" {
			unlinkIfSame(unix.AT_FDCWD, s.path, s.file)
		}
		unix.Close(s.file)
		s.file = -1
	}
}
