// Package handshake is how two processes meet: a listener's names, a dial, and
// one message over a Unix socket, after which each has a stream.
package handshake

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// DialOptions are the options of a shmconn.Dialer.
type DialOptions struct {
	Wait     time.Duration
	BusyPoll time.Duration // of the stream
	AllowUID func(uid uint32) bool

	SpareBytes int // that the process's dialed spares may take; 0: none
	SpareTime  time.Duration
}

// ListenOptions are the options of a shmconn.ListenConfig, with its defaults
// filled in.
type ListenOptions struct {
	RingSize  int
	AnyRing   bool // FileListener: the size that the name has is as good
	Backlog   int
	Mode      fs.FileMode
	Anonymous bool
	BusyPoll  time.Duration // of the streams
	Logger    *slog.Logger  // or nil
	TakeOver  bool

	SpareBytes int // that the listener's spares may take; 0: none
	SpareTime  time.Duration
}

// Stats are the counters of a Listener.
type Stats struct {
	Pending  int
	Accepted uint64
	Refused  uint64
	Closed   bool
}

// A WaitError is the error of a dial that has waited for a listener: the result
// of the last check, and what ended the wait if that was not Dialer.Wait.
type WaitError struct {
	Found  error
	Waited time.Duration
	Ended  error // of the context, os.ErrDeadlineExceeded, or nil
}

func (e *WaitError) Error() string {
	s := fmt.Sprintf("%v, after %v of waiting", e.Found, e.Waited.Round(time.Millisecond))
	if e.Ended != nil {
		s += fmt.Sprintf(": %v", e.Ended)
	}
	return s
}

func (e *WaitError) Unwrap() []error {
	if e.Ended == nil {
		return []error{e.Found}
	}
	return []error{e.Found, e.Ended}
}

// Timeout is for net.OpError.
func (e *WaitError) Timeout() bool { return os.IsTimeout(e.Ended) }

// checkMode returns an error if the mode of a listener's files is wrong: a
// dialer reads one of them and writes to the other.
func checkMode(mode fs.FileMode) error {
	if mode&0o600 != 0o600 {
		return fmt.Errorf("mode %#o shuts out the listener's own user, who may always dial: "+
			"0600 lets in that user, 0660 its group, too, 0666 everybody", uint32(mode))
	}
	for _, who := range []struct {
		what        string
		read, write fs.FileMode
	}{{"group", 0o040, 0o020}, {"others", 0o004, 0o002}} {
		if mode&who.write != 0 && mode&who.read == 0 {
			return fmt.Errorf("mode %#o lets the %s write only, and dialing takes both: "+
				"0600 lets in one's own user, 0660 the group, too, 0666 everybody", uint32(mode), who.what)
		}
	}
	return nil
}
