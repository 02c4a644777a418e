//go:build linux

package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A connection that is seldom used, in a process with one that is hot: a third
// process beats on it, and how late the beats are read is what is measured.

// beatSize is the size of a beat: a head and the time at which it was sent.
const beatSize = 16

// beatsPerSecond is how many beats there are where [Spec.Rate] is 0.
const beatsPerSecond = 200

// beatPause returns how long to rest before a beat: 0.6 to 1.4 of the mean, at
// random, so that beats do not fall in step with what happens every so many
// milliseconds.
func beatPause(perSecond int) time.Duration {
	mean := time.Second / time.Duration(cmp.Or(perSecond, beatsPerSecond))
	return mean*3/5 + rand.N(mean*4/5)
}

// beat is the third process. It begins when the client says so.
func beat(e *end, q quota) (r Result, err error) {
	rw, err := e.stream()
	if err != nil {
		return r, err
	}
	b := make([]byte, beatSize)
	if _, err := io.ReadFull(rw, b[:1]); err != nil {
		return r, err
	}
	for start, more := time.Now(), true; more; {
		time.Sleep(beatPause(e.spec.Rate))
		r.Ops++
		more = time.Since(start) < q.D && (q.D > 0 || r.Ops < q.N)
		head := r.Ops - 1
		if !more {
			head |= last(beatSize)
		}
		PutHead(b, head)
		stamp(b, monotonic())
		if _, err := rw.Write(b); err != nil {
			return r, err
		}
	}
	r.AllOps = r.Ops
	return r, nil
}

// hotBesideVictim is the client: it sends round trips over the connection that
// is hot, computes if it is told to, and reads the beats.
func hotBesideVictim(e *end, _ quota) (Result, error) {
	victim, m, size := e.pollers[0], e.msgs[0], e.spec.Size
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range e.spec.Compute {
		wg.Go(func() {
			for !stop.Load() {
			}
		})
	}
	var trips uint64
	var hot error
	wg.Go(func() {
		for !stop.Load() && hot == nil {
			hot = exchange(m, size, trips&(last(size)-1))
			trips++
		}
		hot = errors.Join(hot, exchange(m, size, last(size)))
	})
	start := time.Now()
	n, err := e.readBeats(victim)
	r := Result{Ops: n, Elapsed: time.Since(start)}
	stop.Store(true)
	wg.Wait()
	r.AllOps = trips
	return r, errors.Join(err, hot)
}

// readBeats has the beats begin, and records how late each is read.
func (e *end) readBeats(victim io.ReadWriter) (uint64, error) {
	if _, err := victim.Write([]byte{1}); err != nil {
		return 0, err
	}
	b, k := make([]byte, beatSize), newChecker(beatSize)
	for !k.done() {
		if _, err := io.ReadFull(victim, b); err != nil {
			return k.seen, fmt.Errorf("bench: beats: %w", err)
		}
		e.record(time.Duration(monotonic() - stamped(b)))
		if err := k.check(Head(b)); err != nil {
			return k.seen, err
		}
	}
	return k.seen, nil
}
