//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
	"shmconn/internal/stream"
)

// The handshake is one message over the listener's socket, from the dialer:
// magic, the id of the segment, and three descriptors: the segment, the end of
// the dialer's doorbell that rings, the end of the acceptor's that is waited
// on. The dialer closes these and the socket, and is connected. If the listener
// dies or closes before it has received them, the kernel closes them, and the
// dialer finds that no process is left to ring its bell, as it would if its
// peer had died later.
const (
	magic       = "shmconn\x01"
	messageSize = len(magic) + len(segment.ID{})
	messageFDs  = 3

	reuseMessageSize = messageSize + 4

	messageTimeout = 2 * time.Second // for a dialer that has connected to send its message
	maxHalfOpens   = 64              // that have connected and sent nothing yet
	promptness     = 20 * time.Microsecond

	maxTries = 16                    // of a dialer at a listener that changes
	maxPause = 10 * time.Millisecond // between them: 100 ms in all

	attachTimeout  = 250 * time.Millisecond // for the kernel to answer about the descriptors that were sent
	maxAttachments = 16                     // of a user that are under way
)

// A message is what an acceptor has received.
type message struct {
	id                 segment.ID
	file, ringer, bell int
}

// reuseMessage is the message of a dialer that has taken a spare, which needs
// no descriptors: magic, the id of the segment, the generation.
func reuseMessage(id segment.ID, generation uint32) []byte {
	return binary.NativeEndian.AppendUint32(append([]byte(magic), id[:]...), generation)
}

// A bareMessage is one without descriptors, if reuse or takeOver is true.
type bareMessage struct {
	reuse, takeOver bool
	id              segment.ID // of a reuse
	generation      uint32
}

// receiveBare peeks for such a message. there reports whether there is
// something to receive, if only an error or the end.
func receiveBare(sock int) (m bareMessage, there bool) {
	var buf [reuseMessageSize + 1]byte
	n, _, flags, _, err := unix.Recvmsg(sock, buf[:], nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if n == 0 && err == nil {
		// The end, unless the dialer has spoken and closed after the kernel had
		// found nothing: then what it said is there now.
		n, _, flags, _, err = unix.Recvmsg(sock, buf[:], nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}
	if err == unix.EAGAIN || err == unix.EINTR {
		return m, false
	}
	if err != nil || string(buf[:len(magic)]) != magic || flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		return m, true
	}
	switch n {
	case reuseMessageSize:
		m = bareMessage{reuse: true, id: segment.ID(buf[len(magic):messageSize]), generation: binary.NativeEndian.Uint32(buf[messageSize:])}
	case takeOverSize:
		m.takeOver = buf[len(magic)] == asksForSocket
	}
	return m, true
}

// receive returns the message that a dialer has sent over sock, or EAGAIN if it
// has not yet. If the process is out of descriptors it can be called again.
func receive(sock int) (h message, err error) {
	for try := range 100 {
		if h, err = receiveOnce(sock, try > 0); err != errAgain {
			return h, err
		}
	}
	return h, errors.New("the dialer's message cannot be received")
}

// errAgain means that receiving again may give another result.
var errAgain = errors.New("look again")

// receiveOnce is receive without the repetition. Only if doubt is true can it
// know the end: nearly always there is a message, and no need to.
func receiveOnce(sock int, doubt bool) (message, error) {
	// Check this before the message: if the dialer has closed its socket by
	// now, an empty message is the end. Otherwise it may have sent and closed
	// in between.
	ended := doubt && hungUp(sock)

	// Peek at the message without taking it: if there is no descriptor left for
	// one of those in it, it stays whole. Closing the socket discards it.
	buf := make([]byte, messageSize+1)
	oob := make([]byte, unix.CmsgSpace(4*(messageFDs+1)))
	n, oobn, flags, _, err := unix.Recvmsg(sock, buf, oob, unix.MSG_PEEK|unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EINTR {
		return message{}, errAgain
	}
	if err != nil {
		return message{}, err
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return message{}, err
	}
	if n == messageSize && string(buf[:len(magic)]) == magic && len(fds) == messageFDs && flags&unix.MSG_CTRUNC == 0 {
		return message{segment.ID(buf[len(magic):messageSize]), fds[0], fds[1], fds[2]}, nil
	}
	closeAll(fds)
	if n == 0 && oobn == 0 && !ended {
		return message{}, errAgain
	}
	if flags&unix.MSG_CTRUNC != 0 && len(fds) < messageFDs {
		// No descriptors were left, unless those that were sent are wrong. Some
		// may have become free since.
		if err := canHave(sock, messageFDs); err != nil {
			return message{}, err
		}
		return message{}, errAgain
	}
	return message{}, errors.New("the dialer's message is not understood")
}

// hungUp reports whether the other end of sock is closed.
func hungUp(sock int) bool {
	fds := []unix.PollFd{{Fd: int32(sock), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// rights returns the descriptors in a control message.
func rights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds, nil
}

// canHave returns nil if the process can have n more descriptors.
func canHave(fd, n int) error {
	var fds []int
	defer func() { closeAll(fds) }()
	for range n {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return nil
}

// closeAll closes those of the descriptors that are not -1.
func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// close closes the descriptors.
func (h message) close() { closeAll([]int{h.file, h.ringer, h.bell}) }

// sendMessage sends a handshake over sock, which is connected to the socket at
// path.
//
// A listener with too many silent dialers drops the oldest. That can be this
// dialer, if it was kept from sending: then it begins anew. And the kernel
// limits how many descriptors of a user are in flight: at the limit, the
// backlog counts as full.
func sendMessage(ctx context.Context, sock int, path string, message, rights []byte) error {
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		switch err := unix.Sendmsg(sock, message, rights, nil, unix.MSG_NOSIGNAL); err {
		case unix.EINTR:
			continue
		case unix.EPIPE, unix.ECONNRESET:
			return changed(path, "the listener has closed, or dropped this dialer")
		case unix.ETOOMANYREFS, unix.EAGAIN:
		default:
			return segment.Explain(os.NewSyscallError("sendmsg", err))
		}
		if err := doze(ctx, pause); err != nil {
			return err
		}
	}
}

// peerCred returns what the kernel reports about the process behind sock: with
// an error, a user that is not trusted.
func peerCred(sock int) (stream.Cred, error) {
	u, err := unix.GetsockoptUcred(sock, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return stream.Cred{UID: stream.NoUID}, os.NewSyscallError("getsockopt", err)
	}
	return stream.Cred{PID: u.Pid, UID: u.Uid, GID: u.Gid}, nil
}
