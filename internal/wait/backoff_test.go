//go:build linux

package wait

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBackoff loses slices and looks for how long the waits sleep then.
func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		losses []time.Duration // when, how long, and for how long the waits sleep: in threes
	}{
		{"less than a slice", []time.Duration{5 * ms, slice - 1, 0, 6 * ms, slice - 1, 0}},
		{"one", []time.Duration{5 * ms, 3 * ms, 0}},
		{"two", []time.Duration{0, 1 * ms, 0, 2 * ms, 1 * ms, 64 * ms}},
		{"long ones", []time.Duration{5 * ms, 100 * ms, 0, 200 * ms, 100 * ms, 1000 * ms}},
		{"again at once", []time.Duration{
			0, 1 * ms, 0,
			2 * ms, 1 * ms, 64 * ms, // 0 after the while
			68 * ms, 1 * ms, 128 * ms,
			198 * ms, 2 * ms, 256 * ms,
			458 * ms, 1 * ms, 512 * ms,
			972 * ms, 1 * ms, 1000 * ms,
			1975 * ms, 1 * ms, 1000 * ms,
		}},
		{"just soon enough", []time.Duration{0, 1 * ms, 0, 32*ms - 1, 1 * ms, 64 * ms, 160*ms - 2, 1 * ms, 128 * ms}},
		{"not soon enough", []time.Duration{0, 1 * ms, 0, 32 * ms, 1 * ms, 0}},
		{"not soon enough after a rest", []time.Duration{0, 1 * ms, 0, 2 * ms, 1 * ms, 64 * ms, 130 * ms, 1 * ms, 0}},
		{"a longer one", []time.Duration{0, 1 * ms, 0, 2 * ms, 4 * ms, 128 * ms}},
		{"long ago", []time.Duration{0, 1 * ms, 0, 2 * ms, 1 * ms, 64 * ms, 3000 * ms, 1 * ms, 0, 3002 * ms, 1 * ms, 64 * ms}},
		{"the same slice, by another goroutine", []time.Duration{
			5 * ms, 1 * ms, 0, 5 * ms, 1 * ms, 0, 4 * ms, 2 * ms, 0,
			8 * ms, 1 * ms, 64 * ms, 8 * ms, 1 * ms, 64 * ms, 7 * ms, 2 * ms, 64 * ms,
		}},
		// By another goroutine, which had begun to poll before.
		{"while sleeping", []time.Duration{0, 1 * ms, 0, 2 * ms, 1 * ms, 64 * ms, 10 * ms, 1 * ms, 128 * ms}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c backoff
			for l := tt.losses; len(l) > 0; l = l[3:] {
				had, now, want := l[0], l[0]+l[1], l[2]
				before := c.rests(now)
				if got := c.lost(had, now); got != (want != 0) {
					t.Errorf("lost(%v, %v) = %v", had, now, got)
				}
				if want == 0 {
					if c.rests(now) != before {
						t.Errorf("lost(%v, %v) begins or ends a rest", had, now)
					}
					continue
				}
				if !c.rests(now) || !c.rests(now+want-1) || c.rests(now+want) {
					t.Errorf("lost(%v, %v): sleeps until %v, want %v later", had, now, time.Duration(c.until.Load()), want)
				}
			}
		})
	}
}

// TestBackoffBesideWorker polls while a process computes on the same processor:
// only a wait whose budget is Forever goes on polling.
func TestBackoffBesideWorker(t *testing.T) {
	pinned(t, func() {
		// Who has one P polls in another way.
		onProcs(t, []int{1, 2, 4}, func(t *testing.T, r *pollers) {
			r.refreshed.Store(int64(time.Hour)) // pinned, it would find one processor
			r.parallel.Store(runtime.GOMAXPROCS(0) > 1)
			// One P yields a few times only, which need not give the other process a
			// whole slice.
			for !r.others.rests(Now()) {
				if r.polls(NewWaiter(new(probed)), Now(), time.Hour) {
					t.Fatal("poll = true")
				}
			}
			// Until that is over nobody polls who has a budget.
			r.others.until.Store(int64(Now() + time.Hour))
			c := new(probed)
			if r.polls(NewWaiter(c), Now(), time.Hour) || c.looks.Load() != 0 {
				t.Errorf("%d looks during a rest", c.looks.Load())
			}
			if r.parallel.Load() {
				r.others.until.Store(0)
				forever := r.withSlot(Forever)
				eventually(func() bool { return r.others.rests(Now()) })
				select {
				case <-forever.done:
					t.Error("a wait for ever is over")
				default:
				}
				forever.end(t)
			}
		})
	})
}

// pinned calls f while this process and another one that works all the time
// have the same processor and no other.
func pinned(t *testing.T, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	everywhere(t, &one)
	defer everywhere(t, &all)
	worker := exec.Command(os.Args[0]) // born where this thread is
	worker.Env = append(os.Environ(), "SHMCONN_TEST_WORK=1")
	if _, err := worker.StdinPipe(); err != nil { // which ends with this process, whatever ends that
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		worker.Process.Kill()
		worker.Wait()
	}()
	f()
}

// everywhere moves all threads of this process to set.
func everywhere(t *testing.T, set *unix.CPUSet) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		var tid int
		fmt.Sscan(thread.Name(), &tid)
		if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("SHMCONN_TEST_WORK") != "" {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		for n := 0; ; n++ {
		}
	}
	m.Run()
}
