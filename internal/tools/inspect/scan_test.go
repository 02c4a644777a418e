//go:build linux

package inspect

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/segment"
)

const ringSize = 64 << 10 // of the agent's listeners

// TestStates takes a connection from its introduction to its end, and looks at
// every step.
func TestStates(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { testStates(t, kind) })
	}
}

func testStates(t *testing.T, kind string) {
	d, a, name := start(t, "agent", 0), start(t, "agent", 0), newName()
	a.do("listen %s %s", name, kind)
	snap := scan(t, name)
	if len(snap.Listeners) != 1 || len(snap.Conns) != 0 {
		t.Fatalf("before the dial: %+v", snap)
	}
	l := snap.Listeners[0]
	want := Listener{
		Name: name, Directory: testDir(), State: Listening, Process: &Process{a.pid, "inspect.test", os.Geteuid(), false},
		UID: os.Geteuid(), RingSize: ringSize, Anonymous: kind == "anonymous",
	}
	if *l.Process != *want.Process || time.Since(l.Since) < 0 || time.Since(l.Since) > time.Minute {
		t.Errorf("listener's process: %+v, since %v", *l.Process, l.Since)
	}
	if l.Process, l.Since = want.Process, want.Since; l != want {
		t.Errorf("listener: %+v, want %+v", l, want)
	}

	// The listener is stopped, and so does not accept.
	a.stop()
	d.do("dial %s", name)
	c := one(t, name)
	if os.Geteuid() == 0 || kind == "named" {
		wantState(t, c, Waiting)
	}
	if c.Dialer == nil || c.Dialer.PID != d.pid || c.Acceptor != nil {
		t.Errorf("not accepted: dialer %+v, acceptor %+v", c.Dialer, c.Acceptor)
	}
	if l := scan(t, name).Listeners[0]; !l.Process.Stopped {
		t.Error("the listener is stopped, and it does not show")
	}
	a.cmd.Process.Signal(syscall.SIGCONT)
	a.do("accept")

	c = one(t, name)
	wantState(t, c, Established)
	if c.Dialer == nil || c.Dialer.PID != d.pid || c.Acceptor == nil || c.Acceptor.PID != a.pid || c.RolesUnknown {
		t.Fatalf("dialer %+v is %d, acceptor %+v is %d", c.Dialer, d.pid, c.Acceptor, a.pid)
	}
	if os.Geteuid() != 0 && kind == "anonymous" {
		if !c.Since.IsZero() { // nobody may look at the memory as a file
			t.Errorf("it is there since %v", c.Since)
		}
	} else if age := time.Since(c.Since); age < 0 || age > time.Minute {
		t.Errorf("it is %v old", age)
	}
	if c.RingSize != ringSize || c.Anonymous != (kind == "anonymous") || c.UID != os.Geteuid() || len(c.ID) != 32 || !c.Readable {
		t.Errorf("connection: %+v", c)
	}
	wantFlow(t, "to acceptor", c.ToAcceptor, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Awake, Reader: Awake})
	wantFlow(t, "to dialer", c.ToDialer, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Awake, Reader: Awake})

	d.do("write 0 100")
	a.do("write 0 7")
	c = one(t, name)
	wantFlow(t, "to acceptor", c.ToAcceptor, Flow{Written: 100, Read: 0, Waiting: 100, Writer: Awake, Reader: Awake})
	wantFlow(t, "to dialer", c.ToDialer, Flow{Written: 7, Read: 0, Waiting: 7, Writer: Awake, Reader: Awake})

	a.do("read 0 100")
	a.do("startread 0")
	c = until(t, name, func(c Conn) bool { return c.ToAcceptor.Reader == Parked })
	wantFlow(t, "to acceptor", c.ToAcceptor, Flow{Written: 100, Read: 100, Waiting: 0, Writer: Awake, Reader: Parked})

	d.do("read 0 7")
	d.do("startread 0")
	until(t, name, func(c Conn) bool { return c.ToDialer.Reader == Parked })
	a.do("write 0 1") // which ends startread
	until(t, name, func(c Conn) bool { return c.ToDialer.Reader == Awake })

	d.do("write 0 1") // likewise
	c = until(t, name, func(c Conn) bool { return c.ToAcceptor.Reader == Awake })
	start := c.ToAcceptor.Written
	d.do("write 0 %d", ringSize-c.ToAcceptor.Waiting)
	c = one(t, name)
	if c.ToAcceptor.Writer != Full || c.ToAcceptor.Waiting != ringSize {
		t.Errorf("full: %+v", c.ToAcceptor)
	}
	d.do("startwrite 0 5")
	c = until(t, name, func(c Conn) bool { return c.ToAcceptor.Writer == Blocked })
	if c.ToAcceptor.Waiting != ringSize {
		t.Errorf("blocked: %+v", c.ToAcceptor)
	}
	a.do("read 0 %d", ringSize)
	c = until(t, name, func(c Conn) bool { return c.ToAcceptor.Writer == Awake })
	if c.ToAcceptor.Written < start+5 {
		t.Errorf("unblocked: %+v", c.ToAcceptor)
	}

	d.do("closewrite 0")
	c = one(t, name)
	wantState(t, c, HalfClosed)
	if c.ToAcceptor.Writer != Closed || c.ToAcceptor.Reader != Awake || c.ToDialer.Reader != Awake || c.ToDialer.Writer != Awake {
		t.Errorf("half closed: %+v, %+v", c.ToAcceptor, c.ToDialer)
	}
	a.do("write 0 3")
	a.do("close 0")
	c = one(t, name)
	wantState(t, c, PeerClosed)
	if c.Acceptor != nil || c.Dialer == nil || c.Dialer.PID != d.pid || c.ToDialer.Waiting != 3 || c.ToDialer.Writer != Closed {
		t.Errorf("peer closed: %+v", c)
	}
	d.do("close 0")
	if snap := scan(t, name); len(snap.Conns) != 0 {
		t.Errorf("closed: %+v", snap.Conns)
	}
	if l := scan(t, name).Listeners[0]; l.Accepted != 1 || l.Refused != 0 {
		t.Errorf("listener: %+v", l)
	}
	a.do("unlisten")
	if snap := scan(t, name); len(snap.Listeners) != 0 {
		t.Errorf("listener closed: %+v", snap.Listeners)
	}
}

