//go:build linux

package shmconn_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
)

// truncations are calls that wait until the peer does something, which is to
// truncate the segment.
var truncations = []struct {
	name  string
	full  bool // of a full ring
	call  func(t *testing.T, c *shmconn.Conn) error
	quick bool // also with a polling shape
}{
	{"Read", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Read(make([]byte, 8)); return err }, true},
	{"Peek", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Peek(8); return err }, false},
	{"Discard", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Discard(8); return err }, false},
	{"Write", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Write(make([]byte, 8)); return err }, true},
	{"WriteBuffers", true, func(t *testing.T, c *shmconn.Conn) error {
		_, err := c.WriteBuffers(&net.Buffers{[]byte("a"), []byte("b")})
		return err
	}, false},
	{"Reserve", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.Reserve(8); return err }, false},
	{"ReadFrom", true, func(t *testing.T, c *shmconn.Conn) error { _, err := c.ReadFrom(strings.NewReader("abc")); return err }, false},
	{"ReadFrom a file", true, func(t *testing.T, c *shmconn.Conn) error {
		_, err := c.ReadFrom(tempFile(t, []byte("abc")))
		return err
	}, false},
	{"WriteTo", false, func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }, false},
	{"WriteTo a socket", false, func(t *testing.T, c *shmconn.Conn) error {
		a, _ := tcpPair(t)
		_, err := c.WriteTo(a)
		return err
	}, false},
}

// TestTruncatedWaiting truncates the segment under a call that waits and then
// rings.
func TestTruncatedWaiting(t *testing.T) {
	for _, tt := range truncations {
		for _, s := range hostileShapes {
			if s != hostileShapes[0] && !tt.quick {
				continue
			}
			t.Run(fmt.Sprintf("%s/poll=%s", strings.ReplaceAll(tt.name, " ", "_"), pollName(s.ListenPoll)), func(t *testing.T) {
				p, c := rawPair(t, s)
				if tt.full {
					mustSet(t, c, make([]byte, s.Ring))
				}
				var err error
				done := blocked(c, func() { err = tt.call(t, c) })
				p.truncate(0)
				if s.ListenPoll != pollAlways { // who polls finds out by himself
					p.knock()
				}
				<-done
				wantCorrupt(t, c, err)
				p.dropped()
			})
		}
	}
}

// TestTruncatedRings leaves the header and takes the rings, or a part of them, away.
func TestTruncatedRings(t *testing.T) {
	page := os.Getpagesize()
	const size = 16 << 10
	for _, tt := range []struct {
		name string
		call func(t *testing.T, c *shmconn.Conn) error
	}{
		{"Read", func(t *testing.T, c *shmconn.Conn) error { _, err := c.Read(make([]byte, size)); return err }},
		{"TryRead", func(t *testing.T, c *shmconn.Conn) error { _, err := c.TryRead(make([]byte, size)); return err }},
		{"Peek", func(t *testing.T, c *shmconn.Conn) error {
			b, err := c.Peek(size / 2)
			if err != nil {
				return err
			}
			sum := 0
			return c.Guard(func() {
				for _, x := range b {
					sum += int(x)
				}
			})
		}},
		{"Reserve", func(t *testing.T, c *shmconn.Conn) error {
			b, err := c.Reserve(size / 2)
			if err != nil {
				return err
			}
			return c.Guard(func() { clear(b) })
		}},
		{"Write", func(t *testing.T, c *shmconn.Conn) error { _, err := c.Write(make([]byte, size)); return err }},
		{"TryWrite", func(t *testing.T, c *shmconn.Conn) error { _, err := c.TryWrite(make([]byte, size)); return err }},
		{"ReadFrom", func(t *testing.T, c *shmconn.Conn) error {
			_, err := c.ReadFrom(io.LimitReader(zeros{}, size))
			return err
		}},
		{"ReadFrom a file", func(t *testing.T, c *shmconn.Conn) error {
			_, err := c.ReadFrom(tempFile(t, make([]byte, size)))
			return err
		}},
		{"WriteTo", func(t *testing.T, c *shmconn.Conn) error { _, err := c.WriteTo(io.Discard); return err }},
		{"WriteTo a TCP socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := tcpPair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a Unix socket", func(t *testing.T, c *shmconn.Conn) error {
			a, b := unixShape.pair(t)
			go io.Copy(io.Discard, b)
			_, err := c.WriteTo(a)
			return err
		}},
		{"WriteTo a pipe", func(t *testing.T, c *shmconn.Conn) error {
			r, w := pipePair(t)
			go io.Copy(io.Discard, r)
			_, err := c.WriteTo(w)
			return err
		}},
		{"WriteTo a file", func(t *testing.T, c *shmconn.Conn) error {
			f := tempFile(t, nil)
			w, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
			if err != nil {
				w, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			_, err = c.WriteTo(w)
			return err
		}},
	} {
		for _, left := range []int{page, page + 1, page + 4096} {
			t.Run(fmt.Sprintf("%s/left=%d", strings.ReplaceAll(tt.name, " ", "_"), left), func(t *testing.T) {
				p, c := rawPair(t, shape{Ring: size})
				p.put(ringA+produced, size)
				p.truncate(left)
				wantCorrupt(t, c, tt.call(t, c))
				p.dropped()
			})
		}
	}
}

// TestTruncatedAndBack truncates the segment and makes it as long as it was: all
// that is in it is zero.
func TestTruncatedAndBack(t *testing.T) {
	const size = 4096
	p, c := rawPair(t, shape{Ring: size})
	p.put(ringA+produced, 5)
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.truncate(0)
	p.truncate(os.Getpagesize() + 2*size)
	_, err := c.Read(make([]byte, 8))
	ce := wantCorrupt(t, c, err)
	if ce.Seen != 0 {
		t.Errorf("%v: want seen 0", ce)
	}
}

// TestTruncatedBeside truncates the segment of one of several connections that one
// goroutine polls for. It is this one's Read that fails, whoever looks, and the
// others go on.
func TestTruncatedBeside(t *testing.T) {
	const others = 3
	for _, procs := range []int{1, 2, 4} {
		for at := range others + 1 {
			t.Run(fmt.Sprintf("procs=%d,at=%d", procs, at), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				s := shape{Ring: 4096}.poll(pollAlways)
				type end struct {
					a, b *shmconn.Conn
					done <-chan struct{}
					n    int
					err  error
				}
				var ends []*end
				wait := func(c *shmconn.Conn) *end {
					e := &end{b: c}
					e.done = blocked(c, func() { e.n, e.err = c.Read(make([]byte, 8)) })
					return e
				}
				var p *rawPeer
				var bad *end
				for i := range others + 1 {
					if i == at {
						var c *shmconn.Conn
						p, c = rawPair(t, s)
						bad = wait(c)
						continue
					}
					a, b := s.shmPair(t)
					e := wait(b)
					e.a = a
					ends = append(ends, e)
				}
				p.truncate(0)
				<-bad.done
				wantCorrupt(t, bad.b, bad.err)
				for _, e := range ends {
					mustSet(t, e.a, []byte("hello"))
					<-e.done
					if e.n != 5 || e.err != nil {
						t.Errorf("Read beside it = %d, %v", e.n, e.err)
					}
				}
			})
		}
	}
}

