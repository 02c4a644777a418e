package segment

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is the size of a page, and of the header of a connection segment.
var PageSize = os.Getpagesize()

// CheckRingSize returns an error if a ring size is wrong.
func CheckRingSize(n int) error {
	if n < PageSize || n > MaxRing || n&(n-1) != 0 {
		return fmt.Errorf("ring size %d is not a power of two from %d to %d", n, PageSize, MaxRing)
	}
	return nil
}

// A Segment is the memory of one connection, mapped.
//
// The file holds a header page, ring A and ring B, which are mapped once, in
// this order. Mirror maps what makes a span of a ring contiguous that wraps,
// once there is one. For B that is its front, once more, behind its end, where
// mem has left room: a mapping. For A it is its end and its front, elsewhere:
// two.
type Segment struct {
	mem     []byte               // header, A, B, and the room behind B
	mirrorA atomic.Pointer[byte] // 2*half() bytes; nil until Mirror
	ring    int                  // bytes of a ring

	mirrored bool // from the start: see doubles
	file     int  // the dialer's descriptor; -1 if none
	sealed   bool // it is of anonymous memory
	linked   bool // an acceptor's: it had a name when it was attached
	reuse    bool // both ends can use it again
}

// Create makes the segment of a connection to the listener base in dir,
// initialised and mapped. It has no name, so it is freed with the last process
// that has it, however that ends. ctx ends Create early, because allocating a
// large segment takes long.
func Create(ctx context.Context, dir *Dir, base string, g Geometry) (*Segment, ID, error) {
	s := &Segment{ring: g.RingSize, file: -1, reuse: g.Reuse}
	var id ID
	rand.Read(id[:])
	err := s.create(ctx, dir, base, g, id)
	if err != nil {
		s.Close()
		return nil, id, err
	}
	return s, id, nil
}

func (s *Segment) create(ctx context.Context, dir *Dir, base string, g Geometry, id ID) (err error) {
	if g.Anonymous {
		err = s.openMemory(base)
	} else {
		err = s.openFile(dir, base, id)
	}
	if err != nil {
		return err
	}
	if err := s.allocate(ctx, dir, PageSize+2*g.RingSize); err != nil {
		return err
	}
	h := &connHeader{
		version:    Version,
		headerSize: uint32(PageSize),
		ringSize:   uint64(g.RingSize),
		flags:      g.flags(),
		reuse:      g.reuse(),
		id:         id,
	}
	copy(h.name[:], base)
	h.magic.Store(connMagic)
	if err := pwrite(s.file, bytesOf(h)[:headerUsed]); err != nil {
		return err
	}
	return s.mmap(s.file)
}

// openFile makes the file of a segment in dir, without a name.
func (s *Segment) openFile(dir *Dir, base string, id ID) (err error) {
	s.file, err = openTmpfile(dir.fd)
	switch err {
	case unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL:
		// The file system has no files without a name. A dialer that is killed
		// between these two calls leaves an empty file, which the next Listen
		// removes.
		name := connName(base, id)
		s.file, err = unix.Openat(dir.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|openFlags, 0o600)
		if err == nil {
			unix.Unlinkat(dir.fd, name, 0)
		}
	}
	switch err {
	case nil:
		return nil
	case unix.EACCES, unix.EPERM, unix.EROFS:
		// A dialer need not be allowed to make files there.
		return s.openMemory(base)
	case unix.ENOSPC:
		return dir.noRoom("the file of a connection", err)
	case unix.ENOENT:
		return &NobodyError{Path: dir.path, Why: "the directory was removed", Err: err}
	}
	return dir.error("openat", ".", err)
}

// openTmpfile opens a file that has no name and will not get one. It is a
// variable for tests of file systems that have no such files.
var openTmpfile = func(dir int) (int, error) {
	return unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
}

