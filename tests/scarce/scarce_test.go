//go:build linux

package scarce

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
	"shmconn/internal/shmtest"
)

// poor is a process that runs out of descriptors. Its orders are listen NAME,
// unlisten, fill N (which leaves N descriptors), free, count (of descriptors),
// accept, temporary (the same, but wants a temporary error), dial NAME, echo
// (of 8 bytes), read (all), close; and serve N, which accepts so many
// connections in the background as servers do, failed, which waits until it has
// failed to, and served, which waits for all and tells how often it has failed,
// and the first 8 bytes of each.
func poor(s shmtest.Shape, in *bufio.Scanner) {
	var l *shmconn.Listener
	var c net.Conn
	var filling []int
	served := make(chan string, 1)
	failed := make(chan bool, 1)
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "listen":
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, BusyPoll: s.ListenPoll, SpareBytes: s.Spares}
			l, err = lc.Listen(f[1])
		case "fill":
			limit := syscall.Rlimit{Cur: 64, Max: 64}
			if err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
				break
			}
			for {
				fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					break
				}
				filling = append(filling, fd)
			}
			left, _ := strconv.Atoi(f[1])
			for range left {
				unix.Close(filling[0])
				filling = filling[1:]
			}
		case "free":
			for _, fd := range filling {
				unix.Close(fd)
			}
			filling = nil
		case "count":
			n := 0
			for fd := range 64 {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
					n++
				}
			}
			fmt.Println(n)
			continue
		case "unlisten":
			err = l.Close()
			l = nil
		case "dial":
			d := &shmconn.Dialer{BusyPoll: s.DialPoll, SpareBytes: s.Spares}
			c, err = d.DialContext(context.Background(), "shm", f[1])
		case "echo":
			b := make([]byte, 8)
			if _, err = io.ReadFull(c, b); err == nil {
				_, err = c.Write(b)
			}
		case "close":
			err = c.Close()
			c = nil
		case "serve":
			n, _ := strconv.Atoi(f[1])
			go func() { served <- serveAll(l, n, failed) }()
		case "failed":
			<-failed
		case "served":
			fmt.Println(<-served)
			continue
		case "accept":
			c, err = l.Accept()
		case "temporary":
			_, err = l.Accept()
			ne, ok := err.(interface{ Temporary() bool })
			if !errors.Is(err, syscall.EMFILE) || !ok || !ne.Temporary() {
				err = fmt.Errorf("%v is not EMFILE or not temporary", err)
			} else {
				err = nil
			}
		case "removed": // waits for the error that says so
			_, err = l.Accept()
			if errors.Is(err, syscall.EMFILE) {
				err = nil
			}
		case "read":
			b, rerr := io.ReadAll(c)
			fmt.Println(string(b))
			c.Close()
			c, err = nil, rerr
		}
		if errors.Is(err, syscall.EMFILE) {
			shmtest.Outcome(new(shmtest.ProcessTB), "shm", err)
			fmt.Println("EMFILE")
			continue
		}
		fmt.Println(shmtest.Class(err))
	}
	if c != nil {
		c.Close()
	}
	if l != nil {
		l.Close()
	}
}

// serveAll accepts n connections, and tries again a little later after each
// error that is temporary, as net/http does. It returns how many those were and
// what was read first.
func serveAll(l *shmconn.Listener, n int, failed chan<- bool) string {
	var got []string
	failures := 0
	for len(got) < n {
		c, err := l.Accept()
		if err != nil {
			if ne, ok := err.(interface{ Temporary() bool }); !ok || !ne.Temporary() {
				return err.Error()
			}
			if failures++; failures == 1 {
				failed <- true
			}
			time.Sleep(time.Millisecond)
			continue
		}
		b := make([]byte, 8)
		if _, err := io.ReadFull(c, b); err != nil {
			return err.Error()
		}
		c.Close()
		got = append(got, string(b))
	}
	return fmt.Sprint(failures, " ", strings.Join(got, " "))
}

