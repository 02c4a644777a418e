//go:build linux

package shmconn_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"shmconn"
)

// somebodyElse starts a helper as another user, who needs a copy of this binary that
// he may run.
func somebodyElse(t *testing.T) func(t *testing.T, s shape) *helper {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot run a process as another user")
	}
	dir, err := os.MkdirTemp("", "shmconn-somebody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/shmconn.test", bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, s shape) *helper {
		return startBinary(t, dir+"/shmconn.test", &syscall.Credential{Uid: somebody, Gid: somebody}, "agent", s)
	}
}

// TestSomebodyElse has connections between two users end in all ways: it leaves
// nothing, though neither may remove the other's files.
func TestSomebodyElse(t *testing.T) {
	start := somebodyElse(t)
	for _, s := range []shape{{Ring: 4096}, {Ring: 4096, Anonymous: true}} {
		t.Run(s.String(), func(t *testing.T) {
			h := start(t, s)
			name := newName()
			h.do("listenmode %s %d", name, 0o666)
			d := &shmconn.Dialer{AllowUID: func(uid uint32) bool { return uid == somebody }}
			dial := func() *shmconn.Conn {
				t.Helper()
				c, err := d.Dial(name)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			files := func() (n int) {
				for _, f := range listDir(os.Getenv("SHMCONN_DIR")) {
					if strings.HasPrefix(f, "shmconn."+name+"@") {
						n++
					}
				}
				return n
			}

			closed := dial()
			h.do("accept")
			closed.Write(pattern(0, 3000))
			h.do("read 0 3000")
			h.do("write 0 3000")
			h.do("close 0")
			got, err := io.ReadAll(closed)
			if len(got) != 3000 || err != nil {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			checkPattern(t, got, 0)
			if pid, uid, gid := closed.PeerCred(); pid != h.pid || uid != somebody || gid != somebody {
				t.Errorf("PeerCred() = %d, %d, %d", pid, uid, gid)
			}
			closed.Close()
			if n := files(); n != 1 { // the socket
				t.Errorf("%d files", n)
			}

			killed, waiting := dial(), dial()
			h.do("accept")
			h.do("write 1 100")
			done := blocked(waiting, func() {
				_, err := waiting.Read(make([]byte, 8))
				wantErr(t, "Read of who was in the backlog", err, "read ECONNRESET")
			})
			h.kill()
			<-done
			if got, err := io.ReadAll(killed); len(got) != 100 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ReadAll = %d bytes, %v", len(got), err)
			}
			_, err = killed.Write([]byte("x"))
			wantErr(t, "Write", err, "write EPIPE")
			killed.Close()
			waiting.Close()

			// What he has left is not ours to take.
			_, err = d.Dial(name)
			wantErr(t, "Dial of a stale name", err, "dial ECONNREFUSED")
			_, err = shmconn.Dial(name)
			wantErr(t, "Dial of another user's name", err, "dial permission")
			_, err = shmconn.Listen(name)
			wantErr(t, "Listen on another user's name", err, "listen permission")
			if n := files(); n != 1 {
				t.Errorf("%d files", n)
			}
			// It is his.
			h = start(t, s)
			h.do("listen %s", name)
			h.do("unlisten")
			if n := files(); n != 0 {
				t.Errorf("%d files", n)
			}
		})
	}
	t.Run("a name in use", func(t *testing.T) {
		h := start(t, shape{Ring: 4096})
		name := newName()
		h.do("listen %s", name)
		_, err := shmconn.Listen(name)
		if got := class(err); got != "EADDRINUSE" && got != "permission" {
			t.Errorf("Listen: %s", got)
		}
		h.do("unlisten")

		l := shape{Ring: 4096}.mustListen(t, name)
		if got := h.call("listen %s", name); got != "permission" && got != "EADDRINUSE" {
			t.Errorf("another user's Listen: %s", got)
		}
		polite(t, shape{Ring: 4096}, l)
	})
	t.Run("modes", func(t *testing.T) { // so that others may not do by hand what Dial refuses
		name := newName()
		l := shape{Ring: 4096}.mustListen(t, name)
		for _, file := range []string{"", "@sock"} {
			info, err := os.Stat(unixShape.path("shmconn." + name + file))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("shmconn.NAME%s: %v, %v", file, info.Mode(), err)
			}
		}
		polite(t, shape{Ring: 4096}, l)
	})
}
