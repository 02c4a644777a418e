//go:build linux

package doorbell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newPair returns both ends of a doorbell, and fails the test if it leaves a
// descriptor. It is for tests that close the ringer themselves; closing it
// again by number could hit another's.
func newPair(t *testing.T) (*Bell, Ringer) {
	t.Helper()
	noLeaks(t)
	b, r, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	bell, err := NewBell(b)
	if err != nil {
		unix.Close(r)
		t.Fatal(err)
	}
	t.Cleanup(bell.Close)
	return bell, NewRinger(r)
}

// noLeaks fails the test if at its end there are other descriptors than now.
func noLeaks(t *testing.T) {
	t.Helper()
	poller.Do(func() { // whose descriptors stay
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.SetReadDeadline(time.Now())
		r.Close()
		w.Close()
	})
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors are open, %d were before", after, before)
		}
	})
}

var poller sync.Once

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func (e Event) String() string {
	return [...]string{"Rung", "Broken", "Gone"}[e]
}

func want(t *testing.T, what string, got, want Event) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// wantQuiet fails if a Wait would not wait.
func wantQuiet(t *testing.T, b *Bell) {
	t.Helper()
	if n := pending(t, b); n != 0 || b.Gone() {
		t.Errorf("%d rings are there, and Gone() = %v, want nothing", n, b.Gone())
	}
}

// pending returns how many rings nobody has waited for yet.
func pending(t *testing.T, b *Bell) int {
	t.Helper()
	n, err := unix.IoctlGetInt(b.fd, unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func hold(t *testing.T, b *Bell) {
	t.Helper()
	if !b.Hold() {
		t.Fatal("somebody holds the bell")
	}
}

// waiting starts a Wait of the holder, returns when it sleeps, and hands out
// what will say how it ended.
func waiting(t *testing.T, b *Bell) <-chan Event {
	t.Helper()
	ch := make(chan Event, 1)
	go func() { ch <- b.Wait() }()
	buf := make([]byte, 1<<20)
	for {
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "(*Bell).Wait") && strings.Contains(g[:strings.IndexByte(g, '\n')], "[IO wait") {
				return ch
			}
		}
		select {
		case e := <-ch:
			t.Fatalf("Wait = %v, want it to wait", e)
		default:
			runtime.Gosched()
		}
	}
}

// TestPipe looks at what a new doorbell is like.
func TestPipe(t *testing.T) {
	noLeaks(t)
	b, r, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(b)
	defer unix.Close(r)
	for what, fd := range map[string]int{"bell": b, "ringer": r} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: a child process inherits it: flags %#x, %v", what, flags, err)
		}
		if !nonblocking(t, fd) {
			t.Errorf("%s: it can block", what)
		}
		if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err != nil || n != os.Getpagesize() {
			t.Errorf("%s: the pipe has %d bytes, %v, want a page", what, n, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(b, &st); err != nil || st.Mode != unix.S_IFIFO|0o666 {
		t.Errorf("mode %#o, %v: an acceptor of another user could not adopt it", st.Mode, err)
	}
}

func nonblocking(t *testing.T, fd int) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_NONBLOCK != 0
}

// TestRung rings before and during a Wait, and takes several rings for one.
func TestRung(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	hold(t, bell)
	ringer.Ring()
	want(t, "Wait after a ring", bell.Wait(), Rung)

	ch := waiting(t, bell)
	ringer.Ring()
	want(t, "Wait for a ring", <-ch, Rung)

	for range 5 {
		ringer.Ring()
	}
	want(t, "Wait after five rings", bell.Wait(), Rung)
	wantQuiet(t, bell)
}

