//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// tallyEnv is the environment of a victim: the path of its tally.
const tallyEnv = "SHMCONN_TEST_TALLY"

func init() { helpers["victim"] = victim }

// A figure is how long something took, each time.
type figure []time.Duration

func (f figure) String() string {
	if len(f) == 0 {
		return "n=0"
	}
	s := slices.Sorted(slices.Values(f))
	at := func(q float64) time.Duration { return s[int(math.Ceil(q*float64(len(s))))-1].Round(time.Microsecond) }
	return fmt.Sprintf("n=%d p50=%v p99=%v max=%v", len(s), at(0.5), at(0.99), at(1))
}

// full returns how many rounds are run of n: all with -long, and one in 40 without.
func full(n int) int {
	if *long {
		return n
	}
	return max(2, n/40)
}

// A round is one of many in a test. What it has to clean up it does when it ends.
type round struct {
	testing.TB
	*rand.Rand
	cleanups []func()
}

func (x *round) Cleanup(f func()) { x.cleanups = append(x.cleanups, f) }

func (x *round) end() {
	for _, f := range slices.Backward(x.cleanups) {
		f()
	}
}

// inRounds runs f n times and sees that each ends, and leaves nothing: no goroutine,
// no descriptor, no mapping, no name.
func inRounds(t *testing.T, n int, f func(x *round)) {
	t.Helper()
	seed := rand.Uint64()
	before := hold()
	for i := range n {
		hung := time.AfterFunc(time.Minute, func() {
			debug.SetTraceback("all")
			panic(fmt.Sprintf("%s: round %d of seed %#x hangs", t.Name(), i, seed))
		})
		func() {
			x := &round{TB: t, Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			defer x.end()
			f(x)
		}()
		if left := before.left(); left != "" {
			t.Errorf("left behind: %s", left)
		}
		hung.Stop()
		if t.Failed() {
			t.Fatalf("that was round %d of seed %#x", i, seed)
		}
	}
}

// holdings are what a round must not leave.
type holdings struct {
	goroutines      int
	descriptors     map[string]int
	mappings, names []string
}

func hold() holdings {
	return holdings{runtime.NumGoroutine(), descriptors(), mappings(), listDir(os.Getenv("SHMCONN_DIR"))}
}

// left says what there is now and was not in h. It gives what ends beside a call
// some time to do so.
func (h holdings) left() string {
	for start := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		now := hold()
		if now.goroutines <= h.goroutines && maps.Equal(now.descriptors, h.descriptors) &&
			slices.Equal(now.mappings, h.mappings) && slices.Equal(now.names, h.names) {
			return ""
		}
		if time.Since(start) > 10*time.Second {
			return fmt.Sprintf("%+v, and before it was %+v", now, h)
		}
	}
}

// shape returns one at random, with a survivor that polls that long.
func (x *round) shape(poll time.Duration) shape {
	s := shape{
		Ring:      []int{4096, 16 << 10, 0}[x.IntN(3)],
		Anonymous: x.IntN(2) == 0,
		Swap:      x.IntN(2) == 0,
	}.poll(x.poll())
	if s.Swap {
		s.ListenPoll = poll
	} else {
		s.DialPoll = poll
	}
	return s
}

func (x *round) poll() time.Duration { return []time.Duration{0, pollNever, pollAlways}[x.IntN(3)] }

// moment sleeps until some moment within limit, rather an early one.
func (x *round) moment(limit time.Duration) {
	time.Sleep(time.Duration(float64(limit) * math.Pow(x.Float64(), 3)))
}

// A duel is a connection to a victim, and what it has done on it.
type duel struct {
	*round
	*tally
	c    *shmconn.Conn
	h    *helper
	name string
}

// duel starts a victim and connects to it, or lets it connect.
func (x *round) duel(y *tally, path, doing string, s shape) *duel {
	y.reset()
	d := &duel{round: x, tally: y, name: newName()}
	d.h = startHelper(x, "victim", s, tallyEnv+"="+path)
	if s.Swap {
		l := s.mustListen(x, d.name)
		d.h.send("%s dial %s", doing, d.name)
		d.c = mustAccept(x, l).(*shmconn.Conn)
		l.Close()
	} else {
		d.h.do("%s listen %s", doing, d.name)
		d.c = s.mustDial(x, d.name).(*shmconn.Conn)
	}
	d.h.expect("connected")
	return d
}

