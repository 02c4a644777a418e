//go:build linux

package container

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn"
	"shmconn/internal/shmtest"
)

// The environment of a container: the directory that it shares with others,
// what it calls that, and an empty directory, on which it makes its root.
const (
	sharedEnv = "SHMCONN_TEST_SHARED"
	calledEnv = "SHMCONN_TEST_CALLED"
	rootEnv   = "SHMCONN_TEST_ROOT"
)

// container is an agent that is process 1 of a container: it has processes,
// mounts and a root of its own, and shares one directory with others.
func container(s shmtest.Shape, in *bufio.Scanner) {
	called := os.Getenv(calledEnv)
	if err := enterRoot(os.Getenv(rootEnv), os.Getenv(sharedEnv), called); err != nil {
		fmt.Println(err)
		return
	}
	os.Setenv("SHMCONN_DIR", called)
	fmt.Println("process", os.Getpid(), "sees", strings.Join(shmtest.ListDir("/"), " "))
	shmtest.Agent(s, in)
}

// enterRoot makes an empty file system the root of this process, with a /proc
// of its own and the shared directory in it.
func enterRoot(root, shared, called string) error {
	mount := func(source, target, fstype string, flags uintptr) error {
		err := unix.Mount(source, target, fstype, flags, "")
		return os.NewSyscallError("mount on "+target, err)
	}
	if err := errors.Join(
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE),
		mount("tmpfs", root, "tmpfs", 0),
		os.MkdirAll(root+"/proc", 0o755),
		os.MkdirAll(root+"/old", 0o755),
		os.MkdirAll(root+called, 0o755),
		mount("proc", root+"/proc", "proc", 0),
		mount(shared, root+called, "", unix.MS_BIND),
	); err != nil {
		return err
	}
	return errors.Join(
		os.NewSyscallError("pivot_root", unix.PivotRoot(root, root+"/old")),
		os.Chdir("/"),
		os.NewSyscallError("umount", unix.Unmount("/old", unix.MNT_DETACH)),
		os.Remove("/old"),
	)
}

// A sharedDir is what containers share: a directory on a tmpfs.
type sharedDir struct {
	shared string
	root   string // an empty directory
}

// newSharedDir skips the test where there can be no containers.
func newSharedDir(t *testing.T) *sharedDir {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: cannot make PID and mount namespaces")
	}
	probe := exec.Command("/proc/self/exe", "-test.run=^$")
	probe.Env = append(os.Environ(), shmtest.RoleEnv+"=fds", shmtest.ShapeEnv+"={}")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if err := probe.Run(); err != nil {
		t.Skipf("cannot make PID and mount namespaces: %v", err)
	}
	d := &sharedDir{shared: filepath.Join(os.Getenv("SHMCONN_DIR"), shmtest.NewName()), root: t.TempDir()}
	if err := os.Mkdir(d.shared, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(d.shared); err != nil {
			t.Error(err) // names are left in it
		}
	})
	return d
}

// start starts a container that calls the shared directory so.
func (d *sharedDir) start(t testing.TB, s shmtest.Shape, called string) *shmtest.Helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	h := shmtest.StartCommand(t, cmd, "container", s, sharedEnv+"="+d.shared, calledEnv+"="+called, rootEnv+"="+d.root)
	top, _, _ := strings.Cut(called[1:], "/")
	h.Expect("process 1 sees " + strings.Join(sorted("proc", top), " "))
	return h
}

func sorted(a, b string) []string {
	if b < a {
		a, b = b, a
	}
	return []string{a, b}
}

// watchRead lets h wait in a Read of connection 0. The function it returns
// returns when that ended, as monotonic has it, and fails unless it was with
// ECONNRESET.
func watchRead(h *shmtest.Helper) (end func() int64) {
	h.T.Helper()
	h.Send("watch 0")
	h.Expect("waiting")
	return func() int64 {
		h.T.Helper()
		kind, at, _ := strings.Cut(h.Line(), " ")
		if kind != "ECONNRESET" {
			h.T.Errorf("Read ended with %s, want ECONNRESET", kind)
		}
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			h.T.Error(err)
		}
		return n
	}
}

