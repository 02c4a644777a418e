//go:build linux && gc && !race

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

// give, Enter and Leave are plain stores, which x86 keeps behind all that came
// before. A load that follows may be executed before others see them.
//
// They are assignments because Go's atomic stores have a fence, and a call of
// an assembler function costs as much as one: a Producer's Write has two, which
// took 6 of its 15 ns. To Go's memory model an assignment is a race with the
// atomic loads of others. These see the old value or the new one, as a word is
// stored at once; and the compiler keeps a store before the atomic operations
// that follow it, and behind those before it, as it does with all that changes
// memory. The tests look at both ends of that: TestLitmus, TestGateLitmus.
func (f *Flag) give() { f.taken = 0 }

// Enter says that the owner is inside.
func (g *Gate) Enter() {
	g.inside = 1 // sync: lend
}

// Leave says that the owner is not inside any more. A goroutine that finds the
// gate empty sees what the owner did inside.
func (g *Gate) Leave() {
	g.inside = 0 // sync: lend
}

func storeFenced(p *uint32, v uint32) { atomic.StoreUint32(p, v) }

// Ready reports whether others have Barrier, so that Enter and Leave will do.
// Once it is true it stays so.
func Ready() bool { return cheap() }
