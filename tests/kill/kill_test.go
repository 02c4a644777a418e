//go:build linux

package kill

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A killPair is a connection to a victim, and what it has done on it.
type killPair struct {
	*shmtest.Round
	*shmtest.KillStats
	c    *shmconn.Conn
	h    *shmtest.Helper
	name string
}

// newKillPair starts a victim and connects to it, or lets it connect.
func newKillPair(x *shmtest.Round, y *shmtest.KillStats, path, doing string, s shmtest.Shape) *killPair {
	y.Reset()
	d := &killPair{Round: x, KillStats: y, name: shmtest.NewName()}
	d.h = shmtest.StartHelper(x, "victim", s, shmtest.KillStatsEnv+"="+path)
	if s.Swap {
		l := s.MustListen(x, d.name)
		d.h.Send("%s dial %s", doing, d.name)
		d.c = shmtest.MustAccept(x, l).(*shmconn.Conn)
		l.Close()
	} else {
		d.h.Do("%s listen %s", doing, d.name)
		d.c = s.MustDial(x, d.name).(*shmconn.Conn)
	}
	d.h.Expect("connected")
	return d
}

// judge checks what was read from a victim that is dead, and that nothing of it
// is left.
func (d *killPair) judge(got *shmtest.Gathered) {
	shmtest.WantErr(d, "Read", got.Err, got.Op+" ECONNRESET")
	if got.Wrong != 0 {
		d.Errorf("byte %d of those read is wrong", got.Wrong-1)
	}
	if wrote := d.Wrote.Load(); uint64(got.N) < wrote {
		d.Errorf("read %d bytes, and calls had said that they wrote %d", got.N, wrote)
	}
	if wrong := d.Wrong.Load(); wrong != 0 {
		d.Errorf("the victim read a wrong byte %d", wrong-1)
	}
	if read, wrote := d.Read.Load(), d.c.Stats().BytesWritten; read > wrote {
		d.Errorf("the victim read %d bytes of %d", read, wrote)
	}
	shmtest.WantDead(d, d.c)
	shmtest.Reclaim(d, d.name)
}

// victim is a process that is to be killed. Its one order says what it does,
// whether it listens or dials, and the name. It says "ok" once it listens and
// "connected" once it is connected.
func victim(s shmtest.Shape, in *bufio.Scanner) {
	b, err := shmtest.MapKillStats(os.Getenv(shmtest.KillStatsEnv))
	if err != nil {
		panic(err)
	}
	y := shmtest.KillStatsIn(b)
	if !in.Scan() {
		return
	}
	f := strings.Fields(in.Text())
	doing, how, name := f[0], f[1], f[2]
	switch doing {
	case "dials":
		dials(y, s, name)
	case "accepts":
		accepts(y, s, name)
	case "listens":
		listens(y, s, name)
	}
	connect := func() (shmtest.Conn, error) { return s.Dial(name) }
	if how == "listen" {
		l, err := s.Listen(name)
		if err != nil {
			fmt.Println(shmtest.Class(err))
			return
		}
		fmt.Println("ok")
		connect = func() (shmtest.Conn, error) {
			defer l.Close()
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			return c.(shmtest.Conn), nil
		}
	}
	c, err := connect()
	if err != nil {
		fmt.Println(shmtest.Class(err))
		return
	}
	fmt.Println("connected")
	suffer(y, c.(*shmconn.Conn), doing)
}

// suffer does one thing on c until it is killed.
func suffer(y *shmtest.KillStats, c *shmconn.Conn, doing string) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	wrote := func(n int) { y.Wrote.Add(uint64(n)) }
	nothing := func() {}
	read := func(from io.Reader) {
		var g shmtest.Gathered
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf[:1+r.IntN(len(buf))])
			g.Write(buf[:n])
			y.Wrong.Store(uint64(g.Wrong))
			y.Read.Store(uint64(g.N))
			if err != nil {
				return
			}
		}
	}
	switch doing {
	case "idle": // does nothing
	case "silent": // writes a bit, and then reads
		shmtest.Feed(c, r, 0, r.IntN(100_000), wrote, nothing)
		fmt.Println("silent")
		read(c)
	case "deaf": // writes, and does not read
		shmtest.Feed(c, r, 0, math.MaxInt, wrote, nothing)
	case "lends": // does both, each by one handle
		go func() {
			shmtest.FeedExclusive(c, rand.New(rand.NewPCG(rand.Uint64(), 0)), 0, math.MaxInt, wrote, nothing)
		}()
		c.Consume(func(k *shmconn.Consumer) error { read(k); return nil })
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
		go func() { shmtest.Feed(c, rand.New(rand.NewPCG(rand.Uint64(), 0)), 0, math.MaxInt, wrote, nothing) }()
		read(c)
	case "trickles": // does both, with pauses around the time that a wait polls
		go func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), 0))
			shmtest.Feed(c, r, 0, math.MaxInt, wrote, func() {
				if r.IntN(2) == 0 {
					time.Sleep(time.Duration(r.IntN(600)) * time.Microsecond)
				}
			})
		}()
		read(c)
	}
	select {}
}

