//go:build linux && !shmconn_sockets

package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
)

// TestScarce says of each error of Accept whether a server that gets it should
// go on: package net asks an error's Temporary, and net/http goes by that.
func TestScarce(t *testing.T) {
	for _, tt := range []struct {
		err       error
		temporary bool
	}{
		{syscall.EMFILE, true},
		{os.NewSyscallError("accept4", syscall.ENFILE), true},
		{fmt.Errorf("doorbell cannot be polled: %w", &os.PathError{Op: "epoll_ctl", Path: "doorbell", Err: syscall.ENOSPC}), true},
		{os.NewSyscallError("mmap", syscall.ENOMEM), true},
		{fmt.Errorf("%w (mlockall)", os.NewSyscallError("mmap", syscall.EAGAIN)), true},
		{&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.ENOBUFS)}, true},
		{fmt.Errorf("the name was removed from outside and cannot be put back: %w", &os.PathError{Op: "openat", Path: "x", Err: syscall.EDQUOT}), true},
		{syscall.ENOLCK, true},
		{syscall.EAGAIN, false}, // of a dialer that has said nothing
		{os.NewSyscallError("recvmsg", syscall.EAGAIN), false},
		{os.NewSyscallError("mmap", syscall.EACCES), false},
		{os.NewSyscallError("mmap", syscall.ENODEV), false},
		{syscall.EADDRINUSE, false},
		{net.ErrClosed, false},
		{errors.New("segment is not sealed"), false},
		{context.Canceled, false},
	} {
		if got := scarce(tt.err); got != tt.temporary {
			t.Errorf("scarce(%v) = %t", tt.err, got)
		}
		err := net.Error(&net.OpError{Op: "accept", Net: "shm", Err: temporary(tt.err)})
		// By the method's own interface: net.Error's is deprecated, though
		// servers ask it.
		if got := err.(interface{ Temporary() bool }).Temporary(); got != tt.temporary && !errors.Is(tt.err, syscall.EAGAIN) {
			t.Errorf("%v: Temporary is %t", err, got)
		}
		if err.Timeout() && tt.temporary {
			t.Errorf("%v: it is a timeout", err)
		}
		if !errors.Is(err, tt.err) {
			t.Errorf("%v is not %v", err, tt.err)
		}
		if !tt.temporary {
			continue
		}
		l := &failing{err: err}
		if got := new(http.Server).Serve(l); got != net.ErrClosed || l.calls != 3 {
			t.Errorf("%v: Serve ended after %d calls of Accept: %v", err, l.calls, got)
		}
	}
}

// failing is a listener whose Accept fails twice, and then is closed.
type failing struct {
	err   error
	calls int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.calls++; l.calls > 2 {
		return nil, net.ErrClosed
	}
	return nil, l.err
}
func (l *failing) Close() error   { return nil }
func (l *failing) Addr() net.Addr { return &net.UnixAddr{Name: "feed"} }
