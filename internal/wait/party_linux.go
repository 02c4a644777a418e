package wait

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime returns how much processor time a process has used, or 0 if the
// kernel does not say. It takes no permission. The number of the clock is made
// as clock_getcpuclockid(3) makes it.
func processorTime(pid int) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(^int32(pid)<<3|2, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// A processorSet is some processors of the machine.
type processorSet unix.CPUSet

// processorsOf returns the processors that the first thread of a process may
// run on; none if the kernel does not say.
func processorsOf(pid int) (s processorSet) {
	if unix.SchedGetaffinity(pid, (*unix.CPUSet)(&s)) != nil {
		return processorSet{}
	}
	return s
}

func (s *processorSet) add(t processorSet) {
	for i := range s {
		s[i] |= t[i]
	}
}

func (s *processorSet) count() int { return (*unix.CPUSet)(s).Count() }

// An idler asks the kernel for how long processors were idle.
type idler struct {
	fd         int // of /proc/uptime
	processors int // of the machine; 0: not known
}

// openIdler returns one that knows, unless descriptors are short or /proc is
// not the kernel's own: what the manager of a container puts in its place can
// tell another idle time, as lxcfs does.
func openIdler() (i idler) {
	fd, err := unix.Open("/proc/uptime", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return i
	}
	var fs unix.Statfs_t
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	n := countList(string(online))
	if err != nil || n == 0 || unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return i
	}
	return idler{fd, n}
}

// countList returns how many numbers a list of the kernel's has, such as
// "0-2,7\n", and 0 if it is not a list.
func countList(s string) (n int) {
	for r := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		first, last, ok := strings.Cut(r, "-")
		if !ok {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || b < a {
			return 0
		}
		n += b - a + 1
	}
	return n
}

// read returns for how long all processors of the machine have been idle, to 10
// ms, 0 if that is not known, and how many they are. It takes a microsecond, or
// a few where there are many.
func (i *idler) read() (idle time.Duration, processors int) {
	if i.processors == 0 {
		return 0, 0
	}
	var b [64]byte
	n, err := unix.Pread(i.fd, b[:], 0)
	if err != nil {
		return 0, 0
	}
	// Two numbers of seconds, such as "3600.25 7000.00\n": since boot, and idle.
	_, idled, _ := bytes.Cut(bytes.TrimSpace(b[:n]), []byte(" "))
	seconds, err := strconv.ParseFloat(string(idled), 64)
	if err != nil {
		return 0, 0
	}
	return time.Duration(seconds * float64(time.Second)), i.processors
}
