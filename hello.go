//go:build linux

package shmconn

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const maxSends = 16 // of an introduction, by a dialer that was dropped before

// sendHello sends an introduction over sock and returns the socket that is connected now.
//
// A listener with too many silent dialers drops the eldest, which can be this one, as to
// make the segment takes its time. It is there when it is dialed again. And a user may
// have so many descriptors only on their way: then the backlog is full for him.
func sendHello(ctx context.Context, sock int, path string, message, rights []byte) (int, error) {
	for sends, pause := 1, 100*time.Microsecond; ; {
		err := unix.Sendmsg(sock, message, rights, nil, unix.MSG_NOSIGNAL)
		switch {
		case (err == unix.EPIPE || err == unix.ECONNRESET) && sends < maxSends:
			sends++
			again, err := connect(ctx, path)
			if err != nil {
				return sock, err
			}
			unix.Close(sock)
			sock = again
		case err == unix.ETOOMANYREFS:
			if err := doze(ctx, pause); err != nil {
				return sock, err
			}
			pause = min(2*pause, 10*time.Millisecond)
		default:
			return sock, os.NewSyscallError("sendmsg", err)
		}
	}
}

// doze lets d pass, unless ctx ends before.
func doze(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
