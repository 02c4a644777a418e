//go:build linux

package shmtest

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An OnlyReader hides all methods but Read, and so on.
type (
	OnlyReader struct{ io.Reader }
	OnlyWriter struct{ io.Writer }
)

// TCPPair returns the two ends of a TCP connection.
func TCPPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); y.Close() })
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// PipePair returns the two ends of a pipe.
func PipePair(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TempFile returns a file of b, at its begin.
func TempFile(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.Write(b)
	f.Seek(0, io.SeekStart)
	return f
}

// Zeros is an endless reader of zeros.
type Zeros struct{}

func (Zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// MemoryFile returns an empty memfd.
func MemoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "test"), nil
}

// Rewind goes back to the file's begin.
func Rewind(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// ErrEnough is what a writer or reader of a test returns to end a copy.
var ErrEnough = errors.New("enough for now")
