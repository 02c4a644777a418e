//go:build linux

// Package c_test holds shmconn.h against the Go package: each test has two
// processes, in C or in Go, and the same commands for both.
package c_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

var long = flag.Bool("long", os.Getenv("SHMCONN_FULL") != "", "send a million messages")

const peerEnv = "SHMCONN_C_TEST_PEER"

func TestMain(m *testing.M) {
	if os.Getenv(peerEnv) != "" {
		goPeer(os.Args[1:])
		return
	}
	os.Exit(runTests(m))
}

// runTests runs the tests in a directory of names of their own, in which
// nothing may be left.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests need /dev/shm:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("SHMCONN_DIR", dir)
	if binaryRoot, err = os.MkdirTemp("", "shmconn-c-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaryRoot)
	code := m.Run()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); code == 0 && len(left) > 0 {
		fmt.Fprintln(os.Stderr, "FAIL: left behind:", left)
		return 1
	}
	return code
}

var compilers = []string{"gcc", "clang"}

// binaries has what was compiled, by compiler and source, and lives as long as
// the tests.
var (
	binaries   = make(map[string]string)
	binaryRoot string
)

// compile builds a C file, once, with a compiler, which the test is skipped
// without.
func compile(t *testing.T, compiler, source string) (binary string) {
	t.Helper()
	key := compiler + "-" + strings.TrimSuffix(filepath.Base(source), ".c")
	if binary, there := binaries[key]; there {
		return binary
	}
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skipf("%s is not installed: %v", compiler, err)
	}
	for _, file := range []string{"shmconn.h", source} { // so that the go command knows what this depends on
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	empty := exec.Command(compiler, "-fsanitize=address,undefined", "-x", "c", "-", "-o", filepath.Join(binaryRoot, "empty"))
	empty.Stdin = strings.NewReader("int main(void) { return 0; }\n")
	if out, err := empty.CombinedOutput(); err != nil {
		t.Skipf("%s has no sanitizers to link with: %v\n%s", compiler, err, out)
	}
	binary = filepath.Join(binaryRoot, key)
	cmd := exec.Command(compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g",
		"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread", "-o", binary, source)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	binaries[key] = binary
	return binary
}

// A combination says of which binary the two ends are; "" is this one, in Go.
type combination struct{ name, listen, dial string }

// eachCombination runs f for C and Go at either end, with each compiler, and
// for Go at both.
func eachCombination(t *testing.T, f func(t *testing.T, c combination)) {
	for _, compiler := range compilers {
		t.Run(compiler, func(t *testing.T) {
			bin := compile(t, compiler, "testdata/peer.c")
			for _, c := range []combination{{"C-dials-Go", "", bin}, {"Go-dials-C", bin, ""}, {"C-dials-C", bin, bin}} {
				t.Run(c.name, func(t *testing.T) { f(t, c) })
			}
		})
	}
	t.Run("Go-dials-Go", func(t *testing.T) { f(t, combination{name: "Go-dials-Go"}) })
}

// A peer is a process with one end of a connection.
type peer struct {
	t      *testing.T
	what   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string
	stderr bytes.Buffer
	killed bool
	begun  time.Time
}

var nameCount int

func newName() string {
	nameCount++
	return "c" + strconv.Itoa(nameCount)
}

const (
	ring      = 64 << 10
	named     = 0
	anonymous = 1
)

// start runs a peer, which says what its opening has come to.
func start(t *testing.T, bin, verb, name string, flags int) *peer {
	t.Helper()
	p := &peer{t: t, what: verb + "er in C", lines: make(chan string, 16)}
	if bin == "" {
		bin, p.what = os.Args[0], verb+"er in Go"
	}
	p.cmd = exec.Command(bin, verb, name, strconv.Itoa(ring), strconv.Itoa(flags))
	// With the race detector a process would take a second to end.
	p.cmd.Env = append(os.Environ(), peerEnv+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.run()
	return p
}

// run starts the process, and sees to its end when the test ends.
func (p *peer) run() {
	t := p.t
	t.Helper()
	p.begun = time.Now()
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			p.cmd.Process.Kill() // it may hang
			p.killed = true
		}
		p.stdin.Close()
		<-read
		err := p.cmd.Wait()
		if !p.killed && err != nil || p.stderr.Len() > 0 {
			t.Errorf("%s: %v\n%s", p.what, err, &p.stderr)
		}
	})
}