func wantState(t *testing.T, c Conn, want State) {
	t.Helper()
	if c.State != want {
		t.Errorf("state is %s (%s), want %s", c.State, c.Note, want)
	}
}

func wantFlow(t *testing.T, which string, got, want Flow) {
	t.Helper()
	if sleeps := got.Reader == Parked || got.Writer == Blocked; sleeps != (got.ReaderCause+got.WriterCause != "") {
		t.Errorf("%s: %+v: one that sleeps says why", which, got)
	}
	got.ReaderCause, got.WriterCause = "", "" // which depends on what else the machine has to do
	if got != want {
		t.Errorf("%s: %+v, want %+v", which, got, want)
	}
}

// TestPeerGone kills either end.
func TestPeerGone(t *testing.T) {
	for _, kind := range kinds {
		for _, who := range []string{"dialer", "acceptor"} {
			t.Run(kind+"/"+who, func(t *testing.T) {
				d, a, name := connect(t, kind, 0, 0)
				d.do("startread 0")
				a.do("startread 0")
				until(t, name, func(c Conn) bool { return c.ToDialer.Reader == Parked && c.ToAcceptor.Reader == Parked })
				d.stop() // so that it does not notice and close
				a.stop()
				if who == "dialer" {
					d.kill()
				} else {
					a.kill()
					defer os.Remove(filepath.Join(testDir(), "shmconn."+name))
					defer os.Remove(filepath.Join(testDir(), "shmconn."+name+"@sock"))
				}
				c := one(t, name)
				wantState(t, c, PeerGone)
				if c.RolesUnknown || !c.Readable {
					t.Errorf("connection: %+v", c)
				}
				if who == "dialer" {
					if c.Dialer != nil || c.Acceptor == nil || c.Acceptor.PID != a.pid || !c.Acceptor.Stopped {
						t.Errorf("dialer %+v, acceptor %+v", c.Dialer, c.Acceptor)
					}
					wantFlow(t, "to acceptor", c.ToAcceptor, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Absent, Reader: Parked})
					wantFlow(t, "to dialer", c.ToDialer, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Awake, Reader: Absent})
				} else {
					if c.Acceptor != nil || c.Dialer == nil || c.Dialer.PID != d.pid {
						t.Errorf("dialer %+v, acceptor %+v", c.Dialer, c.Acceptor)
					}
					wantFlow(t, "to acceptor", c.ToAcceptor, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Awake, Reader: Absent})
					wantFlow(t, "to dialer", c.ToDialer, Flow{Written: 0, Read: 0, Waiting: 0, Writer: Absent, Reader: Parked})
					if l := scan(t, name).Listeners; len(l) != 1 || l[0].State != Stale || l[0].Process != nil {
						t.Errorf("the listener was killed: %+v", l)
					}
				}
			})
		}
	}
}

