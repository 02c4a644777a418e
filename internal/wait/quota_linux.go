package wait

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readQuota returns how many processors the process may use at a time by its
// control group, here and above, which GOMAXPROCS rounds up to 2: cpu.max of
// cgroup v2, or cpu.cfs_quota_us of v1. Without a limit that can be read it
// returns a large number.
func readQuota() float64 {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return unlimited
	}
	return quotaIn("/sys/fs/cgroup", groups)
}

const unlimited = 1 << 20

// quotaIn is readQuota for the file systems of control groups below root, and
// what /proc/self/cgroup says: lines of number:controllers:directory, where v2
// has no controllers.
func quotaIn(root string, groups []byte) float64 {
	least := float64(unlimited)
	for line := range bytes.Lines(groups) {
		f := bytes.SplitN(bytes.TrimSpace(line), []byte(":"), 3)
		if len(f) != 3 {
			continue
		}
		controllers, dir := string(f[1]), string(f[2])
		switch {
		case controllers == "":
			least = min(least, quotaOf(root, dir, cpuMax))
		case slices.Contains(strings.Split(controllers, ","), "cpu"):
			least = min(least, quotaOf(root+"/cpu", dir, cfsQuota), quotaOf(root+"/"+controllers, dir, cfsQuota))
		}
	}
	return least
}

// quotaOf returns the least quota of dir, a path below root, and those above
// it.
func quotaOf(root, dir string, quota func(dir string) float64) float64 {
	least := float64(unlimited)
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		least = min(least, quota(root+dir))
		if dir == "/" {
			return least
		}
	}
}

// cpuMax returns the quota of a directory of cgroup v2.
func cpuMax(dir string) float64 {
	b, _ := os.ReadFile(dir + "/cpu.max")
	return ratio(b)
}

// cfsQuota returns the quota of a directory of cgroup v1, where -1 is none.
func cfsQuota(dir string) float64 {
	quota, _ := os.ReadFile(dir + "/cpu.cfs_quota_us")
	period, _ := os.ReadFile(dir + "/cpu.cfs_period_us")
	return ratio(slices.Concat(quota, []byte(" "), period))
}

// ratio reads "max 100000" or "50000 100000": microseconds of processor time in
// a period of so many.
func ratio(b []byte) float64 {
	f := bytes.Fields(b)
	if len(f) != 2 {
		return unlimited
	}
	time, err1 := strconv.ParseFloat(string(f[0]), 64)
	period, err2 := strconv.ParseFloat(string(f[1]), 64)
	if err1 != nil || err2 != nil || time <= 0 || period <= 0 {
		return unlimited
	}
	return time / period
}

// Yield yields the processor to another process.
func Yield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
