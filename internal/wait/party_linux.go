package wait

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorTime returns how much processor time a process has used, 0 being
// this one, or 0 if the kernel does not say. It takes no permission. The number
// of the clock is made as clock_getcpuclockid(3) makes it.
func processorTime(pid int) time.Duration {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = ^int32(pid)<<3 | 2
	}
	var ts unix.Timespec
	if unix.ClockGettime(clock, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// A processorSet is some processors of the machine.
type processorSet unix.CPUSet

// processorsOf returns the processors that a process may run on, 0 being this
// one; none if the kernel does not say.
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
