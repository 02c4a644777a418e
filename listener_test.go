//go:build linux

package shmconn_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// A listening is parity for listeners.
type listening struct {
	parity
	name string
}

func (x *listening) listen() shmtest.Listener {
	l, err := x.shape.Listen(x.name)
	x.log("Listen: %s", x.outcome(err))
	if err != nil {
		return nil
	}
	x.t.Cleanup(func() { l.Close() })
	return l
}

func (x *listening) dial(ctx context.Context, timeout time.Duration) shmtest.Conn {
	c, err := x.shape.DialContext(ctx, x.name, timeout)
	x.log("Dial: %s", x.outcome(err))
	if err != nil {
		return nil
	}
	x.t.Cleanup(func() { c.Close() })
	return c
}

func (x *listening) accept(l shmtest.Listener) shmtest.Conn {
	c, err := l.Accept()
	x.log("Accept: %s", x.outcome(err))
	if err != nil {
		if c != nil {
			x.t.Errorf("Accept returned a %T beside the error", c)
		}
		return nil
	}
	x.t.Cleanup(func() { c.Close() })
	return c.(shmtest.Conn)
}

func (x *listening) closeListener(l shmtest.Listener) { x.log("Close: %s", x.outcome(l.Close())) }

// whileAccepting records what an Accept that waits returns when f is called.
func (x *listening) whileAccepting(l shmtest.Listener, f func()) (c shmtest.Conn) {
	done := shmtest.Accepting(func() { c = x.accept(l) })
	f()
	<-done
	return c
}

var ctx = context.Background()

var listenLikeUnix = []struct {
	name  string
	steps func(x *listening)
	shm   string // where it is not what unix does
}{
	{name: "listener/close", steps: func(x *listening) {
		l := x.listen()
		x.closeListener(l)
		x.accept(l)
		x.closeListener(l)
		err := l.SetDeadline(shmtest.Past)
		if x.shape.Net != "unix" { // whose error is not wrapped
			x.outcome(err)
		}
		x.log("SetDeadline: %s", shmtest.Class(err))
		x.log("Addr: %t", l.Addr() != nil)
	}},
	{name: "listener/close while accepting", steps: func(x *listening) {
		l := x.listen()
		x.whileAccepting(l, func() { l.Close() })
	}},
	{name: "listener/close while many are accepting", steps: func(x *listening) {
		l := x.listen()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := l.Accept(); shmtest.Class(err) != "closed" {
					x.t.Errorf("Accept: %v", err)
				}
			})
		}
		x.whileAccepting(l, func() { l.Close() })
		wg.Wait()
	}},
	{name: "listener/deadline", steps: func(x *listening) {
		l := x.listen()
		x.log("SetDeadline: %s", x.outcome(l.SetDeadline(shmtest.Past)))
		x.accept(l)
		x.accept(l)
		start := time.Now()
		l.SetDeadline(start.Add(10 * time.Millisecond))
		x.accept(l)
		if d := time.Since(start); d < 10*time.Millisecond {
			x.t.Errorf("Accept took %v, before its deadline", d)
		}
		l.SetDeadline(shmtest.NoDeadline)
		x.whileAccepting(l, func() { l.SetDeadline(shmtest.Past) })
		l.SetDeadline(shmtest.NoDeadline)
		x.dial(ctx, 0)
		x.accept(l)
	}},
	{name: "listener/deadline passed, and a connection there", steps: func(x *listening) {
		l := x.listen()
		x.dial(ctx, 0)
		l.SetDeadline(shmtest.Past)
		x.accept(l)
		l.SetDeadline(shmtest.NoDeadline)
		x.accept(l)
	}},
	{name: "listener/deadline cleared while it is awaited", steps: func(x *listening) {
		l := x.listen()
		l.SetDeadline(time.Now().Add(time.Hour))
		x.whileAccepting(l, func() {
			l.SetDeadline(shmtest.NoDeadline)
			x.shape.MustDial(x.t, x.name)
		})
	}},
	{name: "listener/twice", steps: func(x *listening) {
		l := x.listen()
		x.listen()
		x.dial(ctx, 0)
		x.accept(l) // the first is not harmed
	}},
	{name: "listener/after Close", steps: func(x *listening) {
		for range 3 {
			l := x.listen()
			c := x.dial(ctx, 0)
			d := x.accept(l)
			x.a, x.b = c, d
			x.write(c, "x")
			x.read(d, 8)
			x.closeListener(l)
		}
	}},
	{
		name: "dial/nobody there", steps: func(x *listening) {
			if c := x.dial(ctx, 0); c != nil {
				x.t.Error("a Conn beside the error")
			}
		},
		shm: "Dial: dial ECONNREFUSED\n", // unix: ENOENT
	},
	{
		name: "dial/nobody there any more", steps: func(x *listening) {
			x.closeListener(x.listen())
			x.dial(ctx, 0)
		},
		shm: "Listen: ok\nClose: ok\nDial: dial ECONNREFUSED\n", // unix: ENOENT
	},
	{name: "dial/cancelled before", steps: func(x *listening) {
		x.listen()
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		x.dial(ctx, 0)
	}},
	{name: "dial/context's deadline passed before", steps: func(x *listening) {
		x.listen()
		ctx, cancel := context.WithDeadline(ctx, shmtest.Past)
		defer cancel()
		x.dial(ctx, 0)
	}},
	{name: "dial/context ends after", steps: func(x *listening) {
		l := x.listen()
		ctx, cancel := context.WithCancel(ctx)
		x.a = x.dial(ctx, time.Hour)
		x.b = x.accept(l)
		cancel()
		x.write(x.a, "x")
		x.read(x.b, 8)
		x.write(x.b, "y")
		x.read(x.a, 8)
	}},
	{name: "backlog/in order, with data", steps: func(x *listening) {
		l := x.listen()
		const n = 100
		for i := range n {
			c := x.dial(ctx, 0)
			fmt.Fprintf(c, "%d", i)
			if i%2 == 1 {
				c.Close()
			}
		}
		for range n {
			x.b = x.accept(l)
			x.read(x.b, 8)
		}
	}},
	{name: "backlog/outlives nothing but its listener", steps: func(x *listening) {
		l := x.listen()
		early := x.dial(ctx, 0)
		accepted := x.accept(l)
		late := x.dial(ctx, 0)
		later := x.dial(ctx, 0)
		x.a, x.b = early, accepted
		x.write(late, "lost")
		x.closeListener(l)
		x.read(late, 8)
		x.write(late, "x")
		// One that only writes is told within a quarter of the ring.
		total := 0
		for {
			n, err := later.Write(make([]byte, 100))
			total += n
			if err != nil {
				x.log("Write: few %t, %s", total <= x.shape.RingSize()/4+100, x.outcome(err))
				break
			}
		}
		x.read(later, 8)
		x.write(early, "x")
		x.read(accepted, 8)
		x.write(accepted, "y")
		x.read(early, 8)
	}},
	{name: "backlog/reset while reading", steps: func(x *listening) {
		l := x.listen()
		x.a = x.dial(ctx, 0)
		x.whileReading(x.a, func() { l.Close() })
	}},
	{name: "backlog/reset while writing", steps: func(x *listening) {
		l := x.listen()
		x.a = x.dial(ctx, 0)
		x.whileWriting(x.a, func() { l.Close() })
	}},
	{name: "backlog/half closed", steps: func(x *listening) {
		l := x.listen()
		x.a = x.dial(ctx, 0)
		x.write(x.a, "hello")
		x.closeWrite(x.a)
		x.b = x.accept(l)
		x.read(x.b, 8)
		x.read(x.b, 8)
		x.write(x.b, "bye")
		x.read(x.a, 8)
	}},
	{name: "backlog/deadline before accept", steps: func(x *listening) {
		l := x.listen()
		x.a = x.dial(ctx, 0)
		x.idle(x.a)
		n, err := x.a.Write(shmtest.Pattern(0, 2000))
		x.log("Write = %d, %s", n, x.outcome(err))
		x.b = x.accept(l)
		x.closeWrite(x.a)
		x.drain(x.b, 2000)
	}},
}

