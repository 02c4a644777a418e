//go:build linux && !shmconn_sockets

package stream

import (
	"runtime/debug"
	"sync/atomic"
	"time"

	"shmconn/internal/wait"
)

// A stopwatch adds up times. One goroutine at a time starts and stops it; any
// may read it.
type stopwatch struct {
	v    atomic.Int64 // the sum; while it runs, the sum less the time of the start, less 1: below 0
	seen atomic.Int64 // the largest that sum has returned
}

func (w *stopwatch) start(now time.Duration) { w.v.Add(-int64(now) - 1) }

func (w *stopwatch) stop(now time.Duration) { w.v.Add(int64(now) + 1) }

// sum returns the sum, until now if it runs. It never falls: a sum until now
// can be a little more than that of a stop at the same time.
func (w *stopwatch) sum() time.Duration {
	v := w.v.Load()
	if v < 0 {
		v += int64(wait.Now()) + 1
	}
	for {
		seen := w.seen.Load()
		if v <= seen {
			return time.Duration(seen)
		}
		if w.seen.CompareAndSwap(seen, v) {
			return time.Duration(v)
		}
	}
}

func (s *Stream) Stats() Stats {
	s.flush()
	st := Stats{
		Network:  Network,
		RingSize: s.size,
		Reused:   uint64(s.gen - 1),
	}
	st.BytesRead, st.ReadCalls = s.rx.count(s.rx.ring.Published)
	st.BytesWritten, st.WriteCalls = s.tx.count(s.tx.ring.Published)
	st.ReadWait, st.WriteWait = s.rx.blocked.sum(), s.tx.blocked.sum()
	for _, h := range s.halves() {
		st.Waits += h.waits.Load()
		st.ParksAlways += h.causes[wait.Always].Load()
		st.ParksGap += h.causes[wait.Gap].Load()
		st.ParksContended += h.causes[wait.Contended].Load()
		st.ParksNear += h.causes[wait.Near].Load()
		st.ParksSpent += h.causes[wait.Spent].Load()
		st.Rings += h.rings.Load()
	}
	st.Parks = st.ParksAlways + st.ParksGap + st.ParksContended + st.ParksNear + st.ParksSpent
	return st
}

// count returns how many bytes went through, in how many calls: as far as this
// end knows, or, while a call holds the half, as far as that call has
// published.
func (h *half) count(published func() uint64) (bytes, calls uint64) {
	if h.turn.TryLock() {
		defer h.turn.Unlock()
		h.counted.Store(h.calls) // so that a later Stats does not find less
		h.looked.Store(h.total())
		return h.total(), h.calls
	}
	if !h.turn.Incref() {
		return h.final.Load(), h.counted.Load()
	}
	defer h.turn.Decref()
	defer h.s.ignoreFault(debug.SetPanicOnFault(true))
	bytes, calls = h.looked.Load(), h.counted.Load()
	bytes = max(bytes, published())
	return bytes, calls
}