// TestOutOfDescriptors dials a listener whose process has no descriptors left,
// or too few. Accept says so; the dialer keeps its place and is served when
// there are some again.
func TestOutOfDescriptors(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		for left := range 6 {
			t.Run(fmt.Sprintf("anonymous=%v,left=%d", anonymous, left), func(t *testing.T) {
				s := shmtest.Shape{Ring: 4096, Anonymous: anonymous, Spares: -1}
				h := shmtest.StartHelper(t, "poor", s)
				name := shmtest.NewName()
				h.Do("listen %s", name)
				for range 8 { // in which they become free at another moment each
					h.Do("fill %d", left)
					a := s.MustDial(t, name)
					if _, err := a.Write([]byte("patience")); err != nil {
						t.Fatal(err)
					}
					a.Close()
					if left < 1+shmtest.HelloDescriptors { // the socket, and what is sent
						for range 3 {
							h.Do("temporary")
						}
					}
					h.Do("free")
					// An error that was on its way may come first.
					var got string
					for range 3 {
						if got = h.Call("accept"); got != "EMFILE" {
							break
						}
					}
					if got != "ok" {
						t.Fatalf("Accept: %s", got)
					}
					h.Send("read")
					h.Expect("patience")
					h.Expect("ok")
				}
			})
		}
	}
}

// TestShortOfDescriptors has all that needs descriptors run out of them after
// each number, and recover when there are some again.
func TestShortOfDescriptors(t *testing.T) {
	var figures []string
	for _, s := range []shmtest.Shape{{Ring: 4096, Spares: -1}, {Ring: 4096, Anonymous: true, Spares: -1}} {
		kind := fmt.Sprintf("anonymous=%v", s.Anonymous)
		files := func() (names []string) {
			return shmtest.ListDir(os.Getenv("SHMCONN_DIR"))
		}
		// needs tries an order with ever more descriptors left and returns with
		// how many it succeeds. Before, it leaves nothing.
		needs := func(t *testing.T, h *shmtest.Helper, order string, undo string) (n int) {
			t.Helper()
			h.Do(order) // what the process needs once, it has now
			h.Do(undo)
			count, names := h.Call("count"), files()
			for ; ; n++ {
				h.Do("fill %d", n)
				got := h.Call(order)
				h.Do("free")
				if got == "ok" {
					break
				}
				if got != "EMFILE" || n == 20 {
					t.Fatalf("%s with %d descriptors left: %s", order, n, got)
				}
				shmtest.Eventually(func() bool { return h.Call("count") == count })
				if left := files(); !slices.Equal(left, names) {
					t.Errorf("%s with %d descriptors left has left %q, there were %q", order, n, left, names)
				}
			}
			h.Do(undo)
			return n
		}
		t.Run(kind+"/Dial", func(t *testing.T) {
			l := s.MustListen(t, shmtest.NewName())
			served := make(chan bool)
			go func() { defer close(served); shmtest.ServeEcho(l) }()
			h := shmtest.StartHelper(t, "poor", s)
			n := needs(t, h, "dial "+shmtest.NameOf(l), "close")
			if err := shmtest.Echoed(s, shmtest.NameOf(l), 0); err != nil {
				t.Errorf("another dialer: %v", err)
			}
			l.Close()
			<-served
			figures = append(figures, fmt.Sprintf("%s: Dial needs %d", kind, n))
		})
		t.Run(kind+"/Listen", func(t *testing.T) {
			n := needs(t, shmtest.StartHelper(t, "poor", s), "listen "+shmtest.NewName(), "unlisten")
			figures = append(figures, fmt.Sprintf("%s: Listen needs %d", kind, n))
		})
		t.Run(kind+"/Accept", func(t *testing.T) {
			const dialers = 40
			failures, ordered := 0, 0
			var recovery time.Duration
			for left := range 6 {
				h := shmtest.StartHelper(t, "poor", s)
				name := shmtest.NewName()
				h.Do("listen %s", name)
				open := s.MustDial(t, name)
				h.Do("accept")
				h.Do("fill %d", left)
				h.Do("serve %d", dialers)
				var want []string
				for i := range dialers {
					c := s.MustDial(t, name)
					want = append(want, fmt.Sprintf("%08d", i))
					if _, err := c.Write([]byte(want[i])); err != nil {
						t.Fatal(err)
					}
				}
				// What is open needs none.
				if _, err := open.Write([]byte("as usual")); err != nil {
					t.Error(err)
				}
				h.Do("echo")
				b := make([]byte, 8)
				if _, err := io.ReadFull(open, b); string(b) != "as usual" || err != nil {
					t.Errorf("a connection that was open before reads %q, %v", b, err)
				}
				if left < 1+shmtest.HelloDescriptors {
					h.Do("failed")
				}
				start := time.Now()
				h.Do("free")
				f := strings.Fields(h.Call("served"))
				recovery = max(recovery, time.Since(start))
				n, err := strconv.Atoi(f[0])
				if err != nil {
					t.Fatalf("left=%d: %q", left, f)
				}
				failures += n
				got := f[1:]
				if slices.Equal(got, want) {
					ordered++
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("left=%d: served were %q, want all", left, got)
				}
			}
			figures = append(figures, fmt.Sprintf("%s: Accept failed %d times, temporarily, and then served all of 6 x %d dialers (%d x in order) within %v of there being descriptors again",
				kind, failures, dialers, ordered, recovery.Round(100*time.Microsecond)))
		})
	}
	t.Logf("figure: out of descriptors: %s", strings.Join(figures, "; "))
}