// TestListenLikeUnix is TestLikeUnix for listeners and dialers.
func TestListenLikeUnix(t *testing.T) {
	for _, tt := range listenLikeUnix {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			run := func(t *testing.T, s shmtest.Shape) string {
				x := &listening{parity: parity{t: t, shape: s}, name: shmtest.NewName()}
				tt.steps(x)
				return x.trace.String()
			}
			var unix string
			t.Run(shmtest.UnixShape.String(), func(t *testing.T) {
				unix = run(t, shmtest.UnixShape)
				t.Logf("unix:\n%s", unix)
			})
			for _, s := range shmtest.SmallShapes {
				t.Run(s.String(), func(t *testing.T) {
					want := unix
					if tt.shm != "" {
						want = tt.shm
					}
					if got := run(t, s); got != want {
						t.Errorf("got:\n%swant:\n%sunix does:\n%s", got, want, unix)
					}
				})
			}
		})
	}
}

// TestBacklog dials beyond the backlog.
func TestBacklog(t *testing.T) {
	for _, backlog := range []int{1, 2, 10} {
		t.Run(fmt.Sprintf("backlog=%d", backlog), func(t *testing.T) {
			l, err := (&shmconn.ListenConfig{Backlog: backlog, RingSize: 4096}).Listen(shmtest.NewName())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			name := l.Addr().String()
			var conns []*shmconn.Conn
			defer func() {
				for _, c := range conns {
					c.Close()
				}
			}()
			// The kernel's queue holds one more than it is told, and the listener may
			// hold some in its hands: but there is an end.
			d := &shmconn.Dialer{Timeout: 300 * time.Millisecond}
			for {
				start := time.Now()
				c, err := d.Dial(name)
				if err == nil {
					conns = append(conns, c)
					if len(conns) > 1000 {
						t.Fatalf("backlog holds %d", len(conns))
					}
					continue
				}
				shmtest.WantErr(t, "Dial beyond the backlog", err, "dial timeout")
				if got := time.Since(start); got < d.Timeout {
					t.Errorf("Dial took %v, before its timeout", got)
				}
				break
			}
			t.Logf("a backlog of %d held %d", backlog, len(conns))
			if len(conns) < backlog {
				t.Errorf("a backlog of %d held %d", backlog, len(conns))
			}

			// The context does what Timeout does.
			ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			_, err = new(shmconn.Dialer).DialContext(ctx, "", name)
			shmtest.WantErr(t, "Dial with a context's deadline", err, "dial context-deadline")
			cancel()
			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(10*time.Millisecond, cancel)
			_, err = new(shmconn.Dialer).DialContext(ctx, "", name)
			shmtest.WantErr(t, "Dial with a context that is cancelled", err, "dial canceled")

			// A dial that waits goes through once there has been an Accept.
			ch := make(chan error)
			go func() {
				c, err := shmconn.Dial(name)
				if err == nil {
					c.Write([]byte("patient"))
					c.Close()
				}
				ch <- err
			}()
			for range conns {
				c, err := l.AcceptConn()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			c, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := <-ch; err != nil {
				t.Errorf("the dial that waited: %v", err)
			}
			if got, err := io.ReadAll(c); string(got) != "patient" || err != nil {
				t.Errorf("the dial that waited: read %q, %v", got, err)
			}

			// And one that waits when the listener closes is refused.
			for {
				c, err := d.Dial(name)
				if err != nil {
					break
				}
				conns = append(conns, c)
			}
			go func() {
				c, err := shmconn.Dial(name)
				if err == nil { // it came just in time to be reset
					_, err = c.Read(make([]byte, 1))
					c.Close()
				}
				ch <- err
			}()
			l.Close()
			if err := <-ch; !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the dial that waited for a listener that closed: %v", err)
			}
		})
	}
}

