//go:build linux

package shmconn

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

func (s *stream) readFrom(r io.Reader) (n int64, err error) {
	if f, limit := regularFile(r); f != nil {
		return s.readFile(f, limit)
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		m, err := r.Read(buf[:])
		if m < 0 || m > len(buf) {
			return n, errors.New("reader returned an impossible count")
		}
		if m > 0 {
			m, err := s.write(buf[:m])
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

// A file is an *os.File, or the shell that its WriteTo, which io.Copy calls, puts around it:
// the same that package net looks for.
type file interface {
	fs.File
	io.Seeker
	syscall.Conn
}

// regularFile returns the regular file that r is, and the limit that io.CopyN has
// put on it, nil if there is none.
func regularFile(r io.Reader) (f file, limit *int64) {
	if l, ok := r.(*io.LimitedReader); ok {
		r, limit = l.R, &l.N
	}
	f, ok := r.(file)
	if !ok {
		return nil, nil
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	return f, limit
}

// readFile has the kernel read f into the ring until its end.
func (s *stream) readFile(f file, limit *int64) (n int64, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	for {
		want := s.chunk
		if limit != nil {
			want = int(min(int64(want), *limit))
		}
		if want <= 0 {
			return n, nil
		}
		if err := s.awaitRoom(); err != nil {
			return n, err
		}
		var m int
		err := errors.New("file was not read")
		if rawErr := raw.Read(func(fd uintptr) bool {
			m, err = s.fill(want, int(fd))
			return true
		}); rawErr != nil {
			err = rawErr
		}
		n += int64(m)
		if limit != nil {
			*limit -= int64(m)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// awaitRoom waits until something can be written.
func (s *stream) awaitRoom() (err error) {
	d := &s.tx
	if err := d.lock(); err != nil {
		return err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	for {
		if err := d.look(); err != nil {
			return err
		}
		if fits, err := d.fits(1); fits || err != nil {
			return err
		}
		s.await(&d.side)
	}
}

// fill reads up to n bytes, and as many as there is room for now, from the file fd
// into the ring. The end of the file is io.EOF.
func (s *stream) fill(n, fd int) (m int, err error) {
	d := &s.tx
	if err := d.lock(); err != nil {
		return 0, err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.cancel()
	if err := d.look(); err != nil {
		return 0, err
	}
	if n = min(n, d.ring.Free()); n == 0 {
		return 0, nil // somebody else has taken the room
	}
	m, err = unix.Read(fd, d.ring.Span(n))
	switch {
	case err == unix.EINTR:
		return 0, nil
	case err != nil:
		return 0, s.sysError("read", err)
	case m == 0:
		return 0, io.EOF
	}
	d.ring.Skip(m)
	d.publish(m)
	d.calls++
	return m, nil
}

// sysError wraps the error of a system call that was given a span. To the kernel a
// segment that somebody has truncated is a bad address.
func (s *stream) sysError(call string, err error) error {
	if err == unix.EFAULT {
		return s.damage(s.truncated())
	}
	return os.NewSyscallError(call, err)
}

func (s *stream) writeTo(w io.Writer) (n int64, err error) {
	raw, err := kernelSink(w)
	if err != nil {
		return 0, err
	}
	if raw != nil {
		return s.drainTo(w, raw)
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		m, err := s.read(buf[:])
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		written, err := w.Write(buf[:m])
		if written < 0 || written > m {
			return n, errors.New("writer returned an impossible count")
		}
		n += int64(written)
		if err != nil {
			return n, err
		}
		if written < m {
			return n, io.ErrShortWrite
		}
	}
}

// kernelSink returns w if it is a descriptor that the kernel copies to without
// keeping us waiting: a socket, a regular file, or anything non-blocking.
func kernelSink(w io.Writer) (syscall.RawConn, error) {
	switch w.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
	default:
		return nil, nil
	}
	raw, err := w.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	quick := false
	if err := raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		quick = err == nil && flags&unix.O_NONBLOCK != 0 ||
			unix.Fstat(int(fd), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
	}); err != nil {
		return nil, sinkError(w, err)
	}
	if !quick {
		return nil, nil
	}
	return raw, nil
}

// sinkError returns the error that w's own Write has when w's descriptor cannot be had
// because of err: it is closed.
func sinkError(w io.Writer, err error) error {
	_, own := w.Write(nil)
	return cmp.Or(own, err)
}

// drainTo has the kernel copy from the ring to a descriptor until the peer closes.
// While the descriptor blocks nobody has the side.
func (s *stream) drainTo(w io.Writer, raw syscall.RawConn) (n int64, err error) {
	for {
		err := s.awaitData()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		var m int
		if rawErr := raw.Write(func(fd uintptr) (done bool) {
			m, err = s.drain(int(fd))
			return err != unix.EAGAIN
		}); rawErr != nil {
			err = sinkError(w, rawErr)
		}
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

// awaitData waits until something can be read.
func (s *stream) awaitData() (err error) {
	d := &s.rx
	if err := d.lock(); err != nil {
		return err
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	for {
		if err := d.look(1); err != nil || d.ring.Ready() > 0 {
			return err
		}
		s.await(&d.side)
	}
}

// drain writes what there is to read now to fd, without a wait, and takes off what
// fd took.
func (s *stream) drain(fd int) (m int, err error) {
	d := &s.rx
	if !d.tryLock() {
		return 0, d.closedError() // somebody else is reading
	}
	defer s.done(&d.side, debug.SetPanicOnFault(true), &err)
	d.out = false
	n := min(d.ring.Ready(), s.chunk)
	if n == 0 {
		return 0, d.closedError()
	}
	m, err = unix.Write(fd, d.ring.Span(n))
	switch {
	case err == unix.EINTR:
		return 0, nil
	case err == unix.EAGAIN:
		return 0, err
	case err != nil:
		return 0, s.sysError("write", err)
	case m == 0:
		return 0, io.ErrUnexpectedEOF // as os.File.Write has it
	}
	d.ring.Skip(m)
	d.calls++
	if d.ring.Owes() {
		d.publish()
	}
	return m, nil
}