// TestTruncatedSent truncates a segment right after sending it: the dialer is
// dropped, or the connection is found to be damaged.
func TestTruncatedSent(t *testing.T) {
	s := shape{Ring: 4096}
	l := s.mustListen(t, newName())
	dropped, damaged := 0, 0
	for i := range 600 {
		before := refused(t, nameOf(l))
		p := rawDialer(t, nameOf(l), s)
		p.put(ringA+produced, 5)
		p.introduce()
		for spun := 0; spun < i%150*100; spun++ { // up to some 10 microseconds at a time
			if spun%500 == 499 {
				runtime.Gosched()
			}
		}
		p.truncate(0)
		var c net.Conn
		eventually(func() bool {
			if refused(t, nameOf(l)) > before {
				return true
			}
			l.SetDeadline(time.Now().Add(time.Millisecond))
			var err error
			if c, err = l.Accept(); err != nil {
				wantErr(t, "Accept", err, "accept timeout")
			}
			return err == nil
		})
		if c == nil {
			dropped++
		} else {
			damaged++
			_, err := c.Read(make([]byte, 8))
			wantCorrupt(t, c.(*shmconn.Conn), err)
		}
		p.close()
	}
	t.Logf("%d were dropped, %d damaged", dropped, damaged)
	l.SetDeadline(time.Time{})
	polite(t, s, l)
}

// TestForeignFault faults in memory that is not the connection's: that is not for
// Guard to take.
func TestForeignFault(t *testing.T) {
	p, c := rawPair(t, shape{Ring: 4096})
	f := tempFile(t, make([]byte, os.Getpagesize()))
	mem, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := unix.Ftruncate(int(f.Fd()), 0); err != nil {
		t.Skipf("the file cannot be truncated: %v", err)
	}
	func() {
		defer func() {
			if fault, ok := recover().(interface{ Addr() uintptr }); !ok || fault.Addr() == 0 {
				t.Error("the fault did not come up")
			}
		}()
		t.Errorf("Guard = %v", c.Guard(func() { _ = string(mem[:1]) }))
	}()
	// The connection is as good as before.
	p.put(ringA+produced, 5)
	if n, err := c.Read(make([]byte, 8)); n != 5 || err != nil {
		t.Errorf("Read = %d, %v", n, err)
	}
	mustSet(t, c, []byte("x"))
}
