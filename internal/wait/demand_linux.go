package wait

import (
	"bytes"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A demand reports whether more tasks want to run than there are processors,
// according to the kernel, for the whole machine.
type demand struct {
	looked atomic.Int64 // when it last was
	is     atomic.Bool

	fd atomic.Int32 // of /proc/loadavg; below 1 without
}

// open opens the kernel's file.
func (c *demand) open() {
	if fd, err := unix.Open("/proc/loadavg", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		c.fd.Store(int32(fd))
	}
}

// look returns whether there is more demand than processors, as of a
// millisecond ago at most. If the kernel does not say, it returns true. It
// takes 0.6 us.
func (c *demand) look(now time.Duration) bool {
	last := c.looked.Load()
	if now-time.Duration(last) < heartbeat && last != 0 || !c.looked.CompareAndSwap(last, int64(now)) {
		return c.is.Load()
	}
	var b [64]byte
	n, err := -1, error(unix.EBADF)
	if fd := c.fd.Load(); fd > 0 {
		n, err = unix.Pread(int(fd), b[:], 0)
	}
	running, ok := runnable(b[:max(n, 0)])
	c.is.Store(err != nil || !ok || running > runtime.NumCPU())
	return c.is.Load()
}

// runnable finds in /proc/loadavg how many tasks run or want to: "0.00 0.01
// 0.05 2/345 6789" has 2.
func runnable(loadavg []byte) (n int, ok bool) {
	f := bytes.Fields(loadavg)
	if len(f) < 4 {
		return 0, false
	}
	running, _, found := bytes.Cut(f[3], []byte("/"))
	n, err := strconv.Atoi(string(running))
	return n, found && err == nil
}
