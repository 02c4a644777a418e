//go:build linux

package reuse

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

var soakConns = flag.Int("connections", 0, "how many connections TestSoak makes; 0 means 5,000, and 10^6 with -long")

// live is the life of a connection: requests of random size, and an end.
func live(c shmtest.Conn, rnd *rand.Rand) error {
	c.SetDeadline(time.Now().Add(time.Minute)) // no call may hang
	for range rnd.IntN(3) {
		at, n := rnd.IntN(1<<24), rnd.IntN(6000)
		if err := ask(c, at, n); err != nil {
			c.Close()
			return err
		}
		if err := hear(c, at, n); err != nil {
			c.Close()
			return err
		}
	}
	end := endOrderly
	if rnd.IntN(4) == 0 {
		end = rnd.IntN(waysToEnd)
	}
	return converse(c, rnd.IntN(1<<24), rnd.IntN(3000), end)
}

// A soakCount is what came of connections.
type soakCount struct{ served, reused, reset, refused atomic.Int64 }

// soakDialers dials names at random: "go GOROUTINES NAME...", of which the
// first is always there, "figures", "holds", "memory", and "stop".
func soakDialers(s shmtest.Shape, in *bufio.Scanner) {
	var y soakCount
	var wrong atomic.Pointer[string]
	var stop atomic.Bool
	var wg sync.WaitGroup
	once := func(name string, always bool, rnd *rand.Rand) error {
		c, err := s.DialContext(context.Background(), name, time.Minute)
		if shmtest.Class(err) == "ECONNREFUSED" && !always {
			y.refused.Add(1)
			return nil
		}
		if err != nil {
			return fmt.Errorf("dial %s: %w", name, err)
		}
		err = live(c, rnd)
		if cutShort(err) && !always {
			y.reset.Add(1)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s, used for the %d. time: %w", name, reusedBy(c), err)
		}
		y.served.Add(1)
		y.reused.Add(int64(min(1, reusedBy(c))))
		return nil
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch f[0] {
		case "go":
			n, _ := strconv.Atoi(f[1])
			for range n {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
					for !stop.Load() {
						i := rnd.IntN(len(f) - 2)
						if err := once(f[2+i], i == 0, rnd); err != nil {
							what := err.Error()
							wrong.CompareAndSwap(nil, &what)
							return
						}
					}
				})
			}
			fmt.Println("ok")
		case "stop":
			stop.Store(true)
			wg.Wait()
			handshake.DropSpares()
			fmt.Println("ok")
		case "figures":
			what := "ok"
			if w := wrong.Load(); w != nil {
				what = *w
			}
			fmt.Println(y.served.Load(), y.reused.Load(), y.reset.Load(), y.refused.Load(), what)
		case "holds":
			fmt.Println(len(shmtest.Mappings()), count(shmtest.Descriptors()))
		case "memory":
			fmt.Println(resident())
		}
	}
}

// resident returns how many KiB of memory this process has, without garbage.
func resident() int {
	debug.FreeOSMemory()
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	shared, _ := strconv.Atoi(f[2])
	return (n - shared) * os.Getpagesize() / 1024
}

// A soak is a TestSoak under way.
type soak struct {
	*testing.T
	names   []string
	servers []*shmtest.Helper
	dialers []*shmtest.Helper
}

// figures adds up what the dialers have counted.
func (x *soak) figures() (served, reused, reset, refused int) {
	x.Helper()
	for _, d := range x.dialers {
		var a, b, c, e int
		line := d.Call("figures")
		fmt.Sscan(line, &a, &b, &c, &e)
		if !strings.HasSuffix(line, " ok") {
			x.Fatalf("a dialer says %q", line)
		}
		served, reused, reset, refused = served+a, reused+b, reset+c, refused+e
	}
	return served, reused, reset, refused
}

// processes are those that live from the first to the last.
func (x *soak) processes() []*shmtest.Helper {
	return append([]*shmtest.Helper{x.servers[0]}, x.dialers...)
}

// TestSoak has processes dial listeners of others, of which all but one close,
// or are killed, and listen again: every byte is right, the listener that is
// always there serves all, and nobody holds more at the end.
func TestSoak(t *testing.T) {
	n := cycles(5000, 1_000_000)
	if *soakConns > 0 {
		n = *soakConns
	}
	const goroutines = 4 // of a dialer
	shapes := []shmtest.Shape{{Ring: 4096}, {Ring: 8192, Anonymous: true}, {Ring: 4096, Spares: 4 * 3 * 4096}}
	x := &soak{T: t}
	serve := func(i int) *shmtest.Helper {
		h := shmtest.StartHelper(t, "reuseserver", shapes[i])
		h.Do("listen %s", x.names[i])
		return h
	}
	for i := range shapes {
		x.names = append(x.names, shmtest.NewName())
		x.servers = append(x.servers, serve(i))
	}
	for range 2 {
		d := shmtest.StartHelper(t, "soakdialers", shapes[0])
		d.Do("go %d %s", goroutines, strings.Join(x.names, " "))
		x.dialers = append(x.dialers, d)
	}
	rnd := shmtest.Seeded(t)
	start := time.Now()
	var memory []int // of each process, at a quarter
	closed, killed := 0, 0
	for served := 0; served < n; {
		time.Sleep(time.Duration(20+rnd.IntN(60)) * time.Millisecond)
		i := 1 + rnd.IntN(len(shapes)-1)
		x.servers[i].Do("wrong")
		if rnd.IntN(2) == 0 {
			x.servers[i].Do("unlisten")
			x.servers[i].Do("listen %s", x.names[i])
			closed++
		} else {
			x.servers[i].Kill()
			x.servers[i] = serve(i)
			killed++
		}
		served, _, _, _ = x.figures()
		for _, h := range x.processes() {
			var m, d int
			fmt.Sscan(h.Call("holds"), &m, &d)
			if most := 3 * (64 + 4*goroutines); m > most || d > most+20 {
				t.Fatalf("after %d connections: %d mappings and %d descriptors, want %d at most", served, m, d, most)
			}
		}
		if names := shmtest.ListDir(os.Getenv("SHMCONN_DIR")); len(names) > 3*len(x.names) {
			t.Fatalf("after %d connections there are %q", served, names)
		}
		if memory == nil && served >= n/4 {
			for _, h := range x.processes() {
				kib, _ := strconv.Atoi(h.Call("memory"))
				memory = append(memory, kib)
			}
		}
	}
	took := time.Since(start)
	for i, h := range x.processes() {
		kib, _ := strconv.Atoi(h.Call("memory"))
		if kib > memory[i]+16<<10 {
			t.Errorf("process %d has %d KiB, and %d at a quarter", i, kib, memory[i])
		}
		memory[i] = kib - memory[i]
	}
	for _, d := range x.dialers {
		d.Do("stop")
	}
	served, reused, reset, refused := x.figures()
	for i, h := range x.servers {
		h.Do("wrong")
		shmtest.Eventually(func() bool { return strings.HasPrefix(h.Call("holds"), "0 ") || i > 0 })
		h.Do("unlisten")
		if left, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn*" + x.names[i] + "*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	if reused == 0 || reset+refused == 0 {
		t.Errorf("%d over used memory, %d reset, %d refused: one of them was not tried", reused, reset, refused)
	}
	t.Logf("figure: soak: %d connections, %.0f a second, %d over used memory, %d reset and %d refused as listeners closed %d times and were killed %d times; memory has grown by %v KiB since a quarter",
		served, float64(served)/took.Seconds(), reused, reset, refused, closed, killed, memory)
}