// TestDialAddress dials what DialContext is given by others.
func TestDialAddress(t *testing.T) {
	name := shmtest.NewName()
	dir := t.TempDir()
	for _, name := range []string{name, filepath.Join(dir, name)} {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for _, network := range []string{"", "shm", "tcp", "nonsense"} {
			for _, port := range []string{"", ":80", ":443", ":0", ":65535"} {
				c, err := new(shmconn.Dialer).DialContext(ctx, network, name+port)
				if err != nil {
					t.Errorf("DialContext(%q, %q): %v", network, name+port, err)
					continue
				}
				if got := c.RemoteAddr().String(); got != name {
					t.Errorf("DialContext(%q, %q): RemoteAddr() = %q", network, name+port, got)
				}
				c.Close()
				shmtest.MustAccept(t, l)
			}
		}
		for _, port := range []string{":", ":x", ":65536", ":-1", ":80:80"} {
			if c, err := new(shmconn.Dialer).DialContext(ctx, "", name+port); err == nil {
				c.Close()
				t.Errorf("DialContext(%q) succeeded", name+port)
			}
		}
		if c, err := shmconn.Dial(name + ":80"); err == nil {
			c.Close()
			t.Errorf("Dial(%q) succeeded", name+":80")
		}
	}
}

// TestDirectory listens in all the places that a name can stand for, and looks
// at the files.
func TestDirectory(t *testing.T) {
	own := t.TempDir()
	deep := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	base := shmtest.NewName()
	for _, tt := range []struct{ env, name, dir string }{
		{"", base, "/dev/shm"},
		{own, base, own},
		{"", own + "/" + base, own},
		{own, deep + "/" + base, deep},
		{deep, base, deep},
		{"", own + "/../" + filepath.Base(own) + "/" + base, own},
		{deep, strings.Repeat("n", 128-len(base)) + base, deep},
	} {
		t.Run(fmt.Sprintf("env=%d,name=%d", len(tt.env), len(tt.name)), func(t *testing.T) {
			if tt.dir == deep {
				shmtest.SkipSockets(t, "a path has 100 bytes at most")
			}
			t.Setenv("SHMCONN_DIR", tt.env)
			last := filepath.Base(tt.name)
			prefix, suffixes := around()
			files := func() (list []string) {
				for _, f := range shmtest.ListDir(tt.dir) {
					if strings.HasPrefix(f, prefix+last) {
						list = append(list, strings.TrimPrefix(f, prefix+last))
					}
				}
				return list
			}
			l, err := shmconn.Listen(tt.name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if got := files(); !slices.Equal(got, suffixes) {
				t.Errorf("files of a listener: %q", got)
			}
			c, err := shmconn.Dial(tt.name)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if got := files(); !slices.Equal(got, suffixes) {
				t.Errorf("files after Accept: %q", got)
			}
			waiting, err := shmconn.Dial(tt.name)
			if err != nil {
				t.Fatal(err)
			}
			waiting.Close()
			l.Close()
			if got := files(); len(got) != 0 {
				t.Errorf("files after Close: %q", got)
			}
			c.Write([]byte("x"))
			if n, err := d.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
		})
	}
	// The same file by another way is the same listener.
	l, err := shmconn.Listen(own + "/" + base)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = shmconn.Listen(own + "/./" + base)
	shmtest.WantErr(t, "Listen by another path", err, "listen EADDRINUSE")
}

// TestBadNames checks that a name that is not one touches no file.
func TestBadNames(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SHMCONN_DIR", dir)
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("n", 129)
	names := []string{
		"", ".", "..", ".x", ".x.y", "a b", "a@b", "@", "x@sock", long, "ä", "a\xff",
		"a:b", "a\\b", "a*", "a\n", "a\x00", "\x00", "a\x00b", "-\t", "~", "a%b",
	}
	for _, name := range names {
		names = append(names, dir+"/"+name, dir+"/dir/"+name, "./"+name)
	}
	names = append(names, "/", "//", "./", "dir/", dir, dir+"/dir/..", dir+"/x\x00y/name")
	names = slices.DeleteFunc(names, func(name string) bool {
		return name == dir // that one is fine, strange to say
	})
	snapshot := func() (all []string) {
		for _, root := range []string{dir, filepath.Dir(dir)} {
			filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				all = append(all, path)
				return nil
			})
		}
		return all
	}
	before := snapshot()
	for _, name := range names {
		t.Run(fmt.Sprintf("%.40q", strings.ReplaceAll(name, dir, "DIR")), func(t *testing.T) {
			l, err := shmconn.Listen(name)
			if err == nil {
				l.Close()
				t.Errorf("Listen(%q) succeeded", name)
			} else if got := shmtest.Outcome(t, shmtest.Network, err); !strings.HasPrefix(got, "listen another error") && got != "listen ENOENT" {
				t.Errorf("Listen(%q): %v", name, err)
			}
			c, err := shmconn.Dial(name)
			if err == nil {
				c.Close()
				t.Errorf("Dial(%q) succeeded", name)
			} else if got := shmtest.Outcome(t, shmtest.Network, err); !strings.HasPrefix(got, "dial another error") {
				t.Errorf("Dial(%q): %v, want an error that says that the name is wrong", name, err)
			}
			if after := snapshot(); !slices.Equal(after, before) {
				t.Errorf("%q touched files: %q", name, after)
			}
		})
	}
	// These are fine.
	for _, name := range []string{"a", "A.b_c-9", "-", "_", "a..", strings.Repeat("n", 128), dir + "/a", dir + "/dir/../a", dir + "/dir/a"} {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Errorf("Listen(%q): %v", name, err)
			continue
		}
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Errorf("Dial(%q): %v", name, err)
		} else {
			c.Close()
		}
		l.Close()
	}
	// A directory that is not there.
	_, err := shmconn.Listen(dir + "/nowhere/a")
	if got := shmtest.Outcome(t, shmtest.Network, err); got != "listen ENOENT" {
		t.Errorf("Listen in a directory that is not there: %v", err)
	}
	_, err = shmconn.Dial(dir + "/nowhere/a")
	shmtest.WantErr(t, "Dial in a directory that is not there", err, "dial ECONNREFUSED")
}

