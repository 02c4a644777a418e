//go:build linux && !shmconn_sockets

package stream

import (
	"sync"
	"time"

	"shmconn/internal/bubble"
	"shmconn/internal/doorbell"
	"shmconn/internal/sema"
)

// An ending is the state behind Done. Until Done is called it is empty.
//
// It waits for the end of the doorbell's pipe. The peer gives up its end of
// that when it closes, aborts or dies, so one event stands for all of them. A
// word in shared memory would not do, because for it the peer wakes only an end
// that has parked. Reading the pipe would not do either: the bell has one
// holder at a time, and another reader would take bytes meant for the holder.
// The end of the pipe is an event that takes no byte.
type ending struct {
	mu    sync.Mutex // guards the following, and keeps the bell from being closed
	ch    chan struct{}
	shut  bool // stop was called: the bell may be closed
	watch *doorbell.End
}

// doneWithout is the time between checks for the end of the pipe if the process
// is out of descriptors, or the machine out of watches, to wait for it.
const doneWithout = 20 * time.Millisecond

// Done is Conn.Done, see there.
func (s *Stream) Done() <-chan struct{} {
	d := &s.ending
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch != nil {
		return d.ch
	}
	// The channel and its goroutine belong to no bubble, so the channel may be
	// selected on inside and outside one, as a Conn may be used.
	var made sema.Sema
	bubble.Outside(func() {
		d.ch = make(chan struct{})
		made.Notify()
	})
	made.Wait()
	if d.shut {
		close(d.ch)
		return d.ch
	}
	if s.sayWatched() {
		close(d.ch)
		return d.ch
	}
	d.watch, _ = s.bell.End()
	bubble.Go(s.awaitEnd)
	return d.ch
}

// awaitEnd closes the channel at the end of the doorbell, or at this end's own.
func (s *Stream) awaitEnd() {
	d := &s.ending
	defer close(d.ch)
	if d.watch != nil {
		d.watch.Wait()
	}
	for !s.lookForEnd() {
		time.Sleep(doneWithout)
	}
}

// lookForEnd reports whether there is nothing more to wait for. If the peer has
// ended, it stores that for all calls, so those that do not wait need not
// check.
func (s *Stream) lookForEnd() bool {
	d := &s.ending
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return true
	}
	if !s.bell.Gone() {
		return false
	}
	s.gone()
	d.close()
	return true
}

// stop is called by Close and Abort, before the bell is closed.
func (d *ending) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
	d.close()
}

// close ends the wait for the end of the doorbell. The caller has d.mu.
func (d *ending) close() {
	if d.watch != nil {
		d.watch.Close()
	}
}
