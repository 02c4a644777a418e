package main

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"shmconn"
)

// connMemory is what a connection of the default ring size takes: two rings and
// a page.
const connMemory = 2*shmconn.DefaultRingSize + 4096

func checkKernel(m *machine) []finding {
	release := m.read("/proc/sys/kernel/osrelease")
	f := finding{Check: "kernel", Level: ok, Found: fmt.Sprintf("Linux %s, %s", clean(release), m.arch)}
	switch major, minor, known := kernelVersion(release); {
	case !known:
		f.Level, f.Found = warning, "/proc does not say which"
		f.Consequence = "A listener needs /proc, and so does this command."
		f.Remedy = "Mount /proc."
	case major < 4 || major == 4 && minor < 14:
		f.Level = warning
		f.Consequence = "The system calls that connections need exist since Linux 4.14."
		f.Remedy = "Use a newer kernel."
	case major < 6 || major == 6 && minor < 13:
		f.Level = note
		f.Consequence = "Before Linux 6.13 epoll does not pass on that a wake-up is synchronous: two ends that both sleep are woken on different processors, which takes longer."
		f.Remedy = "Use Linux 6.13 or newer, or a BusyPoll that is longer than the gaps between messages."
	}
	return []finding{f}
}

// kernelVersion returns the first two numbers of a release such as
// 6.18.44-amd64.
func kernelVersion(release string) (major, minor int, known bool) {
	n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

func checkProcessors(m *machine) []finding {
	allowed := numbers(m.field("/proc/self/status", "Cpus_allowed_list"))
	online := numbers(m.read("/sys/devices/system/cpu/online"))
	f := finding{Check: "processors", Level: ok, Found: fmt.Sprintf("%d of %d may be used", len(allowed), len(online))}
	switch {
	case len(allowed) == 0:
		f.Level, f.Found = note, "/proc does not say which may be used"
	case len(allowed) == 1 && len(online) > 1:
		f.Level = note
		f.Found += fmt.Sprintf(": number %d", allowed[0])
		f.Consequence = "A process pinned to a core of its own is fastest. But if both ends are pinned to this one, each message costs two switches, and polling cannot help."
		f.Remedy = "Pin the two ends to different processors."
	case len(allowed) == 1:
		f.Level = warning
		f.Consequence = "Both ends share one processor: each message costs two switches, and polling cannot help."
		f.Remedy = "Use a machine with two processors or more."
	}
	return []finding{f}
}

// numbers returns what a list such as 0-3,8 means.
func numbers(list string) (all []int) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || b-a > 1<<16 {
			return nil
		}
		for n := a; n <= b; n++ {
			all = append(all, n)
		}
	}
	return all
}

func checkQuota(m *machine) []finding {
	f := finding{Check: "CPU quota", Level: ok, Found: "none"}
	if q := m.quota(); q > 0 {
		f.Level, f.Found = note, fmt.Sprintf("%.4g processors", q)
		f.Consequence = "Polling uses up the quota, and the kernel then stops the whole container until the next period, for up to 100 ms."
		f.Remedy = "Set BusyPoll to 1ns or some tens of microseconds, or raise the quota."
		if q < 1 {
			f.Level = warning
		}
	}
	return []finding{f}
}

// quota returns how many processors the control groups of this process let it
// use at a time, the least of all above it, or 0 if there is no limit.
func (m *machine) quota() (least float64) {
	for line := range strings.Lines(m.read("/proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		roots := []string{"/sys/fs/cgroup"}
		if f[1] != "" {
			if !slices.Contains(strings.Split(f[1], ","), "cpu") {
				continue
			}
			roots = []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/" + f[1]}
		}
		for _, root := range roots {
			for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
				if q := m.quotaOf(root+dir, f[1] == ""); q > 0 && (least == 0 || q < least) {
					least = q
				}
				if dir == "/" {
					break
				}
			}
		}
	}
	return least
}

// quotaOf returns the quota of one control group, 0 if it has none.
func (m *machine) quotaOf(dir string, v2 bool) float64 {
	words := m.read(dir + "/cpu.max")
	if !v2 {
		words = m.read(dir+"/cpu.cfs_quota_us") + " " + m.read(dir+"/cpu.cfs_period_us")
	}
	var time, period float64
	if n, _ := fmt.Sscan(words, &time, &period); n != 2 || time <= 0 || period <= 0 {
		return 0
	}
	return time / period
}

