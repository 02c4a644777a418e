// Package transport lets an example choose what its connections are made of:
// shared memory, a Unix socket, or TCP on the loopback interface. The choice is
// between functions to listen and to dial; nothing else in the example depends
// on it.
package transport

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"shmconn"
)

// Networks are the networks that this package knows.
var Networks = []string{"shm", "unix", "tcp"}

// Check returns an error if network is not one of [Networks].
func Check(network string) error {
	if !slices.Contains(Networks, network) {
		return fmt.Errorf("unknown network %q: want one of %s", network, strings.Join(Networks, ", "))
	}
	return nil
}

// A Transport makes connections over one network.
type Transport struct {
	Network  string        // one of Networks
	BusyPoll time.Duration // as in [shmconn.Dialer]; means nothing to other networks
}

// Listen listens on name until ctx is cancelled. What others have to dial is
// the listener's Addr: TCP has no names, so there it is a free port of
// 127.0.0.1, unless name is a host:port itself.
//
// When the listener's Close has returned, its name is gone, also if ctx had
// been cancelled before: a process that ends after Close leaves nothing behind.
func (t Transport) Listen(ctx context.Context, name string) (net.Listener, error) {
	l, err := t.listen(name)
	if err != nil {
		return nil, err
	}
	closeOnce := sync.OnceValue(l.Close) // whose second caller waits for the first
	context.AfterFunc(ctx, func() { closeOnce() })
	return &listener{l, closeOnce}, nil
}

type listener struct {
	net.Listener
	close func() error
}

func (l *listener) Close() error { return l.close() }

func (t Transport) listen(name string) (net.Listener, error) {
	switch t.Network {
	case "shm":
		l, err := (&shmconn.ListenConfig{BusyPoll: t.BusyPoll}).Listen(name)
		if err != nil {
			return nil, err // and not a net.Listener that holds a nil *Listener
		}
		return l, nil
	case "unix":
		return net.Listen("unix", socketPath(name))
	case "tcp":
		if !strings.Contains(name, ":") {
			name = "127.0.0.1:0"
		}
		return net.Listen("tcp", name)
	}
	return nil, Check(t.Network)
}

// Dial connects to the listener on address, which is its name or its Addr.
func (t Transport) Dial(ctx context.Context, address string) (net.Conn, error) {
	switch t.Network {
	case "shm":
		return (&shmconn.Dialer{BusyPoll: t.BusyPoll}).DialContext(ctx, t.Network, address)
	case "unix":
		return new(net.Dialer).DialContext(ctx, t.Network, socketPath(address))
	case "tcp":
		return new(net.Dialer).DialContext(ctx, t.Network, address)
	}
	return nil, Check(t.Network)
}

// Remove removes the files that a listener on name has left behind because its
// process was killed. It does nothing while somebody listens there.
func (t Transport) Remove(name string) {
	switch t.Network {
	case "shm":
		// Listen takes over a name that is stale, and Close removes it.
		if l, err := shmconn.Listen(name); err == nil {
			l.Close()
		}
	case "unix":
		path := socketPath(name)
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return
		}
		os.Remove(path)
	}
}

// socketPath returns the path of the Unix socket called name. A name with a
// separator is a path already.
func socketPath(name string) string {
	if filepath.Base(name) != name {
		return name
	}
	return filepath.Join(os.TempDir(), name+".sock")
}
