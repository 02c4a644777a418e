//go:build linux

package reuse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// A server of these tests answers each request, which says where in the pattern
// it and its answer begin: no other connection's bytes look like that.
const (
	requestHeader = 16
	answerAhead   = 1 << 20 // the answer is of another part of the pattern
)

// serveRequests serves c until it ends, and says what was wrong with what it
// has read. It leaves an unread byte now and then, if it is careless.
func serveRequests(c shmtest.Conn) error {
	defer c.Close()
	h := make([]byte, requestHeader)
	for {
		if _, err := io.ReadFull(c, h); err != nil {
			if err == io.EOF || cutShort(err) {
				return nil
			}
			return err
		}
		at, n := int(binary.NativeEndian.Uint64(h)), int(binary.NativeEndian.Uint64(h[8:]))
		if n < 0 || n > 1<<20 {
			return fmt.Errorf("request for %d bytes at %d", n, at)
		}
		b := make([]byte, n)
		m, err := io.ReadFull(c, b)
		if i := shmtest.FirstDiff(b[:m], at); i >= 0 {
			return fmt.Errorf("byte %d of a request for %d at %d differs", i, n, at)
		}
		if err == nil {
			_, err = c.Write(shmtest.Pattern(at+answerAhead, n))
		}
		if err != nil {
			if cutShort(err) || err == io.ErrUnexpectedEOF || err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// cutShort reports whether err says that the peer has gone.
func cutShort(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// ask sends a request of n bytes at a place in the pattern.
func ask(c shmtest.Conn, at, n int) error {
	h := binary.NativeEndian.AppendUint64(nil, uint64(at))
	h = binary.NativeEndian.AppendUint64(h, uint64(n))
	_, err := c.Write(append(h, shmtest.Pattern(at, n)...))
	return err
}

// hear reads the answer to it.
func hear(c shmtest.Conn, at, n int) error {
	b := make([]byte, n)
	m, err := io.ReadFull(c, b)
	if i := shmtest.FirstDiff(b[:m], at+answerAhead); i >= 0 {
		return fmt.Errorf("byte %d of the answer to %d at %d differs", i, n, at)
	}
	return err
}

// reuseServer listens and serves, and says what went wrong.
func reuseServer(s shmtest.Shape, in *bufio.Scanner) {
	var l shmtest.Listener
	var wg sync.WaitGroup
	var wrong atomic.Pointer[string]
	var reused atomic.Int64
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "listen":
			if l, err = s.Listen(f[1]); err != nil {
				break
			}
			l := l
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					reused.Add(int64(min(1, reusedBy(c.(shmtest.Conn)))))
					wg.Go(func() {
						if err := serveRequests(c.(shmtest.Conn)); err != nil {
							what := err.Error()
							wrong.CompareAndSwap(nil, &what)
						}
					})
				}
			})
		case "unlisten":
			err = l.Close()
		case "wrong":
			if w := wrong.Load(); w != nil {
				err = errors.New(*w)
			}
		case "reused":
			fmt.Println(reused.Load())
			continue
		case "holds":
			fmt.Println(len(shmtest.Mappings()), count(shmtest.Descriptors()))
			continue
		case "memory":
			fmt.Println(resident())
			continue
		}
		fmt.Println(shmtest.Class(err))
	}
	if l != nil {
		l.Close()
	}
}

func reusedBy(c shmtest.Conn) uint64 {
	if c, ok := c.(*shmconn.Conn); ok {
		return c.Stats().Reused
	}
	return 0
}

func count(m map[string]int) (n int) {
	for _, k := range m {
		n += k
	}
	return n
}

// reuseDialer dials again and again, until it is killed or its input ends.
func reuseDialer(s shmtest.Shape, in *bufio.Scanner) {
	in.Scan()
	name := in.Text()
	go func() {
		in.Scan()
		handshake.DropSpares()
		syscall.Exit(0)
	}()
	for i := 0; ; i++ {
		c, err := s.Dial(name)
		if err != nil {
			panic(err)
		}
		if err := converse(c, i*4096, rand.IntN(3000), i%waysToEnd); err != nil {
			panic(err)
		}
		fmt.Println(reusedBy(c))
	}
}

