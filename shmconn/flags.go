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

// A seconds is a time, written like 0.5 or 500ms.
type seconds time.Duration

func (d *seconds) UnmarshalText(text []byte) error {
	t, err := time.ParseDuration(string(text))
	if err != nil {
		t, err = time.ParseDuration(string(text) + "s")
	}
	if err != nil {
		return errors.New("must be a time such as 0.5, which is seconds, or 500ms")
	}
	*d = seconds(t)
	return nil
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
	RingSize  bytesFlag `help:"Bytes that each direction of a connection holds, a power of two; default 256KiB." placeholder:"SIZE"`
	Mode      modeFlag  `help:"Who may connect, as permission bits: 600, the default, 660 or 666." placeholder:"BITS"`
	Anonymous bool      `help:"Take the memory of connections from the process instead of /dev/shm."`
}

// dialFlags are the flags of a command that dials.
type dialFlags struct {
	UID []uint32 `name:"uid" help:"Also connect to a listener that runs as the user UID, not only to one's own and root's." placeholder:"UID"`
}

// pollFlags are the flags of a command that has connections.
type pollFlags struct {
	BusyPoll time.Duration `help:"How long a wait polls before it sleeps; 1ns: not at all; less than 0: it never sleeps. Default 300us." placeholder:"D"`
}

// waitFlags are the flags of a command that dials once.
type waitFlags struct {
	Wait time.Duration `help:"Wait up to D for somebody to listen, and to accept when too many wait already." placeholder:"D"`
}

func (f listenFlags) config(p pollFlags) *shmconn.ListenConfig {
	return &shmconn.ListenConfig{RingSize: int(f.RingSize), Mode: fs.FileMode(f.Mode), Anonymous: f.Anonymous, BusyPoll: p.BusyPoll}
}

func (f dialFlags) dialer(p pollFlags) *shmconn.Dialer {
	d := &shmconn.Dialer{BusyPoll: p.BusyPoll}
	if len(f.UID) > 0 {
		own := uint32(os.Getuid())
		d.AllowUID = func(uid uint32) bool { return uid == own || uid == 0 || slices.Contains(f.UID, uid) }
	}
	return d
}
