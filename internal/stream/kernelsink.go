//go:build linux && !shmconn_sockets

package stream

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

func (s *Stream) WriteTo(w io.Writer) (n int64, err error) {
	k, err := kernelSink(w)
	if err != nil {
		return 0, err
	}
	if k != nil && k.put != nil {
		var done bool
		if n, done, err = s.drainTo(k); done {
			return n, err
		}
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		m, err := s.Read(buf[:])
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		written, err := writeAll(w, k, buf[:m])
		n += int64(written)
		if err != nil {
			return n, err
		}
	}
}

// writeAll writes b to w. A file that was made non-blocking after os.File had
// checked fails with EAGAIN: then we wait for it.
func writeAll(w io.Writer, k *sink, b []byte) (n int, err error) {
	for {
		m, err := w.Write(b[n:])
		if m < 0 || m > len(b)-n {
			return n, errors.New("writer returned an impossible count")
		}
		n += m
		switch {
		case k != nil && errors.Is(err, unix.EAGAIN) && k.await() == nil:
			continue
		case err == nil && n < len(b):
			err = io.ErrShortWrite
		}
		return n, err
	}
}

// A sink is a Writer with a descriptor.
type sink struct {
	w   io.Writer
	raw syscall.RawConn

	// put writes from the ring, in its two pieces, to the descriptor, and never
	// waits: it fails with EAGAIN instead. It is nil where the kernel has no
	// such call.
	put func(fd int, pieces [][]byte) (int, error)
}

// kernelSink returns the sink that w is, nil if it has no descriptor.
//
// The half is held while the kernel writes, so each call asks the kernel not to
// wait. O_NONBLOCK would not do, because any process that shares the descriptor
// may clear it at any time. So sinks are pipes and sockets. A regular file
// waits for its disk, or for another process, and few file systems can be asked
// not to. Sockets whose writes are messages are no sinks, because there it
// matters how much is written at once.
func kernelSink(w io.Writer) (*sink, error) {
	switch w.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
	default:
		return nil, nil
	}
	raw, err := w.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	k := &sink{w: w, raw: raw}
	if err := raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) != nil {
			return
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFIFO:
			if fd != 1 && fd != 2 { // a broken one ends the process, in os.File.Write
				k.put = putPipe
			}
		case unix.S_IFSOCK:
			kind, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
			if err == nil && kind == unix.SOCK_STREAM {
				k.put = putSocket
			}
		}
	}); err != nil {
		return nil, k.error(err)
	}
	return k, nil
}

func putPipe(fd int, pieces [][]byte) (int, error) {
	return unix.Pwritev2(fd, pieces, -1, unix.RWF_NOWAIT)
}

func putSocket(fd int, pieces [][]byte) (int, error) {
	return unix.SendmsgBuffers(fd, pieces, nil, nil, unix.MSG_DONTWAIT)
}

// error returns the error of w's own Write if w's descriptor is not available,
// or cannot be waited for, because of err.
func (k *sink) error(err error) error {
	_, own := k.w.Write(nil)
	return cmp.Or(own, err)
}

// await waits until the descriptor accepts bytes. It is for descriptors that
// the runtime cannot wait for, because os.File believes that they block.
func (k *sink) await() (err error) {
	if rawErr := k.raw.Control(func(fd uintptr) {
		for err = unix.EINTR; err == unix.EINTR; {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		}
	}); rawErr != nil {
		return rawErr
	}
	return err
}

// drainTo has the kernel copy from the ring to k until the peer closes. While
// the descriptor blocks, no call holds the half. If done is false, the kernel
// cannot do it, and the rest is for k's own Write.
func (s *Stream) drainTo(k *sink) (n int64, done bool, err error) {
	for {
		err := s.awaitData()
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, true, err
		}
		var m int
		var sinkErr error
		rawErr := k.raw.Write(func(fd uintptr) (done bool) {
			m, sinkErr, err = s.drain(k, int(fd))
			return sinkErr != unix.EAGAIN
		})
		n += int64(m)
		switch {
		case err != nil:
			return n, true, err
		case rawErr != nil:
			err := k.error(rawErr)
			if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return n, true, err
			}
			if k.await() != nil { // which the runtime cannot do with it
				return n, false, nil
			}
		case sinkErr == unix.EINTR:
		case sinkErr == unix.EOPNOTSUPP, sinkErr == unix.ENOSYS, sinkErr == unix.EPERM, sinkErr == unix.EINVAL, // no such call
			sinkErr == unix.EFAULT: // of k's, or of the segment's: then the private buffer faults
			return n, false, nil
		case sinkErr != nil:
			return n, true, os.NewSyscallError("write", sinkErr)
		}
	}
}

// awaitData waits until something can be read.
func (s *Stream) awaitData() (err error) {
	h := &s.rx
	if err := h.turn.Lock(); err != nil {
		return err
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	for {
		if err := h.checkRead(1); err != nil || h.ring.Ready() > 0 {
			return err
		}
		s.await(&h.half)
	}
}

// drain writes what there is to read now to fd, without waiting, and removes
// what fd took. sinkErr is the kernel's error for fd.
func (s *Stream) drain(k *sink, fd int) (m int, sinkErr, err error) {
	h := &s.rx
	if !h.turn.TryLock() {
		return 0, nil, h.closedErr() // another call is reading
	}
	defer s.endCall(&h.half, debug.SetPanicOnFault(true), &err)
	h.leased = false
	n := min(h.ring.Ready(), s.chunk)
	if n == 0 {
		return 0, nil, h.closedErr()
	}
	m, sinkErr = k.put(fd, pieces(h.ring.Pieces(n)))
	if sinkErr != nil {
		return 0, sinkErr, nil
	}
	if m == 0 {
		return 0, io.ErrUnexpectedEOF, nil // as os.File.Write has it
	}
	h.ring.Skip(m)
	h.calls++
	if h.ring.AckDue() {
		h.publish()
	}
	return m, nil, nil
}