// TestStale leaves the names of a listener behind, and that of a connection, as
// dialers do that give it one, whose both processes were killed. Other dialers
// leave none.
func TestStale(t *testing.T) {
	d, a, name := start(t, "agent", 0), start(t, "agent", 0), newName()
	a.do("listen %s named", name)
	a.stop()
	d.do("dial %s", name)
	d.do("write 0 10")
	d.kill()
	if snap := scan(t, name); len(snap.Conns) != 0 {
		t.Errorf("nobody has it any more: %+v", snap.Conns)
	}
	id := segment.ID{1, 2, 3}
	b := append(header(ringSize, id, func(b []byte) { binary.NativeEndian.PutUint64(b[512:], 10) }), make([]byte, segment.PageSize+2*ringSize)...)
	f, err := os.OpenFile(filepath.Join(testDir(), "shmconn."+name+"@"+hex.EncodeToString(id[:])), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b[:segment.PageSize+2*ringSize]); err != nil {
		t.Fatal(err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	c := one(t, name)
	wantState(t, c, Waiting) // its descriptor could be on the way to the listener, and with it the lock
	f.Close()
	a.kill()
	snap := scan(t, name)
	if len(snap.Listeners) != 1 || snap.Listeners[0].State != Stale || len(snap.Conns) != 1 {
		t.Fatalf("%+v", snap)
	}
	c = snap.Conns[0]
	wantState(t, c, Stale)
	if c.Dialer != nil || c.Acceptor != nil || c.ToAcceptor.Waiting != 10 || c.RingSize != ringSize {
		t.Errorf("%+v", c)
	}
	left, _ := filepath.Glob(filepath.Join(testDir(), "shmconn."+name+"*"))
	if len(left) != 3 {
		t.Errorf("left are %q", left)
	}
	for _, file := range left {
		os.Remove(file)
	}
}

// TestOneProcess looks at connections whose two ends are in one process.
func TestOneProcess(t *testing.T) {
	lookAtSelf = true
	defer func() { lookAtSelf = false }()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			name := newName()
			lc := &shmconn.ListenConfig{Anonymous: kind == "anonymous"}
			l, err := lc.Listen(name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d, err := shmconn.Dial(name)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			a, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			c := one(t, name)
			wantState(t, c, Established)
			if c.Dialer == nil || c.Acceptor == nil || c.Dialer.PID != os.Getpid() || c.Acceptor.PID != os.Getpid() || c.RolesUnknown {
				t.Errorf("%+v, %+v", c.Dialer, c.Acceptor)
			}
		})
	}
}

