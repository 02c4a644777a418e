//go:build linux

package reuse

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
	"shmconn/internal/sockdiag"
)

// A storm is many dialers at once, of several processes. Each says when its
// dial began and ended, and is answered with the same.
const stormMessage = 16

// stormDialers dials as it is told: "storm NAME N" lets N goroutines loose at
// once, and the answer is how many were served, and how often a dial was tried
// again for want of descriptors, and after a reset. With "limit N" it has N
// more descriptors than it uses.
func stormDialers(s shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch f[0] {
		case "limit":
			fmt.Println(shmtest.Class(limitDescriptors(f[1])))
		case "storm":
			n, _ := strconv.Atoi(f[2])
			var served, again, reset atomic.Int64
			var wrong atomic.Pointer[string]
			var wg sync.WaitGroup
			start := make(chan struct{})
			for range n {
				wg.Go(func() {
					<-start
					err := stormOnce(s, f[1], &again)
					for cutShort(err) {
						reset.Add(1)
						err = stormOnce(s, f[1], &again)
					}
					if err != nil {
						what := strings.ReplaceAll(err.Error(), " ", "_")
						wrong.CompareAndSwap(nil, &what)
						return
					}
					served.Add(1)
				})
			}
			close(start)
			wg.Wait()
			what := "ok"
			if w := wrong.Load(); w != nil {
				what = *w
			}
			fmt.Println(served.Load(), again.Load(), reset.Load(), what)
		}
	}
	handshake.DropSpares()
}

// stormOnce is the life of a dialer.
func stormOnce(s shmtest.Shape, name string, again *atomic.Int64) error {
	begun := shmtest.Monotonic()
	c, err := s.DialContext(context.Background(), name, time.Minute)
	for scarce(err) {
		again.Add(1)
		time.Sleep(time.Millisecond)
		begun = shmtest.Monotonic()
		c, err = s.DialContext(context.Background(), name, time.Minute)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	said := binary.NativeEndian.AppendUint64(nil, uint64(begun))
	said = binary.NativeEndian.AppendUint64(said, uint64(shmtest.Monotonic()))
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(said); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !slices.Equal(got, said) {
		err = errors.New("another dialer's answer")
	}
	return err
}

// scarce reports whether err is that this process is out of descriptors, which
// passes.
func scarce(err error) bool { return errors.Is(err, syscall.EMFILE) }

// limitDescriptors lets this process have so many more than it has; 0 means
// none at all.
func limitDescriptors(more string) error {
	n, err := strconv.Atoi(more)
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(shmtest.OpenDescriptors() + n), Max: uint64(shmtest.OpenDescriptors() + n)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || n > 0 {
		return err
	}
	for err == nil {
		_, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	return nil
}

// A stormServer serves a storm.
type stormServer struct {
	l      shmtest.Listener
	closed atomic.Int64 // connections

	mu     sync.Mutex // guards the following
	dials  [][2]int64 // when they began and ended, in the order of Accept
	served int
	gone   int // that had said nothing
	reused int
	short  int // errors of Accept for want of something
	wrong  string
}

// run serves until the listener is closed.
func (y *stormServer) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ; {
		c, err := y.l.Accept()
		if scarce(err) {
			y.mu.Lock()
			y.short++
			y.mu.Unlock()
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return
		}
		y.mu.Lock()
		y.dials = append(y.dials, [2]int64{})
		y.reused += int(min(1, reusedBy(c.(shmtest.Conn))))
		y.mu.Unlock()
		at := i
		i++
		wg.Go(func() {
			defer func() {
				c.Close()
				y.closed.Add(1)
			}()
			b := make([]byte, stormMessage)
			_, err := io.ReadFull(c, b)
			if err == nil {
				_, err = c.Write(b)
			}
			y.mu.Lock()
			defer y.mu.Unlock()
			if err != nil {
				if y.gone++; !cutShort(err) {
					y.wrong = err.Error()
				}
				return
			}
			y.served++
			y.dials[at] = [2]int64{int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))}
		})
	}
}

// overtaken counts dials that were accepted after one that began when they had
// ended: the backlog is a queue.
func (y *stormServer) overtaken() (n int) {
	first := int64(1) << 62 // of the ends of those that were accepted later
	for _, d := range slices.Backward(y.dials) {
		if first < d[0] {
			n++
		}
		first = min(first, d[1])
	}
	return n
}