// TestContainers connects two containers that share a directory and nothing
// else, and kills one of them; then another one takes over its name.
func TestContainers(t *testing.T) {
	d := newSharedDir(t)
	n := 3
	if *shmtest.Long {
		n = 200
	}
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		var told, again shmtest.Figure
		shmtest.InRounds(t, n, func(x *shmtest.Round) {
			a, b := d.start(x, s, "/shared"), d.start(x, s, "/mnt/of/another")
			name := shmtest.NewName()
			a.Do("listen %s", name)
			b.Do("dial %s", name)
			a.Do("accept")

			// Neither has a number where the other is.
			for _, h := range []*shmtest.Helper{a, b} {
				if got, want := h.Call("cred 0"), fmt.Sprintf("0 0 %d", os.Getgid()); got != want {
					x.Errorf("PeerCred() in a container = %s, want %s", got, want)
				}
			}
			for _, two := range [][2]*shmtest.Helper{{a, b}, {b, a}} {
				two[0].Send("write 0 %d", 3*s.RingSize())
				two[1].Do("read 0 %d", 3*s.RingSize())
				two[0].Expect("ok")
			}
			if got := b.Call("listen %s", name); got != "EADDRINUSE" {
				x.Errorf("Listen in the other container: %s", got)
			}

			// The one that dies is, in turn, the listener and the dialer.
			survivor, victim := b, a
			if s.Swap {
				survivor, victim = a, b
			}
			end := watchRead(survivor)
			start := shmtest.Monotonic()
			victim.Kill()
			told = append(told, time.Duration(end()-start))
			for _, call := range []string{"write 0 1", "read 0 1"} {
				if got := survivor.Call("%s", call); got != map[byte]string{'w': "EPIPE", 'r': "ECONNRESET"}[call[0]] {
					x.Errorf("%s after the other container's death: %s", call, got)
				}
			}
			survivor.Do("close 0")
			if s.Swap {
				a.Kill() // now the listener, too
				survivor = d.start(x, s, "/shared")
			}

			// What a has left is a stale name.
			if got := survivor.Call("dial %s", name); got != "ECONNREFUSED" {
				x.Errorf("Dial of a name that was left: %s", got)
			}
			start = shmtest.Monotonic()
			survivor.Do("listen %s", name)
			again = append(again, time.Duration(shmtest.Monotonic()-start))
			c := d.start(x, s, "/elsewhere")
			if got := c.Call("listen %s", name); got != "EADDRINUSE" {
				x.Errorf("Listen in a third container: %s", got)
			}
			c.Do("dial %s", name)
			survivor.Do("accept")
			c.Do("write 0 10")
			survivor.Do("unlisten")
		})
		t.Logf("figure: container told of kill -9 of another: %v; Listen on the name that it left: %v", told, again)
	})
}

// TestContainerOutside connects a container and a process outside, which has a
// number for processes in it, and kills the container.
func TestContainerOutside(t *testing.T) {
	d := newSharedDir(t)
	shmtest.OnShapes(t, shmtest.AcrossShapes, func(t *testing.T, s shmtest.Shape) {
		h := d.start(t, s, "/shared")
		name := shmtest.NewName()
		outside := d.shared + "/" + name
		var c *shmconn.Conn
		if s.Swap {
			l := s.MustListen(t, outside)
			h.Do("dial %s", name)
			c = shmtest.MustAccept(t, l).(*shmconn.Conn)
			l.Close()
		} else {
			h.Do("listen %s", name)
			c = s.MustDial(t, outside).(*shmconn.Conn)
			h.Do("accept")
			h.Do("unlisten")
		}
		if pid, uid, gid := c.PeerCred(); pid != h.PID || uid != 0 || int(gid) != os.Getgid() {
			t.Errorf("PeerCred() = %d, %d, %d, want %d, 0, %d", pid, uid, gid, h.PID, os.Getgid())
		}
		if got, want := h.Call("cred 0"), fmt.Sprintf("0 0 %d", os.Getgid()); got != want {
			t.Errorf("PeerCred() in the container = %s, want %s", got, want)
		}
		c.Write(shmtest.Pattern(0, 100))
		h.Do("read 0 100")
		h.Do("write 0 100")
		h.Kill()
		got := make([]byte, 100)
		if n, err := io.ReadFull(c, got); err != nil {
			t.Errorf("Read = %d, %v", n, err)
		}
		shmtest.CheckPattern(t, got, 0)
		shmtest.WantDead(t, c)
	})
}

// TestContainerDone connects a container and a process outside, again and
// again. Only the one outside knows a number for the other, and so may keep its
// end of the memory for a next time. Done does not wait for that.
func TestContainerDone(t *testing.T) {
	d := newSharedDir(t)
	for _, s := range []shmtest.Shape{{SpareTime: time.Hour}, {SpareTime: time.Hour, Swap: true}} {
		t.Run(s.String(), func(t *testing.T) {
			h := d.start(t, s, "/shared")
			name := shmtest.NewName()
			outside := d.shared + "/" + name
			var l shmtest.Listener
			if s.Swap {
				l = s.MustListen(t, outside)
			} else {
				h.Do("listen %s", name)
			}
			for i := range 3 {
				var c *shmconn.Conn
				if s.Swap {
					h.Do("dial %s", name)
					c = shmtest.MustAccept(t, l).(*shmconn.Conn)
				} else {
					c = s.MustDial(t, outside).(*shmconn.Conn)
					h.Do("accept")
				}
				if i == 0 {
					c.Close()
				}
				h.Send("done %d", i)
				c.Close() // before Done, or after it
				h.Expect("ok")
				if n := c.Stats().Reused; n != 0 {
					t.Errorf("connection %d is over memory that was used %d times", i, n)
				}
				h.Do("close %d", i)
			}
		})
	}
}
