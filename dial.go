package shmconn

import (
	"cmp"
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"shmconn/internal/handshake"
)

// A Dialer holds the options of a dial. The zero Dialer is ready to use. Any
// number of goroutines may dial with one Dialer at the same time.
type Dialer struct {
	// Timeout limits how long a dial takes, the allocation of its memory
	// included. 0 means no limit: a dial waits while the backlog is full.
	Timeout time.Duration

	// Wait is how long a dial waits while nobody listens on the name: there is
	// no such name, a listener that died has left it, or even its directory
	// does not exist yet. 0 means that it does not wait; less than 0, that it
	// waits as long as Timeout and the context allow. A full backlog is not
	// what Wait is about.
	//
	// The kernel reports when the name appears (inotify), so the dial connects
	// at once. The dial also checks once a second, for what the kernel does not
	// report, such as a file system mounted over the directory; and every 50 ms
	// if the user has no inotify instance left (fs.inotify.max_user_instances).
	//
	// When Wait is over, the error is the last check's [syscall.ECONNREFUSED].
	// Its text says how long the dial has waited, and it is no timeout. If
	// Timeout or the context ends the wait, the error is that and ECONNREFUSED.
	// Any other error ends the wait at once.
	Wait time.Duration

	// BusyPoll is the longest time that a wait of this end polls before it
	// parks. 0 means [DefaultBusyPoll]; less than 0, that it never parks; less
	// than a microsecond, that it always parks at once. When other processes
	// take the processors, waits park at once for a while.
	BusyPoll time.Duration

	// AllowUID says whether a listener that runs as the user uid may be dialed.
	// nil allows the caller's own user and root. The listener gets all that is
	// written, and in a directory that others can write to, a name does not
	// prove whose listener it is.
	AllowUID func(uid uint32) bool

	// SpareBytes is how much memory the process keeps of connections that it
	// has dialed and that both ends have closed in order. The next dial to the
	// same listener, by the same user, uses it again, which costs a tenth. It is
	// the sum over all listeners. 0 means [DefaultSpareBytes]; less than 0,
	// that this Dialer neither keeps a spare nor uses one.
	SpareBytes int

	// SpareTime is how long a spare is kept, within a quarter of a second. 0
	// means [DefaultSpareTime].
	SpareTime time.Duration
}

// Dial connects to the listener on name with the zero [Dialer].
func Dial(name string) (*Conn, error) { return new(Dialer).Dial(name) }

// Dial connects to the listener on name, which is as at [ListenConfig.Listen].
// It returns before the listener accepts, even while the listener's process is
// stopped; bytes can be written at once. It waits only while the backlog is
// full, and for Wait.
//
//   - [syscall.ECONNREFUSED], with the path: nobody listens on name, nor begins
//     to within Wait.
//   - [fs.ErrPermission]: the listener's files or its user do not allow it.
//   - [syscall.ENOSPC], with the bytes needed: the directory has no room for
//     the rings.
//   - [os.ErrDeadlineExceeded]: Timeout has passed.
//   - If the listener speaks another format, the error names both versions.
func (d *Dialer) Dial(name string) (*Conn, error) {
	return d.dialContext(context.Background(), name)
}

// DialConn is Dial, ended early by ctx; the error then also is ctx.Err(). Once
// DialConn has returned, ctx does not matter.
func (d *Dialer) DialConn(ctx context.Context, name string) (*Conn, error) {
	return d.dialContext(ctx, name)
}

// DialContext is DialConn in the form of other dial functions. It ignores
// network, and a port at the end of address: as the DialContext of an
// [http.Transport] it reaches the listener "feed" as http://feed/.
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
	limited, own := ctx, false // own: it is Timeout that comes first
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
		theirs, ok := ctx.Deadline()
		first, _ := limited.Deadline()
		own = !ok || first.Before(theirs)
	}
	s, err := handshake.Dial(limited, name, &handshake.DialOptions{
		Wait: d.Wait, BusyPoll: busyPoll(d.BusyPoll), AllowUID: d.AllowUID,
		SpareBytes: max(0, cmp.Or(d.SpareBytes, DefaultSpareBytes)), SpareTime: cmp.Or(d.SpareTime, DefaultSpareTime),
	})
	if own {
		if err == context.DeadlineExceeded {
			err = os.ErrDeadlineExceeded
		} else if w, ok := err.(*handshake.WaitError); ok && w.Ended == context.DeadlineExceeded {
			w.Ended = os.ErrDeadlineExceeded
		}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: Addr{Name: name}, Err: err}
	}
	return newConn(s, Addr{Name: name}, Addr{Name: name}), nil
}