// judge checks what was read from a victim that is dead, and that nothing of it is
// left.
func (d *duel) judge(got *gathered) {
	wantErr(d, "Read", got.err, got.op+" ECONNRESET")
	if got.wrong != 0 {
		d.Errorf("byte %d of those read is wrong", got.wrong-1)
	}
	if wrote := d.wrote.Load(); uint64(got.n) < wrote {
		d.Errorf("read %d bytes, and calls had said that they wrote %d", got.n, wrote)
	}
	if wrong := d.wrong.Load(); wrong != 0 {
		d.Errorf("the victim read a wrong byte %d", wrong-1)
	}
	if read, wrote := d.read.Load(), d.c.Stats().BytesWritten; read > wrote {
		d.Errorf("the victim read %d bytes of %d", read, wrote)
	}
	wantDead(d, d.c)
	reclaim(d, d.name)
}

// gathered is what somebody has read, until there was an error.
type gathered struct {
	n     int
	wrong int // 1 + the place of the first byte that is wrong
	op    string
	err   error
	at    time.Time // of the error
	each  func(n int)
}

func (g *gathered) Write(b []byte) (int, error) {
	if i := firstDiff(b, g.n); i >= 0 && g.wrong == 0 {
		g.wrong = g.n + i + 1
	}
	g.n += len(b)
	if g.each != nil {
		g.each(len(b))
	}
	return len(b), nil
}

// gather reads from c until there is an error, by whatever call r says, by Read alone
// if r is nil. It tells each, which can be nil, how much it has got.
func gather(c *shmconn.Conn, r *rand.Rand, each func(n int)) *gathered {
	g := &gathered{op: "read", each: each}
	buf := make([]byte, 64<<10)
	for g.err == nil {
		how := 0
		if r != nil {
			how = r.IntN(64)
		}
		switch {
		case how == 63:
			g.op = "writeto"
			_, g.err = c.WriteTo(g)
		case how >= 48:
			var b []byte
			b, g.err = c.Peek(1 + r.IntN(100)) // fewer with an error
			g.Write(b)
			if _, err := c.Discard(len(b)); err != nil {
				g.err = err
			}
		case how >= 32:
			var n int
			n, g.err = c.TryRead(buf[:1+r.IntN(len(buf))])
			g.Write(buf[:n])
		default:
			part := buf
			if r != nil {
				part = buf[:1+r.IntN(len(buf))]
			}
			var n int
			n, g.err = c.Read(part)
			g.Write(part[:n])
		}
	}
	g.at = time.Now()
	return g
}

