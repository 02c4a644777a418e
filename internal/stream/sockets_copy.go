//go:build !linux || shmconn_sockets

package stream

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

const copySize = 64 << 10

// ReadFrom is Conn.ReadFrom.
func (s *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, copySize)
	for {
		m, err := r.Read(buf)
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

// WriteTo is Conn.WriteTo.
func (s *Stream) WriteTo(w io.Writer) (n int64, err error) {
	buf := make([]byte, copySize)
	for {
		m, err := s.Read(buf)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		written, err := writeAll(w, buf[:m])
		n += int64(written)
		if err != nil {
			return n, err
		}
	}
}

// writeAll writes b to w. A file that somebody else has made non-blocking after
// os.File had looked fails with EAGAIN: then it tries again.
func writeAll(w io.Writer, b []byte) (n int, err error) {
	for {
		m, err := w.Write(b[n:])
		if m < 0 || m > len(b)-n {
			return n, errors.New("writer returned an impossible count")
		}
		n += m
		if _, file := w.(*os.File); file && errors.Is(err, syscall.EAGAIN) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		return n, err
	}
}