// TestGone closes the ringers: only the last one counts, and what it rang
// before comes first.
func TestGone(t *testing.T) {
	t.Run("while waiting", func(t *testing.T) {
		bell, ringer := newPair(t)
		hold(t, bell)
		ch := waiting(t, bell)
		ringer.Close()
		want(t, "Wait", <-ch, Gone)
		want(t, "Wait again", bell.Wait(), Gone)
	})
	t.Run("before", func(t *testing.T) {
		bell, ringer := newPair(t)
		hold(t, bell)
		ringer.Ring()
		ringer.Close()
		want(t, "Wait", bell.Wait(), Rung)
		want(t, "Wait again", bell.Wait(), Gone)
	})
	t.Run("not the last", func(t *testing.T) {
		bell, ringer := newPair(t)
		other, err := unix.FcntlInt(uintptr(ringer.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		hold(t, bell)
		ch := waiting(t, bell)
		ringer.Close()
		NewRinger(other).Ring()
		want(t, "Wait", <-ch, Rung)
		wantQuiet(t, bell)
		ch = waiting(t, bell)
		unix.Close(other)
		want(t, "Wait", <-ch, Gone)
	})
}

// TestHold checks that there is one holder at a time.
func TestHold(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	hold(t, bell)
	if bell.Hold() {
		t.Error("two hold the bell")
	}
	bell.Release()
	hold(t, bell)

	bell.Release()
	var holders, most, held atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for held.Load() < 1000 {
				if bell.Hold() {
					most.Store(max(most.Load(), holders.Add(1)))
					held.Add(1)
					holders.Add(-1)
					bell.Release()
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d held the bell at a time", most.Load())
	}
}

// TestBreak breaks the bell at all times there are.
func TestBreak(t *testing.T) {
	t.Run("before Hold", func(t *testing.T) { // is forgotten
		bell, ringer := newPair(t)
		defer ringer.Close()
		bell.Break()
		hold(t, bell)
		ch := waiting(t, bell)
		ringer.Ring()
		want(t, "Wait", <-ch, Rung)
	})
	t.Run("between Hold and Wait", func(t *testing.T) {
		bell, ringer := newPair(t)
		defer ringer.Close()
		hold(t, bell)
		bell.Break()
		want(t, "Wait", bell.Wait(), Broken)
	})
	t.Run("while waiting", func(t *testing.T) {
		bell, ringer := newPair(t)
		defer ringer.Close()
		hold(t, bell)
		ch := waiting(t, bell)
		bell.Break()
		want(t, "Wait", <-ch, Broken)
	})
	t.Run("lasts for the holder", func(t *testing.T) {
		bell, ringer := newPair(t)
		defer ringer.Close()
		hold(t, bell)
		bell.Break()
		want(t, "Wait", bell.Wait(), Broken)
		want(t, "Wait again", bell.Wait(), Broken)
	})
	t.Run("ends with Hold", func(t *testing.T) {
		bell, ringer := newPair(t)
		defer ringer.Close()
		for range 3 {
			hold(t, bell)
			bell.Break()
			want(t, "Wait", bell.Wait(), Broken)
			bell.Release()
			hold(t, bell)
			ch := waiting(t, bell)
			ringer.Ring()
			want(t, "Wait of the next holder", <-ch, Rung)
			bell.Release()
		}
	})
	t.Run("loses no ring", func(t *testing.T) {
		bell, ringer := newPair(t)
		defer ringer.Close()
		hold(t, bell)
		ringer.Ring()
		bell.Break()
		want(t, "Wait", bell.Wait(), Broken)
		bell.Release()
		hold(t, bell)
		want(t, "Wait of the next holder", bell.Wait(), Rung)
	})
	t.Run("hides no end", func(t *testing.T) {
		bell, ringer := newPair(t)
		hold(t, bell)
		ringer.Close()
		bell.Break()
		want(t, "Wait", bell.Wait(), Broken)
		if !bell.Gone() {
			t.Error("Gone() = false")
		}
		bell.Release()
		hold(t, bell)
		want(t, "Wait of the next holder", bell.Wait(), Gone)
	})
	t.Run("after Wait", func(t *testing.T) {
		// It is too late for this holder. The next may be told for nothing, and the
		// one after that is not.
		bell, ringer := newPair(t)
		defer ringer.Close()
		hold(t, bell)
		ringer.Ring()
		want(t, "Wait", bell.Wait(), Rung)
		bell.Break()
		bell.Release()
		hold(t, bell)
		want(t, "Wait of the next holder", bell.Wait(), Broken)
		bell.Release()
		hold(t, bell)
		ch := waiting(t, bell)
		ringer.Ring()
		want(t, "Wait of the one after it", <-ch, Rung)
	})
}

// TestBreakRace has a holder that comes and goes, and checks that no Break
// misses it. If one does, the test hangs.
func TestBreakRace(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	const rounds = 3000
	var asked, seen atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for seen.Load() < rounds {
			hold(t, bell)
			if a := asked.Load(); a != seen.Load() {
				seen.Store(a)
			} else {
				bell.Wait()
			}
			bell.Release()
		}
	})
	for i := range int64(rounds) {
		asked.Store(i + 1)
		bell.Break()
		for seen.Load() <= i {
			runtime.Gosched()
		}
	}
	wg.Wait()
}

// TestGoneNow checks that Gone does not wait, takes no ring away, and minds
// neither rings nor Break nor who holds the bell.
func TestGoneNow(t *testing.T) {
	bell, ringer := newPair(t)
	check := func(when string, want bool) {
		t.Helper()
		for range 2 {
			if bell.Gone() != want {
				t.Errorf("%s: Gone() = %v", when, !want)
			}
		}
	}
	check("at first", false)
	ringer.Ring()
	check("after a ring", false)
	hold(t, bell)
	want(t, "Wait", bell.Wait(), Rung)
	check("after it was heard", false)
	bell.Break()
	check("after Break", false)
	want(t, "Wait", bell.Wait(), Broken)
	bell.Release()
	hold(t, bell)
	ch := waiting(t, bell)
	check("while somebody waits", false)
	ringer.Ring()
	<-ch
	ringer.Ring()
	ringer.Close()
	check("at the end", true)
	want(t, "Wait", bell.Wait(), Rung)
	check("after the last ring was heard", true)
	want(t, "Wait", bell.Wait(), Gone)
}

// withoutPoll makes poll(2) fail with EINVAL until the end of the test.
func withoutPoll(t *testing.T) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := unix.Poll(make([]unix.PollFd, 1), 0); err != unix.EINVAL {
		t.Fatalf("poll: %v, want EINVAL", err)
	}
}

