//go:build linux

package hostile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/handshake"
	"shmconn/internal/shmtest"
)

// A spareLiar is a dialer that lies about what it uses again, and its victim: a
// listener, and the listener's end of the first connection.
type spareLiar struct {
	*testing.T
	*shmtest.RawPeer
	shape    shmtest.Shape
	l        shmtest.Listener
	name     string
	accepted chan *shmconn.Conn
	c        *shmconn.Conn
}

func newSpareLiar(t *testing.T, s shmtest.Shape) *spareLiar {
	x := &spareLiar{T: t, shape: s, name: shmtest.NewName(), accepted: make(chan *shmconn.Conn, 100)}
	x.l = s.MustListen(t, x.name)
	go func() {
		for {
			c, err := x.l.Accept()
			if err != nil {
				return
			}
			x.accepted <- c.(*shmconn.Conn)
		}
	}()
	x.RawPeer, x.c = x.meet()
	return x
}

// meet makes a connection, and passes bytes both ways.
func (x *spareLiar) meet() (*shmtest.RawPeer, *shmconn.Conn) {
	x.Helper()
	p := shmtest.RawReusable(x, x.name, x.shape)
	p.Handshake()
	c := x.accept()
	x.talk(p, c)
	return p, c
}

// accept is bounded: a dialer that should have been let in may not be.
func (x *spareLiar) accept() *shmconn.Conn {
	x.Helper()
	select {
	case c := <-x.accepted:
		c.SetDeadline(time.Now().Add(20 * time.Second)) // no call may hang
		x.Cleanup(func() { c.Close() })
		return c
	case <-time.After(20 * time.Second):
		x.Fatal("nobody is accepted")
		return nil
	}
}

// talk passes bytes both ways, and all of them are read.
func (x *spareLiar) talk(p *shmtest.RawPeer, c *shmconn.Conn) {
	x.Helper()
	x.say(p, c, "from the dialer")
	at := p.Get(shmtest.RingB + shmtest.Produced)
	shmtest.MustWrite(x, c, []byte("answer"))
	if got := p.Read(p.DataB()+int(at)%p.Size, 6); string(got) != "answer" {
		x.Errorf("the dialer finds %q", got)
	}
	p.Put(shmtest.RingB+shmtest.Consumed, at+6)
}

func (x *spareLiar) say(p *shmtest.RawPeer, c *shmconn.Conn, what string) {
	x.Helper()
	at := p.Get(shmtest.RingA + shmtest.Produced)
	p.Write(p.DataA()+int(at)%p.Size, []byte(what))
	p.Put(shmtest.RingA+shmtest.Produced, at+uint64(len(what)))
	p.Knock()
	got := make([]byte, len(what))
	if n, err := io.ReadFull(c, got); string(got) != what {
		x.Fatalf("ReadFull = %q, %v, want %q", got[:n], err, what)
	}
}

// spare ends generation g at both ends, and both are ready for the next.
func (x *spareLiar) spare(g uint32) {
	x.Helper()
	x.Retire(g)
	x.Offer(g + 1)
	if err := x.c.Close(); err != nil {
		x.Fatal(err)
	}
	x.AwaitOffer(g + 1)
}

// begin takes the spare and says so, as it is to be.
func (x *spareLiar) begin(g uint32) {
	x.Helper()
	x.Take(g)
	x.Introduce(x.name, shmtest.ReuseMessage(x.ID, g))
	x.c = x.accept()
	if got := x.c.Stats().Reused; got != uint64(g-1) {
		x.Errorf("used again for the %d. time, want %d", got, g-1)
	}
}

// next is begin for a connection that works.
func (x *spareLiar) next(g uint32) {
	x.Helper()
	x.begin(g)
	x.talk(x.RawPeer, x.c)
}

// refused says a message that the listener must refuse.
func (x *spareLiar) refused(message []byte, fds ...int) {
	x.Helper()
	before := shmtest.Refused(x, x.name)
	x.Introduce(x.name, message, fds...)
	shmtest.Eventually(func() bool { return shmtest.Refused(x, x.name) == before+1 || len(x.accepted) > 0 })
	if len(x.accepted) > 0 {
		x.Fatalf("accepted, who said %q", message)
	}
}

// message is what a dialer of generation g says.
func (x *spareLiar) message(g uint32) []byte { return shmtest.ReuseMessage(x.ID, g) }

