package wait

import (
	"runtime"
	"runtime/metrics"
	"sync"
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

// wakeThread has the scheduler start a thread for an idle P, once every
// heartbeat, and reports whether it has. Without it a quiet connection of a
// process with a hot one is read 2 to 12 ms late, once in a hundred times. More
// often it costs what queue is there for.
func (r *pollers) wakeThread(now time.Duration) bool {
	last := r.woken.Load()
	if now-time.Duration(last) < heartbeat || !r.woken.CompareAndSwap(last, int64(now)) {
		return false
	}
	runtime.Gosched()
	return true
}
