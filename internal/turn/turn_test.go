package turn

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An owner counts what is asked of it.
type owner struct {
	t        testing.TB
	turn     Turn
	stop     atomic.Pointer[error]
	inside   atomic.Int32 // holders
	visiting atomic.Int32 // references
	hangUps  atomic.Int32
	passing  atomic.Int32
	finished atomic.Bool
	released atomic.Int32
}

func newOwner(t testing.TB) *owner {
	o := &owner{t: t}
	o.turn.Init(o)
	return o
}

func (o *owner) StopErr() error {
	if err := o.stop.Load(); err != nil {
		return *err
	}
	return nil
}

func (o *owner) Passing() { o.passing.Add(1) }

func (o *owner) HangUp() {
	if o.released.Load() != 0 {
		o.t.Error("HangUp after Release")
	}
	o.enter()
	defer o.inside.Add(-1)
	o.hangUps.Add(1)
}

func (o *owner) Finish() { o.finished.Store(true) }

func (o *owner) Release() {
	if n, v := o.inside.Load(), o.visiting.Load(); n != 0 || v != 0 || !o.finished.Load() {
		o.t.Errorf("Release with %d inside and %d references, finished %v", n, v, o.finished.Load())
	}
	o.released.Add(1)
}

func (o *owner) enter() {
	if n := o.inside.Add(1); n != 1 {
		o.t.Errorf("%d inside", n)
	}
}

func (o *owner) lock() error {
	err := o.turn.Lock()
	if err == nil {
		o.enter()
	}
	return err
}

func (o *owner) unlock() {
	o.inside.Add(-1)
	o.turn.Unlock()
}

// stopWith makes all who wait return err.
func (o *owner) stopWith(err error) {
	o.stop.Store(&err)
	o.turn.Interrupt()
}

// queued returns how many wait.
func (o *owner) queued() (n int) {
	o.turn.mu.Lock()
	defer o.turn.mu.Unlock()
	for w := o.turn.head; w != nil; w = w.next {
		n++
	}
	return n
}

// eventually waits until ok says so. A test in which it never does ends by
// -timeout.
func eventually(ok func() bool) {
	for !ok() {
		runtime.Gosched()
	}
}

var errStop = errors.New("stop")

// One at a time, whoever comes; what a holder has done is seen by the next
// (under -race).
func TestExclusion(t *testing.T) {
	o := newOwner(t)
	const goroutines, each = 8, 20_000
	n := 0 // guarded by the turn
	var missed atomic.Int64
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for j := range each {
				if (i+j)%5 == 0 {
					if !o.turn.TryLock() {
						missed.Add(1)
						continue
					}
					o.enter()
				} else if err := o.lock(); err != nil {
					t.Error(err)
					return
				}
				n++
				o.unlock()
			}
		})
	}
	wg.Wait()
	eventually(func() bool { return o.queued() == 0 })
	if s := o.turn.state.Load(); s != 0 || n+int(missed.Load()) != goroutines*each {
		t.Errorf("state %b after %d turns, and %d that were not to be had", s, n, missed.Load())
	}
}

// A free lock that is given back to nobody wakes the waiters in order of
// arrival.
func TestOrder(t *testing.T) {
	o := newOwner(t)
	if err := o.lock(); err != nil {
		t.Fatal(err)
	}
	const waiting = 10
	order := make(chan int, waiting)
	for i := range waiting {
		go func() {
			if err := o.lock(); err != nil {
				t.Error(err)
			}
			order <- i
			o.unlock()
		}()
		eventually(func() bool { return o.queued() == i+1 })
	}
	o.unlock()
	for i := range waiting {
		if got := <-order; got != i {
			t.Errorf("%d comes as number %d", got, i)
		}
	}
	if o.passing.Load() == 0 {
		t.Error("nobody has said that a turn was passing")
	}
}

