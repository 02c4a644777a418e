package shmconn

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Dialer holds the options of a dial. The zero Dialer is ready to use, and so
// is one Dialer for any number of dials at the same time.
type Dialer struct {
	// Timeout is how long a dial may take. 0 means that it may take as long as
	// the listener's backlog is full.
	Timeout time.Duration

	// BusyPoll is how long a wait of this end polls before it parks, at most: it
	// parks at once for a while when other processes take the processors. 0 means
	// [DefaultBusyPoll], less than 0 that it never parks, and less than a
	// microsecond that it always parks at once.
	BusyPoll time.Duration

	// AllowUID says whether a listener that runs as the user uid may be dialed.
	// Nil allows the caller's own user and root. Whoever listens is sent all
	// that is written, so a name in a directory that others can write to is
	// not enough to tell who it is.
	AllowUID func(uid uint32) bool
}

// Dial connects to the listener on name. It is new([Dialer]).Dial(name).
func Dial(name string) (*Conn, error) { return new(Dialer).Dial(name) }

// Dial connects to the listener on name, which is as at [ListenConfig.Listen].
// It returns before the listener accepts, and also while the listener's process
// is stopped; bytes can be written at once. It waits only while the backlog is
// full.
//
// The error is [syscall.ECONNREFUSED] when nobody listens on name,
// [fs.ErrPermission] when the listener's files or its user do not allow it,
// [syscall.ENOSPC], with the bytes needed, when the directory has no room for
// the rings, [os.ErrDeadlineExceeded] after Timeout, and a text with both
// versions when the listener speaks another format.
func (d *Dialer) Dial(name string) (*Conn, error) {
	return d.dialContext(context.Background(), name)
}

// DialContext is Dial, ended early by ctx; the error then also is ctx.Err().
// Once it has returned, ctx does not matter. It ignores network, and a port at
// the end of address, so that as the DialContext of an [http.Transport] it
// reaches the listener "feed" as http://feed/.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if host, port, ok := cutLast(address, ":"); ok {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			address = host
		}
	}
	c, err := d.dialContext(ctx, address)
	if err != nil {
		return nil, err // and not a net.Conn that holds a nil *Conn
	}
	return c, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (d *Dialer) dialContext(ctx context.Context, name string) (*Conn, error) {
	limited := ctx
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	c, err := dial(limited, d, name)
	if err == context.DeadlineExceeded && ctx.Err() == nil {
		err = os.ErrDeadlineExceeded // the Dialer's, not the caller's
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "shm", Addr: Addr{name}, Err: err}
	}
	return c, nil
}
