//go:build !linux || shmconn_sockets

package handshake

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"shmconn/internal/segment"
)

// Where there is no shared memory two processes meet at a Unix socket and stay
// with it, for development. Each says a hello: the dialer as soon as it has
// connected, the listener once its backlog has room for the dialer.

// maxPath is how long a path may be everywhere, in bytes. macOS has 104 for it,
// Linux and Windows 108.
const maxPath = 100

// socketPath returns the path of the socket of name.
func socketPath(name string) (string, error) {
	if !supported {
		return "", errors.ErrUnsupported
	}
	dir, base, err := segment.ParseName(name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "shmconn-"+base+".sock")
	if len(path) > maxPath { // "=" is in no name
		sum := sha256.Sum256([]byte(base))
		path = filepath.Join(dir, "shmconn-="+hex.EncodeToString(sum[:8])+".sock")
	}
	if len(path) > maxPath {
		return "", fmt.Errorf("%s: a socket's path has %d bytes at most: choose a directory with a shorter name",
			path, maxPath)
	}
	return path, nil
}

// A hello is 8 bytes that say what this is, and the size of a ring, 4 bytes,
// big endian, which is the listener's to say.
const (
	helloMagic = "shmsock\x01"
	helloSize  = len(helloMagic) + 4
)

func sendHello(c net.Conn, size int) error {
	_, err := c.Write(binary.BigEndian.AppendUint32([]byte(helloMagic), uint32(size)))
	return err
}

// readHello returns the size. The error is io.EOF where the socket ended
// without a byte.
func readHello(c net.Conn) (size int, err error) {
	var b [helloSize]byte
	if n, err := io.ReadFull(c, b[:]); err != nil {
		if n > 0 && err == io.ErrUnexpectedEOF {
			err = errors.New("its first bytes are too few")
		}
		return 0, err
	}
	if string(b[:len(helloMagic)]) != helloMagic {
		return 0, fmt.Errorf("it begins with %q, and not with %q", b[:len(helloMagic)], helloMagic)
	}
	return int(binary.BigEndian.Uint32(b[len(helloMagic):])), nil
}

// checkRingSize says what is wrong with a ring size. It allows what every
// system does that has shared memory.
func checkRingSize(n int) error {
	const smallest = 4096
	if n < smallest || n > segment.MaxRing || n&(n-1) != 0 {
		return fmt.Errorf("ring size %d is not a power of two from %d to %d", n, smallest, segment.MaxRing)
	}
	return nil
}

// passing reports whether err says that this process or the machine is short of
// something, so that another try may succeed.
func passing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// A shortage is an error of which net.Error's Temporary is true.
type shortage struct{ error }

func (s shortage) Unwrap() error { return s.error }

func (shortage) Temporary() bool { return true }

func (shortage) Timeout() bool { return false }

// bare returns err without the *net.OpError around it, which the exported
// method adds, and so that it says whether it is temporary.
func bare(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if passing(err) {
		return shortage{err}
	}
	return err
}

// DropSpares is for tests that count what is left. There are no spares here.
func DropSpares() {}

// pathError returns err with the path that it is about.
func pathError(op, path string, err error) error {
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return err
	}
	return &os.PathError{Op: op, Path: path, Err: bare(err)}
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