// TestGoneWithoutPoll checks that Gone finds the end without poll(2), and that
// a ring that it takes out meanwhile wakes whoever waits.
func TestGoneWithoutPoll(t *testing.T) {
	bell, ringer := newPair(t)
	withoutPoll(t)
	check := func(when string, want bool) {
		t.Helper()
		if bell.Gone() != want {
			t.Errorf("%s: Gone() = %v", when, !want)
		}
	}
	check("at first", false)
	ringer.Ring()
	check("after a ring", false)
	if n := pending(t, bell); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	hold(t, bell)
	ringer.Ring()
	check("after a ring for the holder", false)
	want(t, "Wait for a ring that Gone has taken", bell.Wait(), Broken)
	bell.Release()
	hold(t, bell)
	ch := waiting(t, bell)
	check("while somebody waits", false)
	ringer.Close()
	want(t, "Wait", <-ch, Gone)
	check("at the end", true)
}

// TestGoneTakesNothing has Gone, without poll(2), beside a Wait for each of
// many rings: each ends a Wait, whoever takes the byte.
func TestGoneTakesNothing(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	withoutPoll(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if bell.Gone() {
				t.Error("gone, and is not")
				return
			}
		}
	})
	var news atomic.Int64
	for i := range int64(20_000) {
		hold(t, bell)
		go func() {
			news.Store(i + 1)
			ringer.Ring()
		}()
		for news.Load() == i {
			if bell.Wait() == Gone {
				t.Fatal("gone, and is not")
			}
		}
		bell.Release()
	}
	stop.Store(true)
	wg.Wait()
}

