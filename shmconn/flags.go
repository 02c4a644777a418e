package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"shmconn"
)

// A bytesFlag is a number of bytes, written like 4096 or 64KiB.
type bytesFlag int

func (b *bytesFlag) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<30 {
		return errors.New("must be a size such as 4096 or 64KiB, at most 1GiB")
	}
	*b = bytesFlag(n)
	return nil
}

// A seconds is a length of time, written like 0.5 or 500ms.
type seconds time.Duration

func (d *seconds) UnmarshalText(text []byte) error {
	t, err := parseTime(string(text))
	if err == nil && t < 0 {
		return errors.New("must not be negative")
	}
	*d = seconds(t)
	return err
}

// A pollTime is a seconds that may be negative.
type pollTime time.Duration

func (d *pollTime) UnmarshalText(text []byte) error {
	t, err := parseTime(string(text))
	*d = pollTime(t)
	return err
}

// parseTime reads a time. A bare number is in seconds.
func parseTime(text string) (time.Duration, error) {
	t, err := time.ParseDuration(text)
	if err != nil {
		t, err = time.ParseDuration(text + "s")
	}
	if err != nil {
		return 0, errors.New("must be a time such as 0.5, which is seconds, or 500ms")
	}
	return t, nil
}

// A modeFlag is permission bits in octal digits.
type modeFlag fs.FileMode

func (m *modeFlag) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n == 0 || n&^0o777 != 0 {
		return errors.New("must be permission bits in octal digits, such as 660")
	}
	*m = modeFlag(n)
	return nil
}

// listenFlags are the flags of a command that listens.
type listenFlags struct {
	RingSize  bytesFlag `help:"Size of the ring of each direction of a connection, a power of two. Default 256KiB." placeholder:"SIZE"`
	Mode      modeFlag  `help:"Permission bits that say who may connect: 600, which is the default, 660 or 666." placeholder:"BITS"`
	Anonymous bool      `help:"Take the memory of connections from the process, not from /dev/shm."`
}

// dialFlags are the flags of a command that dials.
type dialFlags struct {
	UID []uint32 `name:"uid" help:"Also connect to a listener of the user UID, not only to your own and root's." placeholder:"UID"`
}

// pollFlags are the flags of a command that has connections.
type pollFlags struct {
	BusyPoll pollTime `help:"Poll for D before a wait sleeps. 1ns: do not poll. Less than 0: never sleep. Default 300us." placeholder:"D"`
}

// waitFlags are the flags of a command that dials once.
type waitFlags struct {
	Wait seconds `help:"Wait up to D, in seconds or like 500ms, for a listener, and for room in its backlog." placeholder:"D"`
}

func (f listenFlags) config(p pollFlags) *shmconn.ListenConfig {
	return &shmconn.ListenConfig{RingSize: int(f.RingSize), Mode: fs.FileMode(f.Mode), Anonymous: f.Anonymous, BusyPoll: time.Duration(p.BusyPoll)}
}

// limit has d wait as the flag says: in all, whatever it waits for.
func (f waitFlags) limit(d *shmconn.Dialer) *shmconn.Dialer {
	if f.Wait != 0 {
		d.Wait, d.Timeout = -1, time.Duration(f.Wait)
	}
	return d
}

func (f dialFlags) dialer(p pollFlags) *shmconn.Dialer {
	d := &shmconn.Dialer{BusyPoll: time.Duration(p.BusyPoll)}
	if len(f.UID) > 0 {
		own := uint32(os.Getuid())
		d.AllowUID = func(uid uint32) bool { return uid == own || uid == 0 || slices.Contains(f.UID, uid) }
	}
	return d
}
