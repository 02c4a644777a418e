package wait

import (
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