// TestRingFails has a ring fail for good: the end of the doorbell wakes the
// other end.
func TestRingFails(t *testing.T) {
	bell, ringer := newPair(t)
	full, err := unix.Open("/dev/full", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	// No write to a pipe can be made to fail like this.
	pipe := ringer.fd
	ringer.fd = full
	ringer.Ring()
	if ringer.fd != -1 {
		t.Error("the descriptor is still open")
	}
	unix.Close(pipe)
	hold(t, bell)
	want(t, "Wait", bell.Wait(), Gone)
	ringer.Ring() // and later ones do nothing
	ringer.Close()
}

// TestFull rings more often than there is room for in the pipe.
func TestFull(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	hold(t, bell)
	size := os.Getpagesize()
	for range 2*size + 1 {
		ringer.Ring()
	}
	if n := pending(t, bell); n == 0 || n > size {
		t.Errorf("%d rings are in a pipe of %d bytes", n, size)
	}
	for pending(t, bell) > 0 {
		want(t, "Wait", bell.Wait(), Rung)
	}
	ch := waiting(t, bell)
	ringer.Ring()
	want(t, "Wait for a ring", <-ch, Rung)
}

// TestCannotPoll has a descriptor that cannot be waited for.
func TestCannotPoll(t *testing.T) {
	noLeaks(t)
	fd, err := unix.Open(filepath.Join(t.TempDir(), "file"), unix.O_CREAT|unix.O_RDONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := NewBell(fd); err == nil {
		b.Close()
		t.Error("NewBell took a regular file")
	}
}

// TestRingNobody rings where nobody listens any more.
func TestRingNobody(t *testing.T) {
	noLeaks(t)
	b, r, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(b)
	NewRinger(r).Ring() // were SIGPIPE not dealt with, this would be the end
	NewRinger(r).Close()
}

// TestCloseWakes checks that a closed bell keeps nobody.
func TestCloseWakes(t *testing.T) {
	bell, ringer := newPair(t)
	defer ringer.Close()
	hold(t, bell)
	ch := waiting(t, bell)
	bell.Close()
	want(t, "Wait", <-ch, Gone)
	want(t, "Wait after Close", bell.Wait(), Gone)
}

// procFD opens what Adopt opens descriptors by.
func procFD(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestAdopt takes over descriptors that are, and are not, what they should be.
func TestAdopt(t *testing.T) {
	pipe := func(end int) func(t *testing.T) int {
		return func(t *testing.T) int {
			var fd [2]int
			if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil { // a sender may have it blocking
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd[1-end]) })
			return fd[end]
		}
	}
	open := func(path string, flags int) func(t *testing.T) int {
		return func(t *testing.T) int {
			if path == "" {
				path = filepath.Join(t.TempDir(), "file")
			}
			fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	fifo := func(flags int) func(t *testing.T) int {
		return func(t *testing.T) int {
			path := filepath.Join(t.TempDir(), "fifo")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			return open(path, flags)(t)
		}
	}
	socket := func(typ int) func(t *testing.T) int {
		return func(t *testing.T) int {
			fd, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd[1]) })
			return fd[0]
		}
	}
	const rd, wr = unix.O_RDONLY, unix.O_WRONLY
	for _, tt := range []struct {
		name   string
		make   func(t *testing.T) int
		access int
		ok     bool
	}{
		{"the read end, to read", pipe(0), rd, true},
		{"the write end, to write", pipe(1), wr, true},
		{"the read end, to write", pipe(0), wr, false},
		{"the write end, to read", pipe(1), rd, false},
		{"a fifo, to read", fifo(unix.O_RDONLY | unix.O_NONBLOCK), rd, false}, // which others can open, too
		{"both ends, to read", fifo(unix.O_RDWR), rd, false},
		{"both ends, to write", fifo(unix.O_RDWR), wr, false},
		{"a regular file, to read", open("", unix.O_CREAT|unix.O_RDONLY), rd, false},
		{"a regular file, to write", open("", unix.O_CREAT|unix.O_WRONLY), wr, false},
		{"a directory, to read", open("/", unix.O_RDONLY), rd, false},
		{"a device, to read", open("/dev/null", unix.O_RDONLY), rd, false},
		{"a device, to write", open("/dev/null", unix.O_WRONLY), wr, false},
		{"a stream socket, to read", socket(unix.SOCK_STREAM), rd, false},
		{"a stream socket, to write", socket(unix.SOCK_STREAM), wr, false},
		{"a packet socket, to read", socket(unix.SOCK_SEQPACKET), rd, false},
		{"an event counter, to read", func(t *testing.T) int {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}, rd, false},
		{"memory, to write", func(t *testing.T) int {
			fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}, wr, false},
		{"nothing, to read", func(*testing.T) int { return -1 }, rd, false},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			noLeaks(t)
			fd := tt.make(t)
			own, err := Adopt(procFD(t), fd, tt.access)
			if fd >= 0 {
				defer unix.Close(fd) // still ours
			}
			if !tt.ok {
				if err == nil {
					t.Errorf("Adopt = %d, nil, want an error", own)
					unix.Close(own)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(own)
			flags, err := unix.FcntlInt(uintptr(own), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_ACCMODE != tt.access || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %#x, %v", flags, err)
			}
			if flags, err := unix.FcntlInt(uintptr(own), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("a child process inherits it: flags %#x, %v", flags, err)
			}
		})
	}
}