// corrupt fails unless call says that the segment is damaged, which is then not
// used again.
func (x *spareLiar) corrupt(call func() error) {
	x.Helper()
	shmtest.WantCorrupt(x, x.c, call())
	x.Dropped()
}

func (x *spareLiar) read() error  { _, err := x.c.Read(make([]byte, 8)); return err }
func (x *spareLiar) write() error { _, err := x.c.Write(make([]byte, 2*x.Size)); return err }

// honest has an honest dialer come twice. It is served, over the same segment.
func (x *spareLiar) honest() {
	x.Helper()
	for i := range 2 {
		a := x.shape.MustDial(x, x.name).(*shmconn.Conn)
		b := x.accept()
		if got := a.Stats().Reused; got != uint64(i) {
			x.Errorf("honest connection %d: used again for the %d. time", i, got)
		}
		shmtest.WantSound(x, a, b)
		a.Close()
		b.Close()
	}
}

var spareLies = []struct {
	name string
	do   func(x *spareLiar)
}{
	{"nothing wrong", func(x *spareLiar) {
		for g := uint32(1); g < 10; g++ {
			x.spare(g)
			x.next(g + 1)
		}
	}},
	{"a message of another generation", func(x *spareLiar) {
		x.spare(1)
		x.Take(2)
		for _, g := range []uint32{0, 1, 3, 1 << 31, math.MaxUint32} {
			x.refused(x.message(g))
		}
		x.next(2)
	}},
	{"not taken", func(x *spareLiar) {
		x.spare(1)
		x.refused(x.message(2))
		x.next(2)
	}},
	{"taken as another generation", func(x *spareLiar) {
		x.spare(1)
		for _, g := range []uint32{1, 3, math.MaxUint32} {
			x.Take(g)
			x.refused(x.message(2))
			x.refused(x.message(g))
		}
		x.next(2)
	}},
	{"said twice", func(x *spareLiar) {
		x.spare(1)
		x.next(2)
		x.refused(x.message(2))
		x.Take(3)
		x.Offer(3)
		x.refused(x.message(3))
		x.talk(x.RawPeer, x.c)
	}},
	{"taken while in use", func(x *spareLiar) {
		x.Offer(2)
		x.Take(2)
		x.refused(x.message(1))
		x.refused(x.message(2))
		x.talk(x.RawPeer, x.c)
		x.spare(1)
		x.next(2)
	}},
	{"the offer stored by the dialer", func(x *spareLiar) {
		x.PutWord(shmtest.AcceptorSpare, 2)
		x.Take(2)
		x.refused(x.message(2))
		x.talk(x.RawPeer, x.c)
	}},
	{"an id that nobody has", func(x *spareLiar) {
		x.spare(1)
		x.Take(2)
		id := x.ID
		id[3]++
		x.refused(shmtest.ReuseMessage(id, 2))
		x.next(2)
	}},
	{"another pair's id", func(x *spareLiar) {
		p, c := x.meet()
		x.spare(1)
		x.Take(2)
		x.refused(shmtest.ReuseMessage(p.ID, 2)) // which is in use
		p.Retire(1)
		p.Offer(2)
		c.Close()
		p.AwaitOffer(2)
		x.refused(shmtest.ReuseMessage(p.ID, 2)) // which is not taken
		x.next(2)
		mine := x.c
		x.RawPeer = p
		x.next(2)
		if mine == x.c {
			x.Error("one connection for two")
		}
	}},
	{"a message that is no message", func(x *spareLiar) {
		x.spare(1)
		x.Take(2)
		right := x.message(2)
		for _, m := range [][]byte{right[:27], append(slices.Clone(right), 0), append([]byte("shmconn\x02"), right[8:]...), make([]byte, 28), right[8:]} {
			x.refused(m)
		}
		x.refused(right, x.Seg)
		x.refused(right, x.Seg, x.Ringer, x.Ringer)
		x.next(2)
	}},
	{"closed goes back", func(x *spareLiar) {
		x.spare(1)
		x.PutWord(shmtest.RingA+shmtest.ProducerClosed, 0)
		x.PutWord(shmtest.RingB+shmtest.ConsumerClosed, 0)
		x.next(2)
		x.PutWord(shmtest.RingA+shmtest.ProducerClosed, 1)
		x.PutWord(shmtest.RingB+shmtest.ConsumerClosed, 1)
		x.talk(x.RawPeer, x.c)
	}},
	{"closed from the first", func(x *spareLiar) {
		x.spare(1)
		x.PutWord(shmtest.RingA+shmtest.ProducerClosed, math.MaxUint32)
		x.PutWord(shmtest.RingB+shmtest.ConsumerClosed, math.MaxUint32)
		x.begin(2)
		if err := x.read(); err != io.EOF {
			x.Errorf("Read: %v", err)
		}
		shmtest.WantErr(x, "Write", x.write(), "write EPIPE")
	}},
	{"closed in the next one goes back", func(x *spareLiar) {
		x.spare(1)
		x.next(2)
		x.Retire(2)
		if err := x.read(); err != io.EOF {
			x.Errorf("Read: %v", err)
		}
		x.PutWord(shmtest.RingA+shmtest.ProducerClosed, 1)
		x.c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if err := x.read(); err != io.EOF && !expired(err) {
			x.Errorf("Read: %v", err)
		}
	}},
	{"more was produced than fits", func(x *spareLiar) {
		x.spare(1)
		x.Put(shmtest.RingA+shmtest.Produced, x.Get(shmtest.RingA+shmtest.Produced)+uint64(x.Size)+1)
		x.begin(2)
		x.corrupt(x.read)
	}},
	{"produced goes back", func(x *spareLiar) {
		x.spare(1)
		x.Put(shmtest.RingA+shmtest.Produced, 0)
		x.begin(2)
		x.corrupt(x.read)
	}},
	{"produced before it is taken", func(x *spareLiar) {
		x.spare(1)
		at := x.Get(shmtest.RingA + shmtest.Produced)
		x.Write(x.DataA()+int(at), []byte("early"))
		x.Put(shmtest.RingA+shmtest.Produced, at+5)
		x.begin(2) // they are the dialer's own, and of no other connection
		b := make([]byte, 64)
		if n, err := x.c.Read(b); string(b[:n]) != "early" || err != nil {
			x.Errorf("Read = %q, %v", b[:n], err)
		}
		x.talk(x.RawPeer, x.c)
	}},
	{"more was consumed than was there", func(x *spareLiar) {
		x.spare(1)
		x.Put(shmtest.RingB+shmtest.Consumed, x.Get(shmtest.RingB+shmtest.Produced)+uint64(x.Size)+1)
		x.begin(2)
		x.corrupt(x.write)
	}},
	{"consumed goes back", func(x *spareLiar) {
		x.spare(1)
		x.Put(shmtest.RingB+shmtest.Consumed, 0)
		x.begin(2)
		x.corrupt(x.write)
	}},
	{"not read to the end", func(x *spareLiar) {
		shmtest.MustWrite(x, x.c, []byte("unread"))
		at := x.Get(shmtest.RingB + shmtest.Consumed)
		x.Retire(1)
		x.Put(shmtest.RingB+shmtest.Consumed, at)
		x.Offer(2)
		x.c.Close()
		x.AwaitOffer(2)
		x.begin(2)
		x.corrupt(x.write)
	}},
	{"damage in between", func(x *spareLiar) {
		x.spare(1)
		x.next(2)
		x.Put(shmtest.RingA+shmtest.Produced, 1<<40)
		x.Offer(3)
		x.Take(3)
		x.corrupt(x.read)
		x.refused(x.message(3))
	}},
	{"damage that no call has seen", func(x *spareLiar) {
		x.Put(shmtest.RingA+shmtest.Produced, 1<<40)
		x.Offer(2)
		x.Take(2)
		x.c.Close()
		x.Dropped()
		x.refused(x.message(2))
	}},
	{"it watches", func(x *spareLiar) {
		x.Retire(1)
		x.PutWord(shmtest.DialerWatched, 1)
		x.Offer(2)
		x.c.Close()
		x.Dropped()
		x.refused(x.message(2))
	}},
	{"it watches, and has taken", func(x *spareLiar) {
		x.Retire(1)
		x.PutWord(shmtest.DialerWatched, 1)
		x.Offer(2)
		x.Take(2)
		x.c.Close() // may have to wait for a dialer that has taken it
		x.next(2)
	}},
	{"it waits for the end of each", func(x *spareLiar) {
		x.spare(1)
		x.next(2)
		done := x.c.Done()
		x.PutWord(shmtest.AcceptorWatched, 0)
		x.Retire(2)
		x.Offer(3)
		x.Take(3)
		select {
		case <-done:
			x.Error("Done, and the peer has its end of the doorbell")
		case <-time.After(10 * time.Millisecond):
		}
		x.RawPeer.Close()
		<-done
	}},
	{"the listener closes", func(x *spareLiar) {
		x.spare(1)
		x.l.Close()
		x.Dropped()
	}},
	{"taken, and the listener closes", func(x *spareLiar) {
		x.spare(1)
		x.Take(2)
		x.l.Close()
		x.Dropped()
	}},
	{"said, and the listener closes", func(x *spareLiar) {
		x.spare(1)
		x.begin(2)
		x.l.Close()
		x.talk(x.RawPeer, x.c)
		x.c.Close()
		x.Dropped()
	}},
	{"stores after it has let go", func(x *spareLiar) {
		x.spare(1)
		seg, err := unix.Dup(x.Seg)
		if err != nil {
			x.Fatal(err)
		}
		defer unix.Close(seg)
		x.RawPeer.Close()
		for range 20 {
			for off := 256; off < 4096+2*x.Size; off += 512 {
				unix.Pwrite(seg, slices.Repeat([]byte{2, 0, 0, 0}, 128), int64(off))
			}
			x.honest()
			handshake.DropSpares()
		}
	}},
	{"speaks, and dies", func(x *spareLiar) {
		x.spare(1)
		x.Take(2)
		at := x.Get(shmtest.RingA + shmtest.Produced)
		x.Write(x.DataA()+int(at), []byte("last words"))
		x.Put(shmtest.RingA+shmtest.Produced, at+10)
		x.Introduce(x.name, x.message(2))
		x.RawPeer.Close()
		x.c = x.accept()
		b, err := io.ReadAll(x.c)
		if string(b) != "last words" {
			x.Errorf("read %q", b)
		}
		shmtest.WantErr(x, "ReadAll", err, "read ECONNRESET")
	}},
	{"truncated", func(x *spareLiar) {
		if x.shape.Anonymous {
			x.Skip("sealed memory cannot be truncated")
		}
		x.spare(1)
		x.Take(2)
		x.Truncate(0)
		x.refused(x.message(2))
	}},
	{"truncated while in use again", func(x *spareLiar) {
		if x.shape.Anonymous {
			x.Skip("sealed memory cannot be truncated")
		}
		x.spare(1)
		x.next(2)
		x.Truncate(0)
		x.corrupt(x.read)
	}},
}

