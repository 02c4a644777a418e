//go:build linux && !race

package dekker

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Commands of membarrier(2), since Linux 4.14.
const (
	privateExpedited         = 1 << 3
	registerPrivateExpedited = 1 << 4
)

// registered says that Barrier is to be had from now on, for all of the
// process's life.
var registered atomic.Bool

// Register makes Barrier available, if the kernel lets it. It waits for a grace
// period of the kernel's, 10 to 20 ms, and so is for a goroutine in the
// background: until it has returned each Give has its fence.
func Register() {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, registerPrivateExpedited, 0, 0)
	registered.Store(errno == 0)
}

// cheap reports whether Give may do without its fence, because Barrier has it.
//
// It becomes true while flags are in use. A Barrier that finds it false does
// nothing, and no Give needs it to: the caller has stored its word, by a fenced
// step, before it found cheap false. So a Give that finds cheap true has come
// after that store, and its load of the word, which x86 keeps behind the load
// of cheap, sees it.
func cheap() bool { return registered.Load() }

// Barrier is a full fence in every thread of the process: what they did before
// is seen by the caller after it, and what the caller did before is seen by
// them. What the caller did before has to have ended with a fence of its own,
// as each atomic operation but a load does.
func Barrier() {
	if !cheap() {
		return
	}
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, privateExpedited, 0, 0); errno != 0 { // sync: turn
		// It was taken from us, by seccomp say. To stop the world does the
		// same, slowly.
		runtime.ReadMemStats(new(runtime.MemStats))
	}
}

func giveFenced(p *atomic.Uint32)   { p.Store(0) }
func occupyFenced(p *atomic.Uint32) { p.Store(1) }

// release stores 0 into *p, as a plain store, which x86 keeps behind all that
// came before.
//
//go:noescape
func release(p *atomic.Uint32)

// occupy stores 1 into *p, likewise. A load that follows may be executed before
// others see the store.
//
//go:noescape
func occupy(p *atomic.Uint32)