// TestAdoptForbidden adopts a pipe whose sender allows nobody to open it.
func TestAdoptForbidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open everything")
	}
	noLeaks(t)
	b, r, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(b)
	defer unix.Close(r)
	if err := unix.Fchmod(b, 0); err != nil {
		t.Fatal(err)
	}
	if own, err := Adopt(procFD(t), b, unix.O_RDONLY); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Adopt = %d, %v, want that it is not permitted", own, err)
	}
}

// TestAdoptBlocking adopts ends whose sender then makes his descriptors for
// them blocking, or has done before. That must not be of any consequence.
func TestAdoptBlocking(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			noLeaks(t)
			b, r, err := Pipe()
			if err != nil {
				t.Fatal(err)
			}
			his := [2]int{dup(t, b), dup(t, r)}
			clear := func() {
				for _, fd := range his {
					if err := unix.SetNonblock(fd, false); err != nil {
						t.Fatal(err)
					}
				}
			}
			if when == "before" {
				clear()
			}
			defer unix.Close(b)
			ownBell, err := Adopt(procFD(t), b, unix.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(r)
			ownRinger, err := Adopt(procFD(t), r, unix.O_WRONLY)
			if err != nil {
				t.Fatal(err)
			}
			ringer := NewRinger(ownRinger)
			defer ringer.Close()
			bell, err := NewBell(ownBell)
			if err != nil {
				t.Fatal(err)
			}
			defer bell.Close()
			clear()
			hold(t, bell)
			wantQuiet(t, bell)
			ch := waiting(t, bell) // in the poller, and not in the kernel
			ringer.Ring()
			want(t, "Wait", <-ch, Rung)
			for range 2 * os.Getpagesize() {
				ringer.Ring()
			}
			want(t, "Wait after many rings", bell.Wait(), Rung)
		})
	}
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestAdoptUnread adopts a ringer that nobody listens to, which is what is left
// of a dialer that has died. If he has not, he can listen again later, and make
// his own descriptor for the same opening block: Ring must not.
func TestAdoptUnread(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T) (bell, ringer int)
	}{
		{"pipe", func(t *testing.T) (int, int) {
			b, r, err := Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return b, r
		}},
		{"fifo", func(t *testing.T) (int, int) {
			path := filepath.Join(t.TempDir(), "fifo")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			var fds [2]int
			for i, access := range []int{unix.O_RDONLY, unix.O_WRONLY} {
				var err error
				if fds[i], err = unix.Open(path, access|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
					t.Fatal(err)
				}
			}
			return fds[0], fds[1]
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			b, r := tt.make(t)
			his := dup(t, r)
			unix.Close(b)
			own, err := Adopt(procFD(t), r, unix.O_WRONLY)
			unix.Close(r)
			if err != nil {
				t.Logf("it was refused, which is as good: %v", err)
				return
			}
			ringer := NewRinger(own)
			defer ringer.Close()
			ringer.Ring()

			if err := unix.SetNonblock(his, false); err != nil {
				t.Fatal(err)
			}
			if !nonblocking(t, own) {
				t.Fatal("the sender can make Ring block")
			}
			again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", his), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(again)
			for range 2 * os.Getpagesize() {
				ringer.Ring()
			}
		})
	}
}
