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
	if st.Closed = l.closed; st.Closed {
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
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if rawErr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); rawErr != nil {
		return 0, rawErr
	}
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, backlogRequest(uint32(st.Ino)), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	// The kernel has dealt with it and its answer is there.
	b := make([]byte, unix.Getpagesize())
	m, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return 0, err
	}
	return backlogReply(b[:m])
}

const (
	sockDiagByFamily = 20     // linux/sock_diag.h
	unixDiagRQLen    = 4      // linux/unix_diag.h
	unixDiagShowRQ   = 1 << 4 // likewise
	unixDiagRequest  = 24     // size of struct unix_diag_req
	unixDiagMessage  = 16     // size of struct unix_diag_msg
)

// backlogRequest asks for the queue of the Unix socket with an inode.
func backlogRequest(inode uint32) []byte {
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unixDiagRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], sockDiagByFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	order.PutUint32(r[4:], ^uint32(0)) // in any state
	order.PutUint32(r[8:], inode)
	order.PutUint32(r[12:], unixDiagShowRQ)
	order.PutUint64(r[16:], ^uint64(0)) // whatever its cookie
	return b
}

// backlogReply finds the length of the queue in what the kernel has answered.
func backlogReply(b []byte) (int, error) {
	order := binary.NativeEndian
	if len(b) >= unix.SizeofNlMsghdr+4 && order.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return 0, unix.Errno(-int32(order.Uint32(b[unix.SizeofNlMsghdr:])))
	}
	if len(b) < unix.SizeofNlMsghdr+unixDiagMessage || order.Uint16(b[4:]) != sockDiagByFamily {
		return 0, fmt.Errorf("sock_diag: reply of %d bytes", len(b))
	}
	for b = b[unix.SizeofNlMsghdr+unixDiagMessage:]; len(b) >= unix.SizeofRtAttr; {
		size := int(order.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		if order.Uint16(b[2:]) == unixDiagRQLen && size >= unix.SizeofRtAttr+4 {
			return int(order.Uint32(b[unix.SizeofRtAttr:])), nil
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return 0, fmt.Errorf("sock_diag: reply without a queue")
}
