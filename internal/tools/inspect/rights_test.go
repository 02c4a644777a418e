//go:build linux

package inspect

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// ptraceScope returns kernel.yama.ptrace_scope: from 1 on a process may not
// look at the memory of others of its user.
func ptraceScope() int {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return 0 // there is no such limit
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// TestOwn looks, as whoever runs the tests, at a connection of the same user.
func TestOwn(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			d, a, name := connect(t, kind, 0, 0)
			d.do("write 0 5")
			c := one(t, name)
			wantOwn(t, c, d, a, kind == "named" || os.Geteuid() == 0 || ptraceScope() == 0)
		})
	}
}

func wantOwn(t *testing.T, c Conn, d, a *helper, readable bool) {
	t.Helper()
	wantState(t, c, Established)
	if c.Dialer == nil || c.Acceptor == nil || c.Dialer.PID != d.pid || c.Acceptor.PID != a.pid || c.RolesUnknown || c.RingSize != ringSize {
		t.Errorf("%+v", c)
	}
	if c.Readable != readable {
		t.Errorf("readable: %t (%s)", c.Readable, c.Note)
	}
	if readable && c.ToAcceptor.Waiting != 5 {
		t.Errorf("%+v", c.ToAcceptor)
	}
}

// TestRights looks at connections of users as root, as these users and as a
// third one.
func TestRights(t *testing.T) {
	needRoot(t, "be other users")
	for _, kind := range kinds {
		t.Run("somebody's/"+kind, func(t *testing.T) {
			d, a, name := connect(t, kind, somebody, somebody)
			d.do("write 0 5")
			wantOwn(t, one(t, name), d, a, true)

			own := start(t, "scan", somebody).scan(name)
			if len(own.Conns) != 1 || own.Hidden == 0 {
				t.Fatalf("they see: %+v", own)
			}
			c := own.Conns[0]
			wantOwn(t, c, d, a, kind == "named" || ptraceScope() == 0)
			if c.UID != somebody || len(own.Listeners) != 1 || own.Listeners[0].State != Listening || own.Listeners[0].Process.PID != a.pid {
				t.Errorf("they see: %+v", own)
			}
			t.Logf("%s, same user: since %v", kind, c.Since)

			others := start(t, "scan", another).scan(name)
			if len(others.Conns) != 0 {
				t.Errorf("others see: %+v", others.Conns)
			}
			// The listener's mode lets everybody read its segment, which tells
			// who it is.
			if l := others.Listeners; len(l) != 1 || l[0].State != Listening || l[0].UID != somebody ||
				l[0].Process == nil || l[0].Process.PID != a.pid || l[0].Process.Command != "inspect.test" || l[0].RingSize != ringSize {
				t.Errorf("others see: %+v", l)
			}
			os.Chmod(filepath.Join(testDir(), "shmconn."+name), 0o600)
			if l := start(t, "scan", another).scan(name).Listeners; len(l) != 1 || l[0].State != Unknown || l[0].UID != somebody || l[0].Process != nil {
				t.Errorf("others see where they may not read: %+v", l)
			}
		})
		t.Run("not accepted/"+kind, func(t *testing.T) {
			a, d, name := start(t, "agent", somebody), start(t, "agent", somebody), newName()
			a.do("listen %s %s", name, kind)
			a.stop() // and it stays in the backlog
			d.do("dial %s", name)
			wantState(t, one(t, name), Waiting)
			own := start(t, "scan", somebody).scan(name)
			if len(own.Conns) != 1 || own.Hidden == 0 {
				t.Fatalf("they see: %+v", own)
			}
			// Who listens in a directory is seen; anonymous memory is of no directory.
			want := map[string]State{"named": Waiting, "anonymous": Unknown}[kind]
			wantState(t, own.Conns[0], want)
			a.cmd.Process.Signal(syscall.SIGCONT)
			a.do("accept")
			wantState(t, start(t, "scan", somebody).scan(name).Conns[0], Established)
		})
		t.Run("of two users/"+kind, func(t *testing.T) {
			d, a, name := connect(t, kind, somebody, another)
			d.do("write 0 5")
			wantOwn(t, one(t, name), d, a, true)

			dialers := start(t, "scan", somebody).scan(name).Conns
			acceptors := start(t, "scan", another).scan(name).Conns
			if len(dialers) != 1 || len(acceptors) != 1 {
				t.Fatalf("they see: %+v, %+v", dialers, acceptors)
			}
			c := dialers[0]
			if c.Dialer == nil || c.Dialer.PID != d.pid || c.Acceptor != nil {
				t.Errorf("the dialer sees: %+v", c)
			}
			wantState(t, c, Unknown) // the listener is not seen, and has done nothing yet if it has accepted
			c = acceptors[0]
			if c.Dialer != nil || c.Acceptor == nil || c.Acceptor.PID != a.pid {
				t.Errorf("the acceptor sees: %+v", c)
			}
			a.do("read 0 5")
			a.do("startread 0")
			until(t, name, func(c Conn) bool { return c.ToAcceptor.Reader == Parked })
			c = start(t, "scan", somebody).scan(name).Conns[0]
			if readable := kind == "named" || ptraceScope() == 0; c.Readable != readable {
				t.Errorf("readable: %t (%s)", c.Readable, c.Note)
			} else if readable && (c.State != Established || c.ToAcceptor.Reader != Parked) {
				t.Errorf("the dialer sees: %+v", c)
			}
			// The doorbell tells of a death, whoever it is that has died.
			d.stop()
			a.kill()
			left, _ := filepath.Glob(filepath.Join(testDir(), "shmconn."+name+"*"))
			for _, file := range left { // the acceptor may not remove the dialer's file
				defer os.Remove(file)
			}
			wantState(t, start(t, "scan", somebody).scan(name).Conns[0], PeerGone)
		})
	}
}

// TestMapsAlone judges where nothing may be read but the mappings.
func TestMapsAlone(t *testing.T) {
	_, _, name := connect(t, "anonymous", 0, 0)
	s := &Scanner{Dirs: []string{testDir()}}
	procs, err := s.processes(new(Snapshot))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gather(procs, nil) {
		if f.base != name {
			continue
		}
		f.setRoles(procs)
		f.err = os.ErrPermission
		c := f.judge()
		if c.State != Established || c.RingSize != ringSize || c.Readable || c.Dialer == nil || c.Acceptor == nil || c.RolesUnknown || !strings.Contains(c.Note, "may not be read") {
			t.Errorf("%+v", c)
		}
		return
	}
	t.Error("it was not found")
}