// TestRestoreWithoutDescriptors removes a listener's socket while its process
// has too few descriptors to put it back: it is put back later.
func TestRestoreWithoutDescriptors(t *testing.T) {
	for left := range 4 {
		t.Run(fmt.Sprintf("left=%d", left), func(t *testing.T) {
			t.Parallel()
			s := shmtest.Shape{Ring: 4096}
			h := shmtest.StartHelper(t, "poor", s)
			name := shmtest.NewName()
			h.Do("listen %s", name)
			h.Do("fill %d", left)
			if err := os.Remove(shmtest.UnixShape.Path("shmconn." + name + "@sock")); err != nil {
				t.Fatal(err)
			}
			if left < 2 {
				h.Do("removed")
			}
			h.Do("free")
			var a shmtest.Conn
			shmtest.Eventually(func() bool {
				var err error
				if a, err = s.Dial(name); err != nil {
					shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
				}
				return err == nil
			})
			a.Write([]byte("patience"))
			a.Close()
			for h.Call("accept") != "ok" {
			}
			h.Send("read")
			h.Expect("patience")
			h.Expect("ok")
		})
	}
}

// TestFullDirectory listens and dials in a directory without room for bytes, or
// for names, or with some now and then. Either it says so and leaves nothing,
// or the connection has all its memory for good.
func TestFullDirectory(t *testing.T) {
	shmtest.HoldStill() // earlier tests' spares go while this one counts
	const size = 16 << 10
	page := os.Getpagesize()
	need := page + 2*size
	s := shmtest.Shape{Ring: size, Spares: -1}
	left := func(v *shmtest.Volume) []string {
		return slices.DeleteFunc(shmtest.ListDir(v.Dir), func(name string) bool { return !strings.HasPrefix(name, "shmconn.") })
	}
	// full has both ends write all that there is room for and read it, which is
	// when memory that is not there would be a fault.
	full := func(t *testing.T, a, b *shmconn.Conn) {
		t.Helper()
		for _, ends := range [][2]*shmconn.Conn{{a, b}, {b, a}} {
			shmtest.MustWrite(t, ends[0], shmtest.Pattern(0, size))
			got := make([]byte, size)
			if n, err := io.ReadFull(ends[1], got); err != nil {
				t.Errorf("read %d of %d, %v", n, size, err)
			}
			shmtest.CheckPattern(t, got, 0)
		}
	}
	// nothing fails unless there are as many descriptors, mappings and names as
	// before.
	nothing := func(t *testing.T, v *shmtest.Volume) (check func(what string)) {
		fds, maps, names := shmtest.OpenDescriptors(), len(shmtest.Mappings()), left(v)
		return func(what string) {
			t.Helper()
			shmtest.Eventually(func() bool { return shmtest.OpenDescriptors() <= fds }) // the listener drops whom it has not heard of
			if n := len(shmtest.Mappings()); n != maps {
				t.Errorf("%s: there are %d mappings, before %d", what, n, maps)
			}
			if got := left(v); !slices.Equal(got, names) {
				t.Errorf("%s has left %q, there were %q", what, got, names)
			}
		}
	}
	var refused, served int
	t.Run("bytes", func(t *testing.T) {
		v := shmtest.NewVolume(t, "size=1m")
		check := nothing(t, v)
		v.Take(0)
		_, err := s.Listen(v.Dir + "/feed")
		shmtest.WantErr(t, "Listen", err, "listen ENOSPC")
		check("Listen")
		v.GiveBack()
		v.Take(int64(page))
		l := s.MustListen(t, v.Dir+"/feed")
		for room := 0; room <= need; room += page {
			v.GiveBack()
			v.Take(int64(room))
			check := nothing(t, v)
			c, err := s.Dial(v.Dir + "/feed")
			if room < need {
				shmtest.WantErr(t, fmt.Sprintf("Dial with room for %d bytes", room), err, "dial ENOSPC")
				if err != nil && !strings.Contains(err.Error(), fmt.Sprint(need)) {
					t.Errorf("the error does not say that %d bytes are needed: %v", need, err)
				}
				check("Dial")
				refused++
				continue
			}
			if err != nil {
				t.Fatalf("Dial with just enough room: %v", err)
			}
			d := shmtest.MustAccept(t, l)
			full(t, c.(*shmconn.Conn), d.(*shmconn.Conn))
			c.Close()
			d.Close()
			served++
		}
	})
	t.Run("names", func(t *testing.T) {
		v := shmtest.NewVolume(t, "size=1m,nr_inodes=32")
		var spare []string
		for {
			path := filepath.Join(v.Dir, fmt.Sprint("spare", len(spare)))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
			spare = append(spare, path)
		}
		free := func() {
			os.Remove(spare[0])
			spare = spare[1:]
		}
		for range 2 { // the listener's file, and its socket
			check := nothing(t, v)
			_, err := s.Listen(v.Dir + "/feed")
			shmtest.WantErr(t, "Listen", err, "listen ENOSPC")
			check("Listen")
			refused++
			free()
		}
		l := s.MustListen(t, v.Dir+"/feed")
		check := nothing(t, v)
		_, err := s.Dial(v.Dir + "/feed")
		shmtest.WantErr(t, "Dial", err, "dial ENOSPC")
		refused++
		check("Dial")
		free()
		c := s.MustDial(t, v.Dir+"/feed").(*shmconn.Conn)
		full(t, c, shmtest.MustAccept(t, l).(*shmconn.Conn))
		served++
	})
	t.Run("now and then", func(t *testing.T) {
		dials := 500
		if *shmtest.Long {
			dials = 20_000
		}
		v := shmtest.NewVolume(t, "size=512k")
		l := s.MustListen(t, v.Dir+"/feed")
		var wg, filling sync.WaitGroup
		var stop atomic.Bool
		filling.Go(func() {
			r := shmtest.Seeded(t)
			for !stop.Load() {
				v.Take(r.Int64N(512 << 10))
				time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
				v.GiveBack()
			}
		})
		var echoing sync.WaitGroup
		echoing.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				echoing.Go(func() { io.Copy(c, c); c.Close() })
			}
		})
		var ok, enospc atomic.Int64
		for range 3 {
			wg.Go(func() {
				for range dials {
					c, err := s.Dial(v.Dir + "/feed")
					if err != nil {
						shmtest.WantErr(t, "Dial", err, "dial ENOSPC")
						enospc.Add(1)
						continue
					}
					go c.Write(shmtest.Pattern(0, 5*size))
					got := make([]byte, 5*size)
					if n, err := io.ReadFull(c, got); err != nil {
						t.Errorf("echoed were %d bytes, %v", n, err)
					}
					shmtest.CheckPattern(t, got, 0)
					c.Close()
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		stop.Store(true)
		filling.Wait()
		if ok.Load() == 0 || enospc.Load() == 0 {
			t.Errorf("%d dials had room and %d had none: one of both was not tried", ok.Load(), enospc.Load())
		}
		shmtest.Eventually(func() bool { return len(left(v)) == 2 })
		l.Close()
		echoing.Wait()
		refused += int(enospc.Load())
		served += int(ok.Load())
	})
	t.Logf("figure: directory full: %d calls with ENOSPC, which left no name, descriptor or mapping; %d connections made beside them had all their memory", refused, served)
}

// TestFullDirectoryLater removes a listener's files where there is no room to
// put them back: Accept says so, and they come back when there is.
func TestFullDirectoryLater(t *testing.T) {
	t.Parallel()
	v := shmtest.NewVolume(t, "size=1m")
	s := shmtest.Shape{Ring: 4096}
	l := s.MustListen(t, v.Dir+"/feed")
	for _, name := range []string{"/shmconn.feed", "/shmconn.feed@sock"} {
		if err := os.Remove(v.Dir + name); err != nil {
			t.Fatal(err)
		}
	}
	v.Take(0)
	_, err := l.Accept()
	shmtest.WantErr(t, "Accept", err, "accept ENOSPC")
	if got := shmtest.ListDir(v.Dir); len(got) != 1 { // what takes the room
		t.Errorf("files: %q", got)
	}
	v.GiveBack()
	var c shmtest.Conn
	shmtest.Eventually(func() bool { c, err = s.Dial(v.Dir + "/feed"); return err == nil })
	c.Close()
}

// manyDialers is many dialers who say something and go. With few descriptors,
// few can be on their way, unless it is root's. Its orders are "until NAME",
// which dials until that takes long, and "more NAME N".
func manyDialers(s shmtest.Shape, in *bufio.Scanner) {
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	n := 0
	dial := func(name string, timeout time.Duration) error {
		d := &shmconn.Dialer{Timeout: timeout, AllowUID: func(uint32) bool { return true }}
		c, err := d.Dial(name)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = fmt.Fprintf(c, "%08d", n)
		n++
		return err
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "until":
			for err == nil {
				err = dial(f[1], 100*time.Millisecond)
			}
			fmt.Println(n)
		case "more":
			for more, _ := strconv.Atoi(f[2]); more > 0 && err == nil; more-- {
				err = dial(f[1], 0)
			}
		}
		fmt.Println(shmtest.Class(err))
	}
}