func expired(err error) bool {
	ne, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && ne.Timeout()
}

// TestSpareLies has a dialer lie about a segment that it uses again: it is
// refused, or the connection says that it is damaged, or it has but its own
// bytes. An honest dialer has its spares beside it, and nothing is left.
func TestSpareLies(t *testing.T) {
	for _, s := range []shmtest.Shape{{Ring: 4096}, shmtest.Shape{Ring: 8192, Anonymous: true}.Poll(shmtest.PollNever)} {
		for _, lie := range spareLies {
			t.Run(s.String()+"/"+strings.ReplaceAll(lie.name, " ", "_"), func(t *testing.T) {
				before := shmtest.Hold()
				t.Run("", func(t *testing.T) {
					x := newSpareLiar(t, s)
					lie.do(x)
					if !strings.Contains(lie.name, "listener closes") {
						x.honest()
					}
					x.RawPeer.Close()
				})
				handshake.DropSpares()
				if left := before.Left(); left != "" {
					t.Errorf("left behind: %s", left)
				}
			})
		}
	}
}

// liar lies at random, and often keeps to the protocol, too, until it has made
// so many connections. It says how many of them were over used memory.
func liar(s shmtest.Shape, in *bufio.Scanner) {
	in.Scan()
	name, count, _ := strings.Cut(in.Text(), " ")
	n, _ := strconv.Atoi(count)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var ids [][16]byte
	again, introduced := 0, 0
	for range n {
		t := new(shmtest.ProcessTB)
		p := shmtest.RawReusable(t, name, s)
		p.Handshake()
		ids = append(ids, p.ID)
		if len(ids) > 20 {
			ids = ids[1:]
		}
		g := uint32(1)
		number := func() uint32 {
			return []uint32{0, g - 1, g, g + 1, g + 1, g + 1, g + 2, math.MaxUint32}[rnd.IntN(8)]
		}
		within := func(ok func() bool) bool {
			for start := time.Now(); time.Since(start) < 5*time.Millisecond; time.Sleep(20 * time.Microsecond) {
				if ok() {
					return true
				}
			}
			return ok()
		}
		cut := false
		for range rnd.IntN(16) {
			switch rnd.IntN(12) {
			case 0, 1, 2, 3, 4: // in order, or in the order of things
				at := p.Get(shmtest.RingA + shmtest.Produced)
				p.Write(p.DataA()+int(at)%p.Size, []byte{byte(at)})
				p.Put(shmtest.RingA+shmtest.Produced, at+1)
				p.Knock()
				within(func() bool { return p.Word(shmtest.RingB+shmtest.ProducerClosed) >= g })
				p.Retire(g)
				p.Offer(g + 1)
				if within(func() bool { return p.Word(shmtest.AcceptorSpare) == g+1 }) {
					p.Take(g + 1)
					p.TryIntroduce(name, shmtest.ReuseMessage(p.ID, g+1))
					g++
					again++
				}
			case 5:
				p.Offer(number())
			case 6:
				p.Take(number())
			case 7:
				p.TryIntroduce(name, shmtest.ReuseMessage(ids[rnd.IntN(len(ids))], number()))
				introduced++
			case 8:
				p.PutWord([]int{shmtest.AcceptorSpare, shmtest.DialerWatched, shmtest.AcceptorWatched,
					shmtest.RingA + shmtest.ProducerClosed, shmtest.RingB + shmtest.ConsumerClosed}[rnd.IntN(5)], number())
			case 9:
				off := []int{shmtest.RingA + shmtest.Produced, shmtest.RingB + shmtest.Consumed}[rnd.IntN(2)]
				p.Put(off, p.Get(off)+uint64(rnd.IntN(5)-2))
			case 10:
				time.Sleep(time.Duration(rnd.IntN(500)) * time.Microsecond)
			case 11:
				if cut = !s.Anonymous && rnd.IntN(4) == 0; cut {
					p.Truncate(rnd.IntN(4096))
				}
			}
			if cut {
				break
			}
		}
		t.RunCleanups()
	}
	fmt.Println(again, introduced)
}

