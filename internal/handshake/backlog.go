//go:build linux && !shmconn_sockets

package handshake

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Stats returns what the listener has counted. It never waits.
func (l *Listener) Stats() (st Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st.Accepted, st.Refused = l.files.Counts()
	if st.Closed = l.closed || l.draining; l.closed {
		return st
	}
	st.Pending = l.taken
	for _, r := range l.acceptQueue {
		if r.s != nil {
			st.Pending++
		}
	}
	for _, s := range l.sockets {
		n, _ := backlog(s.File)
		st.Pending += n
	}
	return st
}

// backlog returns how many have connected to a socket and not been accepted
// yet. It asks the kernel as ss does: sock_diag(7), a request and a reply over
// netlink.
func backlog(sock *os.File) (n int, err error) {
	inode, err := inodeOf(sock)
	if err != nil {
		return 0, err
	}
	queue, err := askSocket(inode, unixDiagShowRQ, unixDiagRQLen)
	if err != nil {
		return 0, err
	}
	return int(binary.NativeEndian.Uint32(queue)), nil
}

// inodeOf returns the number by which the kernel knows a socket.
func inodeOf(sock *os.File) (inode uint32, err error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if rawErr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); rawErr != nil {
		return 0, rawErr
	}
	return uint32(st.Ino), err
}

// askSocket returns an attribute, of 4 bytes or more, of the Unix socket with
// an inode. show has the kernel tell it. The error is ENOENT if there is no
// such socket in any process.
func askSocket(inode uint32, show uint32, attribute uint16) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, socketRequest(inode, show), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	// The kernel has dealt with it and its answer is there.
	b := make([]byte, unix.Getpagesize())
	m, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return nil, err
	}
	return socketReply(b[:m], attribute)
}

const (
	sockDiagByFamily = 20     // linux/sock_diag.h
	unixDiagVFS      = 1      // linux/unix_diag.h
	unixDiagRQLen    = 4      // likewise
	unixDiagShowVFS  = 1 << 1 // likewise
	unixDiagShowRQ   = 1 << 4 // likewise
	unixDiagRequest  = 24     // size of struct unix_diag_req
	unixDiagMessage  = 16     // size of struct unix_diag_msg
)

// socketRequest asks about the Unix socket with an inode.
func socketRequest(inode, show uint32) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unixDiagRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], sockDiagByFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	order.PutUint32(r[4:], ^uint32(0)) // in any state
	order.PutUint32(r[8:], inode)
	order.PutUint32(r[12:], show)
	order.PutUint64(r[16:], ^uint64(0)) // whatever its cookie
	return b
}

// socketReply finds an attribute in what the kernel has answered.
func socketReply(b []byte, attribute uint16) ([]byte, error) {
	order := binary.NativeEndian
	if len(b) >= unix.SizeofNlMsghdr+4 && order.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return nil, unix.Errno(-int32(order.Uint32(b[unix.SizeofNlMsghdr:])))
	}
	if len(b) < unix.SizeofNlMsghdr+unixDiagMessage || order.Uint16(b[4:]) != sockDiagByFamily {
		return nil, fmt.Errorf("sock_diag: reply of %d bytes", len(b))
	}
	for b = b[unix.SizeofNlMsghdr+unixDiagMessage:]; len(b) >= unix.SizeofRtAttr; {
		size := int(order.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		if order.Uint16(b[2:]) == attribute && size >= unix.SizeofRtAttr+4 {
			return b[unix.SizeofRtAttr:size], nil
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil, fmt.Errorf("sock_diag: reply without attribute %d", attribute)
}
