//go:build linux

package inspect

import (
	"os"
	"strings"
	"testing"

	"shmconn"
)

// TestShared looks at a name whose socket more than one process has, then one
// that does not listen, then none.
func TestShared(t *testing.T) {
	name := newName()
	l, err := shmconn.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	look := func() Listener {
		t.Helper()
		was := lookAtSelf
		lookAtSelf = true
		defer func() { lookAtSelf = was }()
		s := scan(t, name)
		if len(s.Listeners) != 1 {
			t.Fatalf("%+v", s.Listeners)
		}
		return s.Listeners[0]
	}
	if l := look(); l.State != Listening || l.Process == nil || l.Process.PID != os.Getpid() || l.Note != "" {
		t.Errorf("one process has the socket: %+v", l)
	}
	l.Close()
	if l := look(); l.State != Listening || l.Process != nil || !strings.Contains(l.Note, "held by inspect.test[") {
		t.Errorf("nobody listens, and the socket is open: %+v", l)
	}
	f.Close()
	if l := look(); l.State != Stale || l.Process != nil {
		t.Errorf("nobody has the socket: %+v", l)
	}
	if l, err = shmconn.Listen(name); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