// TestBadConfig gives Listen values that are out of range.
func TestBadConfig(t *testing.T) {
	for _, tt := range []struct {
		field string
		lc    shmconn.ListenConfig
	}{
		{"RingSize", shmconn.ListenConfig{RingSize: -1}},
		{"RingSize", shmconn.ListenConfig{RingSize: -4096}},
		{"RingSize", shmconn.ListenConfig{RingSize: 1}},
		{"RingSize", shmconn.ListenConfig{RingSize: 2048}},
		{"RingSize", shmconn.ListenConfig{RingSize: os.Getpagesize() / 2}},
		{"RingSize", shmconn.ListenConfig{RingSize: 4097}},
		{"RingSize", shmconn.ListenConfig{RingSize: 3 * 4096}},
		{"RingSize", shmconn.ListenConfig{RingSize: 1<<20 - 1}},
		{"RingSize", shmconn.ListenConfig{RingSize: math.MaxInt/2 + 1}},
		{"RingSize", shmconn.ListenConfig{RingSize: math.MaxInt}},
		{"RingSize", shmconn.ListenConfig{RingSize: math.MinInt}},
		{"Backlog", shmconn.ListenConfig{Backlog: -1}},
		{"Backlog", shmconn.ListenConfig{Backlog: math.MinInt}},
		{"Mode", shmconn.ListenConfig{Mode: fs.ModeDir | 0o700}},
		{"Mode", shmconn.ListenConfig{Mode: 0o1000}},
		{"Mode", shmconn.ListenConfig{Mode: fs.ModeSetuid | 0o600}},
	} {
		t.Run(fmt.Sprintf("%s=%v,%v,%#o", tt.field, tt.lc.RingSize, tt.lc.Backlog, uint32(tt.lc.Mode)), func(t *testing.T) {
			name := shmtest.NewName()
			l, err := tt.lc.Listen(name)
			if err == nil {
				l.Close()
				t.Fatal("Listen succeeded")
			}
			if got := shmtest.Outcome(t, shmtest.Network, err); !strings.HasPrefix(got, "listen ") {
				t.Errorf("Listen: %s", got)
			}
			if text := strings.ReplaceAll(strings.ToLower(err.Error()), " ", ""); !strings.Contains(text, strings.ToLower(tt.field)) {
				t.Errorf("the error does not name %s: %v", tt.field, err)
			}
			if left, _ := filepath.Glob(shmtest.UnixShape.Path("shmconn." + name + "*")); len(left) != 0 {
				t.Errorf("files: %q", left)
			}
		})
	}
}