// openMemory makes anonymous memory for a segment.
func (s *Segment) openMemory(base string) (err error) {
	s.sealed = true
	s.file, err = unix.MemfdCreate(Prefix+base, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	return Explain(os.NewSyscallError("memfd_create", err))
}

// maxPiece is the most bytes that are allocated at once: a fraction of a
// millisecond's work, so that a dial keeps its deadline. With the usual rings
// of 256 KiB there is one piece.
const maxPiece = 1 << 20

// allocate makes the file of s size bytes long. On a file system there is
// memory for all of them then: a full directory would be a SIGBUS at some later
// store. Anonymous memory has no such limit, so what is not used yet takes
// none.
func (s *Segment) allocate(ctx context.Context, dir *Dir, size int) error {
	if s.sealed {
		if err := unix.Ftruncate(s.file, int64(size)); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
		_, err := unix.FcntlInt(uintptr(s.file), unix.F_ADD_SEALS, seals)
		return os.NewSyscallError("fcntl", err)
	}
	err := allocate(ctx, s.file, size)
	switch {
	case err == nil, err == ctx.Err():
		return err
	case err == unix.ENOSPC:
		return dir.noRoom(fmt.Sprintf("the %d bytes of a connection", size), err)
	}
	return fmt.Errorf("no room for the %d bytes of a connection: %w", size, os.NewSyscallError("fallocate", err))
}

// allocate makes the file behind fd size bytes long, with memory for all of
// them. Before Linux 6.10 a signal can undo a piece (a profile sends a hundred
// a second); then the next piece is half as long.
func allocate(ctx context.Context, fd, size int) error {
	for at, piece := 0, maxPiece; at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(piece, size-at)
		switch err := fallocate(fd, 0, int64(at), int64(n)); err {
		case nil:
			at += n
		case unix.EINTR:
			piece = max(n/2, PageSize)
		case unix.EOPNOTSUPP: // ramfs
			if err := pwriteAt(fd, zeros[:min(n, len(zeros))], at); err != nil {
				return err
			}
			at += min(n, len(zeros))
		default:
			return err
		}
	}
	return nil
}

// fallocate is a variable for tests of kernels that signals interrupt.
var fallocate = unix.Fallocate

var zeros [64 << 10]byte

// File returns the descriptor of the segment, which stays the segment's.
func (s *Segment) File() int { return s.file }

// HandedOver closes the descriptor of anonymous memory. That of a file stays
// open until Close: by it, tools that watch read the header, and see which end
// dialed.
func (s *Segment) HandedOver() {
	if s.sealed {
		unix.Close(s.file)
		s.file = -1
	}
}

// Reuse reports whether both ends can use the segment for another connection.
func (s *Segment) Reuse() bool { return s.reuse }

// Linked reports whether a segment had a name when it was attached. RemoveName
// removes that.
func (s *Segment) Linked() bool { return s.linked }