// hear returns the next answer.
func (p *peer) hear() string {
	p.t.Helper()
	limit := 20 * time.Second
	if *long {
		limit = time.Hour
	}
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatalf("%s has ended", p.what)
		}
		return line
	case <-time.After(limit):
		p.t.Fatalf("%s hangs", p.what)
	}
	return ""
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.stdin, format+"\n", args...); err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
}

// wants fails unless the next answer is as it should be.
func (p *peer) wants(want string) {
	p.t.Helper()
	if got := p.hear(); got != want {
		p.t.Fatalf("%s: got %q, want %q", p.what, got, want)
	}
}

// does has p do a command that succeeds.
func (p *peer) does(format string, args ...any) {
	p.t.Helper()
	p.say(format, args...)
	p.wants("ok")
}

// counted returns what a read or a write has come to and how many milliseconds
// it took.
func (p *peer) counted() (result string, ms int) {
	p.t.Helper()
	line := p.hear()
	i := strings.LastIndexByte(line, ' ')
	ms, err := strconv.Atoi(line[i+1:])
	if i < 0 || err != nil {
		p.t.Fatalf("%s: got %q", p.what, line)
	}
	return line[:i], ms
}

// reads has p read once, for as long as it takes, and fails unless that comes
// to want.
func (p *peer) reads(want string) {
	p.t.Helper()
	p.say("read -1 65536")
	p.wants("reading")
	if got, _ := p.counted(); got != want {
		p.t.Errorf("%s: read: got %q, want %q", p.what, got, want)
	}
}

func (p *peer) writes(size int, want string) {
	p.t.Helper()
	p.say("write %d -1", size)
	if got, _ := p.counted(); got != want {
		p.t.Errorf("%s: write: got %q, want %q", p.what, got, want)
	}
}

// kill is kill -9, and returns when the process is gone.
func (p *peer) kill() {
	p.t.Helper()
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	for range p.lines {
	}
}

// connect returns the two ends of a connection.
func (c combination) connect(t *testing.T, flags int) (listener, dialer *peer) {
	t.Helper()
	name := newName()
	t.Cleanup(func() {
		if !listener.killed {
			return
		}
		// What it has left is taken over.
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Errorf("listen after a killed %s: %v", listener.what, err)
			return
		}
		l.Close()
	})
	listener = start(t, c.listen, "listen", name, flags)
	listener.wants("ok")
	dialer = start(t, c.dial, "dial", name, flags)
	dialer.wants("ok")
	listener.does("accept")
	return listener, dialer
}

// bothWays runs f with each end in the first place.
func (c combination) bothWays(t *testing.T, f func(t *testing.T, a, b *peer)) {
	t.Run("from=dialer", func(t *testing.T) {
		l, d := c.connect(t, named)
		f(t, d, l)
	})
	t.Run("from=listener", func(t *testing.T) {
		l, d := c.connect(t, named)
		f(t, l, d)
	})
}

func messages() int {
	if *long {
		return 1_000_000
	}
	return 100_000
}

// TestMessages sends messages of random sizes, some of them longer than the
// ring, one way, the other way, and both ways at once.
func TestMessages(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		for _, flags := range []int{named, anonymous} {
			t.Run(fmt.Sprintf("flags=%d", flags), func(t *testing.T) {
				n := messages()
				if flags == anonymous {
					n /= 10
				}
				seed, begin := rand.IntN(1<<30), time.Now()
				l, d := c.connect(t, flags)
				d.say("send %d %d 2048 %d 0", seed, n, 3*ring)
				l.does("receive %d %d 2048 %d", seed, n, 3*ring)
				d.wants("ok")
				l.say("send %d %d 2048 %d 0", seed+1, n, 3*ring)
				d.does("receive %d %d 2048 %d", seed+1, n, 3*ring)
				l.wants("ok")
				l.say("duplex %d %d %d 2048 %d 0", seed+2, seed+3, n/10, 3*ring)
				d.does("duplex %d %d %d 2048 %d 0", seed+3, seed+2, n/10, 3*ring)
				l.wants("ok")
				t.Logf("seed %d: %d messages in %v", seed, 2*n+2*(n/10), time.Since(begin).Round(time.Millisecond))
			})
		}
	})
}

