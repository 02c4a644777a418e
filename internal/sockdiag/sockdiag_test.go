//go:build linux

package sockdiag

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSocket asks about a socket with two that wait in its backlog, in each of
// the ways, and once it is closed.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	var named, own unix.Stat_t
	if err := unix.Stat(path, &named); err != nil {
		t.Fatal(err)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &own) })
	if err != nil {
		t.Fatal(err)
	}
	inode := uint32(own.Ino)
	if n, err := Queue(inode); n != 2 || err != nil {
		t.Errorf("Queue = %d, %v, want 2", n, err)
	}
	if dev, ino, err := File(inode); dev != named.Dev || ino != uint32(named.Ino) || err != nil {
		t.Errorf("File = %d, %d, %v, want %d, %d", dev, ino, err, named.Dev, named.Ino)
	}
	if got, err := Listening(named.Dev, uint32(named.Ino)); got != inode || err != nil {
		t.Errorf("Listening = %d, %v, want %d", got, err, inode)
	}
	l.Close()
	if _, err := Queue(inode); err != unix.ENOENT {
		t.Errorf("Queue of a socket that is closed: %v, want ENOENT", err)
	}
	if got, err := Listening(named.Dev, uint32(named.Ino)); got != 0 || err != nil {
		t.Errorf("Listening when it is closed = %d, %v", got, err)
	}
}

// TestAttribute looks for attributes in replies that are cut short.
func TestAttribute(t *testing.T) {
	whole := make([]byte, messageSize, messageSize+12)
	whole = append(whole, 12, 0, attrVFS, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	if order.Uint16([]byte{12, 0}) != 12 {
		t.Skip("the reply is written for a little-endian machine")
	}
	if b, err := attribute(whole, attrVFS, 8); len(b) != 8 || err != nil {
		t.Errorf("whole: %v, %v", b, err)
	}
	if b, err := attribute(whole, attrVFS, 9); err == nil {
		t.Errorf("too short: %v", b)
	}
	for n := range len(whole) {
		if b, err := attribute(whole[:n], attrVFS, 8); err == nil {
			t.Errorf("cut at %d: %v", n, b)
		}
	}
}