// feed writes n bytes of the pattern from off on, in pieces, by whatever call r says,
// and tells each how many a call has written. between is called between two calls.
func feed(c *shmconn.Conn, r *rand.Rand, off, n int, each func(n int), between func()) error {
	for end := off + n; off < end; between() {
		piece := pattern(off, min(end-off, 1+r.IntN(1<<r.IntN(17))))
		m, err := writeSomehow(c, r, piece)
		each(m)
		off += m
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

func writeSomehow(c *shmconn.Conn, r *rand.Rand, b []byte) (int, error) {
	switch r.IntN(8) {
	case 0:
		return c.TryWrite(b)
	case 1:
		two := net.Buffers{b[:len(b)/2], b[len(b)/2:]}
		n, err := c.WriteBuffers(&two)
		return int(n), err
	case 2:
		b = b[:min(len(b), 2048)]
		room, err := c.Reserve(len(b))
		if err != nil {
			return 0, err
		}
		copy(room, b)
		if err := c.Commit(len(b)); err != nil {
			return 0, err
		}
		return len(b), nil
	case 3:
		n, err := c.ReadFrom(bytes.NewReader(b))
		return int(n), err
	case 4:
		c.SetWriteDeadline(time.Now().Add(50 * time.Microsecond))
		defer c.SetWriteDeadline(none)
		return c.Write(b)
	}
	return c.Write(b)
}

// victim is a process that is to be killed. Its one order says what it does, whether
// it listens or dials, and the name. It says "ok" once it listens and "connected" once
// it is connected.
func victim(s shape, in *bufio.Scanner) {
	b, err := mapTally(os.Getenv(tallyEnv))
	if err != nil {
		panic(err)
	}
	y := tallyIn(b)
	if !in.Scan() {
		return
	}
	f := strings.Fields(in.Text())
	doing, how, name := f[0], f[1], f[2]
	switch doing {
	case "dials":
		y.dials(s, name)
	case "accepts":
		y.accepts(s, name)
	case "listens":
		y.listens(s, name)
	}
	connect := func() (conn, error) { return s.dial(name) }
	if how == "listen" {
		l, err := s.listen(name)
		if err != nil {
			fmt.Println(class(err))
			return
		}
		fmt.Println("ok")
		connect = func() (conn, error) {
			defer l.Close()
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(conn), nil
		}
	}
	c, err := connect()
	if err != nil {
		fmt.Println(class(err))
		return
	}
	fmt.Println("connected")
	y.suffer(c.(*shmconn.Conn), doing)
}

// suffer does one thing on c until it is killed.
func (y *tally) suffer(c *shmconn.Conn, doing string) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	wrote := func(n int) { y.wrote.Add(uint64(n)) }
	nothing := func() {}
	read := func() {
		var g gathered
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf[:1+r.IntN(len(buf))])
			g.Write(buf[:n])
			y.wrong.Store(uint64(g.wrong))
			y.read.Store(uint64(g.n))
			if err != nil {
				return
			}
		}
	}
	switch doing {
	case "idle": // does nothing
	case "silent": // writes a bit, and then reads
		feed(c, r, 0, r.IntN(100_000), wrote, nothing)
		fmt.Println("silent")
		read()
	case "deaf": // writes, and does not read
		feed(c, r, 0, math.MaxInt, wrote, nothing)
	case "forks": // does both, and starts processes all the time
		for range 2 {
			go func() {
				for {
					exec.Command("true").Run()
				}
			}()
		}
		fallthrough
	case "streams": // does both
		go func() { feed(c, rand.New(rand.NewPCG(rand.Uint64(), 0)), 0, math.MaxInt, wrote, nothing) }()
		read()
	case "trickles": // does both, with pauses around the time that a wait polls
		go func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), 0))
			feed(c, r, 0, math.MaxInt, wrote, func() {
				if r.IntN(2) == 0 {
					time.Sleep(time.Duration(r.IntN(600)) * time.Microsecond)
				}
			})
		}()
		read()
	}
	select {}
}

// Dials and accepts speak of connections by number. What is written on one is a part
// of the pattern that no other has.
const apart = 1 << 20

// length returns how many bytes are written on connection i.
func length(i int) int { return 1 + i*7919%20_000 }

// dials makes one connection after the other, writes, and closes.
func (y *tally) dials(s shape, name string) {
	fmt.Println("ok")
	for i := 1; ; i++ {
		y.wrote.Store(0)
		y.serial.Store(uint64(i))
		c, err := s.dial(name)
		if err != nil {
			fmt.Println(class(err))
			return
		}
		r := rand.New(rand.NewPCG(uint64(i), 0))
		if err := feed(c.(*shmconn.Conn), r, i*apart, length(i), func(n int) { y.wrote.Add(uint64(n)) }, func() {}); err != nil {
			fmt.Println(class(err))
			return
		}
		c.Close()
	}
}

// accepts takes one connection after the other, reads its number, writes, and closes.
func (y *tally) accepts(s shape, name string) {
	l, err := s.listen(name)
	fmt.Println(class(err))
	for err == nil {
		y.wrote.Store(0)
		y.serial.Store(0)
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			break
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		i, _ := strconv.Atoi(strings.TrimSpace(line))
		if err == nil && i > 0 {
			y.serial.Store(uint64(i))
			r := rand.New(rand.NewPCG(uint64(i), 0))
			feed(c.(*shmconn.Conn), r, i*apart, length(i), func(n int) { y.wrote.Add(uint64(n)) }, func() {})
		}
		c.Close()
	}
}

// listens takes a name and gives it up again, all the time.
func (y *tally) listens(s shape, name string) {
	fmt.Println("ok")
	for {
		l, err := s.listen(name)
		if err != nil {
			fmt.Println(class(err))
			return
		}
		y.serial.Add(1)
		l.Close()
	}
}

// A stage is where a survivor is in its wait when the peer dies.
type stage struct {
	name   string
	rounds int           // with -long
	poll   time.Duration // BusyPoll of the survivor
	beside int           // waits that poll beside it
	read   string        // the function that Read is in by then; "" if there is no Read
	write  string        // the same for Write
}

