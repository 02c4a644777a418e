//go:build linux

package shmconn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shmconn"
)

// A listening is twin for listeners.
type listening struct {
	twin
	name string
}

func (x *listening) listen() listener {
	l, err := x.shape.listen(x.name)
	x.log("Listen: %s", x.outcome(err))
	if err != nil {
		return nil
	}
	x.t.Cleanup(func() { l.Close() })
	return l
}

func (x *listening) dial(ctx context.Context, timeout time.Duration) conn {
	c, err := x.shape.dialContext(ctx, x.name, timeout)
	x.log("Dial: %s", x.outcome(err))
	if err != nil {
		return nil
	}
	x.t.Cleanup(func() { c.Close() })
	return c
}

func (x *listening) accept(l listener) conn {
	c, err := l.Accept()
	x.log("Accept: %s", x.outcome(err))
	if err != nil {
		if c != nil {
			x.t.Errorf("Accept returned a %T beside the error", c)
		}
		return nil
	}
	x.t.Cleanup(func() { c.Close() })
	return c.(conn)
}

func (x *listening) closeListener(l listener) { x.log("Close: %s", x.outcome(l.Close())) }

// whileAccepting records what an Accept that waits returns when f is called.
func (x *listening) whileAccepting(l listener, f func()) (c conn) {
	done := accepting(func() { c = x.accept(l) })
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
		err := l.SetDeadline(past)
		if x.shape.Net != "unix" { // whose error is not wrapped
			x.outcome(err)
		}
		x.log("SetDeadline: %s", class(err))
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
				if _, err := l.Accept(); class(err) != "closed" {
					x.t.Errorf("Accept: %v", err)
				}
			})
		}
		x.whileAccepting(l, func() { l.Close() })
		wg.Wait()
	}},
	{name: "listener/deadline", steps: func(x *listening) {
		l := x.listen()
		x.log("SetDeadline: %s", x.outcome(l.SetDeadline(past)))
		x.accept(l)
		x.accept(l)
		start := time.Now()
		l.SetDeadline(start.Add(10 * time.Millisecond))
		x.accept(l)
		if d := time.Since(start); d < 10*time.Millisecond {
			x.t.Errorf("Accept took %v, before its deadline", d)
		}
		l.SetDeadline(none)
		x.whileAccepting(l, func() { l.SetDeadline(past) })
		l.SetDeadline(none)
		x.dial(ctx, 0)
		x.accept(l)
	}},
	{name: "listener/deadline passed, and a connection there", steps: func(x *listening) {
		l := x.listen()
		x.dial(ctx, 0)
		l.SetDeadline(past)
		x.accept(l)
		l.SetDeadline(none)
		x.accept(l)
	}},
	{name: "listener/deadline cleared while it is awaited", steps: func(x *listening) {
		l := x.listen()
		l.SetDeadline(time.Now().Add(time.Hour))
		x.whileAccepting(l, func() {
			l.SetDeadline(none)
			x.shape.mustDial(x.t, x.name)
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
		ctx, cancel := context.WithDeadline(ctx, past)
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
				x.log("Write: few %t, %s", total <= x.shape.ringSize()/4+100, x.outcome(err))
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
		n, err := x.a.Write(pattern(0, 2000))
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
			run := func(t *testing.T, s shape) string {
				x := &listening{twin: twin{t: t, shape: s}, name: newName()}
				tt.steps(x)
				return x.trace.String()
			}
			var unix string
			t.Run(unixShape.String(), func(t *testing.T) {
				unix = run(t, unixShape)
				t.Logf("unix:\n%s", unix)
			})
			for _, s := range small {
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
			l, err := (&shmconn.ListenConfig{Backlog: backlog, RingSize: 4096}).Listen(newName())
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
				wantErr(t, "Dial beyond the backlog", err, "dial timeout")
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
			wantErr(t, "Dial with a context's deadline", err, "dial context-deadline")
			cancel()
			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(10*time.Millisecond, cancel)
			_, err = new(shmconn.Dialer).DialContext(ctx, "", name)
			wantErr(t, "Dial with a context that is cancelled", err, "dial canceled")

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
	name := newName()
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
				mustAccept(t, l)
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
	base := newName()
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
			t.Setenv("SHMCONN_DIR", tt.env)
			last := filepath.Base(tt.name)
			files := func() (list []string) {
				for _, f := range listDir(tt.dir) {
					if strings.HasPrefix(f, "shmconn."+last) {
						list = append(list, strings.TrimPrefix(f, "shmconn."+last))
					}
				}
				return list
			}
			l, err := shmconn.Listen(tt.name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if got := files(); !slices.Equal(got, []string{"", "@sock"}) {
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
			if got := files(); !slices.Equal(got, []string{"", "@sock"}) {
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
	wantErr(t, "Listen by another path", err, "listen EADDRINUSE")
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
			} else if got := outcome(t, "shm", err); !strings.HasPrefix(got, "listen another error") && got != "listen ENOENT" {
				t.Errorf("Listen(%q): %v", name, err)
			}
			c, err := shmconn.Dial(name)
			if err == nil {
				c.Close()
				t.Errorf("Dial(%q) succeeded", name)
			} else if got := outcome(t, "shm", err); !strings.HasPrefix(got, "dial another error") {
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
	if got := outcome(t, "shm", err); got != "listen ENOENT" {
		t.Errorf("Listen in a directory that is not there: %v", err)
	}
	_, err = shmconn.Dial(dir + "/nowhere/a")
	wantErr(t, "Dial in a directory that is not there", err, "dial ECONNREFUSED")
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
			name := newName()
			l, err := tt.lc.Listen(name)
			if err == nil {
				l.Close()
				t.Fatal("Listen succeeded")
			}
			if got := outcome(t, "shm", err); !strings.HasPrefix(got, "listen ") {
				t.Errorf("Listen: %s", got)
			}
			if text := strings.ReplaceAll(strings.ToLower(err.Error()), " ", ""); !strings.Contains(text, strings.ToLower(tt.field)) {
				t.Errorf("the error does not name %s: %v", tt.field, err)
			}
			if left, _ := filepath.Glob(unixShape.path("shmconn." + name + "*")); len(left) != 0 {
				t.Errorf("files: %q", left)
			}
		})
	}
}

// TestDeadWithoutRoom dials a listener that was killed: that nobody listens is said first, and
// nothing is made before that is known.
func TestDeadWithoutRoom(t *testing.T) {
	dir := mountSmall(t, "size=1m")
	name := dir + "/" + newName()
	h := startHelper(t, "agent", shape{Ring: 1 << 20})
	h.do("listen %s", name)
	_, err := shmconn.Dial(name)
	wantErr(t, "Dial without room", err, "dial ENOSPC")
	h.kill()
	_, err = shmconn.Dial(name)
	wantErr(t, "Dial", err, "dial ECONNREFUSED")
}

// TestNoRoom dials where the directory has no room for the rings.
func TestNoRoom(t *testing.T) {
	dir := mountSmall(t, "size=1m")
	name := dir + "/" + newName()
	l, err := (&shmconn.ListenConfig{RingSize: 1 << 20}).Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		_, err = shmconn.Dial(name)
		wantErr(t, "Dial without room", err, "dial ENOSPC")
		need := 2<<20 + os.Getpagesize()
		if err != nil && !strings.Contains(err.Error(), fmt.Sprint(need)) {
			t.Errorf("the error does not say that %d bytes are needed: %v", need, err)
		}
		if got := listDir(dir); len(got) != 2 {
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
			wantErr(t, "Dial without room", err, "dial ENOSPC")
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
	io.Copy(f, io.LimitReader(zeros{}, 2<<20))
	f.Close()
	_, err = shmconn.Listen(name)
	wantErr(t, "Listen without room", err, "listen ENOSPC")
	os.Remove(dir + "/fill")
	if got := listDir(dir); len(got) != 0 {
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

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestListenRace lets many listen on one name: exactly one gets it.
func TestListenRace(t *testing.T) {
	for range 20 {
		name := newName()
		var won atomic.Int32
		var winner *shmconn.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := shmconn.Listen(name)
				if err != nil {
					wantErr(t, "Listen", err, "listen EADDRINUSE")
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
	name := newName()
	var stop atomic.Bool
	var ok atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				c, err := shmconn.Dial(name)
				if err != nil {
					wantErr(t, "Dial", err, "dial ECONNREFUSED")
					continue
				}
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					wantErr(t, "Read", err, "read ECONNRESET")
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

// TestRudeDialers connects to the listener's socket and does not say what a
// dialer says: it delays nobody, and Accept does not return it.
func TestRudeDialers(t *testing.T) {
	name := newName()
	l := shape{Ring: 4096}.mustListen(t, name)
	sock := unixShape.path("shmconn." + name + "@sock")
	for i := range 20 {
		c, err := net.Dial("unix", sock)
		if err != nil {
			// The socket's type is the library's own affair.
			if c, err = net.Dial("unixpacket", sock); err != nil {
				t.Skipf("no way to be rude to the listener's socket: %v", err)
			}
		}
		defer c.Close()
		switch i % 4 {
		case 0: // says nothing
		case 1:
			c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		case 2:
			c.Write(make([]byte, 65536))
		case 3:
			c.Close()
		}
	}
	a := shape{}.mustDial(t, name)
	a.Write([]byte("polite"))
	b := mustAccept(t, l)
	buf := make([]byte, 8)
	if n, err := b.Read(buf); string(buf[:n]) != "polite" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	l.SetDeadline(time.Now().Add(20 * time.Millisecond))
	c, err := l.Accept()
	if err == nil {
		c.Close()
		t.Error("Accept returned a rude one")
	} else {
		wantErr(t, "Accept", err, "accept timeout")
	}
}

// TestRemoved removes the listener's files from outside: they are put back.
func TestRemoved(t *testing.T) {
	for _, which := range []string{"", "@sock"} {
		t.Run("shmconn.NAME"+which, func(t *testing.T) {
			name := newName()
			l := shape{Ring: 4096}.mustListen(t, name)
			if err := os.Remove(unixShape.path("shmconn." + name + which)); err != nil {
				t.Fatal(err)
			}
			ch := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					c.Close()
				}
				ch <- err
			}()
			// Either it is put back, and a dial comes through, or Accept says why not.
			var accepted error
			eventually(func() bool {
				select {
				case accepted = <-ch:
					return true
				default:
				}
				if c, err := shmconn.Dial(name); err == nil {
					c.Close()
				}
				return false
			})
			if accepted != nil {
				t.Errorf("Accept: %v", accepted)
			}
		})
	}
}