// How an exchange ends: those from endAbrupt on leave nothing to use again.
const (
	endOrderly = iota
	endHalfClosed
	endExpired
	endAbrupt
	endUnread
	endWatched
	waysToEnd
)

// converse is the whole life of a connection, with an end of its own.
func converse(c shmtest.Conn, at, n, end int) error {
	defer c.Close()
	if err := ask(c, at, n); err != nil {
		return err
	}
	switch end {
	case endUnread:
		return nil
	case endWatched:
		if c, ok := c.(*shmconn.Conn); ok {
			c.Done()
		}
	}
	if err := hear(c, at, n); err != nil {
		return err
	}
	switch end {
	case endHalfClosed:
		if err := c.CloseWrite(); err != nil {
			return err
		}
		if n, err := c.Read(make([]byte, 8)); n != 0 || err != io.EOF {
			return fmt.Errorf("read %d bytes, %w at the end", n, err)
		}
	case endExpired:
		c.SetDeadline(time.Unix(1, 0))
	case endAbrupt:
		if c, ok := c.(*shmconn.Conn); ok {
			c.Abort()
		}
	}
	return nil
}

// cycles returns how often something is done: the full number with -long.
func cycles(n, most int) int {
	if *shmtest.Long {
		return most
	}
	return n
}

func server(t testing.TB, s shmtest.Shape) (h *shmtest.Helper, name string) {
	t.Helper()
	h, name = shmtest.StartHelper(t, "reuseserver", s), shmtest.NewName()
	h.Do("listen %s", name)
	return h, name
}

// TestReused has two processes meet again and again: all but the first
// connections use the memory of an earlier one, and neither end comes to hold
// more.
func TestReused(t *testing.T) {
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 65536, Anonymous: true}, {Ring: 4096, DialPoll: shmtest.PollAlways, ListenPoll: shmtest.PollNever}} {
		t.Run(s.String(), func(t *testing.T) {
			handshake.DropSpares()
			h, name := server(t, s)
			reused, n := 0, cycles(4000, 20000)
			var holds string
			var own int
			seen := make(map[string]bool)
			for i := range n {
				c := s.MustDial(t, name)
				reused += int(min(1, reusedBy(c)))
				if err := converse(c, i, i%3000, i%endAbrupt); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				if i == n/2 {
					holds, own = h.Call("holds"), count(shmtest.Descriptors())
					for _, m := range shmtest.Mappings() {
						seen[m] = true
					}
				}
			}
			if reused < n*95/100 {
				t.Errorf("%d of %d connections have used memory again", reused, n)
			}
			var m, d, m2, d2 int
			fmt.Sscan(holds, &m, &d)
			fmt.Sscan(h.Call("holds"), &m2, &d2)
			most := 64 // as many spares as a pool has, a mapping each
			if m2 > m+8 || d2 > d+3*8 || m2 > most {
				t.Errorf("the server holds %d mappings and %d descriptors, and %d and %d half way", m2, d2, m, d)
			}
			if now := count(shmtest.Descriptors()); now > own+3*8 {
				t.Errorf("%d descriptors, and %d half way", now, own)
			}
			h.Do("wrong")
			h.Do("unlisten")
			shmtest.Eventually(func() bool { return len(shmtest.Mappings()) == 0 })
			t.Logf("figure: %d of %d connections have used memory again", reused, n)
		})
	}
}