// TestSpareLiars has processes that lie at random beside honest dialers of
// other processes and of this one: these have their own bytes, always.
func TestSpareLiars(t *testing.T) {
	for _, s := range []shmtest.Shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			before := shmtest.HoldStill()
			t.Run("", func(t *testing.T) { liarsBeside(t, s) })
			handshake.DropSpares()
			if left := before.Left(); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

func liarsBeside(t *testing.T, s shmtest.Shape) {
	n := 40
	if *shmtest.Long {
		n = 50_000
	}
	l := s.MustListen(t, shmtest.NewName())
	served := make(chan struct{})
	go func() {
		defer close(served)
		shmtest.ServeEcho(l)
	}()
	name := shmtest.NameOf(l)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var echoed, reused atomic.Int64
	for i := range 2 {
		wg.Go(func() {
			for k := 0; !stop.Load(); k++ {
				c, err := s.Dial(name)
				if err != nil {
					t.Errorf("an honest dialer: %v", err)
					return
				}
				c.SetDeadline(time.Now().Add(30 * time.Second))
				want := fmt.Sprintf("honest %d %d", i, k)
				c.Write([]byte(want))
				got, err := io.ReadAll(c)
				if string(got) != want || err != nil {
					t.Errorf("an honest dialer, used again for the %d. time: answer is %q, %v, want %q", c.(*shmconn.Conn).Stats().Reused, got, err, want)
					return
				}
				echoed.Add(1)
				reused.Add(int64(min(1, c.(*shmconn.Conn).Stats().Reused)))
				c.Close()
			}
		})
	}
	var liars []*shmtest.Helper
	for range 2 {
		h := shmtest.StartHelper(t, "liar", s)
		h.Send("%s %d", name, n)
		liars = append(liars, h)
	}
	again, introduced := 0, 0
	for _, h := range liars {
		var a, i int
		fmt.Sscan(h.Line(), &a, &i)
		again += a
		introduced += i
	}
	stop.Store(true)
	wg.Wait()
	st := l.(*shmconn.Listener).Stats()
	l.Close()
	<-served
	if again == 0 || introduced == 0 || reused.Load() == 0 {
		t.Errorf("liars went on %d times and spoke %d times, honest dialers used memory again %d times: one of them was not tried", again, introduced, reused.Load())
	}
	t.Logf("figure: %d connections of liars, who used memory again %d times as they should and spoke of it %d times as they should not: %d refused; %d honest dialers answered, %d over memory of earlier ones",
		2*n, again, introduced, st.Refused, echoed.Load(), reused.Load())
}

// TestSpareCut has a dialer truncate a segment in the very moment that the
// listener uses it again: it is refused, or accepted and damaged.
func TestSpareCut(t *testing.T) {
	n := 400
	if *shmtest.Long {
		n = 50_000
	}
	before := shmtest.HoldStill()
	t.Run("", func(t *testing.T) {
		s := shmtest.Shape{Ring: 4096}
		x := newSpareLiar(t, s)
		refused, damaged := 0, 0
		gap := 20 * time.Microsecond // which comes to be the moment
		for i := range n {
			p := shmtest.RawReusable(t, x.name, s)
			p.Handshake()
			c := x.accept()
			p.Retire(1)
			p.Offer(2)
			c.Close()
			p.AwaitOffer(2)
			p.Take(2)
			before := shmtest.Refused(t, x.name)
			cut := make(chan struct{})
			go func() {
				defer close(cut)
				for start := time.Now(); time.Since(start) < gap; {
				}
				unix.Ftruncate(p.Seg, 0)
			}()
			p.TryIntroduce(x.name, shmtest.ReuseMessage(p.ID, 2))
			<-cut
			shmtest.Eventually(func() bool { return shmtest.Refused(t, x.name) > before || len(x.accepted) > 0 })
			select {
			case c = <-x.accepted:
				c.SetDeadline(time.Now().Add(20 * time.Second))
				_, err := c.Read(make([]byte, 8))
				shmtest.WantCorrupt(t, c, err)
				damaged++
				gap -= 300 * time.Nanosecond
			default:
				refused++
				gap += 300 * time.Nanosecond
			}
			p.Close()
			if i%100 == 0 {
				x.honest()
				handshake.DropSpares()
			}
		}
		if refused == 0 || damaged == 0 {
			t.Errorf("%d refused, %d damaged: one of them was not tried", refused, damaged)
		}
		t.Logf("figure: truncated while it was used again: %d refused, %d damaged", refused, damaged)
	})
	if left := before.Left(); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A lyingListener is an honest one whose words somebody overwrites: what the
// dialer, its victim, sees is a listener that lies.
type lyingListener struct {
	*testing.T
	*shmtest.RawPeer // the words alone
	shape            shmtest.Shape
	l                shmtest.Listener
	name             string
	a, b             *shmconn.Conn // dialed, accepted
}

func newLyingListener(t *testing.T, s shmtest.Shape) *lyingListener {
	x := &lyingListener{T: t, shape: s, name: shmtest.NewName()}
	x.l = s.MustListen(t, x.name)
	x.pair(0)
	x.sound()
	x.RawPeer = shmtest.SegmentWords(t, s, x.name, "")
	return x
}

// pair makes the next connection, which uses memory again for so many times.
func (x *lyingListener) pair(reused uint64) {
	x.Helper()
	x.a = x.shape.MustDial(x, x.name).(*shmconn.Conn)
	x.a.SetDeadline(time.Now().Add(20 * time.Second)) // no call may hang
	if got := x.a.Stats().Reused; got != reused {
		x.Fatalf("used again for the %d. time, want %d", got, reused)
	}
	x.b = shmtest.MustAccept(x, x.l).(*shmconn.Conn)
}

func (x *lyingListener) sound() { x.Helper(); shmtest.WantSound(x, x.a, x.b) }

func (x *lyingListener) close() { x.a.Close(); x.b.Close() }

// anew has the dialer come again: it finds that it had better not use the
// memory again.
func (x *lyingListener) anew() {
	x.Helper()
	x.pair(0)
	x.sound()
	x.close()
	x.pair(1)
	x.sound()
}

var listenersLies = []struct {
	name string
	do   func(x *lyingListener)
}{
	{"nothing wrong", func(x *lyingListener) {
		x.close()
		x.pair(1)
		x.sound()
	}},
	{"withdrawn", func(x *lyingListener) {
		x.close()
		x.PutWord(shmtest.AcceptorSpare, 0)
		x.anew()
	}},
	{"offered for the last one", func(x *lyingListener) {
		x.close()
		x.PutWord(shmtest.AcceptorSpare, 1)
		x.anew()
	}},
	{"offered for a later one", func(x *lyingListener) {
		x.close()
		x.PutWord(shmtest.AcceptorSpare, 3)
		x.anew()
	}},
	{"offered for the last of all", func(x *lyingListener) {
		x.close()
		x.PutWord(shmtest.AcceptorSpare, math.MaxUint32)
		x.anew()
	}},
	{"bytes unread", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingB+shmtest.Produced, x.Get(shmtest.RingB+shmtest.Produced)+1)
		x.anew()
	}},
	{"more was produced than fits", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingB+shmtest.Produced, 1<<40)
		x.anew()
	}},
	{"produced goes back", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingB+shmtest.Produced, 0)
		x.anew()
	}},
	{"not read to the end", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingA+shmtest.Consumed, x.Get(shmtest.RingA+shmtest.Consumed)-1)
		x.anew()
	}},
	{"consumed goes back", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingA+shmtest.Consumed, 0)
		x.anew()
	}},
	{"more was consumed than was there", func(x *lyingListener) {
		x.close()
		x.Put(shmtest.RingA+shmtest.Consumed, x.Get(shmtest.RingA+shmtest.Consumed)+1)
		x.anew()
	}},
	{"it watches", func(x *lyingListener) {
		x.PutWord(shmtest.AcceptorWatched, 1)
		x.close()
		x.anew()
	}},
	{"truncated", func(x *lyingListener) {
		x.close()
		x.Truncate(0)
		x.anew()
	}},
	{"closed from the first", func(x *lyingListener) {
		x.close()
		x.PutWord(shmtest.RingB+shmtest.ProducerClosed, 2)
		x.PutWord(shmtest.RingA+shmtest.ConsumerClosed, 2)
		x.pair(1)
		if n, err := x.a.Read(make([]byte, 8)); n != 0 || err != io.EOF {
			x.Errorf("Read = %d, %v", n, err)
		}
		_, err := x.a.Write(make([]byte, 8))
		shmtest.WantErr(x, "Write", err, "write EPIPE")
	}},
	{"produced before it is taken is seen", func(x *lyingListener) {
		x.close()
		x.pair(1)
		x.Put(shmtest.RingB+shmtest.Produced, x.Get(shmtest.RingB+shmtest.Produced)-1)
		_, err := x.a.Read(make([]byte, 8))
		shmtest.WantCorrupt(x, x.a, err)
		x.b.Abort()
		x.pair(0)
		x.sound()
	}},
	{"offered while in use, and aborted", func(x *lyingListener) {
		x.offeredInUse()
		x.b.Abort()
		n, err := x.a.Read(make([]byte, 8))
		shmtest.WantErr(x, fmt.Sprintf("Read = %d", n), err, "read ECONNRESET")
		x.a.Close()
		x.pair(0)
		x.sound()
	}},
}