// One that has waited for longer than the bound is handed the lock by the next
// Unlock, although its holder takes it again at once, each time.
func TestBound(t *testing.T) {
	o := newOwner(t)
	if err := o.lock(); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { got <- o.lock() }()
	eventually(func() bool { return o.queued() == 1 })
	time.Sleep(2 * starvingAfter)
	again := 0
	for {
		o.unlock() // wakes it
		if !o.turn.TryLock() {
			break
		}
		o.enter()
		// Woken, it finds the lock taken again, and asks for it.
		eventually(func() bool {
			o.turn.mu.Lock()
			defer o.turn.mu.Unlock()
			return !o.turn.woken
		})
		again++
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if again > 1 {
		t.Errorf("overtaken %d times after the bound", again)
	}
	o.unlock()
}

// Those who wait leave when they should, and the others stay.
func TestStop(t *testing.T) {
	o := newOwner(t)
	if err := o.lock(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 3)
	for range 3 {
		go func() { ended <- o.lock() }()
	}
	eventually(func() bool { return o.queued() == 3 })
	o.turn.Interrupt() // for no reason
	if o.queued() != 3 {
		t.Error("somebody left")
	}
	o.stopWith(errStop)
	for range 3 {
		if err := <-ended; err != errStop {
			t.Error(err)
		}
	}
	if o.queued() != 0 {
		t.Error("somebody is still there")
	}
	o.unlock()
	if !o.turn.TryLock() {
		t.Error("the lock is not free")
	}
}

// A waiter that leaves after it was woken to try passes that on.
func TestStopWoken(t *testing.T) {
	for range 2000 {
		o := newOwner(t)
		if err := o.lock(); err != nil {
			t.Fatal(err)
		}
		first := make(chan error)
		go func() { first <- o.lock() }()
		eventually(func() bool { return o.queued() == 1 })
		second := make(chan error)
		go func() {
			err := o.turn.Lock() // in the way of the first one's StopErr
			for err == errStop {
				o.stop.Store(nil)
				err = o.turn.Lock()
			}
			if err == nil {
				o.turn.Unlock()
			}
			second <- err
		}()
		eventually(func() bool { return o.queued() == 2 })
		go o.stopWith(errStop)
		o.unlock()
		if err := <-first; err == nil {
			o.unlock()
		} else if err != errStop {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
	}
}

// What is shut while a call has the lock is hung up when that gives it back,
// and AwaitShut waits for that.
func TestShut(t *testing.T) {
	o := newOwner(t)
	o.turn.RequestShut()
	o.turn.AwaitShut()
	if n := o.hangUps.Load(); n != 1 {
		t.Fatalf("%d times hung up with the lock free", n)
	}
	if err := o.lock(); err != nil {
		t.Fatal(err)
	}
	o.turn.RequestShut()
	done := make(chan struct{})
	for range 2 {
		go func() { o.turn.AwaitShut(); done <- struct{}{} }()
	}
	select {
	case <-done:
		t.Fatal("AwaitShut did not wait for the holder")
	case <-time.After(10 * time.Millisecond):
	}
	o.unlock()
	<-done
	<-done
	if n := o.hangUps.Load(); n != 2 {
		t.Errorf("%d times hung up", n)
	}
}

// Close is released once: when it has hung up, and the last call and the last
// reference are out; nobody gets in afterwards.
func TestClose(t *testing.T) {
	o := newOwner(t)
	if err := o.lock(); err != nil || !o.turn.Incref() {
		t.Fatal(err)
	}
	Close(&o.turn)
	Close(&o.turn)
	if o.released.Load() != 0 {
		t.Fatal("released beside a call and a reference")
	}
	o.unlock()
	if o.hangUps.Load() != 1 || o.released.Load() != 0 {
		t.Fatal("released beside a reference, or not hung up")
	}
	if err := o.turn.Lock(); err != net.ErrClosed || o.turn.TryLock() {
		t.Errorf("after Close: %v", err)
	}
	if !o.turn.Incref() {
		t.Error("no reference before the release")
	}
	o.turn.Decref()
	o.turn.Decref()
	if o.released.Load() != 1 || o.turn.Incref() {
		t.Errorf("released %d times", o.released.Load())
	}
	o.turn.RequestShut()
	if o.hangUps.Load() != 1 {
		t.Error("hung up after the release")
	}
}

// All of it at once, again and again.
func TestStorm(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		o := newOwner(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if err := o.lock(); err != nil {
						if err != net.ErrClosed && err != errStop {
							t.Error(err)
						}
						return
					}
					o.unlock()
				}
			})
		}
		wg.Go(func() {
			for o.turn.Incref() {
				o.visiting.Add(1)
				if o.released.Load() != 0 {
					t.Error("released beside a reference")
				}
				o.visiting.Add(-1)
				o.turn.Decref()
			}
		})
		runtime.Gosched()
		o.stopWith(errStop)
		Close(&o.turn)
		o.turn.AwaitShut()
		if o.hangUps.Load() != 1 {
			t.Fatalf("hung up %d times when AwaitShut has returned", o.hangUps.Load())
		}
		wg.Wait()
		if n := o.released.Load(); n != 1 {
			t.Fatalf("released %d times", n)
		}
	}
}

// A call in a bubble and one outside may wait for each other.
func TestBubble(t *testing.T) {
	o := newOwner(t)
	synctest.Test(t, func(t *testing.T) {
		if err := o.lock(); err != nil {
			t.Fatal(err)
		}
	})
	got := make(chan error)
	go func() { got <- o.lock() }()
	eventually(func() bool { return o.queued() == 1 })
	synctest.Test(t, func(t *testing.T) { o.unlock() })
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go synctest.Test(t, func(t *testing.T) {
		defer close(ended)
		if err := o.lock(); err != nil {
			t.Error(err)
		}
	})
	eventually(func() bool { return o.queued() == 1 })
	o.unlock()
	<-ended
}

func BenchmarkAlone(b *testing.B) {
	o := newOwner(b)
	b.ReportAllocs()
	for range b.N {
		o.turn.Lock()
		o.turn.Unlock()
	}
}

func BenchmarkContended(b *testing.B) {
	o := newOwner(b)
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			o.turn.Lock()
			for range 50 {
			}
			o.turn.Unlock()
		}
	})
}