const (
	openFlags = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	seals     = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

// Attach maps the segment behind fd, which a dialer has handed over. First it
// checks everything about it against the listener's own knowledge. The caller
// still owns fd.
//
// dev is the file system that an unsealed segment must be on. A dialer that may
// make no files there uses sealed memory, whatever g says.
//
// Only an error of mmap can be a shortage of this process: the process that
// serves the file system of fd may make up all other errors.
func Attach(fd int, dev uint64, g Geometry, id ID) (*Segment, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("segment cannot be examined: %v", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("segment is not a regular file")
	}
	if want := int64(PageSize + 2*g.RingSize); st.Size != want {
		return nil, fmt.Errorf("segment has %d bytes, not %d", st.Size, want)
	}
	if g.Anonymous || uint64(st.Dev) != dev {
		have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		if err != nil || have&seals != seals {
			if g.Anonymous {
				return nil, errors.New("segment is not sealed")
			}
			// A page fault on some other file system could block for ever.
			return nil, errors.New("segment is on another file system, and is not sealed memory")
		}
	}
	reuse, err := check(fd, g, id)
	if err != nil {
		return nil, err
	}
	s := &Segment{ring: g.RingSize, file: -1, linked: st.Nlink > 0, reuse: reuse && g.Reuse}
	if err := s.mmap(fd); err != nil {
		return nil, err
	}
	return s, nil
}

// check compares the header behind fd with what it must be. It reads it as a
// file: the memory of a file that is being truncated would fault. It reports
// whether the dialer can use the segment again.
func check(fd int, g Geometry, id ID) (reuse bool, err error) {
	h := new(connHeader)
	if err := pread(fd, bytesOf(h)); err != nil {
		return false, fmt.Errorf("segment cannot be read: %v", err)
	}
	switch magic, version := h.magic.Load(), h.version; {
	case magic != connMagic:
		return false, errors.New("segment has no magic number")
	case version != Version:
		return false, fmt.Errorf("segment has format version %d, this is version %d", version, Version)
	case h.headerSize != uint32(PageSize), h.ringSize != uint64(g.RingSize), h.flags != g.flags():
		return false, errors.New("segment differs in geometry from its listener")
	case h.id != id:
		return false, errors.New("segment differs in id from the message")
	}
	return h.reuse != 0, nil
}

// isConn reports whether the file behind fd, of size bytes, is a connection
// segment, or was left by a dialer that was killed while it made one.
func isConn(fd int, size int64) bool {
	h := new(connHeader)
	b := bytesOf(h)[:min(int64(headerUsed), size)]
	if pread(fd, b) != nil {
		return false
	}
	return h.magic.Load() == connMagic || allZero(b)
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// RemoveName removes the name of the segment behind fd, once both ends have it
// mapped, of a dialer that gives it one. Where the directory does not allow it,
// such a dialer does so at its Close.
func RemoveName(dir *Dir, base string, id ID, fd int) {
	unlinkIfSame(dir.fd, connName(base, id), fd)
}

func connName(base string, id ID) string { return Prefix + base + "@" + hex.EncodeToString(id[:]) }

// A Ring is one of the two rings of a segment.
type Ring int

const (
	RingA Ring = iota // from dialer to acceptor
	RingB             // from acceptor to dialer
)

// Other returns the other ring.
func (r Ring) Other() Ring { return RingB - r }

// Ring returns the header and the bytes of a ring.
func (s *Segment) Ring(r Ring) (header, data []byte) {
	at := ringAHeader
	if r == RingB {
		at = ringBHeader
	}
	return s.mem[at:][:ringHeader], s.mem[PageSize+int(r)*s.ring:][:s.ring:s.ring]
}

// half is how many bytes of the end of a ring, and of its front, a mirror has:
// no span is longer than half a ring, and no mapping shorter than a page.
func (s *Segment) half() int { return max(s.ring/2, PageSize) }

// Mirror returns the end of a ring and, behind it, its front: half of the ring
// each, but a page at least. It maps what it needs for that, which stays mapped
// until the segment is closed. Calls for the same ring may not run at the same
// time. An error that is a [Shortage] may be over at the next call.
func (s *Segment) Mirror(r Ring) ([]byte, error) {
	m, err := s.mirror(r, -1)
	switch err {
	case nil:
		return m, nil
	case unix.ENOMEM, unix.EAGAIN: // EAGAIN: memory that would have to be locked
		return nil, Shortage{Explain(os.NewSyscallError("mremap", err))}
	}
	return nil, os.NewSyscallError("mremap", err)
}

// A Shortage is an error whose Temporary is true: another call may succeed.
// syscall.Errno's Temporary is true of only a few.
type Shortage struct{ Err error }

func (s Shortage) Error() string { return s.Err.Error() }

func (s Shortage) Unwrap() error { return s.Err }

func (Shortage) Temporary() bool { return true }

func (Shortage) Timeout() bool { return false }

// Close unmaps the segment.
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
		unix.Close(s.file)
		s.file = -1
	}
}
