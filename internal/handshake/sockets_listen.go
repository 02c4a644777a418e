//go:build !linux || shmconn_sockets

package handshake

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/deadline"
	"shmconn/internal/sema"
	"shmconn/internal/stream"
)

// A Listener is what is behind a Listener: a Unix socket, the goroutine that
// takes dialers off it, and one more for each dialer until that is in the
// backlog.
type Listener struct {
	name    string
	ringOf  int // bytes
	most    int // in the backlog
	logger  *slog.Logger
	lock    *os.File // held while this listens: what is left without it is dead
	socket  *net.UnixListener
	expires deadline.Deadline

	cond      sema.Cond // its L guards the following
	backlog   []*stream.Stream
	err       error                  // for the next Accept
	halfOpens map[*net.UnixConn]bool // not in the backlog yet
	running   int                    // goroutines
	accepted  uint64
	refused   uint64
	expired   bool
	closed    bool
}

// helloTime is how long a dialer has to say hello.
const helloTime = 2 * time.Second

// Listen announces name. The error is not wrapped yet.
func Listen(name string, lc ListenOptions) (_ *Listener, err error) {
	path, err := socketPath(name)
	if err != nil {
		return nil, err
	}
	if err := checkRingSize(lc.RingSize); err != nil {
		return nil, err
	}
	if lc.Backlog < 0 {
		return nil, fmt.Errorf("backlog %d is negative", lc.Backlog)
	}
	if lc.Mode&^fs.ModePerm != 0 {
		return nil, fmt.Errorf("mode %v is more than permission bits", lc.Mode)
	}
	if err := checkMode(lc.Mode); err != nil {
		return nil, err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	socket, err := announce(path, lc.Mode)
	if err != nil {
		dropLock(lock)
		return nil, err
	}
	l := &Listener{
		name: name, ringOf: lc.RingSize, most: lc.Backlog, logger: lc.Logger, lock: lock, socket: socket,
		halfOpens: make(map[*net.UnixConn]bool), running: 1,
	}
	bubble.Go(l.serve)
	return l, nil
}

// announce listens at path, for a caller who has the lock: so a socket that is
// there already is one that a listener which died has left.
func announce(path string, mode fs.FileMode) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, pathError("listen", path, err)
	}
	if runtime.GOOS != "windows" { // which has no such bits
		if err := os.Chmod(path, mode); err != nil {
			socket.Close()
			return nil, err
		}
	}
	return socket, nil
}

// inUse is the error of takeLock where somebody has it.
func inUse(path string) error {
	return fmt.Errorf("%s is locked, somebody listens: %w", filepath.Clean(path), syscall.EADDRINUSE)
}

// serve takes dialers off the socket.
func (l *Listener) serve() {
	defer l.leave(nil)
	for {
		conn, err := l.socket.AcceptUnix()
		l.cond.L.Lock()
		closed := l.closed
		switch {
		case closed:
		case err != nil:
			l.err = bare(err)
			l.cond.Broadcast()
		default:
			l.running++
			l.halfOpens[conn] = true
		}
		l.cond.L.Unlock()
		switch {
		case closed:
			if err == nil {
				conn.Close()
			}
			return
		case err != nil:
			time.Sleep(50 * time.Millisecond) // it may pass
		default:
			go l.greet(conn)
		}
	}
}

// leave ends a goroutine, which has had conn, unless that is nil.
func (l *Listener) leave(conn *net.UnixConn) {
	l.cond.L.Lock()
	defer l.cond.L.Unlock()
	delete(l.halfOpens, conn)
	l.running--
	l.cond.Broadcast()
}

// greet waits for a dialer's hello and for room in the backlog.
func (l *Listener) greet(conn *net.UnixConn) {
	defer l.leave(conn)
	cred, _ := peerCred(conn)
	conn.SetReadDeadline(time.Now().Add(helloTime))
	_, err := readHello(conn)
	conn.SetReadDeadline(time.Time{})
	if err == nil && l.admit(conn, cred) {
		return
	}
	conn.Close()
	if err != nil && err != io.EOF {
		l.refuse(cred, err)
	}
}

// admit puts a dialer into the backlog and says hello, in the order in which
// dialers learn that they have connected.
func (l *Listener) admit(conn *net.UnixConn, cred stream.Cred) bool {
	l.cond.L.Lock()
	defer l.cond.L.Unlock()
	for len(l.backlog) >= l.most && !l.closed {
		l.cond.Wait()
	}
	if l.closed || sendHello(conn, l.ringOf) != nil {
		return false
	}
	delete(l.halfOpens, conn)
	l.backlog = append(l.backlog, stream.New(conn, cred, l.ringOf))
	l.cond.Broadcast()
	return true
}

// refuse counts a dialer that is not to be a connection, and logs why.
func (l *Listener) refuse(c stream.Cred, err error) {
	l.cond.L.Lock()
	closed := l.closed
	if !closed {
		l.refused++
	}
	l.running-- // the Logger's handler may be what closes the listener
	l.cond.Broadcast()
	l.cond.L.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("sent nothing in time")
	}
	if l.logger != nil && !closed {
		l.logger.Warn("shmconn: dialer refused", "listener", l.name,
			"pid", c.PID, "uid", c.UID, "gid", c.GID, "reason", err)
	}
	l.cond.L.Lock()
	l.running++
	l.cond.L.Unlock()
}

// Accept waits for the next connection. It returns that and its number, from 1.
func (l *Listener) Accept() (*stream.Stream, uint64, error) {
	l.cond.L.Lock()
	defer l.cond.L.Unlock()
	for {
		switch {
		case l.closed:
			return nil, 0, net.ErrClosed
		case l.expired:
			return nil, 0, os.ErrDeadlineExceeded
		case len(l.backlog) > 0:
			s := l.backlog[0]
			l.backlog = l.backlog[1:]
			l.accepted++
			l.cond.Broadcast()
			return s, l.accepted, nil
		case l.err != nil:
			err := l.err
			l.err = nil
			return nil, 0, err
		}
		l.cond.Wait()
	}
}

// Close stops listening. Those that wait for Accept are reset.
func (l *Listener) Close() error {
	l.cond.L.Lock()
	if l.closed {
		l.cond.L.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	backlog := l.backlog
	l.backlog = nil
	for conn := range l.halfOpens {
		conn.SetDeadline(past)
	}
	l.cond.Broadcast()
	// The name is free when any Close returns, as a second one may be the
	// caller's.
	l.socket.Close() // which removes its file
	dropLock(l.lock)
	l.cond.L.Unlock()
	l.expires.Stop()
	for _, s := range backlog {
		s.Abort()
	}
	l.cond.L.Lock()
	defer l.cond.L.Unlock()
	for l.running > 0 {
		l.cond.Wait()
	}
	return nil
}

// SetDeadline sets the deadline of Accept.
func (l *Listener) SetDeadline(t time.Time) error {
	l.cond.L.Lock()
	closed := l.closed
	l.cond.L.Unlock()
	if closed {
		return net.ErrClosed
	}
	l.expires.Set(t, func(expired bool) {
		l.cond.L.Lock()
		defer l.cond.L.Unlock()
		l.expired = expired
		l.cond.Broadcast()
	})
	return nil
}

// Stats returns what the listener has counted.
func (l *Listener) Stats() Stats {
	l.cond.L.Lock()
	defer l.cond.L.Unlock()
	return Stats{Pending: len(l.backlog) + len(l.halfOpens), Accepted: l.accepted, Refused: l.refused, Closed: l.closed}
}