// Dials and accepts speak of connections by number. What is written on one is a
// part of the pattern that no other has.
const apart = 1 << 20

// length returns how many bytes are written on connection i.
func length(i int) int { return 1 + i*7919%20_000 }

// dials makes one connection after the other, writes, and closes.
func dials(y *shmtest.KillStats, s shmtest.Shape, name string) {
	fmt.Println("ok")
	for i := 1; ; i++ {
		y.Wrote.Store(0)
		y.Serial.Store(uint64(i))
		c, err := s.Dial(name)
		if err != nil {
			fmt.Println(shmtest.Class(err))
			return
		}
		r := rand.New(rand.NewPCG(uint64(i), 0))
		if err := shmtest.Feed(c.(*shmconn.Conn), r, i*apart, length(i), func(n int) { y.Wrote.Add(uint64(n)) }, func() {}); err != nil {
			fmt.Println(shmtest.Class(err))
			return
		}
		c.Close()
	}
}

// accepts takes one connection after the other, reads its number, writes, and
// closes.
func accepts(y *shmtest.KillStats, s shmtest.Shape, name string) {
	l, err := s.Listen(name)
	fmt.Println(shmtest.Class(err))
	for err == nil {
		y.Wrote.Store(0)
		y.Serial.Store(0)
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			break
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		i, _ := strconv.Atoi(strings.TrimSpace(line))
		if err == nil && i > 0 {
			y.Serial.Store(uint64(i))
			r := rand.New(rand.NewPCG(uint64(i), 0))
			shmtest.Feed(c.(*shmconn.Conn), r, i*apart, length(i), func(n int) { y.Wrote.Add(uint64(n)) }, func() {})
		}
		c.Close()
	}
}

// listens takes a name and gives it up again, all the time.
func listens(y *shmtest.KillStats, s shmtest.Shape, name string) {
	fmt.Println("ok")
	for {
		l, err := s.Listen(name)
		if err != nil {
			fmt.Println(shmtest.Class(err))
			return
		}
		y.Serial.Add(1)
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
	handle bool          // the calls are those of a Consumer and of a Producer
}

const (
	waiting   = "(*Stream).await("
	asleep    = "(*Stream).park(" // one of two
	parked    = "doorbell.(*Bell).Wait("
	polling   = "wait.(*pollers).lead("
	following = "wait.(*pollers).follow("
)

// stages have, with TestKilledWhileBusy and TestKilledWhileMeeting, 13,000
// rounds.
var stages = []stage{
	{"read, parked", 500, shmtest.PollNever, 0, parked, "", false},
	{"read, polling", 500, shmtest.PollAlways, 0, polling, "", false},
	{"read, following", 500, shmtest.PollAlways, 1, following, "", false},
	{"read, following with 100", 300, shmtest.PollAlways, 100, following, "", false},
	{"read, default", 1000, 0, 0, waiting, "", false},
	{"write, parked", 500, shmtest.PollNever, 0, "", parked, false},
	{"write, polling", 500, shmtest.PollAlways, 0, "", polling, false},
	{"write, following", 500, shmtest.PollAlways, 1, "", following, false},
	{"write, following with 100", 300, shmtest.PollAlways, 100, "", following, false},
	{"write, default", 1000, 0, 0, "", waiting, false},
	{"both, parked", 400, shmtest.PollNever, 0, asleep, asleep, false},
	{"consumer, parked", 300, shmtest.PollNever, 0, parked, "", true},
	{"consumer, polling", 300, shmtest.PollAlways, 0, polling, "", true},
	{"producer, parked", 300, shmtest.PollNever, 0, "", parked, true},
	{"producer, polling", 300, shmtest.PollAlways, 0, "", polling, true},
	{"handles, parked", 300, shmtest.PollNever, 0, asleep, asleep, true},
}

// TestKilledWhileWaiting kills the peer of calls that wait, in each stage of a
// wait, and measures how long it takes until they are told.
func TestKilledWhileWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "killstats")
	y := shmtest.NewKillStats(t, path)
	for _, g := range stages {
		t.Run(strings.ReplaceAll(g.name, " ", "_"), func(t *testing.T) {
			pollBeside(t, g.beside)
			var told, gone shmtest.Figure
			shmtest.InRounds(t, shmtest.Rounds(g.rounds), func(x *shmtest.Round) {
				times, wait := g.kill(x, y, path, nil)
				told, gone = append(told, times...), append(gone, wait)
			})
			t.Logf("figure: told of kill -9, %s: %v (wait4: %v)", g.name, told, gone)
		})
	}
}

