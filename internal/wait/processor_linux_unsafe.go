//go:build linux

package wait

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Processor returns 1 + the number of the processor that the caller runs on,
// and 0 where the kernel does not say. It takes a system call, which never
// waits: 80 ns. For a process that was started on one processor the answer is a
// millisecond old at most.
func Processor() uint32 {
	if n := only.Load(); n != 0 {
		return n
	}
	return processor()
}

func processor() uint32 {
	var n uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&n)), 0, 0); errno != 0 {
		return 0
	}
	return n + 1
}

// only is where a process runs that was started on one processor.
var only atomic.Uint32

// relocate looks up where that is now: the process may have got other
// processors since.
func relocate() {
	if runtime.NumCPU() == 1 {
		only.Store(processor())
	}
}