const (
	waiting   = "(*stream).await("
	asleep    = "(*stream).park(" // one of two
	parked    = "doorbell.(*Bell).Wait("
	polling   = "wait.(*room).lead("
	following = "wait.(*room).follow("
)

// stages have, with TestKilledWhileBusy and TestKilledWhileMeeting, 10,000 rounds.
var stages = []stage{
	{"read, parked", 500, pollNever, 0, parked, ""},
	{"read, polling", 500, pollAlways, 0, polling, ""},
	{"read, following", 500, pollAlways, 1, following, ""},
	{"read, following with 100", 300, pollAlways, 100, following, ""},
	{"read, default", 1000, 0, 0, waiting, ""},
	{"write, parked", 500, pollNever, 0, "", parked},
	{"write, polling", 500, pollAlways, 0, "", polling},
	{"write, following", 500, pollAlways, 1, "", following},
	{"write, following with 100", 300, pollAlways, 100, "", following},
	{"write, default", 1000, 0, 0, "", waiting},
	{"both, parked", 400, pollNever, 0, asleep, asleep},
}

// TestKilledWhileWaiting kills the peer of calls that wait, in each stage of a wait, and
// measures how long it takes until they are told.
func TestKilledWhileWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tally")
	y := newTally(t, path)
	for _, g := range stages {
		t.Run(strings.ReplaceAll(g.name, " ", "_"), func(t *testing.T) {
			pollBeside(t, g.beside)
			var told, gone figure
			inRounds(t, full(g.rounds), func(x *round) {
				times, wait := g.kill(x, y, path)
				told, gone = append(told, times...), append(gone, wait)
			})
			t.Logf("figure: told of kill -9, %s: %v (wait4: %v)", g.name, told, gone)
		})
	}
}

// pollBeside has n goroutines poll, after as many as there are seats, if n is not 0.
func pollBeside(t *testing.T, n int) {
	if n == 0 {
		return
	}
	for range n - 1 + max(1, runtime.GOMAXPROCS(0)/2) {
		c, _ := shape{Ring: 4096}.poll(pollAlways).shmPair(t)
		done := blocked(c, func() { c.Read(make([]byte, 1)) })
		t.Cleanup(func() { c.Close(); <-done })
	}
}

// kill is one round of TestKilledWhileWaiting. It returns how long after the kill the
// calls were told, and, to compare, this process by wait4.
func (g stage) kill(x *round, y *tally, path string) (told figure, gone time.Duration) {
	doing := "idle"
	switch {
	case g.write == "":
		doing = "silent"
	case g.read == "":
		doing = "deaf"
	}
	d := x.duel(y, path, doing, x.shape(g.poll))
	size := d.c.Stats().RingSize
	var got *gathered
	var ends []time.Time
	var wg sync.WaitGroup
	if g.read != "" {
		var n atomic.Int64
		wg.Go(func() { got = survivor(d.c, func(m int) { n.Add(int64(m)) }) })
		if g.write == "" {
			d.h.expect("silent")
		}
		eventually(func() bool { return uint64(n.Load()) == y.wrote.Load() && within("_test.survivor(", g.read) })
	}
	if g.write != "" {
		wg.Go(func() {
			n, err := surviving(d.c, make([]byte, 1<<20))
			ends = append(ends, time.Now())
			wantErr(x, "Write", err, "write EPIPE")
			if n < size/2 || n > size {
				x.Errorf("Write = %d to a peer that does not read, with a ring of %d", n, size)
			}
		})
		eventually(func() bool { return within("_test.surviving(", g.write) })
	}
	x.moment(time.Millisecond)
	start := time.Now()
	d.h.kill()
	gone = time.Since(start)
	wg.Wait()
	if got != nil {
		ends = append(ends, got.at)
	} else {
		got = gather(d.c, nil, nil)
	}
	d.judge(got)
	for _, end := range ends {
		told = append(told, end.Sub(start))
	}
	return told, gone
}

// survivor and surviving are calls that can be told by their names.
//
//go:noinline
func survivor(c *shmconn.Conn, each func(n int)) *gathered { return gather(c, nil, each) }

//go:noinline
func surviving(c *shmconn.Conn, b []byte) (int, error) { return c.Write(b) }