// serveStorm is a stormServer in a process of its own: "limit N", "listen NAME
// BACKLOG", "holds", "closed", "end".
func serveStorm(s shmtest.Shape, in *bufio.Scanner) {
	y := new(stormServer)
	ended := make(chan struct{})
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "limit":
			err = limitDescriptors(f[1])
		case "listen":
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll, SpareBytes: s.Spares}
			lc.Backlog, _ = strconv.Atoi(f[2])
			var l *shmconn.Listener
			if l, err = lc.Listen(f[1]); err == nil {
				y.l = l
				go func() { defer close(ended); y.run() }()
			}
		case "holds":
			fmt.Println(len(shmtest.Mappings()), count(shmtest.Descriptors()))
			continue
		case "closed":
			fmt.Println(y.closed.Load())
			continue
		case "end":
			err = y.l.Close()
			<-ended
			if y.wrong != "" {
				err = errors.New(y.wrong)
			}
			fmt.Println(y.served, y.reused, y.short, y.overtaken(), shmtest.Class(err))
			continue
		}
		fmt.Println(shmtest.Class(err))
	}
	if y.l != nil {
		y.l.Close()
	}
}

// TestStorm has many dialers come at once, again and again: all are served, in
// the order in which they have come, and the listener holds no more in the end
// than the spares that it may have. With few descriptors all of them are served
// as well, but a server that has none for two seconds may reset dialers that
// wait for it over memory that is used again.
func TestStorm(t *testing.T) {
	processes, each, storms := 4, 50, 2
	if *shmtest.Long {
		each, storms = 250, 20
	}
	for _, tt := range []struct {
		name         string
		shape        shmtest.Shape
		backlog      int
		server, dial string // more descriptors than they use at first; "" for enough
	}{
		{"", shmtest.Shape{Ring: 4096}, 0, "", ""},
		{"anonymous", shmtest.Shape{Ring: 4096, Anonymous: true}, 0, "", ""},
		{"a backlog of 1", shmtest.Shape{Ring: 4096}, 1, "", ""},
		{"no spares", shmtest.Shape{Ring: 4096, Spares: -1}, 0, "", ""},
		{"few descriptors in the server", shmtest.Shape{Ring: 4096}, 0, "40", ""},
		{"few descriptors in the dialers", shmtest.Shape{Ring: 4096}, 0, "", "40"},
		{"few descriptors in both", shmtest.Shape{Ring: 4096}, 4, "30", "30"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			h, name := shmtest.StartHelper(t, "stormserver", tt.shape), shmtest.NewName()
			h.Do("listen %s %d", name, tt.backlog)
			if tt.server != "" {
				h.Do("limit %s", tt.server)
			}
			var dialers []*shmtest.Helper
			for range processes {
				d := shmtest.StartHelper(t, "stormdialers", tt.shape)
				if tt.dial != "" {
					d.Do("limit %s", tt.dial)
				}
				dialers = append(dialers, d)
			}
			holds := func() (m, d int) {
				fmt.Sscan(h.Call("holds"), &m, &d)
				return m, d
			}
			m0, d0 := holds()
			served, again, resets := 0, 0, 0
			start := time.Now()
			for range storms {
				for _, d := range dialers {
					d.Send("storm %s %d", name, each)
				}
				for _, d := range dialers {
					var n, a, r int
					var what string
					fmt.Sscan(d.Line(), &n, &a, &r, &what)
					if n != each || what != "ok" {
						t.Errorf("%d of %d served: %s", n, each, what)
					}
					served += n
					again += a
					resets += r
				}
			}
			took := time.Since(start)
			if resets > 0 && tt.server == "" {
				t.Errorf("%d reset", resets)
			}
			// What is kept goes with the dialers.
			for _, d := range dialers {
				d.Stdin.Close()
				d.Wait()
			}
			var m, d int
			shmtest.Eventually(func() bool { m, d = holds(); return m <= m0 && d <= d0+1 })
			// It lives on.
			var tries atomic.Int64
			if err := stormOnce(tt.shape, name, &tries); err != nil {
				t.Errorf("after the storm: %v", err)
			}
			handshake.DropSpares()
			var n, reused, short, overtaken int
			var what string
			fmt.Sscan(h.Call("end"), &n, &reused, &short, &overtaken, &what)
			if n != served+1 || what != "ok" || overtaken != 0 {
				t.Errorf("the server has served %d of %d, %d of them after one that came later: %s", n, served+1, overtaken, what)
			}
			if few := tt.server+tt.dial != ""; !few && (reused > 0) != (tt.shape.Spares == 0) {
				t.Errorf("%d have used memory again", reused)
			}
			t.Logf("figure: %s: %d storms of %d dialers of %d processes in %v: all served, %d over used memory; without a descriptor for a while: %d times Accept, %d times Dial; %d reset",
				t.Name(), storms, processes*each, processes, took.Round(time.Millisecond), reused, short, again, resets)
		})
	}
}