// sender is a user whom no other package of tests has: the kernel counts the
// descriptors on their way by user.
const sender = shmtest.OtherUser + 1

// TestOnTheWay has a user dial who may have no more descriptors on their way:
// that is as with a backlog that is full, and all are served in the end.
func TestOnTheWay(t *testing.T) {
	start := shmtest.OtherUsers(t)
	for _, s := range []shmtest.Shape{{Ring: 4096, Spares: -1}, {Ring: 4096, Anonymous: true, Spares: -1}} {
		t.Run(s.String(), func(t *testing.T) {
			lc := &shmconn.ListenConfig{RingSize: s.Ring, Anonymous: s.Anonymous, Mode: 0o666, Backlog: 1000}
			l, err := lc.Listen(shmtest.NewName())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			h := start(t, "dialers", syscall.Credential{Uid: sender, Gid: sender}, s)
			n, _ := strconv.Atoi(h.Call("until %s", l.Addr()))
			h.Expect("timeout")
			if most := 64/shmtest.HelloDescriptors + 5; n < 10 || n > most {
				t.Errorf("%d got in, want no more than %d: the limit was not tried", n, most)
			}
			const more = 50
			h.Send("more %s %d", l.Addr(), more)
			t.Logf("figure: %d introductions on their way at a time, of a user with 64 descriptors; %d more waited, all served in order", n, more)
			for i := range n + more {
				got, err := io.ReadAll(shmtest.MustAccept(t, l))
				if want := fmt.Sprintf("%08d", i); string(got) != want || err != nil {
					t.Fatalf("number %d says %q, %v, want %q", i, got, err, want)
				}
			}
			h.Expect("ok")
		})
	}
}

