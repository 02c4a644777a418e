//go:build linux && !shmconn_sockets

package stream

import (
	"errors"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

func (s *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	src, limit := kernelSource(r)
	var buf *[copySize]byte
	for {
		if src != nil {
			if limit != nil && *limit <= 0 {
				return n, nil
			}
			m, sourceErr, err := s.fillFrom(src, limit)
			n += int64(m)
			if m == 0 && sourceErr == nil && src.more() {
				if err == nil {
					err = s.awaitRoom()
				}
				if err != nil {
					return n, err
				}
				continue
			}
			if m > 0 {
				if err != nil {
					return n, err
				}
				continue
			}
			// An error, or the end, is r's to report, and what is not in memory
			// is r's to read.
		}
		if buf == nil {
			buf = copyBuffers.Get().(*[copySize]byte)
			defer copyBuffers.Put(buf)
		}
		m, err := r.Read(buf[:])
		if m < 0 || m > len(buf) {
			return n, errors.New("reader returned an impossible count")
		}
		if m > 0 {
			m, err := s.Write(buf[:m])
			n += int64(m)
			if err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// A source is a file that the kernel reads into the ring without keeping us
// waiting.
type source struct {
	raw   syscall.RawConn
	flags int // of preadv2
}

// kernelSource returns the source that r is, nil if it is none, and the limit
// that io.CopyN has put on it, nil if there is none.
//
// The half is held while the kernel reads, so a source must be certain not to
// wait. What stat calls a regular file can be a log of the kernel's, or belong
// to another process, which answers when it likes. Two facts decide. A file of
// tmpfs is memory, as the ring is. And for any other file there is RWF_NOWAIT,
// by which the kernel reads what is in memory, and refuses where it cannot
// promise that. The first try, at an offset, shows whether it refuses: a read
// at the file's position waits for other such reads. One wait remains: a
// process that shares the open file and is stopped while it reads can hold us
// up.
func kernelSource(r io.Reader) (src *source, limit *int64) {
	if l, ok := r.(*io.LimitedReader); ok {
		r, limit = l.R, &l.N
	}
	f, ok := osFile(r)
	if !ok {
		return nil, nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil
	}
	raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		_, err := unix.Preadv2(int(fd), [][]byte{make([]byte, 1)}, 0, unix.RWF_NOWAIT)
		if err == nil || err == unix.EAGAIN {
			src = &source{raw, unix.RWF_NOWAIT}
			return
		}
		var fs unix.Statfs_t
		if err == unix.EOPNOTSUPP && unix.Fstatfs(int(fd), &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
			src = &source{raw, 0}
		}
	})
	return src, limit
}

// osFile returns r if it is an *os.File, or the shell that its WriteTo, which
// io.Copy calls, puts around it. Anything else that embeds an *os.File may have
// a Read of its own.
func osFile(r io.Reader) (f syscall.Conn, ok bool) {
	if f, ok := r.(*os.File); ok {
		return f, true
	}
	f, ok = r.(syscall.Conn)
	return f, ok && reflect.TypeOf(r).PkgPath() == "os"
}

// fillFrom has the kernel read from src into the ring. It waits for its turn,
// but not for room or for src. If nothing was read and there is no error, there
// is no room, or nothing to read. sourceErr is the kernel's error for src.
func (s *Stream) fillFrom(src *source, limit *int64) (m int, sourceErr, err error) {
	want := s.chunk
	if limit != nil {
		want = int(min(int64(want), *limit))
	}
	// Raw.Read keeps this process's other readers of the file away: the kernel
	// would make us wait for them.
	if rawErr := src.raw.Read(func(fd uintptr) bool {
		m, sourceErr, err = s.fill(want, int(fd), src.flags)
		return true
	}); rawErr != nil {
		sourceErr = rawErr
	}
	if limit != nil {
		*limit -= int64(m)
	}
	return m, sourceErr, err
}

// more reports whether there is more to read. A copy must not wait for room
// before it finds that it needs none.
func (src *source) more() (more bool) {
	src.raw.Read(func(fd uintptr) bool {
		pos, err := unix.Seek(int(fd), 0, io.SeekCurrent)
		if err == nil {
			var n int
			n, err = unix.Preadv2(int(fd), [][]byte{make([]byte, 1)}, pos, src.flags)
			more = n > 0 || err == unix.EAGAIN
		}
		return true
	})
	return more
}

// awaitRoom waits until something can be written.
func (s *Stream) awaitRoom() (err error) {
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	for {
		if err := h.checkWrite(); err != nil {
			return err
		}
		if fits, err := h.hasRoom(1); fits || err != nil {
			return err
		}
		s.await(&h.half)
	}
}

// pieces is a span of the ring for a system call: in one piece, or, if it
// wraps, in two.
func pieces(first, second []byte) [][]byte {
	if len(second) == 0 {
		return [][]byte{first}
	}
	return [][]byte{first, second}
}

// fill is fillFrom with the descriptor at hand.
func (s *Stream) fill(n, fd, flags int) (m int, sourceErr, err error) {
	h := &s.tx
	if err := h.turn.Lock(); err != nil {
		return 0, nil, err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.cancel()
	if err := h.checkWrite(); err != nil {
		return 0, nil, err
	}
	if fits, err := h.hasRoom(1); !fits || err != nil {
		return 0, nil, err
	}
	n = min(n, h.ring.Free())
	m, sourceErr = unix.Preadv2(fd, pieces(h.ring.Pieces(n)), -1, flags)
	if sourceErr != nil || m == 0 {
		return 0, sourceErr, nil
	}
	h.ring.Skip(m)
	h.publish(m)
	h.calls++
	return m, nil, nil
}