// TestReuseOff has one end that wants no spares: there are none.
func TestReuseOff(t *testing.T) {
	on, off := shmtest.Shape{Ring: 4096}, shmtest.Shape{Ring: 4096, Spares: -1}
	for _, s := range [][2]shmtest.Shape{{on, off}, {off, on}, {off, off}} {
		h, name := server(t, s[0])
		for i := range 50 {
			c := s[1].MustDial(t, name)
			if n := reusedBy(c); n != 0 {
				t.Fatalf("server %v, dialer %v: used for the %d. time", s[0], s[1], n)
			}
			if err := converse(c, i, 100, endOrderly); err != nil {
				t.Fatal(err)
			}
		}
		h.Do("wrong")
		if got := h.Call("holds"); !strings.HasPrefix(got, "0 ") {
			shmtest.Eventually(func() bool { return strings.HasPrefix(h.Call("holds"), "0 ") })
		}
	}
}

// TestReuseEnds ends a connection in every way: what is not in order is not
// used again, and what was said in one is not heard in the next.
func TestReuseEnds(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	for end := range waysToEnd {
		handshake.DropSpares()
		h, name := server(t, s)
		again := 0
		for i := range 200 {
			c := s.MustDial(t, name)
			again += int(min(1, reusedBy(c)))
			if err := converse(c, i*7919, 1+i%2000, end); err != nil {
				t.Fatalf("end %d, connection %d: %v", end, i, err)
			}
		}
		h.Do("wrong")
		switch end {
		case endUnread:
			continue // the answer may have found the dialer closed: then nothing is unread
		case endWatched:
			// The acceptor offers the memory, finds that the dialer has called
			// Done, and withdraws the offer. The dialer, which has closed and
			// waits for nothing any more, may have taken it in between.
			// TestReuseDone is about Done.
			continue
		}
		if (again > 0) != (end < endAbrupt) {
			t.Errorf("end %d: %d of 200 connections have used memory again", end, again)
		}
	}
}

// TestReuseUnread closes an end with bytes unread at either side, on the way or
// not.
func TestReuseUnread(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	for i := range 400 {
		c := s.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
		a := shmtest.MustAccept(t, l).(*shmconn.Conn)
		if n := c.Stats().Reused; n != 0 {
			t.Fatalf("round %d: used for the %d. time", i, n)
		}
		ends := []*shmconn.Conn{a, c}
		if i&1 == 1 {
			ends[0], ends[1] = c, a
		}
		var wg sync.WaitGroup
		switch i & 2 {
		case 0: // before the other has closed
			ends[0].Write([]byte("unread"))
			ends[1].Close()
			ends[0].Close()
		case 2: // and while
			ends[0].Write([]byte("unread"))
			wg.Go(func() { ends[1].Close() })
			ends[0].Close()
		}
		wg.Wait()
	}
}

// TestReuseLate has calls on a closed connection go on beside the next ones
// over the same memory: they find it closed, and disturb nothing.
func TestReuseLate(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	h, name := server(t, s)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var closed atomic.Pointer[shmconn.Conn]
	var late [4]atomic.Int64 // calls
	for i := range late {
		wg.Go(func() {
			b := make([]byte, 64)
			for {
				select {
				case <-stop:
					return
				default:
				}
				runtime.Gosched() // the dials have few processors
				c := closed.Load()
				if c == nil {
					continue
				}
				var err error
				switch i {
				case 0:
					_, err = c.Read(b)
				case 1:
					_, err = c.Write(b)
				case 2:
					if n, e := c.TryRead(b); n != 0 || e == nil {
						t.Errorf("TryRead: %d, %v", n, e)
					}
					if n := c.Buffered() + c.Available(); n != 0 {
						t.Errorf("%d bytes buffered or free", n)
					}
					c.Stats()
					err = c.Guard(func() { t.Error("Guard has called") })
				case 3:
					c.SetDeadline(time.Unix(1, 0))
					c.CloseRead()
					c.Abort()
					<-c.Done()
					err = c.Close()
				}
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("late call %d: %v", i, err)
					return
				}
				late[i].Add(1)
			}
		})
	}
	reused := 0
	for i := range cycles(2000, 100000) {
		c := s.MustDial(t, name).(*shmconn.Conn)
		reused += int(min(1, reusedBy(c)))
		// Somebody reads while it is closed, and is told.
		read := make(chan error, 1)
		if err := ask(c, i*100, 50); err != nil {
			t.Fatal(err)
		}
		if err := hear(c, i*100, 50); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := c.Read(make([]byte, 8))
			read <- err
		}()
		c.Close()
		closed.Store(c)
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("the Read under way: %v", err)
		}
		if st := c.Stats(); st.BytesRead != 50 || st.BytesWritten != 50+requestHeader {
			t.Fatalf("connection %d has read %d bytes and written %d", i, st.BytesRead, st.BytesWritten)
		}
	}
	close(stop)
	wg.Wait()
	h.Do("wrong")
	if reused == 0 {
		t.Error("nothing was used again")
	}
	var calls int64
	for i := range late {
		n := late[i].Load()
		if calls += n; n == 0 {
			t.Errorf("no late call was of kind %d", i)
		}
	}
	t.Logf("figure: %d connections have used memory again, beside %d late calls", reused, calls)
}

