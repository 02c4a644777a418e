//go:build linux

package restart

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A server serves a request on each connection: a length and so many bytes of
// the pattern. It answers with its PID and the bytes.
type server struct {
	l        *shmconn.Listener
	serving  sync.WaitGroup
	accepted atomic.Int64
	served   atomic.Int64 // to their end
	reused   atomic.Uint64
	wrong    atomic.Pointer[string]
}

const header = 8

// run serves until Accept says that the listener is closed and that there was
// nothing more to accept.
func (s *server) run() {
	for {
		c, err := s.l.AcceptConn()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.say(err)
			}
			return
		}
		s.accepted.Add(1)
		s.reused.Add(min(1, c.Stats().Reused))
		s.serving.Go(func() {
			defer c.Close()
			if err := serve(c); err != nil {
				s.say(err)
				return
			}
			s.served.Add(1)
		})
	}
}

func (s *server) say(err error) {
	what := err.Error()
	s.wrong.CompareAndSwap(nil, &what)
}

// serve answers one request, and waits for the end.
func serve(c net.Conn) error {
	h := make([]byte, header)
	if _, err := io.ReadFull(c, h); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	b := make([]byte, binary.NativeEndian.Uint64(h))
	if _, err := io.ReadFull(c, b); err != nil {
		return fmt.Errorf("request of %d bytes: %w", len(b), err)
	}
	binary.NativeEndian.PutUint64(h, uint64(os.Getpid()))
	if _, err := c.Write(append(h, b...)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if n, err := c.Read(h); n != 0 || err != io.EOF {
		return fmt.Errorf("after the answer: %d bytes, %w", n, err)
	}
	return nil
}

// end is how a process that is replaced ends: it takes no more dialers off the
// socket, and serves those that it has. Its line is what the test adds up.
func (s *server) end(running <-chan struct{}, how string) {
	if err := s.l.Close(); err != nil {
		s.say(err)
	}
	<-running
	s.serving.Wait()
	wrong := "nothing"
	if w := s.wrong.Load(); w != nil {
		wrong = *w
	}
	fmt.Printf("%s accepted %d served %d wrong %s\n", how, s.accepted.Load(), s.served.Load(), wrong)
}

// isLast ends the server when in has a line, if none are left to come after it.
// If some are, it waits until the server is under load.
func (s *server) isLast(left int, running <-chan struct{}, in *bufio.Scanner) bool {
	if left == 0 {
		fmt.Println("last")
		in.Scan()
		s.end(running, "last")
		return true
	}
	for s.accepted.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	return false
}

// start runs s in a goroutine.
func (s *server) start() (running chan struct{}) {
	running = make(chan struct{})
	go func() { defer close(running); s.run() }()
	return running
}

// request is the whole life of a connection: a Write in two pieces, now and
// then with a pause in which the server is replaced.
func request(d *shmconn.Dialer, name string, n int, pause time.Duration) (pid int, err error) {
	c, err := d.DialConn(context.Background(), name)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	want := shmtest.Pattern(n, n)
	h := binary.NativeEndian.AppendUint64(nil, uint64(n))
	if pause > 0 {
		if _, err := c.Write(h); err != nil {
			return 0, err
		}
		time.Sleep(pause)
		h = h[:0]
	}
	if _, err := c.Write(append(h, want...)); err != nil {
		return 0, err
	}
	got := make([]byte, header+n)
	if m, err := io.ReadFull(c, got); err != nil {
		return 0, fmt.Errorf("answer, %d of %d bytes: %w", m, len(got), err)
	}
	if i := shmtest.FirstDiff(got[header:], n); i >= 0 {
		return 0, fmt.Errorf("byte %d of an answer of %d differs", i, n)
	}
	return int(binary.NativeEndian.Uint64(got)), nil
}

// A load is dialers of this process, and what came of their requests.
type load struct {
	stop    atomic.Bool
	wg      sync.WaitGroup
	started time.Time

	mu    sync.Mutex
	ends  map[string]int // by class of error
	first error
	by    map[int]bool // servers that have answered
}

// startLoad has n goroutines ask whoever listens on name.
func startLoad(name string, n int) *load {
	l := &load{ends: make(map[string]int), by: make(map[int]bool), started: time.Now()}
	for i := range n {
		l.wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for k := 0; !l.stop.Load(); k++ {
				var pause time.Duration
				switch {
				case k%64 == 63:
					pause = time.Duration(random.IntN(200)) * time.Millisecond
				case k%8 == 7:
					pause = time.Duration(random.IntN(2000)) * time.Microsecond
				}
				pid, err := request(new(shmconn.Dialer), name, random.IntN(3000), pause)
				l.count(pid, err)
			}
		})
	}
	return l
}

func (l *load) count(pid int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[shmtest.Class(err)]++
	l.by[pid] = true
	if err != nil && l.first == nil {
		l.first = err
	}
}

// end stops the load. It returns how many requests were answered, and fails
// unless all were.
func (l *load) end(t testing.TB) (answered int) {
	t.Helper()
	l.stop.Store(true)
	l.wg.Wait()
	for _, class := range slices.Sorted(maps.Keys(l.ends)) {
		if class != "ok" {
			t.Errorf("%d of %d requests: %s; the first: %v", l.ends[class], l.total(), class, l.first)
		}
	}
	return l.ends["ok"]
}

func (l *load) total() (n int) {
	for _, k := range l.ends {
		n += k
	}
	return n
}

// dialer is a load in a process of its own: a line of input is a name, and the
// end of a load is the next line.
func dialer(_ shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		l := startLoad(in.Text(), 4)
		fmt.Println("ok")
		in.Scan()
		tb := new(shmtest.ProcessTB)
		n := l.end(tb)
		fmt.Println(n)
	}
}

// tally adds up the lines of servers that have ended.
type tally struct {
	processes, accepted, served int
}

// add reads a line of server.end, and reports whether it is one.
func (y *tally) add(t testing.TB, line string) bool {
	t.Helper()
	var how, wrong string
	var accepted, served int
	before, wrong, ok := strings.Cut(line, " wrong ")
	if _, err := fmt.Sscanf(before, "%s accepted %d served %d", &how, &accepted, &served); err != nil || !ok {
		return false
	}
	y.processes++
	y.accepted += accepted
	y.served += served
	if wrong != "nothing" || served != accepted {
		t.Errorf("process %d: %s", y.processes, line)
	}
	return true
}
