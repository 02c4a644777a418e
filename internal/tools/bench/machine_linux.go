package bench

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes where this is run.
func machine() Machine {
	m := Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) >= 3 {
			m.Load = strings.Join(f[:3], " ")
		}
	}
	const n = 10000
	start := time.Now()
	for range n {
		t := time.Now()
		_ = time.Since(t)
	}
	// From the middle of the first reading to that of the second.
	m.ClockNS = float64(time.Since(start)) / n / 2
	return m
}

// A busy is processor time used since the machine was started.
type busy struct {
	at  time.Time
	all time.Duration // by all processes, and by the machine's other guests
	own time.Duration // by this process
}

// readBusy returns the time used until now. The kernel counts it in steps of 10
// ms.
func readBusy() busy {
	b := busy{at: time.Now(), own: cpuTime()}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return b
	}
	line, _, _ := strings.Cut(string(text), "\n")
	// cpu user nice system idle iowait irq softirq steal ...
	for i, f := range strings.Fields(line) {
		n, _ := strconv.ParseInt(f, 10, 64)
		d := time.Duration(n) * 10 * time.Millisecond
		switch i {
		case 1, 2, 3, 6, 7, 8:
			b.all += d
		}
	}
	return b
}

// others returns how many cores have been used since b by processes other than
// this one and its peers and neighbours, which have used that much.
func (b busy) others(peers time.Duration) float64 {
	now := readBusy()
	d := (now.all - b.all) - (now.own - b.own) - peers
	return max(0, float64(d)/float64(now.at.Sub(b.at)))
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