// TestReuseDone waits for the end of a peer that closes in order, before and
// after it has.
func TestReuseDone(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	for i := range 400 {
		a := s.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
		b := shmtest.MustAccept(t, l).(*shmconn.Conn)
		if i&1 == 1 {
			a, b = b, a
		}
		if i&2 == 2 {
			b.Close()
		}
		done := a.Done()
		if i&4 == 4 {
			go b.Close()
		} else {
			b.Close()
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: the peer has closed, and Done does not say so", i)
		}
		a.Close()
	}
}

// TestReuseWithdrawn has a listener with room for two spares only and many
// dialers: it withdraws them all the time, in the very moment that a dialer
// takes them. Whoever has taken one is served.
func TestReuseWithdrawn(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, Spares: 2 * 3 * 4096}
	h := shmtest.StartHelper(t, "reuseserver", s)
	name := shmtest.NewName()
	h.Do("listen %s", name)
	all := shmtest.Shape{Ring: 4096}
	var reused, dials atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range cycles(2000, 25000) {
				c, err := all.Dial(name)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				dials.Add(1)
				reused.Add(int64(min(1, reusedBy(c))))
				if err := converse(c, w<<24+i*64, 64, endOrderly); err != nil {
					t.Errorf("dialer %d, connection %d, used for the %d. time: %v", w, i, reusedBy(c), err)
					return
				}
			}
		})
	}
	wg.Wait()
	h.Do("wrong")
	if r := reused.Load(); r == 0 || r == dials.Load() {
		t.Errorf("%d of %d connections have used memory again: one of both was not tried", r, dials.Load())
	}
	t.Logf("figure: %d of %d connections have used memory again, with room for 2 spares and 4 dialers", reused.Load(), dials.Load())
}

// somebody is the user id of another user.
const somebody = 12345

