// Package sockdiag asks the kernel about Unix sockets, as ss does: by
// sock_diag(7), a request and its replies over netlink.
package sockdiag

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// From linux/sock_diag.h and linux/unix_diag.h.
const (
	byFamily    = 20     // SOCK_DIAG_BY_FAMILY
	showVFS     = 1 << 1 // the file that a socket is bound to
	showQueue   = 1 << 4 // and the length of its queue,
	attrVFS     = 1      // in these attributes
	attrQueue   = 4
	requestSize = 24 // of struct unix_diag_req
	messageSize = 16 // of struct unix_diag_msg
	stateListen = 10 // TCP_LISTEN, of Unix sockets, too
	minorBits   = 20 // of the kernel's own dev_t

	anyState = ^uint32(0)
)

var order = binary.NativeEndian

// Queue returns how many have connected to the listening socket with an inode
// and were not accepted yet. The error is ENOENT if no process has the socket.
func Queue(inode uint32) (n int, err error) {
	m, err := one(inode, showQueue)
	if err != nil {
		return 0, err
	}
	queue, err := attribute(m, attrQueue, 4)
	if err != nil {
		return 0, err
	}
	return int(order.Uint32(queue)), nil
}

// File returns the file that the socket with an inode is bound to.
func File(inode uint32) (dev uint64, ino uint32, err error) {
	m, err := one(inode, showVFS)
	if err != nil {
		return 0, 0, err
	}
	return file(m)
}

// Listening returns the inode of the socket that listens on a file, 0 if none
// does.
func Listening(dev uint64, ino uint32) (inode uint32, err error) {
	err = ask(unix.NLM_F_DUMP, 1<<stateListen, 0, showVFS, func(m []byte) {
		if d, i, err := file(m); err == nil && d == dev && i == ino {
			inode = order.Uint32(m[4:])
		}
	})
	return inode, err
}

func file(m []byte) (dev uint64, ino uint32, err error) {
	at, err := attribute(m, attrVFS, 8)
	if err != nil {
		return 0, 0, err
	}
	d := order.Uint32(at[4:])
	return unix.Mkdev(d>>minorBits, d&(1<<minorBits-1)), order.Uint32(at), nil
}

// one asks about the socket with an inode, in any state.
func one(inode, show uint32) (m []byte, err error) {
	err = ask(0, anyState, inode, show, func(reply []byte) { m = reply })
	return m, err
}

// ask asks about the sockets that are in one of states, and calls f with the
// struct unix_diag_msg of each, and the attributes behind it. With NLM_F_DUMP
// in flags that is all of them, and else the one with the inode. f may keep m
// only where there is one.
func ask(flags uint16, states, inode, show uint32, f func(m []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, request(flags, states, inode, show), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// The kernel has dealt with it, and its answer, or the next part, is there.
	for b := make([]byte, bufferSize(flags)); ; {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		for m := b[:n]; ; {
			if len(m) < unix.SizeofNlMsghdr+4 {
				break
			}
			size := int(order.Uint32(m))
			if size < unix.SizeofNlMsghdr+4 || size > len(m) {
				return fmt.Errorf("sock_diag: message of %d bytes in %d", size, len(m))
			}
			body := m[unix.SizeofNlMsghdr:size]
			switch kind := order.Uint16(m[4:]); {
			case kind == unix.NLMSG_DONE:
				return nil
			case kind == unix.NLMSG_ERROR:
				return unix.Errno(-int32(order.Uint32(body)))
			case kind == byFamily && len(body) >= messageSize:
				f(body)
			}
			m = m[min(len(m), (size+3)&^3):]
		}
		if flags&unix.NLM_F_DUMP == 0 {
			return nil
		}
	}
}

// bufferSize is enough for a message, or for the largest part of a dump.
func bufferSize(flags uint16) int {
	if flags&unix.NLM_F_DUMP != 0 {
		return 64 << 10
	}
	return unix.Getpagesize()
}

func request(flags uint16, states, inode, show uint32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+requestSize)
	order.PutUint32(b, uint32(len(b)))
	order.PutUint16(b[4:], byFamily)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	order.PutUint32(r[4:], states)
	order.PutUint32(r[8:], inode)
	order.PutUint32(r[12:], show)
	order.PutUint64(r[16:], ^uint64(0)) // whatever its cookie
	return b
}

// attribute returns an attribute of m, of so many bytes or more.
func attribute(m []byte, kind uint16, least int) ([]byte, error) {
	for b := m[min(len(m), messageSize):]; len(b) >= unix.SizeofRtAttr; {
		size := int(order.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		if order.Uint16(b[2:]) == kind && size >= unix.SizeofRtAttr+least {
			return b[unix.SizeofRtAttr:size], nil
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil, fmt.Errorf("sock_diag: reply without attribute %d", kind)
}