// TestDeadWithoutRoom dials a listener that was killed: that nobody listens is
// said first, and nothing is made before that is known.
func TestDeadWithoutRoom(t *testing.T) {
	dir := shmtest.MountSmall(t, "size=1m")
	name := dir + "/" + shmtest.NewName()
	h := shmtest.StartHelper(t, "agent", shmtest.Shape{Ring: 1 << 20})
	h.Do("listen %s", name)
	_, err := shmconn.Dial(name)
	shmtest.WantErr(t, "Dial without room", err, "dial ENOSPC")
	h.Kill()
	_, err = shmconn.Dial(name)
	shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
}

// TestNoRoom dials where the directory has no room for the rings.
func TestNoRoom(t *testing.T) {
	dir := shmtest.MountSmall(t, "size=1m")
	name := dir + "/" + shmtest.NewName()
	l, err := (&shmconn.ListenConfig{RingSize: 1 << 20}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		_, err = shmconn.Dial(name)
		shmtest.WantErr(t, "Dial without room", err, "dial ENOSPC")
		need := 2<<20 + os.Getpagesize()
		if err != nil && !strings.Contains(err.Error(), fmt.Sprint(need)) {
			t.Errorf("the error does not say that %d bytes are needed: %v", need, err)
		}
		if got := shmtest.ListDir(dir); len(got) != 2 {
			t.Errorf("files: %q", got)
		}
	}
	l.Close()

	// Room for two connections and not for three.
	l, err = (&shmconn.ListenConfig{RingSize: 128 << 10}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns []*shmconn.Conn
	for {
		c, err := shmconn.Dial(name)
		if err != nil {
			shmtest.WantErr(t, "Dial without room", err, "dial ENOSPC")
			break
		}
		conns = append(conns, c)
		if len(conns) == 100 {
			t.Fatal("100 connections in 1 MiB")
		}
	}
	for i, c := range conns {
		if n, err := c.Write(make([]byte, 128<<10)); n != 128<<10 || err != nil {
			t.Errorf("Write on connection %d of %d: %d, %v", i, len(conns), n, err)
		}
		c.Close()
	}
	for range conns { // what was written is there, until it is read or dropped
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, c); n != 128<<10 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		c.Close()
	}
	c, err := shmconn.Dial(name)
	if err != nil {
		t.Errorf("Dial when there is room again: %v", err)
	} else {
		c.Close()
	}
	l.Close()

	// Not even for a listener.
	f, err := os.Create(dir + "/fill")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(f, io.LimitReader(shmtest.Zeros{}, 2<<20))
	f.Close()
	_, err = shmconn.Listen(name)
	shmtest.WantErr(t, "Listen without room", err, "listen ENOSPC")
	os.Remove(dir + "/fill")
	if got := shmtest.ListDir(dir); len(got) != 0 {
		t.Errorf("files: %q", got)
	}

	// Anonymous connections do not need the room.
	l, err = (&shmconn.ListenConfig{RingSize: 1 << 20, Anonymous: true}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err = shmconn.Dial(name)
	if err != nil {
		t.Fatalf("Dial of an anonymous connection: %v", err)
	}
	c.Close()
}

// narrow serves HTTP, and can be short of addresses. Its orders are "serve
// NAME", "narrow", "wide" and "ended", answered by whether Serve has.
func narrow(s shmtest.Shape, in *bufio.Scanner) {
	ended := make(chan error, 1)
	short := make(chan error, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })}
	defer srv.Close()
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	for in.Scan() {
		f := strings.Fields(in.Text())
		var err error
		switch f[0] {
		case "serve":
			var l net.Listener
			if l, err = (&shmconn.ListenConfig{RingSize: s.Ring}).Listen(f[1]); err == nil {
				go func() { ended <- srv.Serve(acceptErrors{l, short}) }()
			}
		case "narrow":
			b, _ := os.ReadFile("/proc/self/statm")
			pages, _ := strconv.ParseUint(strings.Fields(string(b))[0], 10, 64)
			// Less than the two and a half rings that a connection maps; the runtime may
			// want a thread.
			limit.Cur = pages*uint64(os.Getpagesize()) + 2*uint64(s.Ring)
			err = unix.Setrlimit(unix.RLIMIT_AS, &limit)
		case "wide":
			limit.Cur = limit.Max
			err = unix.Setrlimit(unix.RLIMIT_AS, &limit)
		case "short":
			err = <-short
			ne, ok := err.(interface {
				Temporary() bool
				Timeout() bool
			})
			if ok && ne.Temporary() && !ne.Timeout() && errors.Is(err, syscall.ENOMEM) && strings.Contains(err.Error(), "max_map_count") {
				err = nil
			}
		case "ended":
			select {
			case err = <-ended:
			default:
			}
		}
		fmt.Println(shmtest.Class(err))
	}
}