// TestReuseUsers has dialers of other users, and other processes of one: none
// has what another has left.
func TestReuseUsers(t *testing.T) {
	start := shmtest.OtherUsers(t)
	name := shmtest.NewName()
	l, err := (&shmconn.ListenConfig{RingSize: 4096, Mode: 0o666}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, uid := range []uint32{somebody, somebody, somebody + 1, 0} {
		h := start(t, "agent", syscall.Credential{Uid: uid, Gid: uid}, shmtest.Shape{Ring: 4096})
		for i := range 5 {
			// Where root listens anybody trusts it.
			h.Do("dial %s", name)
			c := shmtest.MustAccept(t, l).(*shmconn.Conn)
			if got := c.Stats().Reused; (got > 0) != (i > 0) {
				t.Errorf("user %d, connection %d: used for the %d. time", uid, i, got)
			}
			h.Do("write %d 100", i)
			b := make([]byte, 100)
			io.ReadFull(c, b)
			shmtest.CheckPattern(t, b, 0)
			h.Do("close %d", i)
			c.Close()
		}
	}
}

// TestReuseKilled kills a server, or a dialer, at random moments of connections
// that use memory again: what was read is right, and the other one goes on.
func TestReuseKilled(t *testing.T) {
	var cut, whole, reused int
	shmtest.InRounds(t, shmtest.Rounds(1600), func(x *shmtest.Round) {
		s := x.Shape(x.Poll())
		s.Swap = false
		s.Spares = []int{0, 0, -1}[x.IntN(3)]
		if x.IntN(2) == 0 {
			h, name := shmtest.StartHelper(x, "reuseserver", s), shmtest.NewName()
			h.Do("listen %s", name)
			defer shmtest.Reclaim(x, name)
			wait := time.Duration(x.IntN(20_000)) * time.Microsecond
			killed := make(chan struct{})
			time.AfterFunc(wait, func() { h.Kill(); close(killed) })
			for i := 0; ; i++ {
				c, err := s.Dial(name)
				if err != nil {
					if got := shmtest.Class(err); got != "ECONNREFUSED" {
						x.Errorf("dial: %v", err)
					}
					break
				}
				reused += int(min(1, reusedBy(c)))
				if err := converse(c, x.IntN(1<<24), x.IntN(3000), x.IntN(waysToEnd)); err != nil {
					if !cutShort(err) {
						x.Errorf("connection %d: %v", i, err)
					}
					cut++
					continue
				}
				whole++
			}
			<-killed
			return
		}
		name := shmtest.NewName()
		l := s.MustListen(x, name)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					if err := serveRequests(c.(shmtest.Conn)); err != nil {
						x.Errorf("served: %v", err)
					}
				})
			}
		})
		h := shmtest.StartHelper(x, "reusedialer", s)
		h.Send("%s", name)
		for range x.IntN(40) {
			n, _ := strconv.Atoi(h.Line())
			reused += min(1, n)
			whole++
		}
		h.Kill()
		l.Close()
		wg.Wait()
	})
	if cut == 0 || whole == 0 || reused == 0 {
		t.Errorf("%d connections cut, %d whole, %d over used memory: one of them was not tried", cut, whole, reused)
	}
	t.Logf("figure: killed in reuse: %d connections cut short, %d whole, %d over memory of earlier ones", cut, whole, reused)
}

// TestReuseListenerCloses closes a listener and listens again on its name,
// while others dial: each dial is refused, reset or served.
func TestReuseListenerCloses(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	for _, how := range []string{"closes", "is killed"} {
		name := shmtest.NewName()
		var stop atomic.Bool
		var served, reset, refused, reused atomic.Int64
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := 0; !stop.Load(); i++ {
					c, err := s.Dial(name)
					if err != nil {
						if shmtest.Class(err) != "ECONNREFUSED" {
							t.Errorf("dial: %v", err)
							return
						}
						refused.Add(1)
						continue
					}
					switch err := converse(c, w<<24+i*64, 64, endOrderly); {
					case err == nil:
						served.Add(1)
						reused.Add(int64(min(1, reusedBy(c))))
					case cutShort(err):
						reset.Add(1)
					default:
						t.Errorf("the listener %s: %v", how, err)
					}
				}
			})
		}
		var h *shmtest.Helper
		for i := range cycles(30, 2000) {
			if h == nil {
				h = shmtest.StartHelper(t, "reuseserver", s)
			}
			h.Do("listen %s", name)
			before := served.Load()
			shmtest.Eventually(func() bool { return served.Load() > before+int64(i%50) })
			h.Do("wrong")
			if how == "closes" {
				h.Do("unlisten")
			} else {
				h.Kill()
				h = nil
			}
		}
		stop.Store(true)
		wg.Wait()
		if h == nil {
			shmtest.Reclaim(t, name)
		}
		if reused.Load() == 0 {
			t.Error("nothing was used again")
		}
		t.Logf("figure: a listener that %s: %d served, %d of them over used memory, %d reset, %d refused",
			how, served.Load(), reused.Load(), reset.Load(), refused.Load())
	}
}

