//go:build linux

package shmtest

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"shmconn/internal/handshake"
)

// A Figure is how long something took, each time.
type Figure []time.Duration

func (f Figure) String() string {
	if len(f) == 0 {
		return "n=0"
	}
	s := slices.Sorted(slices.Values(f))
	at := func(q float64) time.Duration { return s[int(math.Ceil(q*float64(len(s))))-1].Round(time.Microsecond) }
	return fmt.Sprintf("n=%d p50=%v p99=%v max=%v", len(s), at(0.5), at(0.99), at(1))
}

// Rounds returns how many rounds are run of n: all with -long, and one in 40
// without.
func Rounds(n int) int {
	if *Long {
		return n
	}
	return max(2, n/40)
}

// A Round is one of many in a test. What it has to clean up it does when it
// ends.
type Round struct {
	testing.TB
	*rand.Rand
	cleanups []func()
}

func (x *Round) Cleanup(f func()) { x.cleanups = append(x.cleanups, f) }

// End cleans up.
func (x *Round) End() {
	for _, f := range slices.Backward(x.cleanups) {
		f()
	}
}

// InRounds runs f n times and sees that each ends, and leaves nothing: no
// goroutine, no descriptor, no mapping, no name.
func InRounds(t *testing.T, n int, f func(x *Round)) {
	t.Helper()
	seed := rand.Uint64()
	before := HoldStill()
	for i := range n {
		hung := time.AfterFunc(time.Minute, func() {
			debug.SetTraceback("all")
			panic(fmt.Sprintf("%s: round %d of seed %#x hangs", t.Name(), i, seed))
		})
		func() {
			x := &Round{TB: t, Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			defer x.End()
			f(x)
		}()
		if left := before.Left(); left != "" {
			t.Errorf("left behind: %s", left)
		}
		hung.Stop()
		if t.Failed() {
			t.Fatalf("that was round %d of seed %#x", i, seed)
		}
	}
}

// Holdings are what a round must not leave.
type Holdings struct {
	goroutines      int
	descriptors     map[string]int
	mappings, names []string
}

// Hold returns what there is now.
func Hold() Holdings {
	return Holdings{runtime.NumGoroutine(), Descriptors(), Mappings(), ListDir(os.Getenv("SHMCONN_DIR"))}
}

// HoldStill is Hold once what earlier tests have closed has ended: nothing of
// it has changed for a while.
func HoldStill() Holdings {
	handshake.DropSpares()
	h := Hold()
	for since, start := time.Now(), time.Now(); time.Since(since) < 100*time.Millisecond && time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		now := Hold()
		if now.goroutines != h.goroutines || !maps.Equal(now.descriptors, h.descriptors) ||
			!slices.Equal(now.mappings, h.mappings) || !slices.Equal(now.names, h.names) {
			h, since = now, time.Now()
		}
	}
	return h
}

// Left says what there is now and was not in h. It gives what ends beside a
// call some time to do so.
func (h Holdings) Left() string {
	for start := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		now := Hold()
		if now.goroutines <= h.goroutines && maps.Equal(now.descriptors, h.descriptors) &&
			slices.Equal(now.mappings, h.mappings) && slices.Equal(now.names, h.names) {
			return ""
		}
		if time.Since(start) > 10*time.Second {
			return fmt.Sprintf("%+v, and before it was %+v", now, h)
		}
	}
}

// Shape returns one at random, with a survivor that polls that long.
func (x *Round) Shape(poll time.Duration) Shape {
	s := Shape{
		Ring:      []int{4096, 16 << 10, 0}[x.IntN(3)],
		Anonymous: x.IntN(2) == 0,
		Swap:      x.IntN(2) == 0,
		Spares:    -x.IntN(2), // the default, or none
	}.Poll(x.Poll())
	if s.Swap {
		s.ListenPoll = poll
	} else {
		s.DialPoll = poll
	}
	return s
}

func (x *Round) Poll() time.Duration { return []time.Duration{0, PollNever, PollAlways}[x.IntN(3)] }

// Moment sleeps until some moment within limit, rather an early one.
func (x *Round) Moment(limit time.Duration) {
	time.Sleep(time.Duration(float64(limit) * math.Pow(x.Float64(), 3)))
}

// OpenDescriptors counts the descriptors of this process.
func OpenDescriptors() int { return len(ListDir("/proc/self/fd")) }

// LeftWithin is left with another limit, for what is not names.
func (h Holdings) LeftWithin(limit time.Duration) string {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		now := Hold()
		left := ""
		// What the first listener or dialer opens stays for as long as the
		// process, if it could be opened.
		for _, once := range []string{"anon_inode:[eventfd]", "/proc/uptime"} {
			if now.descriptors[once] == h.descriptors[once]+1 {
				if now.descriptors[once]--; now.descriptors[once] == 0 {
					delete(now.descriptors, once)
				}
			}
		}
		if now.goroutines > h.goroutines {
			left += fmt.Sprintf(" %d goroutines: %s", now.goroutines-h.goroutines, strings.Join(Goroutines()[1:], "\n"))
		}
		if !maps.Equal(now.descriptors, h.descriptors) {
			left += fmt.Sprintf(" descriptors %v, before %v", now.descriptors, h.descriptors)
		}
		if !slices.Equal(now.mappings, h.mappings) {
			left += fmt.Sprintf(" %d mappings", len(now.mappings)-len(h.mappings))
		}
		if left == "" || time.Since(start) > limit {
			return left
		}
	}
}
