//go:build linux

package inspect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/segment"
)

// These tests hold against the connection itself that looking does nothing to
// it.

// factsOf returns what is found about the only connection of name before it is
// read.
func factsOf(t *testing.T, name string) (*facts, map[int]*process) {
	t.Helper()
	s := &Scanner{Dirs: []string{testDir()}}
	procs, err := s.processes(new(Snapshot))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gather(procs, nil) {
		if f.nameless { // its header has the name
			f.read()
			f.identify()
		}
		if f.base == name {
			return f, procs
		}
	}
	t.Fatalf("no connection of %s was found", name)
	return nil, nil
}

// openAll opens the segment in all ways that there are, and names them.
func openAll(t *testing.T, f *facts) (list []source, ways string) {
	t.Helper()
	for _, open := range f.sources() {
		s, err := open()
		if err != nil {
			t.Logf("one way does not work: %v", err)
			continue
		}
		list = append(list, s)
		ways += fmt.Sprintf(" %T", s)
	}
	t.Cleanup(func() {
		for _, s := range list {
			s.close()
		}
	})
	return list, ways
}

// TestAllWays reads one header in all ways.
func TestAllWays(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			d, _, name := connect(t, kind, 0, 0)
			d.do("write 0 5")
			f, _ := factsOf(t, name)
			list, ways := openAll(t, f)
			t.Logf("%d ways:%s", len(list), ways)
			want := map[string]int{"named": 5, "anonymous": 4}[kind] // a descriptor, 2 mappings, 2 memories
			if os.Geteuid() != 0 {
				want -= 2
			}
			if len(list) != want {
				t.Errorf("%d ways, want %d", len(list), want)
			}
			var first []byte
			for _, s := range list {
				b := make([]byte, segment.HeaderUsed)
				if err := s.copy(b); err != nil {
					if _, ok := s.(memorySource); ok && ptraceScope() > 0 && os.Geteuid() != 0 {
						t.Logf("%T: %v", s, err)
						continue
					}
					t.Errorf("%T: %v", s, err)
				}
				if first == nil {
					first = b
				}
				if !bytes.Equal(b, first) {
					t.Errorf("%T reads something else", s)
				}
			}
			if len(first) > 512 && first[512] != 5 {
				t.Errorf("%d bytes were written", first[512])
			}
		})
	}
}

// fingerprint returns all that could show that somebody was at a segment: its
// bytes, its times, and how often it is linked.
func fingerprint(t *testing.T, fd int) string {
	t.Helper()
	b := make([]byte, segment.PageSize)
	if _, err := unix.Pread(fd, b, 0); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x %v %v %v %d %d", b, st.Atim, st.Mtim, st.Ctim, st.Nlink, st.Size)
}

// TestIdleUntouched looks a hundred times at a connection both of whose ends
// sleep.
func TestIdleUntouched(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			d, a, name := connect(t, kind, 0, 0)
			d.do("startread 0")
			a.do("startread 0")
			until(t, name, func(c Conn) bool { return c.ToDialer.Reader == Parked && c.ToAcceptor.Reader == Parked })
			var files []int
			if os.Geteuid() == 0 {
				f, _ := factsOf(t, name)
				e := f.ends[0]
				fd, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", e.PID, e.start, e.end), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				files = append(files, fd)
			} else {
				t.Log("not root: the connection's segment is not compared")
			}
			page, err := unix.Open(filepath.Join(testDir(), "shmconn."+name), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(page)
			files = append(files, page)
			var before, after []string
			for _, fd := range files {
				before = append(before, fingerprint(t, fd))
			}
			before = append(before, d.call("stats 0"), a.call("stats 0"))
			start := time.Now()
			for range 100 {
				if c := one(t, name); c.State != Established {
					t.Fatalf("%+v", c)
				}
			}
			t.Logf("a look takes %v", time.Since(start)/100)
			for _, fd := range files {
				after = append(after, fingerprint(t, fd))
			}
			after = append(after, d.call("stats 0"), a.call("stats 0"))
			for i := range before {
				if before[i] != after[i] {
					t.Errorf("before: %s\nafter:  %s", before[i], after[i])
				}
			}
			// And the doorbells still work.
			d.do("write 0 1")
			a.do("write 0 1")
			until(t, name, func(c Conn) bool { return c.ToDialer.Reader == Awake && c.ToAcceptor.Reader == Awake })
		})
	}
}

// TestDeathNoticed kills a process while its connection's segment, in all ways,
// and the doorbells of the other end are open here.
func TestDeathNoticed(t *testing.T) {
	for _, kind := range kinds {
		for _, who := range []string{"dialer", "acceptor"} {
			t.Run(kind+"/"+who, func(t *testing.T) {
				d, a, name := connect(t, kind, 0, 0)
				defer func() {
					for _, f := range []string{"", "@sock"} {
						os.Remove(filepath.Join(testDir(), "shmconn."+name+f))
					}
				}()
				f, procs := factsOf(t, name)
				_, ways := openAll(t, f)
				bells := 0
				for _, pid := range []int{d.pid, a.pid} {
					for _, e := range procs[pid].pipes {
						if e.write {
							continue
						}
						fd, err := open(fmt.Sprintf("/proc/%d/fd/%d", pid, e.fd), unix.S_IFIFO, e.inode)
						if err != nil {
							t.Fatal(err)
						}
						defer unix.Close(fd)
						bells++
					}
				}
				dies, lives := d, a
				if who == "acceptor" {
					dies, lives = a, d
				}
				dies.do("write 0 5")
				start := time.Now()
				dies.kill()
				if got := lives.call("readend 0"); got != "connection reset by peer" {
					t.Errorf("the other end's Read: %s", got)
				}
				t.Logf("%v after the kill, while %d bells and%s were open", time.Since(start), bells, ways)
				if bells != 2 {
					t.Errorf("%d bells, want 2", bells)
				}
			})
		}
	}
}