// TestReuseBytes looks at what a later connection can read of an earlier one
// where the sender lies: nothing is there but what it has written itself.
func TestReuseStaleBytes(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, shmtest.NewName())
	for i := range 50 {
		c := s.MustDial(t, shmtest.NameOf(l)).(*shmconn.Conn)
		a := shmtest.MustAccept(t, l).(*shmconn.Conn)
		if n := a.Buffered() + c.Buffered(); n != 0 {
			t.Fatalf("%d bytes to read at first", n)
		}
		if n, err := a.TryRead(make([]byte, 8)); n != 0 || err != nil {
			t.Fatalf("TryRead: %d, %v", n, err)
		}
		if n := a.Available() + c.Available(); n != 2*4096 {
			t.Fatalf("connection %d: room for %d bytes", i, n)
		}
		want := bytes.Repeat([]byte{byte(i)}, 1000)
		c.Write(want)
		got := make([]byte, 1000)
		if io.ReadFull(a, got); !bytes.Equal(got, want) {
			t.Fatalf("connection %d: other bytes", i)
		}
		c.Close()
		a.Close()
	}
}

// TestReuseUnflushed has each end close while bytes are Put and not flushed:
// nobody reads them, over the next connection neither.
func TestReuseUnflushed(t *testing.T) {
	l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(shmtest.NewName())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair := func() (a, b *shmconn.Conn) {
		var d shmconn.Dialer
		a, err := d.DialConn(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if b, err = l.AcceptConn(); err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	for i := range 40 {
		a, b := pair()
		for _, c := range []*shmconn.Conn{a, b} {
			who := c == a
			c.Produce(func(p *shmconn.Producer) error {
				p.Write([]byte("read"))
				if who == (i%2 == 0) {
					p.Put([]byte("not flushed"))
				}
				return c.CloseWrite()
			})
		}
		for _, c := range []*shmconn.Conn{a, b} {
			if got, err := io.ReadAll(c); string(got) != "read" || err != nil {
				t.Fatalf("connection %d: read %q, %v", i, got, err)
			}
		}
		a.Close()
		b.Close()
	}
}

// TestSpareTimeForever keeps spares for the longest time there is, and uses
// them again after a check of all spares.
func TestSpareTimeForever(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, SpareTime: math.MaxInt64}
	l := s.MustListen(t, shmtest.NewName())
	for i := range uint64(2) {
		a := s.MustDial(t, shmtest.NameOf(l))
		b := shmtest.MustAccept(t, l)
		if got := reusedBy(a); got != i {
			t.Errorf("connection %d: used again for the %d. time", i, got)
		}
		a.Close()
		b.Close()
		time.Sleep(600 * time.Millisecond) // two checks
	}
}

// TestAllowUIDPanics has the function that is asked about a listener panic when
// the dial has a spare in its hands: that is closed.
func TestAllowUIDPanics(t *testing.T) {
	s := shmtest.Shape{Ring: 4096, SpareTime: time.Hour}
	l := s.MustListen(t, shmtest.NewName())
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	dial := func(uid func(uint32) bool) *shmconn.Conn {
		c, err := (&shmconn.Dialer{AllowUID: uid, SpareTime: time.Hour}).Dial(shmtest.NameOf(l))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	allow := func(uint32) bool { return true }
	handshake.DropSpares()
	before := open()
	a := dial(allow)
	b := shmtest.MustAccept(t, l)
	a.Close()
	b.Close()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		dial(func(uint32) bool { panic("of the caller") })
	}()
	// The listener lets go of its end of the spare when it next looks.
	for end := time.Now().Add(20 * time.Second); open() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors are open, there were %d", open(), before)
		}
	}
}