// TestHalfClose checks that one direction ends, after its last byte, while the
// other goes on.
func TestHalfClose(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			a.does("send 1 50 1024 1024 0")
			a.does("shut")
			a.writes(1, "EPIPE")
			b.does("receive 1 50 1024 1024")
			b.reads("0")
			b.reads("0")
			b.does("send 2 50 1024 1024 0")
			b.does("close")
			a.does("receive 2 50 1024 1024")
			a.reads("0")
		})
	})
}

// TestClose checks that a close ends what the peer waits in.
func TestClose(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			b.say("read -1 65536")
			b.wants("reading")
			time.Sleep(rand.N(3 * time.Millisecond)) // to meet any stage of the wait
			a.does("close")
			if got, _ := b.counted(); got != "0" {
				t.Errorf("read at the peer's close: got %q, want 0", got)
			}
			b.writes(1, "EPIPE")
		})
	})
}

// TestShut checks that the end of one direction wakes who waits for it.
func TestShut(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			b.say("read -1 65536")
			b.wants("reading")
			time.Sleep(rand.N(3 * time.Millisecond)) // to meet any stage of the wait
			a.does("shut")
			if got, _ := b.counted(); got != "0" {
				t.Errorf("read at the peer's half close: got %q, want 0", got)
			}
			b.writes(1, "1")
		})
	})
}

// TestKill kills either end, and looks what the other finds.
func TestKill(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		t.Run("written", func(t *testing.T) {
			c.bothWays(t, func(t *testing.T, a, b *peer) {
				a.does("send 1 50 1024 1024 0")
				a.kill()
				b.does("receive 1 50 1024 1024")
				b.reads("ECONNRESET")
				b.writes(1, "EPIPE")
			})
		})
		t.Run("reading", func(t *testing.T) {
			c.bothWays(t, func(t *testing.T, a, b *peer) {
				b.say("read -1 65536")
				b.wants("reading")
				time.Sleep(rand.N(3 * time.Millisecond)) // to meet any stage of the wait
				a.kill()
				if got, _ := b.counted(); got != "ECONNRESET" {
					t.Errorf("read when the peer is killed: got %q, want ECONNRESET", got)
				}
			})
		})
		t.Run("writing", func(t *testing.T) {
			c.bothWays(t, func(t *testing.T, a, b *peer) {
				b.say("write %d -1", 4*ring)
				time.Sleep(rand.N(3 * time.Millisecond)) // to meet any stage of the wait
				a.kill()
				got, _ := b.counted()
				if n, err := strconv.Atoi(got); got != "EPIPE" && (err != nil || n <= 0 || n > ring) {
					t.Errorf("write when the peer is killed: got %q, want EPIPE or up to a ring", got)
				}
				b.writes(1, "EPIPE")
			})
		})
	})
}

// TestKillWithoutDescriptors kills the peer of an end whose RLIMIT_NOFILE is 0
// by then, for which poll(2) is EINVAL. Until then bytes come through, and a
// timeout works.
func TestKillWithoutDescriptors(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			var old unix.Rlimit
			limit := func(l *unix.Rlimit) {
				if err := unix.Prlimit(b.cmd.Process.Pid, unix.RLIMIT_NOFILE, l, &old); err != nil {
					t.Fatal(err)
				}
			}
			limit(nil)
			limit(&unix.Rlimit{Max: old.Max})
			b.say("receive 1 50 1024 1024")
			time.Sleep(rand.N(3 * time.Millisecond))
			a.does("send 1 50 1024 1024 0")
			b.wants("ok")
			b.say("read 20 1")
			b.wants("reading")
			if got, _ := b.counted(); got != "ETIMEDOUT" {
				t.Errorf("read without a writer: got %q, want ETIMEDOUT", got)
			}
			b.say("read -1 65536")
			b.wants("reading")
			time.Sleep(rand.N(3 * time.Millisecond)) // to meet any stage of the wait
			a.kill()
			if got, _ := b.counted(); got != "ECONNRESET" {
				t.Errorf("read when the peer is killed: got %q, want ECONNRESET", got)
			}
			b.writes(1, "EPIPE")
			limit(&unix.Rlimit{Cur: old.Max, Max: old.Max}) // the leak checker opens files
		})
	})
}