// pollBeside has n goroutines poll, after as many as there are slots, if n is
// not 0.
func pollBeside(t *testing.T, n int) {
	if n == 0 {
		return
	}
	for range n - 1 + max(1, runtime.GOMAXPROCS(0)/2) {
		c, _ := shmtest.Shape{Ring: 4096}.Poll(shmtest.PollAlways).ShmPair(t)
		done := shmtest.Blocked(c, func() { c.Read(make([]byte, 1)) })
		t.Cleanup(func() { c.Close(); <-done })
	}
}

// kill is one round of TestKilledWhileWaiting. It returns how long after the
// kill the calls were told, and, to compare, this process by wait4. Until they
// are told it is as harm, which can be nil, has made it.
func (g stage) kill(x *shmtest.Round, y *shmtest.KillStats, path string, harm func(testing.TB) (undo func())) (told shmtest.Figure, gone time.Duration) {
	doing := "idle"
	switch {
	case g.write == "":
		doing = "silent"
	case g.read == "":
		doing = "deaf"
	}
	d := newKillPair(x, y, path, doing, x.Shape(g.poll))
	size := d.c.Stats().RingSize
	var got *shmtest.Gathered
	var ends []time.Time
	var wg sync.WaitGroup
	if g.read != "" {
		var n atomic.Int64
		wg.Go(func() { got = survivor(d.c, g.handle, func(m int) { n.Add(int64(m)) }) })
		if g.write == "" {
			d.h.Expect("silent")
		}
		shmtest.Eventually(func() bool { return uint64(n.Load()) == y.Wrote.Load() && within("kill.survivor(", g.read) })
	}
	if g.write != "" {
		wg.Go(func() {
			w := io.Writer(d.c)
			if g.handle {
				w = shmtest.NewExclusively(d.c)
			}
			n, err := surviving(w, make([]byte, 1<<20))
			ends = append(ends, time.Now())
			shmtest.WantErr(x, "Write", err, "write EPIPE")
			if n < size/2 || n > size {
				x.Errorf("Write = %d to a peer that does not read, with a ring of %d", n, size)
			}
		})
		shmtest.Eventually(func() bool { return within("kill.surviving(", g.write) })
	}
	undo := func() {}
	if harm != nil {
		undo = harm(x)
	}
	x.Moment(time.Millisecond)
	start := time.Now()
	d.h.Kill()
	gone = time.Since(start)
	wg.Wait()
	undo()
	if got != nil {
		ends = append(ends, got.At)
	} else {
		got = shmtest.Gather(d.c, nil, nil)
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
func survivor(c *shmconn.Conn, handle bool, each func(n int)) *shmtest.Gathered {
	if handle {
		return shmtest.GatherExclusive(c, nil, each)
	}
	return shmtest.Gather(c, nil, each)
}

//go:noinline
func surviving(c io.Writer, b []byte) (int, error) { return c.Write(b) }

// within reports whether a goroutine is in both functions. In lead it is not
// within follow, from which it may have come.
func within(outer, inner string) bool {
	for _, g := range shmtest.Goroutines() {
		if i := strings.Index(g, inner); i >= 0 && strings.Contains(g, outer) {
			return inner != following || !strings.Contains(g[:i], polling)
		}
	}
	return false
}

// TestKilledWhileBusy kills the peer at a random moment of a stream in both
// directions.
func TestKilledWhileBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "killstats")
	y := shmtest.NewKillStats(t, path)
	for _, tt := range []struct {
		doing  string
		rounds int
	}{{"streams", 1500}, {"trickles", 1000}, {"lends", 1500}} {
		t.Run(tt.doing, func(t *testing.T) { killBusy(t, y, path, tt.doing, shmtest.Rounds(tt.rounds)) })
	}
}

