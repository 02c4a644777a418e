package wait

import (
	"io"
	"math"
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
	processors int // of the machine, when fd was opened; 0: not known
}

// idleStep is the step in which idle time is told.
const idleStep = 10 * time.Millisecond

// openIdler returns one that knows, unless descriptors are short, or a file is
// missing or not the kernel's own: what the manager of a container puts in its
// place can show other processors than there are, as lxcfs does.
func openIdler() idler {
	fd, err := unix.Open("/proc/uptime", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return idler{}
	}
	n := onlineProcessors("/sys/devices/system/cpu/online")
	if n == 0 || !isOn(fd, unix.PROC_SUPER_MAGIC) {
		unix.Close(fd)
		return idler{}
	}
	return idler{fd, n}
}

// onlineProcessors returns how many processors are in a list of the kernel's; 0
// if there is none.
func onlineProcessors(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	list, err := io.ReadAll(f)
	if err != nil || !isOn(int(f.Fd()), unix.SYSFS_MAGIC) {
		return 0
	}
	return countList(string(list))
}

// isOn reports whether a file is on a file system of that kind.
func isOn(fd int, magic int64) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && int64(fs.Type) == magic
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

// read returns for how long all processors of the machine have been idle, 0 if
// that is not known, and how many they are. With two it takes a microsecond.
func (i *idler) read() (idle time.Duration, processors int) {
	if i.processors == 0 {
		return 0, 0
	}
	var b [64]byte
	n, err := unix.Pread(i.fd, b[:], 0)
	if err != nil {
		return 0, 0
	}
	return parseUptime(b[:n]), i.processors
}

// parseUptime returns the second of two numbers of seconds, such as "3600.25
// 7000.00\n", or 0 if it is not one.
func parseUptime(b []byte) time.Duration {
	_, s, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	whole, hundredths, ok := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole+hundredths, 10, 64)
	if !ok || len(hundredths) != 2 || err != nil || n < 0 || n > math.MaxInt64/int64(idleStep) {
		return 0
	}
	return time.Duration(n) * idleStep
}