func checkIsolated(m *machine) []finding {
	isolated := numbers(m.read("/sys/devices/system/cpu/isolated"))
	tickless := numbers(m.read("/sys/devices/system/cpu/nohz_full"))
	allowed := numbers(m.field("/proc/self/status", "Cpus_allowed_list"))
	f := finding{Check: "isolated", Level: ok, Found: "no processors"}
	if len(isolated)+len(tickless) == 0 {
		return []finding{f}
	}
	f.Found = fmt.Sprintf("processors %s; without ticks (nohz_full) %s", listOf(isolated), listOf(tickless))
	inside := 0
	for _, n := range allowed {
		if slices.Contains(isolated, n) {
			inside++
		}
	}
	switch {
	case inside == 0:
		f.Level = note
		f.Consequence = "No process runs there unless it is pinned. So polling there disturbs no other process, and none disturbs it."
		f.Remedy = "taskset -c N pins a process; give each end a processor of its own."
	case inside == len(allowed) && inside > 1:
		f.Level = warning
		f.Consequence = "This process may use only isolated processors, and the kernel does not move threads between those: all threads stay on the one where they began."
		f.Remedy = "Pin it to one of them, with GOMAXPROCS=1, or to one and an ordinary one."
	}
	return []finding{f}
}

func listOf(numbers []int) string {
	if len(numbers) == 0 {
		return "none"
	}
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(numbers)), ","), "[]")
}

func checkIdle(m *machine) []finding {
	f := finding{Check: "idle states", Level: ok, Found: "none to be seen, as in most virtual machines"}
	states, _ := fs.Glob(m.root, "sys/devices/system/cpu/cpu0/cpuidle/state*")
	deepest, name := -1, ""
	for _, dir := range states {
		latency, err := strconv.Atoi(m.read(dir + "/latency"))
		if err == nil && latency > deepest && m.read(dir+"/disable") != "1" {
			deepest, name = latency, clean(m.read(dir+"/name"))
		}
	}
	if deepest < 0 {
		return []finding{f}
	}
	f.Found = fmt.Sprintf("the deepest, %s, takes %d us to leave", name, deepest)
	if deepest > 20 {
		f.Level = note
		f.Consequence = "An end that sleeps on an idle processor wakes up that much later."
		f.Remedy = "cpupower idle-set -D 20 forbids states that take longer; BusyPoll < 0 keeps the processor of an end awake. Both cost power."
	}
	return []finding{f}
}

func checkGovernor(m *machine) []finding {
	f := finding{Check: "governor", Level: ok, Found: "none to be seen, as in most virtual machines"}
	files, _ := fs.Glob(m.root, "sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
	var names []string
	for _, file := range files {
		names = append(names, clean(m.read(file)))
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return []finding{f}
	}
	f.Found = strings.Join(names, ", ")
	if f.Found != "performance" {
		f.Level = note
		f.Consequence = "The clock frequency may drop between messages, and takes a while to rise again."
		f.Remedy = "cpupower frequency-set -g performance"
	}
	return []finding{f}
}

// A mount is a line of /proc/self/mountinfo.
type mount struct {
	point, kind string
	options     []string // of the mount and of the file system
}

// mountOf returns what dir is on.
func (m *machine) mountOf(dir string) (best mount) {
	for line := range strings.Lines(m.read("/proc/self/mountinfo")) {
		front, back, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(front), strings.Fields(back)
		if len(f) < 6 || len(g) < 1 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[4])
		if dir != point && !strings.HasPrefix(dir, strings.TrimSuffix(point, "/")+"/") || len(point) < len(best.point) {
			continue // a later mount at the same point covers the one before
		}
		best = mount{point, g[0], strings.Split(f[5], ",")}
		if len(g) > 2 {
			best.options = append(best.options, strings.Split(g[2], ",")...)
		}
	}
	return best
}

func checkDirectory(m *machine) []finding {
	f := finding{Check: "memory", Level: ok}
	total, free, err := m.space(m.dir)
	on := m.mountOf(m.dir)
	if err != nil {
		f.Level, f.Found = warning, fmt.Sprintf("%s: %v", clean(m.dir), err)
		f.Consequence = "Names and the memory of connections are in this directory, unless a NAME includes another."
		f.Remedy = "Mount a tmpfs there, or set SHMCONN_DIR."
		return []finding{f}
	}
	room := free / connMemory
	f.Found = fmt.Sprintf("%s: %s, %s of %s free: room for %d connections", clean(m.dir), clean(on.kind), amount(free), amount(total), room)
	switch {
	case slices.Contains(on.options, "ro"):
		f.Level = warning
		f.Found += "; read-only"
		f.Consequence = "Nobody can listen or dial there."
		f.Remedy = "Mount it for writing, or set SHMCONN_DIR to another directory."
	case on.kind != "tmpfs" && on.kind != "":
		f.Level = warning
		f.Consequence = "This is not a tmpfs: the kernel writes the rings to the disk now and then, and a message can wait for that."
		f.Remedy = "Set SHMCONN_DIR to a directory on a tmpfs, or use Anonymous, which keeps only names there."
	case room < 10:
		f.Level = warning
		f.Consequence = "Dials will soon fail because there is no room (ENOSPC)."
		f.Remedy = "docker run --shm-size, or mount -o remount,size=...; or use a smaller RingSize, or Anonymous."
	case total <= 64<<20:
		f.Level = note
		f.Consequence = "That is what Docker gives a container; more connections than that fail (ENOSPC)."
		f.Remedy = "docker run --shm-size; or use a smaller RingSize, or Anonymous."
	}
	return []finding{f}
}