func killBusy(t *testing.T, y *shmtest.KillStats, path, doing string, n int) {
	var read, write, gone shmtest.Figure
	shmtest.InRounds(t, n, func(x *shmtest.Round) {
		d := newKillPair(x, y, path, doing, x.Shape(x.Poll()))
		var got *shmtest.Gathered
		var wrote time.Time
		var wg sync.WaitGroup
		r, w := rand.New(rand.NewPCG(x.Uint64(), 0)), rand.New(rand.NewPCG(x.Uint64(), 0))
		gather, feed := shmtest.Gather, shmtest.Feed
		if doing == "lends" {
			gather, feed = shmtest.GatherExclusive, shmtest.FeedExclusive
		}
		wg.Go(func() { got = gather(d.c, r, nil) })
		wg.Go(func() {
			err := feed(d.c, w, 0, math.MaxInt, func(int) {}, func() {})
			wrote = time.Now()
			if errors.Is(err, syscall.EPIPE) {
				return
			}
			x.Errorf("writing: %v, want EPIPE", err)
		})
		x.Moment(20 * time.Millisecond)
		start := time.Now()
		d.h.Kill()
		gone = append(gone, time.Since(start))
		wg.Wait()
		read = append(read, got.At.Sub(start))
		write = append(write, wrote.Sub(start))
		d.judge(got)
	})
	t.Logf("figure: told of kill -9, peer %s: reading %v; writing %v (wait4: %v)", doing, read, write, gone)
}

// TestKilledWhileMeeting kills who dials, accepts or listens all the time.
func TestKilledWhileMeeting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "killstats")
	y := shmtest.NewKillStats(t, path)
	t.Run("dials", func(t *testing.T) { killDialer(t, y, path) })
	t.Run("accepts", func(t *testing.T) { killAcceptor(t, y, path) })
	t.Run("listens", func(t *testing.T) { killListener(t, y, path) })
}

// killDialer kills who dials, writes and closes all the time. Each connection
// whose Dial had returned is accepted, in order, with all that was written to
// it.
func killDialer(t *testing.T, y *shmtest.KillStats, path string) {
	var told shmtest.Figure
	shmtest.InRounds(t, shmtest.Rounds(500), func(x *shmtest.Round) {
		y.Reset()
		s := x.Shape(x.Poll())
		name := shmtest.NewName()
		l := s.MustListen(x, name)
		h := shmtest.StartHelper(x, "victim", s, shmtest.KillStatsEnv+"="+path)
		h.Do("dials dial %s", name)
		var (
			accepting, reading sync.WaitGroup
			mu                 sync.Mutex // guards the following
			results            = map[int]*shmtest.Gathered{}
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
		x.Moment(20 * time.Millisecond)
		start := time.Now()
		h.Kill()
		s.MustDial(x, name).Close() // after which there are no others
		accepting.Wait()
		reading.Wait()
		l.Close()

		last, wrote := int(y.Serial.Load()), int(y.Wrote.Load())
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
			case g.Wrong != 0:
				x.Errorf("connection %d: a byte is wrong: %+v", i, g)
			case g.Err == io.EOF && g.N != length(i), g.Err == nil:
				x.Errorf("connection %d was closed after %d bytes: %+v", i, length(i), g)
			case i == last && g.N < wrote:
				x.Errorf("connection %d: %d bytes were written: %+v", i, wrote, g)
			case g.Err != io.EOF:
				shmtest.WantErr(x, "Read", g.Err, "read ECONNRESET")
				if i != last {
					x.Errorf("connection %d of %d was closed: %+v", i, last, g)
				}
				told = append(told, g.At.Sub(start))
			}
		}
		shmtest.Reclaim(x, name)
	})
	t.Logf("figure: told of kill -9, peer dials: reading %v", told)
}

// gatherPart reads what is written on connection i, until there is an error.
func gatherPart(c *shmconn.Conn, i int) *shmtest.Gathered {
	g := &shmtest.Gathered{N: i * apart, Op: "read"}
	buf := make([]byte, 4096)
	for g.Err == nil {
		var n int
		n, g.Err = c.Read(buf)
		g.Write(buf[:n])
	}
	g.At = time.Now()
	g.N -= i * apart
	return g
}