// TestPark has the reader sleep before each message.
func TestPark(t *testing.T) {
	const n, idle = 8, 20
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			a.say("send 1 %d 2048 2048 %d", n, idle)
			b.does("receive 1 %d 2048 2048", n)
			a.wants("ok")
			b.say("parks")
			if parks, err := strconv.Atoi(b.hear()); err != nil || parks < n/2 {
				t.Errorf("%s: %d parks in %d idle waits (%v)", b.what, parks, n, err)
			}
		})
	})
}

// TestTwoSleepers has a reader and a writer of one end sleep on one doorbell,
// and each be woken by its own news.
func TestTwoSleepers(t *testing.T) {
	const n, idle = 8, 20
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			a.does("spin 0")
			b.say("alternate 3 4 1000 %d %d 0", ring, ring)
			a.does("duplex 4 3 1000 %d %d 0", ring, ring)
			b.wants("ok")
			b.say("alternate 1 2 %d %d %d %d", n, ring, ring, idle)
			a.does("duplex 2 1 %d %d %d 0", n, ring, ring)
			b.wants("ok")
			a.say("parks")
			if parks, err := strconv.Atoi(a.hear()); err != nil || parks < n/2 {
				t.Errorf("%s: %d parks in %d idle rounds (%v)", a.what, parks, n, err)
			}
		})
	})
}

// TestTell checks when a reader has to tell of what it has read: at each
// quarter of the ring, before the same end waits to write, and before it waits
// to read.
func TestTell(t *testing.T) {
	const half = ring / 2
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			a.writes(half, strconv.Itoa(half))
			a.writes(half-4096, strconv.Itoa(half-4096))
			a.say("write %d -1", half) // waits
			b.say("read -1 %d", half)
			b.wants("reading")
			b.counted()
			if got, _ := a.counted(); got != strconv.Itoa(half) {
				t.Errorf("%s: write after the peer has read: got %q, want %d", a.what, got, half)
			}
			b.say("read -1 %d", half-4096)
			b.wants("reading")
			b.counted()

			// Half a ring of bytes is left, and of less than a quarter it need
			// not have told yet.
			a.say("write %d -1", half) // waits, unless it is told of all
			b.say("write %d -1", 3*ring)
			if got, _ := a.counted(); got != strconv.Itoa(half) {
				t.Errorf("%s: write while the peer, which has read, writes: got %q, want %d", a.what, got, half)
			}
			a.read(3 * ring)
			if got, _ := b.counted(); got != strconv.Itoa(3*ring) {
				t.Errorf("%s: write: got %q, want %d", b.what, got, 3*ring)
			}

			b.read(ring)
			a.writes(1000, "1000")
			b.read(1000)
			b.say("read -1 1")
			b.wants("reading")
			if strings.HasSuffix(a.what, "Go") {
				for got := ""; got != strconv.Itoa(ring); got = a.hear() {
					if time.Since(a.begun) > 20*time.Second {
						t.Fatalf("%s: there is room for %s bytes, the peer has read all", a.what, got)
					}
					a.say("available")
				}
			}
			a.writes(1, "1")
			b.counted()
		})
	})
}