func checkHugePages(m *machine) []finding {
	f := finding{Check: "huge pages", Level: ok, Found: "not for shared memory"}
	anonymous := ""
	_, rest, _ := strings.Cut(m.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled"), "[")
	anonymous, _, _ = strings.Cut(rest, "]")
	inDir := ""
	for _, o := range m.mountOf(m.dir).options {
		if v, found := strings.CutPrefix(o, "huge="); found {
			inDir = v
		}
	}
	var where, remedies []string
	if anonymous == "force" || inDir == "always" {
		where = append(where, m.dir)
		remedies = append(remedies, "mount -o remount,huge=never "+m.dir)
	}
	if anonymous == "force" || anonymous == "always" {
		where = append(where, "Anonymous memory")
		remedies = append(remedies, "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled")
	}
	if len(where) > 0 {
		f.Level, f.Found = note, "always, for "+clean(strings.Join(where, " and "))
		f.Consequence = "A connection of 516 KiB can take 2 MiB, all of which the kernel zeroes during the dial."
		f.Remedy = clean(strings.Join(remedies, "; "))
	}
	return []finding{f}
}

func checkFiles(m *machine) []finding {
	f := finding{Check: "open files", Level: ok, Found: "/proc does not say how many"}
	for line := range strings.Lines(m.read("/proc/self/limits")) {
		rest, found := strings.CutPrefix(line, "Max open files")
		words := strings.Fields(rest)
		if !found || len(words) < 2 {
			continue
		}
		f.Found = fmt.Sprintf("at most %s; Go raises the limit of %s to that", words[1], words[0])
		if words[0] == words[1] {
			f.Found = "at most " + words[1]
		}
		if n, err := strconv.Atoi(words[1]); err == nil && n < 4096 {
			f.Level = note
			f.Found += fmt.Sprintf(": at most %d connections", n/3)
			f.Consequence = "A dialer's end takes three descriptors, and an accepted end two. Beyond the limit, connections wait for Accept, and dials fail (EMFILE)."
			f.Remedy = "ulimit -n, LimitNOFILE= of systemd, or docker run --ulimit nofile=..."
		}
	}
	return []finding{f}
}

func checkMappings(m *machine) []finding {
	n, err := strconv.Atoi(m.read("/proc/sys/vm/max_map_count"))
	f := finding{Check: "mappings", Level: ok, Found: fmt.Sprintf("at most %d a process: %d connections with spans that wrap both ways, four times as many without", n, n/4)}
	switch {
	case err != nil:
		f.Found = "/proc does not say how many"
	case n < 4*1000:
		f.Level = note
		f.Consequence = "Each end takes one to four mappings. Beyond the limit, dials, Peek and Reserve fail (ENOMEM)."
		f.Remedy = "sysctl vm.max_map_count=65530"
	}
	return []finding{f}
}

func checkMembarrier(m *machine) []finding {
	if m.arch != "amd64" {
		return nil // only amd64 has a use for it
	}
	f := finding{Check: "membarrier", Level: ok, Found: "allowed"}
	if err := m.membarrier(); err != nil {
		f.Level, f.Found = note, clean(err.Error())
		if m.field("/proc/self/status", "Seccomp") == "2" {
			f.Found += ", perhaps by the seccomp filter that this process has"
		}
		f.Consequence = "Each call on a connection takes a fence of its own instead, which costs some nanoseconds."
		f.Remedy = "Allow membarrier(2) in the seccomp profile; Docker's own profile does."
	}
	return []finding{f}
}

// initPIDNamespace is the inode of the first PID namespace (PROC_PID_INIT_INO
// of the kernel's include/linux/proc_ns.h).
const initPIDNamespace = "pid:[4026531836]"

func checkProc(m *machine) []finding {
	hidden := finding{Check: "other users", Level: ok, Found: "/proc shows their processes"}
	for _, o := range m.mountOf("/proc").options {
		if v, found := strings.CutPrefix(o, "hidepid="); found && v != "0" && v != "off" {
			hidden.Level, hidden.Found = note, "/proc hides their processes (hidepid="+clean(v)+")"
			hidden.Consequence = "Connections are not affected. But ls and top show only what your own processes have."
			hidden.Remedy = "Run these as root, or as a member of the group that /proc is mounted with (gid=)."
		}
	}
	space := finding{Check: "PID namespace", Level: ok, Found: "the machine's own"}
	ns, err := fs.ReadLink(m.root, "proc/self/ns/pid")
	switch {
	case err != nil:
		space.Found = "/proc does not say which"
	case ns != initPIDNamespace:
		space.Level, space.Found = note, "a container's"
		space.Consequence = "Connections are not affected. But ls and top do not see the processes of other containers, and PeerCred returns PID 0 for them."
		space.Remedy = "Run these on the host, or in a container with --pid=host."
	}
	return []finding{hidden, space}
}