// killAcceptor kills who accepts, writes and closes all the time. Each dialer
// is told, wherever it is.
func killAcceptor(t *testing.T, y *shmtest.KillStats, path string) {
	var told shmtest.Figure
	shmtest.InRounds(t, shmtest.Rounds(500), func(x *shmtest.Round) {
		y.Reset()
		s := x.Shape(x.Poll())
		name := shmtest.NewName()
		h := shmtest.StartHelper(x, "victim", s, shmtest.KillStatsEnv+"="+path)
		h.Do("accepts listen %s", name)
		const dialers = 4
		var serial atomic.Int64
		var wg sync.WaitGroup
		var mu sync.Mutex // guards the following
		var ends []time.Time
		got := map[int]*shmtest.Gathered{}
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
						switch kind := shmtest.Class(err); kind {
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
		x.Moment(20 * time.Millisecond)
		start := time.Now()
		h.Kill()
		wg.Wait()
		for _, end := range ends {
			told = append(told, end.Sub(start))
		}
		for i, g := range got {
			if g.Wrong != 0 || g.Err == io.EOF && g.N != length(i) {
				x.Errorf("connection %d of %d bytes: %+v", i, length(i), g)
			}
		}
		if i := int(y.Serial.Load()); i > 0 && (got[i] == nil || got[i].N < int(y.Wrote.Load())) {
			x.Errorf("connection %d: %d bytes were written: %+v", i, y.Wrote.Load(), got[i])
		}
		shmtest.Reclaim(x, name)
	})
	t.Logf("figure: told of kill -9, peer accepts: dialing, reading and writing %v", told)
}

// dialOnce says its number and reads until there is an error, which is nil if
// that was io.EOF.
func dialOnce(s shmtest.Shape, name string, i int) (*shmtest.Gathered, error) {
	c, err := s.Dial(name)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, i); err != nil {
		return nil, err
	}
	g := gatherPart(c.(*shmconn.Conn), i)
	if g.Err == io.EOF {
		return g, nil
	}
	return g, g.Err
}

// killListener kills who listens and closes all the time, while others dial.
// The name can be used at once, and then there is nothing left of it.
func killListener(t *testing.T, y *shmtest.KillStats, path string) {
	var again shmtest.Figure
	shmtest.InRounds(t, shmtest.Rounds(500), func(x *shmtest.Round) {
		y.Reset()
		s := x.Shape(x.Poll())
		name := shmtest.NewName()
		h := shmtest.StartHelper(x, "victim", s, shmtest.KillStatsEnv+"="+path)
		h.Do("listens listen %s", name)
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				_, err := dialOnce(s, name, 1)
				switch shmtest.Class(err) {
				case "ECONNREFUSED", "ECONNRESET", "EPIPE":
				default:
					x.Errorf("dialing who does not accept: %v", err)
				}
			}
		})
		x.Moment(10 * time.Millisecond)
		start := time.Now()
		h.Kill()
		l, err := s.Listen(name)
		if err != nil {
			x.Fatal(err)
		}
		again = append(again, time.Since(start))
		l.Close()
		stop.Store(true)
		wg.Wait()
		shmtest.Reclaim(x, name)
	})
	t.Logf("figure: from kill -9 of who listens and closes to the end of Listen: %v", again)
}

// TestKilledWithoutDescriptors kills the peer of a process whose RLIMIT_NOFILE
// was lowered to 0 meanwhile, so that poll(2) is EINVAL. Whoever waits is told,
// in each kind of wait.
func TestKilledWithoutDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "killstats")
	y := shmtest.NewKillStats(t, path)
	for _, g := range stages {
		if g.beside > 1 {
			continue
		}
		t.Run(strings.ReplaceAll(g.name, " ", "_"), func(t *testing.T) {
			pollBeside(t, g.beside)
			var told shmtest.Figure
			shmtest.InRounds(t, shmtest.Rounds(g.rounds/5), func(x *shmtest.Round) {
				times, _ := g.kill(x, y, path, withoutDescriptors)
				told = append(told, times...)
			})
			t.Logf("figure: told of kill -9 with RLIMIT_NOFILE 0, %s: %v", g.name, told)
		})
	}
}

// withoutDescriptors lowers RLIMIT_NOFILE to 0 and returns what takes that
// back.
func withoutDescriptors(t testing.TB) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll(make([]unix.PollFd, 1), 0); err != unix.EINVAL {
		t.Fatalf("poll: %v, want EINVAL", err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
	}
}
