//go:build linux && !race

package dekker

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Commands of membarrier(2), since Linux 4.14.
const (
	privateExpedited         = 1 << 3
	registerPrivateExpedited = 1 << 4
)

// registered reports whether Barrier is to be had, for all of the process's life.
var registered = sync.OnceValue(func() bool {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, registerPrivateExpedited, 0, 0)
	return errno == 0
})

// Barrier is a full fence in every thread of the process: what they did before is seen by
// the caller after it, and what the caller did before is seen by them.
func Barrier() {
	if !registered() {
		return
	}
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, privateExpedited, 0, 0); errno != 0 { // sync: turn
		// It was taken from us, by seccomp say. To stop the world does the same, slowly.
		runtime.ReadMemStats(new(runtime.MemStats))
	}
}

// release stores 0 into *p, as a plain store, which x86 keeps behind all that came before.
//
//go:noescape
func release(p *atomic.Uint32)