// TestListenRace lets many listen on one name: exactly one gets it.
func TestListenRace(t *testing.T) {
	for range 20 {
		name := shmtest.NewName()
		var won atomic.Int32
		var winner *shmconn.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := shmconn.Listen(name)
				if err != nil {
					shmtest.WantErr(t, "Listen", err, "listen EADDRINUSE")
					return
				}
				won.Add(1)
				winner = l
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d listeners", won.Load())
		}
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		winner.Close()
	}
}

// TestDialRace dials while listeners come and go.
func TestDialRace(t *testing.T) {
	name := shmtest.NewName()
	var stop atomic.Bool
	var ok atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				c, err := shmconn.Dial(name)
				if err != nil {
					shmtest.WantErr(t, "Dial", err, "dial ECONNREFUSED")
					continue
				}
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					shmtest.WantErr(t, "Read", err, "read ECONNRESET")
				} else {
					ok.Add(1)
				}
				c.Close()
			}
		})
	}
	for range 30 {
		l, err := (&shmconn.ListenConfig{RingSize: 4096}).Listen(name)
		if err != nil {
			t.Error(err)
			break
		}
		for range 5 {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				break
			}
			c.Close()
		}
		l.Close()
	}
	stop.Store(true)
	wg.Wait()
	if ok.Load() == 0 {
		t.Error("no dial came through")
	}
}

// waiter dials the name that a line says, and waits for it.
func waiter(s shmtest.Shape, in *bufio.Scanner) {
	for in.Scan() {
		d := &shmconn.Dialer{BusyPoll: s.DialPoll, Wait: time.Minute}
		c, err := d.Dial(in.Text())
		fmt.Println(shmtest.Class(err), shmtest.Monotonic())
		if err == nil {
			c.Close()
		}
	}
}

// watches counts this process's inotify instances.
func watches() int { return shmtest.Descriptors()["anon_inode:inotify"] }

// A waitingDial is a dial that waits for a listener, on another goroutine.
type waitingDial struct {
	c    *shmconn.Conn
	err  error
	at   time.Time // when it ended
	done chan struct{}
}

// dialing counts the dials of this process that wait: for the kernel, or, over
// Unix sockets, until it is time to look again.
func dialing() (n int) {
	if !shmtest.Sockets {
		return watches()
	}
	for _, g := range shmtest.Goroutines() {
		if strings.Contains(g, "handshake.doze(") {
			n++
		}
	}
	return n
}

// around returns what is around a name in the names of its listener's files.
func around() (prefix string, suffixes []string) {
	if shmtest.Sockets {
		return "shmconn-", []string{".sock", ".sock.lock"}
	}
	return "shmconn.", []string{"", "@sock"}
}

// startDial returns once the dial waits.
func startDial(ctx context.Context, d *shmconn.Dialer, name string) *waitingDial {
	shmtest.Eventually(func() bool { return dialing() == 0 }) // of an earlier one
	w := &waitingDial{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.c, w.err = d.DialConn(ctx, name)
		w.at = time.Now()
	}()
	shmtest.Eventually(func() bool { return dialing() > 0 })
	return w
}

// meets checks that the dial has come to a connection with l.
func (w *waitingDial) meets(t *testing.T, l *shmconn.Listener) {
	t.Helper()
	<-w.done
	if w.err != nil {
		t.Fatalf("dial: %v", w.err)
	}
	defer w.c.Close()
	b, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	shmtest.BothSay(t, w.c, b)
}

// TestWait has listeners that come late in all the ways that there are, and the
// dial that waits be woken at once.
func TestWait(t *testing.T) {
	listen := func(t *testing.T, name string) *shmconn.Listener {
		t.Helper()
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, dir, name string)
		appear  func(t *testing.T, dir, name string) *shmconn.Listener
	}{
		{
			name:   "late",
			appear: func(t *testing.T, dir, name string) *shmconn.Listener { return listen(t, name) },
		},
		{
			name: "died",
			prepare: func(t *testing.T, dir, name string) {
				h := shmtest.StartHelper(t, "agent", shmtest.Shape{})
				h.Do("listen %s", name)
				h.Kill()
			},
			appear: func(t *testing.T, dir, name string) *shmconn.Listener { return listen(t, name) },
		},
		{
			name:    "directory",
			prepare: func(t *testing.T, dir, name string) { os.RemoveAll(dir) },
			appear: func(t *testing.T, dir, name string) *shmconn.Listener {
				os.MkdirAll(dir, 0o700)
				return listen(t, name)
			},
		},
		{
			name:    "directory comes and goes",
			prepare: func(t *testing.T, dir, name string) { os.RemoveAll(dir) },
			appear: func(t *testing.T, dir, name string) *shmconn.Listener {
				for range 5 {
					os.MkdirAll(dir, 0o700)
					l := listen(t, name+"-other")
					time.Sleep(time.Millisecond)
					l.Close()
					os.RemoveAll(filepath.Dir(dir))
				}
				os.MkdirAll(dir, 0o700)
				return listen(t, name)
			},
		},
		{
			name: "directory held open and replaced",
			appear: func(t *testing.T, dir, name string) *shmconn.Listener {
				f, err := os.Open(dir) // so that the kernel keeps what is removed
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				os.RemoveAll(dir)
				os.MkdirAll(dir, 0o700)
				return listen(t, name)
			},
		},
		{
			name: "directory moved into place",
			appear: func(t *testing.T, dir, name string) *shmconn.Listener {
				os.RemoveAll(dir)
				l := listen(t, filepath.Join(filepath.Dir(dir), filepath.Base(name)))
				os.Mkdir(dir+"x", 0o700)
				prefix, suffixes := around()
				for _, suffix := range suffixes {
					f := prefix + filepath.Base(name) + suffix
					os.Rename(filepath.Join(filepath.Dir(dir), f), filepath.Join(dir+"x", f))
				}
				os.Rename(dir+"x", dir)
				return l
			},
		},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			var late []time.Duration
			for range 9 {
				top, err := os.MkdirTemp("/dev/shm", "shmconn-test-wait-")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(top)
				dir := filepath.Join(top, "a", "b")
				os.MkdirAll(dir, 0o700)
				name := filepath.Join(dir, shmtest.NewName())
				if tt.prepare != nil {
					tt.prepare(t, dir, name)
				}
				if _, err := shmconn.Dial(name); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("before: %v", err)
				}
				w := startDial(t.Context(), &shmconn.Dialer{Wait: time.Minute}, name)
				time.Sleep(2 * time.Millisecond) // so that it has looked and sleeps
				l := tt.appear(t, dir, name)
				there := time.Now()
				w.meets(t, l)
				late = append(late, w.at.Sub(there))
				l.Close()
				os.RemoveAll(top)
			}
			slices.Sort(late)
			t.Logf("connected after %v, at most %v", late[len(late)/2], late[len(late)-1])
			// A look each 50 ms would be 25 ms late in the median, a look a
			// second 500 ms.
			if late[len(late)/2] > 10*time.Millisecond && !shmtest.Sockets {
				t.Errorf("woken too late: %v", late)
			}
		})
	}
}