// pending returns how many dialers wait in the backlog of the listener on name.
func pending(t *testing.T, name string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(shmtest.UnixShape.Path("shmconn."+name+"@sock"), &st); err != nil {
		t.Fatal(err)
	}
	inode, err := sockdiag.Listening(st.Dev, uint32(st.Ino))
	if err != nil {
		t.Fatal(err)
	}
	n, err := sockdiag.Queue(inode)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStarved has dialers take all spares of a server that has no descriptors
// left, while one that has none is before them in the backlog: the server gets
// to nobody, and lets go of the spares after two seconds.
func TestStarved(t *testing.T) {
	const spares = 8
	s := shmtest.Shape{Ring: 4096, SpareTime: time.Minute}
	h, name := shmtest.StartHelper(t, "stormserver", s), shmtest.NewName()
	h.Do("listen %s 0", name)
	first := shmtest.StartHelper(t, "stormdialers", s)
	dial := func(reused uint64) (all []shmtest.Conn) {
		for range spares {
			c := s.MustDial(t, name)
			if got := reusedBy(c); got != reused {
				t.Fatalf("used again for the %d. time, want %d", got, reused)
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			all = append(all, c)
		}
		return all
	}
	say := func(c shmtest.Conn) (err error) {
		b := make([]byte, stormMessage)
		if _, err = c.Write(b); err == nil {
			_, err = io.ReadFull(c, b)
		}
		c.Close()
		return err
	}
	for _, c := range dial(0) {
		if err := say(c); err != nil {
			t.Fatal(err)
		}
	}
	// All of them are spares now, and the server has what accept takes, and no
	// more.
	shmtest.Eventually(func() bool { return h.Call("closed") == strconv.Itoa(spares) })
	h.Do("limit 2")
	h.Stop()
	first.Send("storm %s 1", name)
	shmtest.Eventually(func() bool { return pending(t, name) == 1 })
	again := dial(1)
	start := time.Now()
	h.Cont()
	outcomes := make(map[string]int)
	for _, c := range again {
		err := say(c)
		if err != nil && !cutShort(err) {
			t.Errorf("a dialer that had taken a spare: %v", err)
		}
		outcomes[shmtest.Class(err)]++
	}
	first.Expect("1 0 0 ok")
	t.Logf("figure: starved by %d spares: the first was served after %v; the others: %v", spares, time.Since(start).Round(time.Millisecond), outcomes)
	var tries atomic.Int64
	if err := stormOnce(s, name, &tries); err != nil {
		t.Errorf("after that: %v", err)
	}
	handshake.DropSpares()
}

// TestPutBack has a dialer take a spare and then have no descriptor to say so,
// while somebody else is always in the backlog: the listener does not keep what
// was taken.
func TestPutBack(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, SpareTime: time.Minute}
	shmtest.HoldStill()
	l := s.MustListen(t, shmtest.NewName()).(*shmconn.Listener)
	name := shmtest.NameOf(l)
	d := shmtest.StartHelper(t, "stormdialers", s)
	d.Send("storm %s 1", name)
	c := shmtest.MustAccept(t, l)
	b := make([]byte, stormMessage)
	io.ReadFull(c, b)
	c.Write(b)
	c.Close()
	d.Expect("1 0 0 ok")
	shmtest.Eventually(func() bool { return len(shmtest.Mappings()) == 1 }) // the spare
	// Somebody is always in the backlog, so that dialers are awaited.
	waits, since := shmtest.RawConnect(t, name), time.Now()
	defer func() { waits.Close() }()
	d.Do("limit 0")
	d.Send("storm %s 1", name)
	shmtest.Eventually(func() bool {
		if time.Since(since) > 500*time.Millisecond {
			earlier := waits
			waits, since = shmtest.RawConnect(t, name), time.Now()
			earlier.Close()
		}
		return len(shmtest.Mappings()) == 0
	})
	d.Kill() // which tries again until it has descriptors
}
