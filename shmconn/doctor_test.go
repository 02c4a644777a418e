package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"
)

// healthy is a machine of which there is nothing to say.
func healthy() (*machine, fstest.MapFS) {
	files := fstest.MapFS{
		"proc/self/ns/pid": {Mode: fs.ModeSymlink | 0o777, Data: []byte(initPIDNamespace)},
	}
	for name, text := range map[string]string{
		"proc/sys/kernel/osrelease":                             "6.18.44-amd64\n",
		"proc/self/status":                                      "Name:\tshmconn\nCpus_allowed_list:\t0-3\nSeccomp:\t0\n",
		"proc/self/cgroup":                                      "0::/user.slice\n",
		"proc/self/limits":                                      "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n",
		"proc/sys/vm/max_map_count":                             "1048576\n",
		"proc/self/mountinfo":                                   "21 26 0:20 / / rw,relatime - ext4 /dev/vda rw\n22 21 0:21 / /proc rw,relatime shared:5 - proc proc rw\n24 21 0:22 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=8000000k\n",
		"sys/devices/system/cpu/online":                         "0-3\n",
		"sys/devices/system/cpu/isolated":                       "\n",
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor":  "performance\n",
		"sys/devices/system/cpu/cpu0/cpuidle/state0/name":       "POLL\n",
		"sys/devices/system/cpu/cpu0/cpuidle/state0/latency":    "0\n",
		"sys/devices/system/cpu/cpu0/cpuidle/state1/name":       "C1\n",
		"sys/devices/system/cpu/cpu0/cpuidle/state1/latency":    "2\n",
		"sys/kernel/mm/transparent_hugepage/shmem_enabled":      "always within_size advise [never] deny force\n",
		"sys/fs/cgroup/user.slice/cpu.max":                      "max 100000\n",
		"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor":  "performance\n",
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_available": "x",
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return &machine{
		root: files, dir: "/dev/shm", arch: "amd64",
		space:      func(string) (uint64, uint64, error) { return 8 << 30, 7 << 30, nil },
		membarrier: func() error { return nil },
		trial:      func(context.Context) (time.Duration, error) { return 1500, nil },
	}, files
}

func TestDoctorHealthy(t *testing.T) {
	m, _ := healthy()
	list := m.findings()
	for _, f := range list {
		if f.Level != ok || f.Consequence != "" || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
	if len(list) != 13 {
		t.Errorf("%d findings, want 13", len(list))
	}
}

// Each machine differs from the healthy one in one way, and one finding says
// so.
func TestDoctor(t *testing.T) {
	text := func(name, text string) func(*machine, fstest.MapFS) {
		return func(_ *machine, files fstest.MapFS) { files[name] = &fstest.MapFile{Data: []byte(text)} }
	}
	mounted := func(lines string) func(*machine, fstest.MapFS) {
		return func(_ *machine, files fstest.MapFS) {
			files["proc/self/mountinfo"].Data = append(files["proc/self/mountinfo"].Data, lines...)
		}
	}
	without := func(name string) func(*machine, fstest.MapFS) {
		return func(_ *machine, files fstest.MapFS) { delete(files, name) }
	}
	room := func(total, free uint64, err error) func(*machine, fstest.MapFS) {
		return func(m *machine, _ fstest.MapFS) {
			m.space = func(string) (uint64, uint64, error) { return total, free, err }
		}
	}
	for name, tt := range map[string]struct {
		change func(*machine, fstest.MapFS)
		check  string
		level  level
		says   string // in what was found, what follows or what to do
	}{
		"old kernel":     {text("proc/sys/kernel/osrelease", "6.12.9\n"), "kernel", note, "6.13"},
		"next kernel":    {text("proc/sys/kernel/osrelease", "7.0.0\n"), "kernel", ok, "Linux 7.0.0, amd64"},
		"ancient kernel": {text("proc/sys/kernel/osrelease", "3.10.0-1160.el7\n"), "kernel", warning, "4.14"},
		"no /proc":       {without("proc/sys/kernel/osrelease"), "kernel", warning, "Mount /proc"},
		"one processor": {func(m *machine, f fstest.MapFS) {
			text("sys/devices/system/cpu/online", "0")(m, f)
			text("proc/self/status", "Cpus_allowed_list:\t0\n")(m, f)
		}, "processors", warning, "share one processor"},
		"pinned":      {text("proc/self/status", "Cpus_allowed_list:\t2\n"), "processors", note, "1 of 4 may be used: number 2"},
		"quota":       {text("sys/fs/cgroup/cpu.max", "150000 100000\n"), "CPU quota", note, "1.5 processors"},
		"small quota": {text("sys/fs/cgroup/user.slice/cpu.max", "50000 100000\n"), "CPU quota", warning, "0.5 processors"},
		"quota, v1": {func(m *machine, f fstest.MapFS) {
			text("proc/self/cgroup", "3:cpuacct,cpu:/docker/12\n1:name=systemd:/\n")(m, f)
			text("sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "200000\n")(m, f)
			text("sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "100000\n")(m, f)
			text("sys/fs/cgroup/cpu/docker/12/cpu.cfs_quota_us", "-1\n")(m, f)
		}, "CPU quota", note, "2 processors"},
		"isolated": {func(m *machine, f fstest.MapFS) {
			text("sys/devices/system/cpu/isolated", "6-7\n")(m, f)
			text("sys/devices/system/cpu/nohz_full", "7\n")(m, f)
		}, "isolated", note, "processors 6,7; without ticks (nohz_full) 7"},
		"on isolated": {text("sys/devices/system/cpu/isolated", "0-7\n"), "isolated", warning, "does not move threads"},
		"deep idle state": {func(m *machine, f fstest.MapFS) {
			text("sys/devices/system/cpu/cpu0/cpuidle/state2/name", "C6\n")(m, f)
			text("sys/devices/system/cpu/cpu0/cpuidle/state2/latency", "133\n")(m, f)
		}, "idle states", note, "C6, takes 133 us"},
		"forbidden state": {func(m *machine, f fstest.MapFS) {
			text("sys/devices/system/cpu/cpu0/cpuidle/state2/name", "C6\n")(m, f)
			text("sys/devices/system/cpu/cpu0/cpuidle/state2/latency", "133\n")(m, f)
			text("sys/devices/system/cpu/cpu0/cpuidle/state2/disable", "1\n")(m, f)
		}, "idle states", ok, "C1, takes 2 us"},
		"governor":           {text("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"), "governor", note, "performance, powersave"},
		"Docker's /dev/shm":  {room(64<<20, 64<<20, nil), "memory", note, "room for 127 connections"},
		"full /dev/shm":      {room(64<<20, 1<<20, nil), "memory", warning, "room for 1 connections"},
		"no /dev/shm":        {room(0, 0, errors.New("statfs: no such file or directory")), "memory", warning, "no such file"},
		"read-only /dev/shm": {mounted("25 24 0:23 / /dev/shm ro - tmpfs tmpfs rw\n"), "memory", warning, "read-only"},
		"names on a disk":    {func(m *machine, _ fstest.MapFS) { m.dir = "/var/shm" }, "memory", warning, "not a tmpfs"},
		"directory below":    {func(m *machine, _ fstest.MapFS) { m.dir = "/dev/shm/app" }, "memory", ok, "/dev/shm/app: tmpfs"},
		"huge pages":         {text("sys/kernel/mm/transparent_hugepage/shmem_enabled", "[always] within_size advise never deny force\n"), "huge pages", note, "for Anonymous memory"},
		"huge /dev/shm":      {mounted("25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw,huge=always\n"), "huge pages", note, "remount,huge=never /dev/shm"},
		"few files":          {text("proc/self/limits", "Max open files            1024                 1024                 files\n"), "open files", note, "at most 341 connections"},
		"few mappings":       {text("proc/sys/vm/max_map_count", "1000\n"), "mappings", note, "250 connections"},
		"membarrier": {func(m *machine, f fstest.MapFS) {
			m.membarrier = func() error { return errors.New("operation not permitted") }
			text("proc/self/status", "Cpus_allowed_list:\t0-3\nSeccomp:\t2\n")(m, f)
		}, "membarrier", note, "operation not permitted, perhaps by the seccomp filter"},
		"hidepid":   {mounted("30 22 0:21 / /proc rw - proc proc rw,hidepid=invisible\n"), "other users", note, "hidepid=invisible"},
		"container": {func(_ *machine, f fstest.MapFS) { f["proc/self/ns/pid"].Data = []byte("pid:[4026532198]") }, "PID namespace", note, "a container's"},
	} {
		t.Run(name, func(t *testing.T) {
			m, files := healthy()
			tt.change(m, files)
			seen := false
			for _, f := range m.findings() {
				if f.Check != tt.check {
					if f.Level != ok {
						t.Errorf("%+v", f)
					}
					continue
				}
				seen = true
				all := f.Found + "\n" + f.Consequence + "\n" + f.Remedy
				if f.Level != tt.level || !strings.Contains(all, tt.says) {
					t.Errorf("%+v, want %s and %q", f, tt.level, tt.says)
				}
				if (f.Level != ok) != (f.Consequence != "" && f.Remedy != "") {
					t.Errorf("%+v: what follows, or what to do?", f)
				}
			}
			if !seen {
				t.Errorf("there is no finding about %s", tt.check)
			}
		})
	}
}

// On arm64 there is no membarrier to have, and of an empty machine nothing is
// known: every check lives with that.
func TestDoctorNothing(t *testing.T) {
	m, _ := healthy()
	m.root, m.arch = fstest.MapFS{}, "arm64"
	for _, f := range m.findings() {
		if f.Check == "membarrier" || f.Found == "" || f.Level == warning && f.Check != "kernel" {
			t.Errorf("%+v", f)
		}
	}
}

// The exit status is 1 only if a connection does not work.
func TestDoctorStatus(t *testing.T) {
	m, files := healthy()
	files["proc/self/status"].Data = []byte("Cpus_allowed_list:\t2\n")
	examine := func(args ...string) (int, string) {
		var stdout, stderr bytes.Buffer
		s := stdio{nil, &stdout, &stderr}
		code := report(s, (&doctorCmd{JSON: len(args) > 0}).examine(t.Context(), s, m))
		if stderr.Len() > 0 {
			t.Errorf("on stderr: %s", stderr.String())
		}
		return code, stdout.String()
	}
	code, text := examine()
	if code != 0 || !strings.Contains(text, "\nok       connection     works; a round trip of 64 bytes takes 1.5 us (median)\n") || !strings.Contains(text, "\nnote     processors     1 of 4 may be used: number 2\n                        A process pinned to") || !strings.Contains(text, "\n                        → Pin the two ends") {
		t.Errorf("exit status %d, it says\n%s", code, text)
	}
	for line := range strings.Lines(text) {
		if utf8.RuneCountInString(line)-1 > 80 {
			t.Errorf("longer than 80: %s", line)
		}
	}
	m.trial = func(context.Context) (time.Duration, error) { return 0, errors.New("out of order\x1b[2J") }
	code, text = examine("--json")
	var got struct{ Findings []finding }
	if err := json.Unmarshal([]byte(text), &got); err != nil || code != 1 || len(got.Findings) != 14 {
		t.Fatalf("exit status %d, %d findings, %v", code, len(got.Findings), err)
	}
	if f := got.Findings[13]; f.Level != failure || f.Found != "out of order?[2J" {
		t.Errorf("%+v", f)
	}
}

func TestNumbers(t *testing.T) {
	for _, tt := range []struct {
		list string
		want int
	}{{"", 0}, {"0", 1}, {"0-3", 4}, {"0-3,8,10-11", 7}, {"(null)", 0}, {"0-999999999", 0}, {"1-", 0}} {
		if got := numbers(tt.list); len(got) != tt.want {
			t.Errorf("%q: %v, want %d numbers", tt.list, got, tt.want)
		}
	}
}