// TestWaitAcross has dialers in other processes wait for one listener.
func TestWaitAcross(t *testing.T) {
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		name := shmtest.NewName()
		var waiters []*shmtest.Helper
		for range 3 {
			h := shmtest.StartHelper(t, "waiter", s)
			h.Send("%s", name)
			waiters = append(waiters, h)
		}
		for _, h := range waiters {
			if shmtest.Sockets { // nothing says that the helper waits: it may come late
				break
			}
			shmtest.Eventually(func() bool {
				for _, fd := range shmtest.ListDir(fmt.Sprintf("/proc/%d/fd", h.PID)) {
					if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", h.PID, fd)); to == "anon_inode:inotify" {
						return true
					}
				}
				return false
			})
		}
		l := s.MustListen(t, name)
		for _, h := range waiters {
			shmtest.MustAccept(t, l)
			if got, _, _ := strings.Cut(h.Line(), " "); got != "ok" {
				t.Errorf("waiter: %s", got)
			}
		}
		l.Close()
	})
}

// TestWaitEnds has a wait end by each of its limits.
func TestWaitEnds(t *testing.T) {
	refused := func(t *testing.T, err error, want, text string) {
		t.Helper()
		shmtest.WantErr(t, "dial", err, want)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("not ECONNREFUSED: %v", err)
		}
		if !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("text is %q, want %q in it", err, text)
		}
	}
	limits := func(t *testing.T, name, why string) {
		dial := func(ctx context.Context, d *shmconn.Dialer, atLeast time.Duration) error {
			t.Helper()
			start := time.Now()
			c, err := d.DialConn(ctx, name)
			if err == nil {
				c.Close()
				t.Fatal("dialed, and nobody listens")
			}
			if got := time.Since(start); got < atLeast {
				t.Errorf("ended after %v, want %v", got, atLeast)
			}
			return err
		}
		ctx := t.Context()
		const long, short = time.Hour, 30 * time.Millisecond

		refused(t, dial(ctx, &shmconn.Dialer{}, 0), "dial ECONNREFUSED", why)
		err := dial(ctx, &shmconn.Dialer{Wait: short}, short)
		refused(t, err, "dial ECONNREFUSED", why)
		if errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "after 3") || !strings.Contains(err.Error(), "ms of waiting") {
			t.Errorf("after Wait: %v", err)
		}
		refused(t, dial(ctx, &shmconn.Dialer{Wait: short, Timeout: long}, short), "dial ECONNREFUSED", why)
		refused(t, dial(ctx, &shmconn.Dialer{Wait: long, Timeout: short}, short), "dial timeout", why)
		refused(t, dial(ctx, &shmconn.Dialer{Wait: -1, Timeout: short}, short), "dial timeout", why)

		limited, cancel := context.WithTimeout(ctx, short)
		defer cancel()
		refused(t, dial(limited, &shmconn.Dialer{Wait: -1, Timeout: long}, short/2), "dial context-deadline", why)

		canceled, cancel := context.WithCancel(ctx)
		w := startDial(canceled, &shmconn.Dialer{Wait: -1}, name)
		start := time.Now()
		cancel()
		<-w.done
		refused(t, w.err, "dial canceled", why)
		if d := w.at.Sub(start); d > 500*time.Millisecond { // a look a second would be it
			t.Errorf("canceled, and waited on for %v", d)
		}
		_, err = (&shmconn.Dialer{Wait: -1}).DialConn(canceled, name)
		shmtest.WantErr(t, "dial that was canceled before", err, "dial canceled")
		shmtest.Eventually(func() bool { return dialing() == 0 }) // none is left
	}
	t.Run("no_name", func(t *testing.T) { limits(t, shmtest.NewName(), "there is no such file") })
	t.Run("no_directory", func(t *testing.T) {
		limits(t, filepath.Join(t.TempDir(), "not", "there", "feed"), "there is no such directory")
	})
	t.Run("died", func(t *testing.T) {
		name := shmtest.NewName()
		h := shmtest.StartHelper(t, "agent", shmtest.Shape{})
		h.Do("listen %s", name)
		h.Kill()
		limits(t, name, "the listener has died")
		shmtest.Reclaim(t, name)
	})
}

