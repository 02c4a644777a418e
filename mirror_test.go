//go:build linux && !shmconn_sockets

package shmconn_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// A mixer moves the pattern over one end of a connection, by calls that are
// chosen at random.
type mixer struct {
	c       *shmconn.Conn
	rnd     *rand.Rand
	inPlace bool // also by calls that return spans

	sent, got int            // bytes of the pattern
	did       map[string]int // how often
}

// some returns how many of n bytes a call is to move.
func (m *mixer) some(n int) int { return 1 + m.rnd.IntN(min(n, m.c.RingSize()/2)) }

// write moves n bytes out.
func (m *mixer) write(n int) error {
	for end := m.sent + n; m.sent < end; {
		k := m.some(end - m.sent)
		b := shmtest.Pattern(m.sent, k)
		calls := mixWrites
		if !m.inPlace {
			calls = calls[:copyWrites]
		}
		call := calls[m.rnd.IntN(len(calls))]
		done, err := call.do(m, b)
		m.sent += done
		if err != nil {
			return fmt.Errorf("%s of %d at %d: %w", call.name, k, m.sent, err)
		}
		m.did[call.name]++
	}
	return nil
}

// read moves n bytes in.
func (m *mixer) read(n int) error {
	for end := m.got + n; m.got < end; {
		k := m.some(end - m.got)
		calls := mixReads
		if !m.inPlace {
			calls = calls[:copyReads]
		}
		call := calls[m.rnd.IntN(len(calls))]
		b := make([]byte, k)
		done, err := call.do(m, b)
		if i := shmtest.FirstDiff(b[:done], m.got); err == nil && i >= 0 {
			err = fmt.Errorf("byte %d differs", i)
		}
		m.got += done
		if err != nil {
			return fmt.Errorf("%s of %d at %d: %w", call.name, k, m.got, err)
		}
		m.did[call.name]++
	}
	return nil
}

// mixWrites write b, or less. The first copyWrites of them copy.
var mixWrites = []struct {
	name string
	do   func(m *mixer, b []byte) (int, error)
}{
	{"Write", func(m *mixer, b []byte) (int, error) { return m.c.Write(b) }},
	{"TryWrite", func(m *mixer, b []byte) (int, error) { return m.c.TryWrite(b) }},
	{"TryWriteAll", func(m *mixer, b []byte) (int, error) {
		ok, err := m.c.TryWriteAll(b)
		if !ok {
			b = nil
		}
		return len(b), err
	}},
	{"WriteBuffers", func(m *mixer, b []byte) (int, error) {
		i, j := m.rnd.IntN(len(b)), m.rnd.IntN(len(b))
		v := net.Buffers{b[:min(i, j)], b[min(i, j):max(i, j)], b[max(i, j):]}
		n, err := m.c.WriteBuffers(&v)
		return int(n), err
	}},
	{"ReadFrom", func(m *mixer, b []byte) (int, error) {
		f, err := os.CreateTemp(os.Getenv("SHMCONN_DIR"), "mixed-")
		if err != nil {
			return 0, err
		}
		defer f.Close()
		os.Remove(f.Name())
		if _, err := f.WriteAt(b, 0); err != nil {
			return 0, err
		}
		n, err := m.c.ReadFrom(f)
		return int(n), err
	}},
	{"Put", func(m *mixer, b []byte) (n int, err error) {
		err = m.c.Produce(func(p *shmconn.Producer) error {
			i := m.rnd.IntN(len(b))
			if n, err = p.Put(b[:i]); err != nil {
				return err
			}
			k, err := p.Write(b[i:])
			n += k
			return err
		})
		return n, err
	}},

	{"Reserve", func(m *mixer, b []byte) (int, error) {
		room, err := m.c.Reserve(len(b))
		if err != nil {
			return 0, err
		}
		n := m.rnd.IntN(copy(room, b) + 1)
		return n, m.c.Commit(n)
	}},
	{"CommitReserve", func(m *mixer, b []byte) (int, error) {
		i := m.rnd.IntN(len(b))
		room, err := m.c.Reserve(i)
		if err != nil {
			return 0, err
		}
		copy(room, b)
		if room, err = m.c.CommitReserve(i, len(b)-i); err != nil || room == nil {
			return i, err
		}
		copy(room, b[i:])
		return len(b), m.c.Commit(len(b) - i)
	}},
	{"Producer.Reserve", func(m *mixer, b []byte) (n int, err error) {
		err = m.c.Produce(func(p *shmconn.Producer) error {
			n = m.rnd.IntN(len(b))
			if n, err = p.Put(b[:n]); err != nil {
				return err
			}
			room, err := p.Reserve(len(b) - n)
			if err != nil {
				return err
			}
			copy(room, b[n:])
			if err = p.Commit(len(room)); err == nil {
				n = len(b)
			}
			return err
		})
		return n, err
	}},
}

