package inspect

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// From linux/sock_diag.h and linux/unix_diag.h.
const (
	sockDiagByFamily = 20
	unixDiagVFS      = 1
	unixDiagShowVFS  = 1 << 1
	unixDiagRequest  = 24 // size of struct unix_diag_req
	unixDiagMessage  = 16 // size of struct unix_diag_msg
	stateListen      = 10 // TCP_LISTEN, of Unix sockets, too
	minorBits        = 20 // of the kernel's own dev_t
)

// socketOf asks the kernel which listening Unix socket is bound to the file
// that st is of, as ss does. It returns 0 if there is none.
func socketOf(st unix.Stat_t) (inode uint64, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	order := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unixDiagRequest)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], sockDiagByFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	order.PutUint32(r[4:], 1<<stateListen)
	order.PutUint32(r[12:], unixDiagShowVFS)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	for b = make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return 0, err
		}
		for m := b[:n]; len(m) >= unix.SizeofNlMsghdr+4; {
			size := int(order.Uint32(m))
			if size < unix.SizeofNlMsghdr || size > len(m) {
				break
			}
			switch order.Uint16(m[4:]) {
			case unix.NLMSG_DONE:
				return inode, nil
			case unix.NLMSG_ERROR:
				return 0, unix.Errno(-int32(order.Uint32(m[unix.SizeofNlMsghdr:])))
			case sockDiagByFamily:
				if boundTo(m[unix.SizeofNlMsghdr:size], st) {
					inode = uint64(order.Uint32(m[unix.SizeofNlMsghdr+4:]))
				}
			}
			m = m[min(len(m), (size+3)&^3):]
		}
	}
}

// boundTo reports whether a struct unix_diag_msg, with what comes behind it, is
// of a socket that is bound to the file that st is of.
func boundTo(m []byte, st unix.Stat_t) bool {
	order := binary.NativeEndian
	for b := m[min(len(m), unixDiagMessage):]; len(b) >= unix.SizeofRtAttr; {
		size := int(order.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return false
		}
		if order.Uint16(b[2:]) == unixDiagVFS && size >= unix.SizeofRtAttr+8 {
			ino, dev := order.Uint32(b[unix.SizeofRtAttr:]), order.Uint32(b[unix.SizeofRtAttr+4:])
			return ino == uint32(st.Ino) && unix.Mkdev(dev>>minorBits, dev&(1<<minorBits-1)) == uint64(st.Dev)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false
}