// TestMutual connects two processes with each other both ways, so that the
// doorbells alone do not tell who has dialed.
func TestMutual(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			p, q := start(t, "agent", 0), start(t, "agent", 0)
			pName, qName := newName(), newName()
			p.do("listen %s %s", pName, kind)
			q.do("listen %s %s", qName, kind)
			q.do("dial %s", pName)
			p.do("accept")
			p.do("dial %s", qName)
			q.do("accept")
			if c := one(t, pName); c.Dialer.PID != q.pid || c.Acceptor.PID != p.pid || c.RolesUnknown {
				t.Errorf("%s: %+v, %+v", pName, c.Dialer, c.Acceptor)
			}
			if c := one(t, qName); c.Dialer.PID != p.pid || c.Acceptor.PID != q.pid || c.RolesUnknown {
				t.Errorf("%s: %+v, %+v", qName, c.Dialer, c.Acceptor)
			}
			if kind == "named" {
				return
			}
			// Nothing tells any more; what is said is that.
			p.do("unlisten")
			q.do("unlisten")
			if c := one(t, pName); !c.RolesUnknown || c.State != Established {
				t.Errorf("%s: %+v", pName, c)
			}
		})
	}
}

// TestManyPeers has one process that dials many, of which some are killed, and
// checks that each connection gets what is its own.
func TestManyPeers(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			d := start(t, "agent", 0)
			var names []string
			var peers []*helper
			for i := range 4 {
				a, name := start(t, "agent", 0), newName()
				a.do("listen %s %s", name, kind)
				d.do("dial %s", name)
				a.do("accept")
				d.do("write %d %d", i, i+1)
				names, peers = append(names, name), append(peers, a)
			}
			d.stop()
			peers[1].kill()
			for i, name := range names {
				c := one(t, name)
				want := Established
				if i == 1 {
					want = PeerGone
					os.Remove(filepath.Join(testDir(), "shmconn."+name))
					os.Remove(filepath.Join(testDir(), "shmconn."+name+"@sock"))
				} else if c.Acceptor == nil || c.Acceptor.PID != peers[i].pid {
					t.Errorf("acceptor of %s: %+v", name, c.Acceptor)
				}
				wantState(t, c, want)
				if c.Dialer == nil || c.Dialer.PID != d.pid || c.ToAcceptor.Waiting != i+1 {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// TestElsewhere finds a listener whose directory it was not told of, and one
// whose name was removed.
func TestElsewhere(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, "agent", 0)
	name := newName()
	a.do("listen %s/%s named", dir, name)
	snap := scan(t, dir+"/")
	if len(snap.Listeners) != 1 || snap.Listeners[0].Name != name || snap.Listeners[0].State != Listening || snap.Listeners[0].Process.PID != a.pid {
		t.Errorf("in a directory of its own: %+v", snap.Listeners)
	}
	a.stop() // else it puts the name back
	if err := os.Remove(filepath.Join(dir, "shmconn."+name)); err != nil {
		t.Fatal(err)
	}
	snap = scan(t, dir+"/"+name)
	if len(snap.Listeners) != 1 || snap.Listeners[0].Note != "its name was removed" || snap.Listeners[0].State != Listening {
		t.Errorf("without its name: %+v", snap.Listeners)
	}
}

// TestNoDirectory asks for a directory that is not there.
func TestNoDirectory(t *testing.T) {
	s := &Scanner{Dirs: []string{filepath.Join(t.TempDir(), "absent")}}
	if _, err := s.Scan(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Scan: %v", err)
	}
}

func TestSelect(t *testing.T) {
	s := &Snapshot{
		Listeners: []Listener{{Name: "feed", Directory: "/dev/shm"}, {Name: "feed", Directory: "/other"}, {Name: "x", Directory: "/other"}},
		Conns:     []Conn{{Name: "feed", Directory: "/other"}, {Name: "feed"}, {Name: "x"}},
	}
	for name, want := range map[string]string{
		"feed":       "2 2",
		"x":          "1 1",
		"/other/":    "2 1",
		"/other/x":   "1 1", // anonymous memory may be of any directory
		"/dev/shm/x": "0 1",
		"/none/":     "0 0",
		"fee":        "0 0",
	} {
		part := s.Select(name)
		if got := fmt.Sprint(len(part.Listeners), " ", len(part.Conns)); got != want {
			t.Errorf("Select(%q): %s, want %s", name, got, want)
		}
	}
	if len(s.Listeners) != 3 || len(s.Conns) != 3 {
		t.Error("Select has changed what it selects from")
	}
}