const copyWrites = 6

// mixReads read into b, or less. The first copyReads of them copy.
var mixReads = []struct {
	name string
	do   func(m *mixer, b []byte) (int, error)
}{
	{"Read", func(m *mixer, b []byte) (int, error) { return m.c.Read(b) }},
	{"TryRead", func(m *mixer, b []byte) (int, error) { return m.c.TryRead(b) }},
	{"Consumer.Read", func(m *mixer, b []byte) (n int, err error) {
		err = m.c.Consume(func(r *shmconn.Consumer) error {
			n, err = r.Read(b)
			return err
		})
		return n, err
	}},

	{"Peek", func(m *mixer, b []byte) (int, error) {
		span, err := m.c.Peek(len(b))
		if err != nil {
			return 0, err
		}
		return m.c.Discard(copy(b[:m.rnd.IntN(len(b)+1)], span))
	}},
	{"PeekAtLeast", func(m *mixer, b []byte) (int, error) {
		span, err := m.c.PeekAtLeast(m.rnd.IntN(len(b)))
		if err != nil {
			return 0, err
		}
		return m.c.Discard(copy(b, span))
	}},
	{"Consumer.Peek", func(m *mixer, b []byte) (n int, err error) {
		err = m.c.Consume(func(r *shmconn.Consumer) error {
			span, err := r.Peek(len(b))
			if err != nil {
				return err
			}
			n, err = r.Discard(copy(b, span))
			return err
		})
		return n, err
	}},
}

const copyReads = 3

// both moves n bytes each way over m's connection, at once. An error ends the
// connection, for the other end not to wait.
func (m *mixer) both(n int) error {
	out := *m
	out.rnd, out.did = rand.New(rand.NewPCG(m.rnd.Uint64(), 0)), map[string]int{}
	wrote := make(chan error, 1)
	end := func(err error) error {
		if err != nil {
			m.c.Close()
		}
		return err
	}
	go func() { wrote <- end(out.write(n)) }()
	err := end(m.read(n))
	err = errors.Join(err, <-wrote)
	m.sent = out.sent
	for name, n := range out.did {
		m.did[name] += n
	}
	return err
}

// mixing is a process that dials names, does what it is told to, and says what
// it has mapped and open for that.
func mixing(s shmtest.Shape, in *bufio.Scanner) {
	var m *mixer
	var base holding
	for in.Scan() {
		f := strings.Fields(in.Text())
		num := func(i int) int {
			n, _ := strconv.Atoi(f[i])
			return n
		}
		var err error
		switch f[0] {
		case "base":
			base = held()
		case "held":
			fmt.Println(held().less(base))
			continue
		case "dial":
			var c net.Conn
			if c, err = s.Dial(f[1]); err == nil {
				m = newMixer(c, uint64(num(2)))
			}
		case "mix": // so many bytes
			err = m.both(num(1))
		case "inplace": // from now on
			m.inPlace = true
		case "close":
			err = m.c.Close()
		}
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("ok")
	}
}

