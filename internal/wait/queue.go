package wait

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// A queue says whether goroutines of this process want to run.
//
// Whoever polls has to let them: data that a Read has returned is often passed
// on to one. But each Gosched wakes a thread for the idle Ps, if there are any,
// to look for work. Where there is none, that thread takes a processor for some
// microseconds, and as it runs so often, the kernel no longer takes the
// processor for idle and leaves two ends that share another one where they are.
type queue struct {
	mu   sync.Mutex // held while one reads
	want []metrics.Sample
}

// waiting reports whether any goroutine waits to run. It takes 60 ns, or 0.4 us
// with 64 Ps.
func (q *queue) waiting() bool {
	if !q.mu.TryLock() {
		return true
	}
	defer q.mu.Unlock()
	if q.want == nil {
		q.want = []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}
	}
	metrics.Read(q.want)
	v := q.want[0].Value
	return v.Kind() != metrics.KindUint64 || v.Uint64() > 0
}

// LetRun lets goroutines of the process that wait to run do so.
func LetRun() {
	if process.queue.waiting() {
		runtime.Gosched()
	}
}

// A gosched says when a goroutine that polls has to call runtime.Gosched even
// if none waits to run. Both reasons are in runtime/proc.go (Go 1.26).
//
// While a P is idle, a thread waits for the network. When the network wakes a
// goroutine, that thread runs it, and the scheduler has none wait in its place
// (findRunnable) until the goroutine blocks, which one that polls does not do.
// Nor does a thread wait that went to sleep when there was no goroutine to wait
// for. Then only the monitor looks, every 10 ms. Gosched starts another thread,
// which finds nothing to run, and waits.
//
// The monitor takes the P away from a goroutine that was not scheduled for 10
// ms if it finds it in a system call (retake), sched_yield for one, and goes on
// to do so every 0.1 ms.
type gosched struct {
	due  atomic.Int64
	last atomic.Int64 // when a goroutine last polled
}

// sleeps notes that at the time now the network has woken a goroutine, or one
// begins to wait for it. However often that happens, a Gosched that will be due
// soon is not put off.
func (g *gosched) sleeps(now time.Duration) {
	if due := time.Duration(g.due.Load()); due < now || due > now+lookoutAfter {
		g.woken(now)
	}
}

// woken has the next Gosched be due after lookoutAfter.
func (g *gosched) woken(now time.Duration) { g.due.Store(int64(now + lookoutAfter)) }

// polls calls runtime.Gosched if that is due, and reports whether it has. It is
// for a goroutine that polls. If none did for a while, the network may have
// woken that goroutine.
func (g *gosched) polls(now time.Duration) bool {
	if last := time.Duration(g.last.Swap(int64(now))); now-last > heartbeat {
		g.woken(now)
	}
	due := g.due.Load()
	if now < time.Duration(due) || !g.due.CompareAndSwap(due, int64(now+schedAtLeast)) {
		return false
	}
	runtime.Gosched()
	return true
}