// offeredInUse has the dialer take what the listener offers and still uses: it
// believes so, as it would believe a listener that does not answer.
func (x *lyingListener) offeredInUse() {
	x.Helper()
	x.PutWord(shmtest.AcceptorSpare, 2)
	x.a.Close()
	before := shmtest.Refused(x, x.name)
	refused := make(chan struct{})
	go func() { // Accept has to look, and to refuse
		defer close(refused)
		if c, err := x.l.Accept(); err == nil {
			c.Close()
			x.Error("accepted what is in use")
		}
	}()
	x.a = x.shape.MustDial(x, x.name).(*shmconn.Conn)
	x.a.SetDeadline(time.Now().Add(20 * time.Second))
	if got := x.a.Stats().Reused; got != 1 {
		x.Fatalf("used again for the %d. time, want 1", got)
	}
	shmtest.Eventually(func() bool { return shmtest.Refused(x, x.name) == before+1 })
	x.l.SetDeadline(shmtest.Past)
	<-refused
	x.l.SetDeadline(shmtest.NoDeadline)
}

// TestSpareListenerLies has a listener lie about a segment that is to be used
// again: the dialer makes a new one, or the connection says what is wrong.
func TestSpareListenerLies(t *testing.T) {
	s := shmtest.Shape{Ring: 4096}
	for _, lie := range listenersLies {
		t.Run(strings.ReplaceAll(lie.name, " ", "_"), func(t *testing.T) {
			before := shmtest.Hold()
			t.Run("", func(t *testing.T) { lie.do(newLyingListener(t, s)) })
			handshake.DropSpares()
			if left := before.Left(); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
	t.Run("at random", func(t *testing.T) {
		n := 500
		if *shmtest.Long {
			n = 200_000
		}
		x := newLyingListener(t, s)
		rnd := shmtest.Seeded(t)
		kinds := make(map[string]int)
		for range n {
			g := uint32(x.a.Stats().Reused) + 1
			x.close()
			// Not offered while in use: that takes two seconds.
			off := []int{shmtest.AcceptorSpare, shmtest.AcceptorWatched, shmtest.RingB + shmtest.ProducerClosed, shmtest.RingA + shmtest.ConsumerClosed,
				shmtest.RingB + shmtest.Produced, shmtest.RingA + shmtest.Consumed}[rnd.IntN(6)]
			switch off {
			case shmtest.RingB + shmtest.Produced, shmtest.RingA + shmtest.Consumed:
				x.Put(off, x.Get(off)+uint64(rnd.IntN(3)-1))
			default:
				x.PutWord(off, []uint32{0, g, g + 1, math.MaxUint32}[rnd.IntN(4)])
			}
			x.a = x.shape.MustDial(t, x.name).(*shmconn.Conn)
			x.a.SetDeadline(time.Now().Add(20 * time.Second))
			reused := x.a.Stats().Reused
			x.b = shmtest.MustAccept(t, x.l).(*shmconn.Conn)
			want := fmt.Sprint("honest ", rnd.Uint64())
			x.b.SetReadDeadline(time.Now().Add(20 * time.Second))
			b, k := make([]byte, 64), 0
			_, err := x.a.Write([]byte(want))
			if err == nil {
				k, err = x.b.Read(b)
				if err == nil && string(b[:k]) != want {
					t.Fatalf("%q came of %q", b[:k], want)
				}
			}
			if err == nil {
				x.b.Write(b[:k])
				k, err = x.a.Read(b)
				if err == nil && string(b[:k]) != want {
					t.Fatalf("%q is the answer to %q", b[:k], want)
				}
			}
			kind, _, _ := strings.Cut(shmtest.Class(err), " ")
			if kinds[kind]++; !slices.Contains([]string{"ok", "EOF", "EPIPE", "ECONNRESET", "corrupt"}, kind) {
				t.Fatalf("word %d, generation %d: %v", off, g+1, err)
			}
			if reused == 0 {
				kinds["anew"]++
			}
			if err != nil {
				x.close()
				x.a = x.shape.MustDial(t, x.name).(*shmconn.Conn)
				x.b = shmtest.MustAccept(t, x.l).(*shmconn.Conn)
				x.sound()
				want = fmt.Sprint("another ", rnd.Uint64())
				x.a.Write([]byte(want))
				io.ReadFull(x.b, make([]byte, len(want)))
			}
			if reused == 0 || err != nil { // the words of another segment
				x.RawPeer.Close()
				x.RawPeer = shmtest.SegmentWords(t, s, x.name, want)
			}
		}
		if kinds["ok"] == 0 || kinds["ok"] == n || kinds["anew"] == 0 {
			t.Errorf("something was not tried: %v", kinds)
		}
		x.close()
		t.Logf("figure: a listener lied %d times about what it offers: %v", n, kinds)
	})
}

// TestSpareSilence has dialers take spares and say nothing, living and dead,
// and a dialer that has believed a listener: after two seconds the listener
// lets go.
func TestSpareSilence(t *testing.T) {
	before := shmtest.HoldStill()
	t.Run("", func(t *testing.T) {
		s := shmtest.Shape{Ring: 4096}
		x := newSpareLiar(t, s)
		x.spare(1)
		x.Take(2)
		dead := newSpareLiar(t, s)
		dead.spare(1)
		dead.Take(2)
		dead.RawPeer.Close()
		early := newSpareLiar(t, s)
		early.Offer(2)
		early.Take(2)
		early.Retire(1)
		early.c.Close()
		y := newLyingListener(t, s)
		y.offeredInUse()
		y.b.Close()
		start := time.Now()
		n, err := y.a.Read(make([]byte, 8))
		shmtest.WantErr(t, fmt.Sprintf("Read = %d", n), err, "read ECONNRESET")
		x.Dropped()
		early.Dropped()
		y.a.Close()
		t.Logf("figure: let go of what was taken in silence after %v", time.Since(start).Round(10*time.Millisecond))
		x.refused(x.message(2))
		x.honest()
		dead.honest()
		early.honest()
		handshake.DropSpares()
		shmtest.Eventually(func() bool { return len(shmtest.Mappings()) == 0 })
	})
	if left := before.Left(); left != "" {
		t.Errorf("left behind: %s", left)
	}
}