func init() { roles["mixing"], roles["wrapping"] = mixing, wrapping }

func newMixer(c net.Conn, seed uint64) *mixer {
	return &mixer{c: c.(*shmconn.Conn), rnd: rand.New(rand.NewPCG(seed, 0)), did: map[string]int{}}
}

// A holding is what a process has for its connections.
type holding struct{ mappings, descriptors int }

func held() holding {
	return holding{len(shmtest.Mappings()), len(shmtest.ListDir("/proc/self/fd"))}
}

func (h holding) less(o holding) holding {
	return holding{h.mappings - o.mappings, h.descriptors - o.descriptors}
}

func (h holding) String() string {
	return fmt.Sprintf("%d mappings, %d descriptors", h.mappings, h.descriptors)
}

// TestMirrors moves bytes between two processes over small rings, by all calls
// in turn: first by those that copy, with which an end has one mapping, then
// also in place. From the first span on that wraps there is one more for ring
// B, and two for ring A.
func TestMirrors(t *testing.T) {
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}, {Ring: 16384}} {
		s.Spares = -1
		t.Run(s.String(), func(t *testing.T) {
			name := shmtest.NewName()
			l := s.MustListen(t, name)
			h := shmtest.StartHelper(t, "mixing", s)
			rnd := shmtest.Seeded(t)
			begin := func() *mixer {
				h.Do("dial %s %d", name, rnd.Uint32())
				return newMixer(shmtest.MustAccept(t, l), rnd.Uint64())
			}
			mix := func(m *mixer) {
				n := 60 * s.Ring // so many wraps that some are of spans
				h.Send("mix %d", n)
				if err := m.both(n); err != nil {
					t.Error(err)
				}
				h.Expect("ok")
			}
			begin().c.Close() // after which the processes have what they open once
			h.Do("close")
			h.Do("base")
			base := held()
			want := func(when string, dialed, accepted int) {
				t.Helper()
				descriptors := 3
				if s.Anonymous {
					descriptors = 2
				}
				if dialed == 0 {
					descriptors = 0
				}
				if got, want := h.Call("held"), (holding{dialed, descriptors}).String(); got != want {
					t.Errorf("%s the dialer has %s, want %s", when, got, want)
				}
				if got, want := held().less(base), (holding{accepted, min(descriptors, 2)}); got != want {
					t.Errorf("%s the acceptor has %s, want %s", when, got, want)
				}
			}
			m := begin()
			mix(m)
			want("after copies", 1, 1)
			h.Do("inplace")
			mix(m)
			want("after the dialer's spans", 4, 1)
			m.inPlace = true
			mix(m)
			want("after the spans of both", 4, 4)
			t.Logf("calls: %v", m.did)
			for _, calls := range []int{len(mixWrites), len(mixReads)} {
				if calls > len(m.did) {
					t.Errorf("not all calls were made: %v", m.did)
				}
			}
			m.c.Close()
			h.Do("close")
			want("after Close", 0, 0)
		})
	}
}

