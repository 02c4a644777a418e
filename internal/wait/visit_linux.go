package wait

import (
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A visitor makes the runtime's scheduler check the network.
//
// The scheduler does so when it finds nothing to run, and its monitor does so
// every 10 ms. A goroutine that polls is always there to be run: when
// goroutines keep all Ps busy, sockets, pipes and parked connections wait for
// the monitor. So one that polls makes a descriptor of its own readable and
// sleeps until the scheduler finds that out, along with everything else that
// has happened.
type visitor struct {
	last atomic.Int64 // when the last visit was

	mu      sync.Mutex // held during a visit; guards the following
	file    *os.File
	raw     syscall.RawConn
	written bool
	thread  int // that has begun a visit
	read    func(fd uintptr) bool
	counts  []metrics.Sample // of goroutines that run, and of those in system calls
	calls   uint64           // what the second was when it was last read
	entered time.Duration    // when that had changed
	visited time.Duration    // when the last visit began
	watched bool             // it has ended on another thread: see taken
}

// open makes v ready for visits. Without descriptors there are none.
func (v *visitor) open() {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "visits of the network")
	raw, err := f.SyscallConn()
	if err != nil || f.SetReadDeadline(time.Time{}) != nil { // it cannot be polled
		f.Close()
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.file, v.raw = f, raw
	v.counts = []metrics.Sample{{Name: "/sched/goroutines/running:goroutines"}, {Name: "/sched/goroutines/not-in-go:goroutines"}}
	v.read = func(fd uintptr) bool {
		var count [8]byte
		if v.written {
			v.watched = unix.Gettid() != v.thread
			unix.Read(int(fd), count[:])
			return true
		}
		v.thread = unix.Gettid()
		count[0] = 1 // whichever byte that is, the count is not 0
		_, err := unix.Write(int(fd), count[:])
		v.written = err == nil
		return err != nil
	}
}

// visit makes a visit if one is due and no P is idle. If another goroutine
// makes one, it waits for the end of that.
func (v *visitor) visit(now time.Duration) {
	last := v.last.Load()
	if now-time.Duration(last) < choreEvery || !v.last.CompareAndSwap(last, int64(now)) {
		return
	}
	if !v.mu.TryLock() {
		// The scheduler may need this P to find that the other visit is over.
		v.mu.Lock()
		defer v.mu.Unlock()
		return
	}
	defer v.mu.Unlock()
	if now-time.Duration(last) > heartbeat { // nobody has looked at the calls
		v.entered, v.visited, v.watched = now, now, false
	}
	if v.raw == nil || !v.busy(now) {
		return
	}
	v.written, v.visited = false, now
	v.raw.Read(v.read)
	runtime.Gosched() // what the scheduler has found runs before we go on
}

// busy reports whether all Ps are taken.
func (v *visitor) busy(now time.Duration) bool {
	metrics.Read(v.counts)
	running, calls := v.counts[0].Value, v.counts[1].Value
	if running.Kind() != metrics.KindUint64 || calls.Kind() != metrics.KindUint64 {
		return false
	}
	return v.taken(running.Uint64(), calls.Uint64(), uint64(runtime.GOMAXPROCS(0)), now)
}

// taken is busy for so many goroutines that run, and that are in system calls.
// One in a system call keeps its P until the monitor has found it there twice
// and takes that away. So if their number has changed lately, these count as
// well, but for a visit a millisecond only, because there may be nothing to
// wait for, and until a visit shows that a thread waits for the network, so
// that a P is idle. Otherwise they count for one every 10 ms: one can have come
// back and entered another between two looks.
func (v *visitor) taken(running, calls, procs uint64, now time.Duration) bool {
	if calls != v.calls {
		v.calls, v.entered, v.watched = calls, now, false
	}
	every := monitor
	if !v.watched && now-v.entered < 2*monitor {
		every = heartbeat
	}
	return running >= procs || running+calls >= procs && now-v.visited >= every
}