// within reports whether a goroutine is in both functions. In lead it is not within
// follow, from which it may have come.
func within(outer, inner string) bool {
	for _, g := range goroutines() {
		if i := strings.Index(g, inner); i >= 0 && strings.Contains(g, outer) {
			return inner != following || !strings.Contains(g[:i], polling)
		}
	}
	return false
}

// TestKilledWhileBusy kills the peer at a random moment of a stream in both directions.
func TestKilledWhileBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tally")
	y := newTally(t, path)
	for _, tt := range []struct {
		doing  string
		rounds int
	}{{"streams", 1500}, {"trickles", 1000}} {
		t.Run(tt.doing, func(t *testing.T) { killBusy(t, y, path, tt.doing, full(tt.rounds)) })
	}
}

func killBusy(t *testing.T, y *tally, path, doing string, n int) {
	var read, write, gone figure
	inRounds(t, n, func(x *round) {
		d := x.duel(y, path, doing, x.shape(x.poll()))
		var got *gathered
		var wrote time.Time
		var wg sync.WaitGroup
		r, w := rand.New(rand.NewPCG(x.Uint64(), 0)), rand.New(rand.NewPCG(x.Uint64(), 0))
		wg.Go(func() { got = gather(d.c, r, nil) })
		wg.Go(func() {
			err := feed(d.c, w, 0, math.MaxInt, func(int) {}, func() {})
			wrote = time.Now()
			if errors.Is(err, syscall.EPIPE) {
				return
			}
			x.Errorf("writing: %v, want EPIPE", err)
		})
		x.moment(20 * time.Millisecond)
		start := time.Now()
		d.h.kill()
		gone = append(gone, time.Since(start))
		wg.Wait()
		read = append(read, got.at.Sub(start))
		write = append(write, wrote.Sub(start))
		d.judge(got)
	})
	t.Logf("figure: told of kill -9, peer %s: reading %v; writing %v (wait4: %v)", doing, read, write, gone)
}

// TestKilledWhileMeeting kills who dials, accepts or listens all the time.
func TestKilledWhileMeeting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tally")
	y := newTally(t, path)
	t.Run("dials", func(t *testing.T) { killDialer(t, y, path) })
	t.Run("accepts", func(t *testing.T) { killAcceptor(t, y, path) })
	t.Run("listens", func(t *testing.T) { killListener(t, y, path) })
}

// killDialer kills who dials, writes and closes all the time. Each connection whose
// Dial had returned is accepted, in order, with all that was written to it.
func killDialer(t *testing.T, y *tally, path string) {
	var told figure
	inRounds(t, full(500), func(x *round) {
		y.reset()
		s := x.shape(x.poll())
		name := newName()
		l := s.mustListen(x, name)
		h := startHelper(x, "victim", s, tallyEnv+"="+path)
		h.do("dials dial %s", name)
		var (
			accepting, reading sync.WaitGroup
			mu                 sync.Mutex // guards the following
			results            = map[int]*gathered{}
		)
		accepting.Go(func() {
			for i := 1; ; i++ {
				accepted, err := l.Accept()
				if err != nil {
					x.Errorf("Accept: %v", err)
					return
				}
				c := accepted.(*shmconn.Conn)
				if pid, _, _ := c.PeerCred(); pid == os.Getpid() {
					c.Close()
					return
				}
				reading.Go(func() {
					g := gatherPart(c, i)
					c.Close()
					mu.Lock()
					defer mu.Unlock()
					results[i] = g
				})
			}
		})
		x.moment(20 * time.Millisecond)
		start := time.Now()
		h.kill()
		s.mustDial(x, name).Close() // after which there are no others
		accepting.Wait()
		reading.Wait()
		l.Close()

		last, wrote := int(y.serial.Load()), int(y.wrote.Load())
		for i := range results {
			if i > last {
				x.Errorf("%d connections, and the victim had dialed %d times", i, last)
			}
		}
		for i := 1; i <= last; i++ {
			g := results[i]
			switch {
			case g == nil:
				if i < last || wrote > 0 {
					x.Errorf("connection %d of %d is not there; %d bytes were written on the last one", i, last, wrote)
				}
			case g.wrong != 0:
				x.Errorf("connection %d: a byte is wrong: %+v", i, g)
			case g.err == io.EOF && g.n != length(i), g.err == nil:
				x.Errorf("connection %d was closed after %d bytes: %+v", i, length(i), g)
			case i == last && g.n < wrote:
				x.Errorf("connection %d: %d bytes were written: %+v", i, wrote, g)
			case g.err != io.EOF:
				wantErr(x, "Read", g.err, "read ECONNRESET")
				if i != last {
					x.Errorf("connection %d of %d was closed: %+v", i, last, g)
				}
				told = append(told, g.at.Sub(start))
			}
		}
		reclaim(x, name)
	})
	t.Logf("figure: told of kill -9, peer dials: reading %v", told)
}