// TestWaitOtherErrors checks that what is not the want of a listener ends the
// wait.
func TestWaitOtherErrors(t *testing.T) {
	dir := t.TempDir()
	prefix, suffixes := around()
	file := filepath.Join(dir, prefix+"feed"+suffixes[0])
	if err := os.WriteFile(file, bytes.Repeat([]byte("not ours"), 1<<13), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &shmconn.Dialer{Wait: time.Hour}
	for _, name := range []string{filepath.Join(dir, "feed"), "no good"} {
		if _, err := d.Dial(name); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial(%q): %v", name, err)
		}
	}

	// Such a file comes while the dial waits.
	os.Remove(file)
	w := startDial(t.Context(), d, filepath.Join(dir, "feed"))
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, bytes.Repeat([]byte("not ours"), 1<<13), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, file); err != nil {
		t.Fatal(err)
	}
	<-w.done
	if w.err == nil || errors.Is(w.err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", w.err)
	}
}

// TestWaitStorm has a waiting dial live through many changes that do not
// concern it, more than the kernel keeps.
func TestWaitStorm(t *testing.T) {
	dir := t.TempDir()
	w := startDial(t.Context(), &shmconn.Dialer{Wait: time.Minute}, filepath.Join(dir, "feed"))
	for i := range 5000 {
		name := filepath.Join(dir, fmt.Sprint("other", i))
		os.WriteFile(name, nil, 0o600)
		os.Remove(name)
	}
	l, err := shmconn.Listen(filepath.Join(dir, "feed"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.meets(t, l)
}

// TestWaitInBubble has a dial in a bubble wait in real time, and end.
func TestWaitInBubble(t *testing.T) {
	name := shmtest.NewName()
	shmtest.InBubble(t, func() {
		_, err := (&shmconn.Dialer{Wait: 20 * time.Millisecond}).Dial(name)
		shmtest.WantErr(t, "Wait", err, "dial ECONNREFUSED")
		_, err = (&shmconn.Dialer{Wait: -1, Timeout: 20 * time.Millisecond}).Dial(name)
		shmtest.WantErr(t, "Timeout", err, "dial timeout")
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err = (&shmconn.Dialer{Wait: -1, Timeout: time.Hour}).DialConn(ctx, name)
		shmtest.WantErr(t, "context", err, "dial context-deadline")
	})
}

// TestDialConn is about what DialContext does not do.
func TestDialConn(t *testing.T) {
	name := shmtest.NewName()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := new(shmconn.Dialer).DialConn(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c, err := new(shmconn.Dialer).DialConn(t.Context(), name+":80"); err == nil || c != nil {
		t.Errorf("a name with a port: %v, %v", c, err)
	}
	var oe *net.OpError
	if _, err := new(shmconn.Dialer).DialConn(t.Context(), name+"x"); !errors.As(err, &oe) || oe.Op != "dial" {
		t.Errorf("nobody listens: %v", err)
	}
}

// records is a slog.Handler that hands out what is logged.
type records chan map[string]string

func (records) Enabled(context.Context, slog.Level) bool { return true }

func (r records) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r records) WithGroup(string) slog.Handler { return r }

func (r records) Handle(_ context.Context, rec slog.Record) error {
	m := map[string]string{"msg": rec.Message, "level": rec.Level.String()}
	rec.Attrs(func(a slog.Attr) bool {
		m[a.Key] = a.Value.String()
		return true
	})
	r <- m
	return nil
}

// refusals are dialers that are refused, and why.
var refusals = []struct {
	reason string
	do     func(p *shmtest.RawPeer)
}{
	{"the dialer's message is not understood", func(p *shmtest.RawPeer) { p.Say([]byte("hello"), nil) }},
	{"the dialer's message is not understood", func(p *shmtest.RawPeer) {
		message, fds := p.Hello()
		p.Say(message, fds[:2])
	}},
	{"the dialer's message is not understood", func(p *shmtest.RawPeer) { unix.Shutdown(p.Sock, unix.SHUT_RDWR) }},
	{"sent nothing in time", func(p *shmtest.RawPeer) {}},
}

// A listener's Logger is told of each dialer that is refused, of none that is
// not, and not of the end of those that wait when the listener closes.
func TestLogger(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only; TestSocketsRefused is about these")
	name := shmtest.NewName()
	got := make(records, 16)
	l, err := (&shmconn.ListenConfig{Logger: slog.New(got)}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, tt := range refusals {
		p := shmtest.RawDialer(t, name, shmtest.Shape{})
		tt.do(p)
		p.HungUp()
		want := map[string]string{
			"msg": "shmconn: dialer refused", "level": "WARN", "listener": name, "reason": tt.reason,
			"pid": fmt.Sprint(os.Getpid()), "uid": fmt.Sprint(os.Getuid()), "gid": fmt.Sprint(os.Getgid()),
		}
		if m := <-got; fmt.Sprint(m) != fmt.Sprint(want) {
			t.Errorf("refusal %d: %v\nwant %v", i, m, want)
		}
		shmtest.Shape{}.MustDial(t, name)
		shmtest.MustAccept(t, l)
	}
	shmtest.RawDialer(t, name, shmtest.Shape{}) // says nothing until the listener closes
	shmtest.Shape{}.MustDial(t, name)
	shmtest.MustAccept(t, l) // so it has been taken off the backlog
	l.Close()
	if len(got) > 0 {
		t.Errorf("logged without a refusal: %v", <-got)
	}
}

// Without a Logger nothing is logged anywhere.
func TestNoLogger(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only; TestSocketsRefused is about these")
	got := make(records, 16)
	flags := log.Flags()
	defer func(old *slog.Logger) { // package log writes to what SetDefault is given
		slog.SetDefault(old)
		log.SetOutput(os.Stderr)
		log.SetFlags(flags)
	}(slog.Default())
	slog.SetDefault(slog.New(got))
	name := shmtest.NewName()
	l := shmtest.Shape{}.MustListen(t, name)
	p := shmtest.RawDialer(t, name, shmtest.Shape{})
	refusals[0].do(p)
	p.HungUp()
	l.Close()
	if len(got) > 0 {
		t.Errorf("logged: %v", <-got)
	}
}

// What follows is about what a listener holds, and about who may close it.

// TestLoggerCloses closes the listener from the handler of its Logger, which a
// dialer has set off that says nothing, one that says something wrong, and one
// too many.
func TestLoggerCloses(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only; TestSocketsRefused is about these")
	for _, tt := range refusals {
		t.Run(tt.reason, func(t *testing.T) {
			name := shmtest.NewName()
			listening := make(chan *shmconn.Listener, 1)
			closed := make(chan error, 1)
			handler := handlerFunc(func() {
				l := <-listening
				closed <- l.Close()
			})
			l, err := (&shmconn.ListenConfig{RingSize: 4096, Logger: slog.New(handler)}).Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			accepted := shmtest.Accepting(func() {
				_, err := l.Accept()
				shmtest.WantErr(t, "Accept", err, "accept closed")
			})
			p := shmtest.RawDialer(t, name, shmtest.Shape{Ring: 4096})
			tt.do(p)
			listening <- l
			if err := <-closed; err != nil {
				t.Errorf("Close: %v", err)
			}
			<-accepted
			again := shmtest.Shape{Ring: 4096}.MustListen(t, name) // the name is free
			again.Close()
		})
	}
}

// handlerFunc is a slog.Handler that calls a function.
type handlerFunc func()

func (handlerFunc) Enabled(context.Context, slog.Level) bool { return true }

func (h handlerFunc) Handle(context.Context, slog.Record) error { h(); return nil }

func (h handlerFunc) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h handlerFunc) WithGroup(string) slog.Handler { return h }

// TestDroppedListener drops a listener while its Logger's handler is stuck. The
// garbage collector closes it, and goes on with other cleanups.
func TestDroppedListener(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only; TestSocketsRefused is about these")
	name := shmtest.NewName()
	stuck, release := make(chan struct{}), make(chan struct{})
	handler := handlerFunc(func() { close(stuck); <-release })
	// The handle is dropped where it is made.
	if _, err := (&shmconn.ListenConfig{RingSize: 4096, Logger: slog.New(handler)}).Listen(name); err != nil {
		t.Fatal(err)
	}
	p := shmtest.RawDialer(t, name, shmtest.Shape{Ring: 4096})
	p.Say([]byte("hello"), nil)
	<-stuck
	dropped := make(chan struct{})
	runtime.AddCleanup(&struct{ p *int }{new(int)}, func(c chan struct{}) { close(c) }, dropped)
	for cleaned := false; !cleaned; {
		runtime.GC()
		select {
		case <-dropped:
			cleaned = true
		case <-time.After(time.Millisecond):
		}
	}
	shmtest.Eventually(func() bool {
		runtime.GC()
		_, err := os.Lstat(shmtest.UnixShape.Path("shmconn." + name))
		return os.IsNotExist(err)
	})
	close(release)
}

// TestCloseBesideSilence closes a listener while a dialer has yet to say
// something.
func TestCloseBesideSilence(t *testing.T) {
	shmtest.SkipSockets(t, "a RawPeer knows shared memory only; TestSocketsRefused is about these")
	name := shmtest.NewName()
	l := shmtest.Shape{Ring: 4096}.MustListen(t, name)
	silent := shmtest.RawConnect(t, name)
	time.Sleep(5 * time.Millisecond)
	start := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Second { // it says nothing for 2 s
		t.Errorf("Close took %v", d)
	}
	silent.HungUp()
	if _, err := net.Dial("unixpacket", shmtest.UnixShape.Path("shmconn."+name+"@sock")); err == nil {
		t.Error("the socket is still there")
	}
}