// read reads n bytes.
func (p *peer) read(n int) {
	p.t.Helper()
	for n > 0 {
		p.say("read -1 %d", min(n, ring))
		p.wants("reading")
		got, _ := p.counted()
		m, err := strconv.Atoi(got)
		if err != nil || m <= 0 {
			p.t.Fatalf("%s: read: got %q with %d bytes left", p.what, got, n)
		}
		n -= m
	}
}

// TestTimeouts checks that a call takes at least as long as it may, and counts
// what it has done.
func TestTimeouts(t *testing.T) {
	const ms = 20
	eachCombination(t, func(t *testing.T, c combination) {
		c.bothWays(t, func(t *testing.T, a, b *peer) {
			a.say("read %d 1", ms)
			a.wants("reading")
			if got, took := a.counted(); got != "ETIMEDOUT" || took < ms-1 {
				t.Errorf("read: got %q after %d ms, want ETIMEDOUT after %d", got, took, ms)
			}
			a.say("write %d %d", 3*ring, ms)
			got, took := a.counted()
			n, err := strconv.Atoi(got)
			if err != nil || n <= ring/2 || n > ring || took < ms-1 {
				t.Errorf("write: got %q after %d ms, want up to a ring after %d", got, took, ms)
			}
			a.say("write %d %d", ring, ms)
			if got, took := a.counted(); got != "ETIMEDOUT" || took < ms-1 {
				t.Errorf("write into a full ring: got %q after %d ms, want ETIMEDOUT after %d", got, took, ms)
			}
			a.does("close")
			b.read(n) // what was counted is there
			b.reads("0")
		})
	})
}

// TestCorrupt has a C end store positions that it may not, which the other end
// finds.
func TestCorrupt(t *testing.T) {
	for _, compiler := range compilers {
		t.Run(compiler, func(t *testing.T) {
			bin := compile(t, compiler, "testdata/peer.c")
			for _, c := range []combination{{"C-dials-C", bin, bin}, {"C-dials-Go", "", bin}, {"Go-dials-C", bin, ""}} {
				hostile := func(t *testing.T) (bad, victim *peer) {
					l, d := c.connect(t, named)
					if c.listen == "" || c.name == "C-dials-C" {
						return d, l
					}
					return l, d
				}
				t.Run(c.name+"/produced", func(t *testing.T) {
					bad, victim := hostile(t)
					bad.does("poke out %d", ring+1)
					victim.reads("EPROTO")
					victim.reads("EPROTO")
					victim.writes(1, "EPROTO")
					victim.does("close")
					bad.reads("ECONNRESET") // not "0", an end in order
				})
				t.Run(c.name+"/consumed", func(t *testing.T) {
					bad, victim := hostile(t)
					bad.does("poke in %d", 3*ring)
					victim.writes(2*ring, strconv.Itoa(ring)) // up to the first look at the position
					victim.writes(1, "EPROTO")
					victim.reads("EPROTO")
				})
			}
		})
	}
}

// TestNames checks that an end of either language respects the other's name,
// and takes over what it leaves.
func TestNames(t *testing.T) {
	eachCombination(t, func(t *testing.T, c combination) {
		name := newName()
		start(t, c.dial, "dial", name, named).wants("ECONNREFUSED")
		first := start(t, c.listen, "listen", name, named)
		first.wants("ok")
		start(t, c.dial, "listen", name, named).wants("EADDRINUSE")
		orphan := start(t, c.dial, "dial", name, named)
		orphan.wants("ok")
		first.kill()
		orphan.reads("ECONNRESET")
		orphan.kill() // its segment may still have a name
		start(t, c.dial, "dial", name, named).wants("ECONNREFUSED")

		second := start(t, c.dial, "listen", name, named)
		second.wants("ok")
		left, _ := filepath.Glob(filepath.Join(os.Getenv("SHMCONN_DIR"), "shmconn."+name+"@*"))
		if len(left) != 1 {
			t.Errorf("beside the socket there are %q", left)
		}
		d := start(t, c.listen, "dial", name, named)
		d.wants("ok")
		second.does("accept")
		d.does("send 1 10 1024 1024 0")
		second.does("receive 1 10 1024 1024")

		late := start(t, c.listen, "dial", name, named)
		late.wants("ok")
		second.does("unlisten")
		late.reads("ECONNRESET")
		start(t, c.listen, "dial", name, named).wants("ECONNREFUSED")
		d.does("send 2 10 1024 1024 0") // what was accepted stays
		second.does("receive 2 10 1024 1024")
	})
}