// gatherPart reads what is written on connection i, until there is an error.
func gatherPart(c *shmconn.Conn, i int) *gathered {
	g := &gathered{n: i * apart, op: "read"}
	buf := make([]byte, 4096)
	for g.err == nil {
		var n int
		n, g.err = c.Read(buf)
		g.Write(buf[:n])
	}
	g.at = time.Now()
	g.n -= i * apart
	return g
}

// killAcceptor kills who accepts, writes and closes all the time. Each dialer is told,
// wherever it is.
func killAcceptor(t *testing.T, y *tally, path string) {
	var told figure
	inRounds(t, full(500), func(x *round) {
		y.reset()
		s := x.shape(x.poll())
		name := newName()
		h := startHelper(x, "victim", s, tallyEnv+"="+path)
		h.do("accepts listen %s", name)
		const dialers = 4
		var serial atomic.Int64
		var wg sync.WaitGroup
		var mu sync.Mutex // guards the following
		var ends []time.Time
		got := map[int]*gathered{}
		for range dialers {
			wg.Go(func() {
				for {
					i := int(serial.Add(1))
					g, err := dialOnce(s, name, i)
					mu.Lock()
					if g != nil {
						got[i] = g
					}
					if err != nil {
						ends = append(ends, time.Now())
						switch kind := class(err); kind {
						case "ECONNREFUSED", "ECONNRESET", "EPIPE":
						default:
							x.Errorf("connection %d: %v", i, err)
						}
						mu.Unlock()
						return
					}
					mu.Unlock()
				}
			})
		}
		x.moment(20 * time.Millisecond)
		start := time.Now()
		h.kill()
		wg.Wait()
		for _, end := range ends {
			told = append(told, end.Sub(start))
		}
		for i, g := range got {
			if g.wrong != 0 || g.err == io.EOF && g.n != length(i) {
				x.Errorf("connection %d of %d bytes: %+v", i, length(i), g)
			}
		}
		if i := int(y.serial.Load()); i > 0 && (got[i] == nil || got[i].n < int(y.wrote.Load())) {
			x.Errorf("connection %d: %d bytes were written: %+v", i, y.wrote.Load(), got[i])
		}
		reclaim(x, name)
	})
	t.Logf("figure: told of kill -9, peer accepts: dialing, reading and writing %v", told)
}

// dialOnce says its number and reads until there is an error, which is nil if that was
// io.EOF.
func dialOnce(s shape, name string, i int) (*gathered, error) {
	c, err := s.dial(name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, i); err != nil {
		return nil, err
	}
	g := gatherPart(c.(*shmconn.Conn), i)
	if g.err == io.EOF {
		return g, nil
	}
	return g, g.err
}

// killListener kills who listens and closes all the time, while others dial. The name
// can be used at once, and then there is nothing left of it.
func killListener(t *testing.T, y *tally, path string) {
	var again figure
	inRounds(t, full(500), func(x *round) {
		y.reset()
		s := x.shape(x.poll())
		name := newName()
		h := startHelper(x, "victim", s, tallyEnv+"="+path)
		h.do("listens listen %s", name)
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				_, err := dialOnce(s, name, 1)
				switch class(err) {
				case "ECONNREFUSED", "ECONNRESET", "EPIPE":
				default:
					x.Errorf("dialing who does not accept: %v", err)
				}
			}
		})
		x.moment(10 * time.Millisecond)
		start := time.Now()
		h.kill()
		l, err := s.listen(name)
		if err != nil {
			x.Fatal(err)
		}
		again = append(again, time.Since(start))
		l.Close()
		stop.Store(true)
		wg.Wait()
		reclaim(x, name)
	})
	t.Logf("figure: from kill -9 of who listens and closes to the end of Listen: %v", again)
}
