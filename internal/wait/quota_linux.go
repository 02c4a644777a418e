package wait

import (
	"bytes"
	"os"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// quota returns how many processors the process may use at a time by its control
// group (cgroup v2's cpu.max, here and above), which GOMAXPROCS rounds up to 2.
// Without a limit that can be read it returns a large number.
var quota = sync.OnceValue(func() float64 {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return unlimited
	}
	for line := range bytes.Lines(b) {
		if dir, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			return quotaOf("/sys/fs/cgroup", string(dir))
		}
	}
	return unlimited
})

const unlimited = 1 << 20

// quotaOf returns the least quota of dir, a path below root, and those above it.
func quotaOf(root, dir string) float64 {
	least := float64(unlimited)
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		if b, err := os.ReadFile(root + dir + "/cpu.max"); err == nil {
			least = min(least, cpuMax(b))
		}
		if dir == "/" {
			return least
		}
	}
}

// cpuMax reads "max 100000" or "50000 100000": microseconds of processor time in
// a period of so many.
func cpuMax(b []byte) float64 {
	f := bytes.Fields(b)
	if len(f) != 2 {
		return unlimited
	}
	time, err1 := strconv.ParseFloat(string(f[0]), 64)
	period, err2 := strconv.ParseFloat(string(f[1]), 64)
	if err1 != nil || err2 != nil || period <= 0 {
		return unlimited
	}
	return time / period
}

// Yield lets another process have the processor.
func Yield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