// acceptErrors passes on the errors of Accept.
type acceptErrors struct {
	net.Listener
	errs chan<- error
}

func (w acceptErrors) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		select {
		case w.errs <- err:
		default:
		}
	}
	return c, err
}

// TestNoAddresses has an HTTP server be short of addresses for a connection: it
// goes on, and serves the dialer once there are some.
func TestNoAddresses(t *testing.T) {
	s := shmtest.Shape{Ring: 16 << 20}
	h := shmtest.StartHelper(t, "narrow", s)
	name := shmtest.NewName()
	h.Do("serve %s", name)
	h.Do("narrow")
	client := &http.Client{Transport: &http.Transport{DialContext: new(shmconn.Dialer).DialContext, DisableKeepAlives: true}}
	type answer struct {
		body []byte
		err  error
	}
	got := make(chan answer)
	go func() {
		r, err := client.Get("http://" + name + "/")
		var b []byte
		if err == nil {
			b, err = io.ReadAll(r.Body)
			r.Body.Close()
		}
		got <- answer{b, err}
	}()
	h.Do("short")
	h.Do("ended")
	h.Do("wide")
	if a := <-got; a.err != nil || !bytes.Equal(a.body, []byte("here")) {
		t.Errorf("the dialer got %q, %v", a.body, a.err)
	}
	h.Do("ended")
}