// TestTakeover takes a name over while a dead listener's segment is looked at.
func TestTakeover(t *testing.T) {
	a, name := start(t, "agent", 0), newName()
	a.do("listen %s named", name)
	p, err := look(a.pid)
	if err != nil || len(p.files) != 1 {
		t.Fatalf("look: %+v, %v", p, err)
	}
	fd, err := open(fmt.Sprintf("/proc/%d/fd/%d", a.pid, p.files[0].fd), unix.S_IFREG, p.files[0].inode)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if info, err := segment.LookupFile(fd, name); err != nil || !info.Alive {
		t.Errorf("LookupFile: %+v, %v", info, err)
	}
	a.kill()
	done := make(chan struct{})
	looked := make(chan int)
	go func() { // looks all the time
		n := 0
		for {
			select {
			case <-done:
				looked <- n
				return
			default:
				scan(t, name)
				n++
			}
		}
	}()
	for range 50 {
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Errorf("Listen: %v", err)
			break
		}
		c, err := shmconn.Dial(name)
		if err != nil {
			t.Errorf("Dial: %v", err)
			l.Close()
			break
		}
		c.Close()
		l.Close()
	}
	close(done)
	if n := <-looked; n == 0 {
		t.Error("nobody looked")
	}
	for _, f := range []string{"", "@sock"} {
		os.Remove(filepath.Join(testDir(), "shmconn."+name+f))
	}
}

// TestBusyUntouched looks again and again at a connection that carries bytes as
// fast as it can: all arrive, and it never seems to be damaged.
func TestBusyUntouched(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			name := newName()
			l, err := (&shmconn.ListenConfig{Anonymous: kind == "anonymous"}).Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			b := start(t, "agent", 0)
			b.do("dial %s", name)
			c, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			lookAtSelf = true
			defer func() { lookAtSelf = false }()
			const n = 256 << 20
			transfer := func() time.Duration {
				start := time.Now()
				b.do("startwrite 0 %d", n)
				if m, err := io.CopyN(io.Discard, c, n); m != n || err != nil {
					t.Fatalf("%d bytes came, %v", m, err)
				}
				return time.Since(start)
			}
			alone := transfer()
			done := make(chan string, 1)
			stop := make(chan struct{})
			looks := 0
			go func() {
				defer close(done)
				var last Conn
				pace := time.NewTicker(10 * time.Millisecond) // to look takes a processor, too
				defer pace.Stop()
				for {
					select {
					case <-stop:
						return
					case <-pace.C:
					}
					for _, c := range scan(t, name).Conns {
						if c.Dialer == nil || c.Dialer.PID != b.pid {
							continue
						}
						looks++
						if c.State != Established || c.ToAcceptor.Written < last.ToAcceptor.Written || c.ToAcceptor.Read < last.ToAcceptor.Read {
							done <- fmt.Sprintf("%+v after %+v", c, last)
							return
						}
						last = c
					}
				}
			}()
			watched := transfer()
			close(stop)
			if bad, ok := <-done; ok {
				t.Error(bad)
			}
			rate := func(d time.Duration) string { return fmt.Sprintf("%.0f MiB/s", n/d.Seconds()/(1<<20)) }
			t.Logf("%s: %s alone, %s while looked at %d times", kind, rate(alone), rate(watched), looks)
			if looks == 0 {
				t.Error("it was not looked at")
			}
			if st := c.Stats(); st.BytesRead != 2*n {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestReadOnly has the kernel tell of all that is done to the files of a
// listener and a connection while they are looked at.
func TestReadOnly(t *testing.T) {
	d, _, name := connect(t, "named", 0, 0)
	d.do("write 0 5")
	in, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Skipf("inotify: %v", err)
	}
	defer unix.Close(in)
	f, _ := factsOf(t, name)
	for _, path := range []string{
		filepath.Join(testDir(), "shmconn."+name),
		filepath.Join(testDir(), "shmconn."+name+"@sock"),
		fmt.Sprintf("/proc/%d/fd/%d", f.holders[0].pid, f.holders[0].fd), // the connection's
	} {
		if _, err := unix.InotifyAddWatch(in, path, unix.IN_ALL_EVENTS); err != nil {
			t.Fatal(err)
		}
	}
	events := func() (all uint32, n int) {
		buf := make([]byte, 64<<10)
		for {
			m, err := unix.Read(in, buf)
			if err != nil {
				return all, n
			}
			for b := buf[:m]; len(b) >= unix.SizeofInotifyEvent; n++ {
				all |= binary.NativeEndian.Uint32(b[4:])
				b = b[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(b[12:]):]
			}
		}
	}
	scan(t, name)
	all, n := events()
	t.Logf("%d events, of the kinds %#x", n, all)
	const reading = unix.IN_OPEN | unix.IN_ACCESS | unix.IN_CLOSE_NOWRITE
	if all&^reading != 0 {
		t.Errorf("beside opening, reading and closing there was %#x", all&^reading)
	}
	if all != reading {
		t.Errorf("the files were not read: %#x", all)
	}
	// And what is watched would have been told of.
	file, err := os.OpenFile(filepath.Join(testDir(), "shmconn."+name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if all, _ := events(); all&unix.IN_CLOSE_WRITE == 0 {
		t.Errorf("opening for writing was not told of: %#x", all)
	}
}