// TestMirrorOneWay counts the mappings of an end that reads in place and writes
// copies, and of one that does it the other way round.
func TestMirrorOneWay(t *testing.T) {
	const ring = 16384
	s := shmtest.Shape{Ring: ring, Spares: -1}
	for _, tt := range []struct {
		name string
		call func(dialed, accepted *shmconn.Conn) ([]byte, error)
		want int
	}{
		{"the acceptor reads", func(_, accepted *shmconn.Conn) ([]byte, error) { return accepted.Peek(ring / 2) }, 2},
		{"the acceptor writes", func(_, accepted *shmconn.Conn) ([]byte, error) { return accepted.Reserve(ring / 2) }, 1},
		{"the dialer reads", func(dialed, _ *shmconn.Conn) ([]byte, error) { return dialed.Peek(ring / 2) }, 1},
		{"the dialer writes", func(dialed, _ *shmconn.Conn) ([]byte, error) { return dialed.Reserve(ring / 2) }, 2},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			before := len(shmtest.Mappings())
			dialed, accepted := s.ShmPair(t)
			advance(t, dialed, accepted, ring-100)
			advance(t, accepted, dialed, ring-100)
			if strings.HasSuffix(tt.name, "reads") {
				for _, c := range []*shmconn.Conn{dialed, accepted} {
					if _, err := c.Write(make([]byte, ring/2)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n := len(shmtest.Mappings()) - before; n != 2 {
				t.Errorf("two ends have %d mappings, want 2", n)
			}
			for range 2 {
				if b, err := tt.call(dialed, accepted); len(b) != ring/2 || err != nil {
					t.Fatalf("%d bytes, %v", len(b), err)
				}
				if n := len(shmtest.Mappings()) - before - 2; n != tt.want {
					t.Errorf("%d mappings more, want %d", n, tt.want)
				}
			}
		})
	}
}

// TestMirrorKept closes a connection in order on which spans have wrapped: the
// next one over the same segment has the mirrors, and makes no others.
func TestMirrorKept(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	name := shmtest.NewName()
	l := s.MustListen(t, name)
	rnd := shmtest.Seeded(t)
	begin := func() (a, b *mixer) {
		a, b = newMixer(s.MustDial(t, name), rnd.Uint64()), newMixer(shmtest.MustAccept(t, l), rnd.Uint64())
		a.inPlace, b.inPlace = true, true
		return a, b
	}
	before := len(shmtest.Mappings())
	for i := range 10 {
		a, b := begin()
		if n := a.c.Stats().Reused; n != uint64(i) {
			t.Fatalf("connection %d: reused %d times", i, n)
		}
		done := make(chan error, 1)
		go func() { done <- b.both(100_000) }()
		if err := errors.Join(a.both(100_000), <-done); err != nil {
			t.Fatal(err)
		}
		// The kernel may join the mirrors of A that the two ends have.
		if n := len(shmtest.Mappings()) - before; n != 8 && n != 7 {
			t.Errorf("connection %d: %d mappings, want 8:\n%s", i, n, shmtest.Mappings())
		}
		a.c.Close()
		b.c.Close()
	}
}

// TestMirrorShort wraps spans in a process that can have no more mappings. The
// error says so, and nothing is lost: bytes can be copied, and when there are
// mappings again the same call succeeds.
func TestMirrorShort(t *testing.T) {
	s := shmtest.Shape{Ring: 16384, Spares: -1}
	h := shmtest.StartHelper(t, "wrapping", s)
	for _, call := range shortCalls {
		for _, side := range []string{"dialer", "acceptor"} {
			if got := h.Call("%s %s", side, strings.ReplaceAll(call.name, " ", "_")); got != "ok" {
				t.Errorf("%s of the %s: %s", call.name, side, got)
			}
		}
	}
}

// shortCalls return spans of n bytes, which wrap. The first read, if reads.
var shortCalls = []struct {
	name  string
	reads bool
	do    func(c *shmconn.Conn, n int) ([]byte, error)
}{
	{"Peek", true, func(c *shmconn.Conn, n int) ([]byte, error) { return c.Peek(n) }},
	{"PeekAtLeast", true, func(c *shmconn.Conn, n int) ([]byte, error) { return c.PeekAtLeast(n) }},
	{"Peek past the deadline", true, func(c *shmconn.Conn, n int) ([]byte, error) {
		c.SetReadDeadline(shmtest.Past)
		defer c.SetReadDeadline(shmtest.NoDeadline)
		b, err := c.Peek(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return b, err
	}},
	{"Consumer.Peek", true, func(c *shmconn.Conn, n int) (b []byte, err error) {
		err = c.Consume(func(r *shmconn.Consumer) error {
			b, err = r.Peek(n)
			return err
		})
		return b, err
	}},
	{"Reserve", false, func(c *shmconn.Conn, n int) ([]byte, error) { return c.Reserve(n) }},
	{"CommitReserve", false, func(c *shmconn.Conn, n int) ([]byte, error) {
		c.Reserve(0)
		b, err := c.CommitReserve(0, n)
		if b == nil && err == nil { // as if there were no room: Reserve has the error
			return c.Reserve(n)
		}
		return b, err
	}},
	{"Producer.Reserve", false, func(c *shmconn.Conn, n int) (b []byte, err error) {
		err = c.Produce(func(p *shmconn.Producer) error {
			b, err = p.Reserve(n)
			return err
		})
		return b, err
	}},
}

// wrapping is a process that makes shortCalls between two ends of its own.
func wrapping(s shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		f := strings.Fields(in.Text())
		for _, call := range shortCalls {
			if strings.ReplaceAll(call.name, " ", "_") != f[1] {
				continue
			}
			a, b, stop, err := s.Connect()
			if err == nil {
				if f[0] == "acceptor" {
					a, b = b, a
				}
				err = wrapShort(a.(*shmconn.Conn), b.(*shmconn.Conn), call.reads, call.do)
				stop()
			}
			if err == nil {
				err = errors.New("ok")
			}
			fmt.Println(err)
		}
	}
}

// wrapShort has c make a call, with b as the other end.
func wrapShort(c, b *shmconn.Conn, reads bool, do func(c *shmconn.Conn, n int) ([]byte, error)) error {
	const n, before = 1000, 16384 - 300
	from, to := c, b
	if reads {
		from, to = b, c
	}
	if _, err := from.Write(make([]byte, before)); err != nil {
		return err
	}
	if _, err := to.Discard(before); err != nil {
		return err
	}
	if reads {
		if _, err := from.Write(shmtest.Pattern(0, 2*n)); err != nil {
			return err
		}
	}
	free, err := fillMappings()
	if err != nil {
		return err
	}
	_, short := do(c, n)
	var copied [n]byte
	var copyErr error
	if reads {
		_, copyErr = io.ReadFull(c, copied[:100])
	} else {
		_, copyErr = c.Write(shmtest.Pattern(0, 100))
	}
	free()

	ne, ok := short.(interface{ Temporary() bool })
	if !ok || !ne.Temporary() || os.IsTimeout(short) || !errors.Is(short, syscall.ENOMEM) || !strings.Contains(short.Error(), "max_map_count") {
		return fmt.Errorf("without mappings: %v", short)
	}
	if copyErr != nil {
		return fmt.Errorf("a copy without mappings: %w", copyErr)
	}
	span, err := do(c, n)
	if err != nil || len(span) < n {
		return fmt.Errorf("with mappings again: %d bytes, %w", len(span), err)
	}
	if reads {
		if i := shmtest.FirstDiff(span[:n], 100); i >= 0 || shmtest.FirstDiff(copied[:100], 0) >= 0 {
			return fmt.Errorf("byte %d differs", i)
		}
		return nil
	}
	copy(span, shmtest.Pattern(100, n))
	if err := c.Commit(n); err != nil {
		return err
	}
	got := make([]byte, n+100)
	if _, err := io.ReadFull(b, got); err != nil {
		return err
	}
	if i := shmtest.FirstDiff(got, 0); i >= 0 {
		return fmt.Errorf("byte %d differs", i)
	}
	return nil
}

// fillMappings makes as many mappings as the process may have, but for the few
// that the kernel wants for an mremap and the runtime may want meanwhile.
func fillMappings() (free func(), err error) {
	limit, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(limit)))
	if err != nil {
		return nil, err
	}
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, (n+2)*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	last := 0
	for at := page; at < len(b)-page; at += 2 * page { // each makes two more
		if err := unix.Mprotect(b[at:][:page], unix.PROT_READ); err != nil {
			break
		}
		last = at
	}
	if err := unix.Mprotect(b[last:][:page], unix.PROT_NONE); err != nil {
		return nil, err
	}
	return func() { unix.Munmap(b) }, nil
}