// TestStrangers checks that a C listener is not held up by who says nothing,
// and drops who talks nonsense.
func TestStrangers(t *testing.T) {
	for _, compiler := range compilers {
		t.Run(compiler, func(t *testing.T) {
			bin := compile(t, compiler, "testdata/peer.c")
			name := newName()
			l := start(t, bin, "listen", name, named)
			l.wants("ok")
			sock := &net.UnixAddr{Name: filepath.Join(os.Getenv("SHMCONN_DIR"), "shmconn."+name+"@sock"), Net: "unixpacket"}
			for _, hello := range []string{"", "hello", "shmconn\x01", "shmconn\x01a", "shmconn\x010123456789abcdef", ""} {
				c, err := net.DialUnix("unixpacket", nil, sock)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if hello == "" {
					continue
				}
				if hello == "hello" {
					_, _, err = c.WriteMsgUnix([]byte(hello), syscall.UnixRights(0, 1, 2, 0, 1, 2), nil)
				} else {
					_, err = c.Write([]byte(hello))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			d := start(t, "", "dial", name, named)
			d.wants("ok")
			l.does("accept")
			d.does("send 1 10 1024 1024 0")
			l.does("receive 1 10 1024 1024")

			// A newcomer that would take the name over.
			refused := make(chan error, 1)
			go func() {
				_, err := (&shmconn.ListenConfig{TakeOver: true}).Listen(name)
				refused <- err
			}()
			for len(refused) == 0 {
				d.does("close")
				l.does("close")
				d = start(t, "", "dial", name, named)
				d.wants("ok")
				l.does("accept")
			}
			if err := <-refused; !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "has not set TakeOver") {
				t.Errorf("Listen beside a listener in C: %v", err)
			}
		})
	}
}

// listening starts an example that says so when it listens.
func listening(t *testing.T, bin string, args ...string) *peer {
	t.Helper()
	p := &peer{t: t, what: filepath.Base(bin), lines: make(chan string, 16), cmd: exec.Command(bin, args...)}
	p.run()
	return p
}

// TestExamples runs the programs of c/examples against each other and against
// Go.
func TestExamples(t *testing.T) {
	for _, compiler := range compilers {
		t.Run(compiler, func(t *testing.T) {
			produce := compile(t, compiler, "examples/produce.c")
			consume := compile(t, compiler, "examples/consume.c")
			echo := compile(t, compiler, "examples/echo.c")

			t.Run("ints", func(t *testing.T) {
				name := newName()
				c := listening(t, consume, name)
				c.wants("listening")
				if out, err := exec.Command(produce, name, "100001").CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("produce: %v\n%s", err, out)
				}
				c.wants("100001 integers, sum 5000050000")
			})
			t.Run("echo", func(t *testing.T) {
				name := newName()
				listening(t, echo, name).wants("listening")
				for i := range 3 { // at the same time
					c, err := shmconn.Dial(name)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					said := fmt.Sprint("hello from ", i)
					heard := make([]byte, len(said))
					if _, err := io.WriteString(c, said); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(c, heard); err != nil || string(heard) != said {
						t.Errorf("said %q, heard %q, %v", said, heard, err)
					}
				}
			})
		})
	}
}

// TestCxx checks that C++ can include the header.
func TestCxx(t *testing.T) {
	for _, compiler := range []string{"g++", "clang++"} {
		t.Run(compiler, func(t *testing.T) {
			if _, err := exec.LookPath(compiler); err != nil {
				t.Skipf("%s is not installed: %v", compiler, err)
			}
			cmd := exec.Command(compiler, "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", "c++", "-")
			cmd.Stdin = strings.NewReader("#include \"shmconn.h\"\nint main() { return shmconn_read(nullptr, nullptr, 0, 0); }\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
