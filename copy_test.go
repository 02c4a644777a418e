//go:build linux

package shmconn_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
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

// A copySource is a Reader for io.Copy to a connection. It ends by itself.
type copySource struct {
	name string
	n    int // bytes that come before its end or its error
	make func(t testing.TB) io.Reader
}

const copyBytes = 200_003 // more than a ring, a private buffer, and a pipe

// opened returns what makes a file that holds b and opens it with flags.
func opened(flags int, b []byte) func(t testing.TB) io.Reader {
	return func(t testing.TB) io.Reader { return openedAt(t, flags, b, 0) }
}

func openedAt(t testing.TB, flags int, b []byte, pos int64) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Seek(pos, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func memoryFileOf(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := shmtest.MemoryFile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := shmtest.Rewind(f); err != nil {
		t.Fatal(err)
	}
	return f
}

func fileOf(t testing.TB, fd int, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "file")
	t.Cleanup(func() { f.Close() })
	return f
}

// timer returns a timerfd, of which fs.FileMode.IsRegular says that it is a
// regular file. It can be read after d, 8 bytes.
func timer(t testing.TB, flags int, d time.Duration) *os.File {
	t.Helper()
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, flags|unix.TFD_CLOEXEC)
	f := fileOf(t, fd, err)
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(fd, 0, &spec, nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// watched returns an inotify descriptor, and what makes 16 bytes to read of it.
func watched(t testing.TB, flags int) (f *os.File, touch func()) {
	t.Helper()
	fd, err := unix.InotifyInit1(flags | unix.IN_CLOEXEC)
	f = fileOf(t, fd, err)
	path := filepath.Join(t.TempDir(), "file")
	touch = func() { os.WriteFile(path, []byte("x"), 0o600) }
	touch()
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_ONESHOT); err != nil {
		t.Fatal(err)
	}
	return f, touch
}

// blockingPipe returns a pipe whose ends the runtime takes for blocking ones.
func blockingPipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	var p [2]int
	err := unix.Pipe2(p[:], unix.O_CLOEXEC)
	return fileOf(t, p[0], err), fileOf(t, p[1], err)
}

// unblock does what another process may do that shares the descriptor of f.
func unblock(t testing.TB, f *os.File) *os.File {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// terminal returns both ends of a terminal that changes nothing. Without
// O_NONBLOCK the runtime takes the slave for a blocking file.
func terminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd, n int
	raw.Control(func(m uintptr) {
		if err = unix.IoctlSetPointerInt(int(m), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(m), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	fd, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	slave = fileOf(t, fd, err)
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// shouter has a Read of its own, though all else it has is the file's.
type shouter struct{ *os.File }

func (s shouter) Read(b []byte) (int, error) {
	n, err := s.File.Read(b)
	for i := range b[:n] {
		b[i] ^= 0x20
	}
	return n, err
}

var copySources = []copySource{
	{"file", copyBytes, opened(os.O_RDONLY, shmtest.Pattern(0, copyBytes))},
	{"empty file", 0, opened(os.O_RDONLY, nil)},
	{"file, from an offset", copyBytes - 7, func(t testing.TB) io.Reader {
		return openedAt(t, os.O_RDONLY, shmtest.Pattern(0, copyBytes), 7)
	}},
	{"file, from beyond its end", 0, func(t testing.TB) io.Reader {
		return openedAt(t, os.O_RDONLY, []byte("hello"), 7)
	}},
	{"file, to append", copyBytes, opened(os.O_RDWR|os.O_APPEND, shmtest.Pattern(0, copyBytes))},
	{"file, to write only", 0, opened(os.O_WRONLY, shmtest.Pattern(0, copyBytes))},
	{"closed file", 0, func(t testing.TB) io.Reader {
		f := memoryFileOf(t, shmtest.Pattern(0, copyBytes))
		f.Close()
		return f
	}},
	{"file, O_DIRECT", copyBytes, opened(os.O_RDONLY|unix.O_DIRECT, shmtest.Pattern(0, copyBytes))},
	{"file, O_DIRECT, from an offset", 0, func(t testing.TB) io.Reader {
		return io.LimitReader(openedAt(t, os.O_RDONLY|unix.O_DIRECT, shmtest.Pattern(0, copyBytes), 7), copyBytes)
	}},
	{"file, of which nothing is in memory", copyBytes, func(t testing.TB) io.Reader {
		f := openedAt(t, os.O_RDWR, shmtest.Pattern(0, copyBytes), 0)
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
		if err != nil {
			t.Fatal(err)
		}
		return f
	}},
	{"memory file", copyBytes, func(t testing.TB) io.Reader { return memoryFileOf(t, shmtest.Pattern(0, copyBytes)) }},
	{"memory file with holes", copyBytes, func(t testing.TB) io.Reader {
		f := memoryFileOf(t, nil)
		if err := f.Truncate(copyBytes); err != nil {
			t.Fatal(err)
		}
		return f
	}},
	{"memory file of huge pages", 4096, hugeFile},
	{"file, limited", 100_003, func(t testing.TB) io.Reader {
		return io.LimitReader(memoryFileOf(t, shmtest.Pattern(0, copyBytes)), 100_003)
	}},
	{"file, limited to more", copyBytes, func(t testing.TB) io.Reader {
		return io.LimitReader(memoryFileOf(t, shmtest.Pattern(0, copyBytes)), 1<<40)
	}},
	{"file, limited to nothing", 0, func(t testing.TB) io.Reader {
		return io.LimitReader(memoryFileOf(t, shmtest.Pattern(0, copyBytes)), 0)
	}},
	{"file, limited twice", 100_003, func(t testing.TB) io.Reader {
		return io.LimitReader(io.LimitReader(memoryFileOf(t, shmtest.Pattern(0, copyBytes)), 100_003), 150_000)
	}},
	{"file, limited twice, the outer one less", 100_003, func(t testing.TB) io.Reader {
		return io.LimitReader(io.LimitReader(memoryFileOf(t, shmtest.Pattern(0, copyBytes)), 150_000), 100_003)
	}},
	{"wrapper", copyBytes, func(t testing.TB) io.Reader { return shouter{memoryFileOf(t, shmtest.Pattern(0, copyBytes))} }},
	{"wrapper, limited", 100_003, func(t testing.TB) io.Reader {
		return io.LimitReader(shouter{memoryFileOf(t, shmtest.Pattern(0, copyBytes))}, 100_003)
	}},
	{"wrapper, nothing but a Reader", copyBytes, func(t testing.TB) io.Reader {
		return struct{ io.Reader }{shouter{memoryFileOf(t, shmtest.Pattern(0, copyBytes))}}
	}},
	{"directory", 0, func(t testing.TB) io.Reader {
		fd, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return fileOf(t, fd, err)
	}},
	{"/proc", -1, func(t testing.TB) io.Reader { fd, err := unix.Open("/proc/version", 0, 0); return fileOf(t, fd, err) }},
	{"/sys", -1, func(t testing.TB) io.Reader {
		fd, err := unix.Open("/sys/devices/system/cpu/possible", 0, 0)
		return fileOf(t, fd, err)
	}},
	{"/dev/null", 0, func(t testing.TB) io.Reader { fd, err := unix.Open("/dev/null", 0, 0); return fileOf(t, fd, err) }},
	{"/dev/zero, limited", copyBytes, func(t testing.TB) io.Reader {
		fd, err := unix.Open("/dev/zero", 0, 0)
		return io.LimitReader(fileOf(t, fd, err), copyBytes)
	}},
	{"own memory, which has no first page", 0, func(t testing.TB) io.Reader {
		fd, err := unix.Open("/proc/self/mem", 0, 0)
		return fileOf(t, fd, err)
	}},
	{"timer", 8, func(t testing.TB) io.Reader {
		return io.LimitReader(timer(t, unix.TFD_NONBLOCK, 20*time.Millisecond), 8)
	}},
	{"timer, blocking", 8, func(t testing.TB) io.Reader { return io.LimitReader(timer(t, 0, 20*time.Millisecond), 8) }},
	{"timer, buffer too small", 0, func(t testing.TB) io.Reader { return io.LimitReader(timer(t, unix.TFD_NONBLOCK, 1), 7) }},
	{"inotify", 16, func(t testing.TB) io.Reader {
		f, touch := watched(t, unix.IN_NONBLOCK)
		time.AfterFunc(20*time.Millisecond, touch)
		return io.LimitReader(f, 16)
	}},
	{"inotify, blocking", 16, func(t testing.TB) io.Reader {
		f, touch := watched(t, 0)
		time.AfterFunc(20*time.Millisecond, touch)
		return io.LimitReader(f, 16)
	}},
	{"pipe", copyBytes, func(t testing.TB) io.Reader {
		r, w := shmtest.PipePair(t)
		return fed(w, r, shmtest.Pattern(0, copyBytes))
	}},
	{"pipe, blocking", copyBytes, func(t testing.TB) io.Reader { r, w := blockingPipe(t); return fed(w, r, shmtest.Pattern(0, copyBytes)) }},
	{"pipe, made non-blocking by others", 5, func(t testing.TB) io.Reader {
		r, w := blockingPipe(t)
		w.Write([]byte("hello"))
		return unblock(t, r)
	}},
	{"pipe, limited", 100_003, func(t testing.TB) io.Reader {
		r, w := shmtest.PipePair(t)
		return io.LimitReader(fed(w, r, shmtest.Pattern(0, copyBytes)), 100_003)
	}},
	{"terminal", copyBytes, func(t testing.TB) io.Reader {
		m, s := terminal(t)
		go m.Write(shmtest.Pattern(0, copyBytes))
		return io.LimitReader(s, copyBytes)
	}},
	{"terminal's other end", copyBytes, func(t testing.TB) io.Reader {
		m, s := terminal(t)
		go s.Write(shmtest.Pattern(0, copyBytes))
		return io.LimitReader(m, copyBytes)
	}},
	{"tcp", copyBytes, func(t testing.TB) io.Reader {
		x, y := shmtest.TCPPair(t)
		return fed(x, y, shmtest.Pattern(0, copyBytes))
	}},
	{"unix", copyBytes, func(t testing.TB) io.Reader {
		x, y := shmtest.UnixShape.Pair(t)
		return fed(x, y, shmtest.Pattern(0, copyBytes))
	}},
	{"shm", copyBytes, func(t testing.TB) io.Reader {
		x, y := shmtest.Shape{}.Pair(t)
		return fed(x, y, shmtest.Pattern(0, copyBytes))
	}},
	{"shm, wrapped", copyBytes, func(t testing.TB) io.Reader {
		x, y := shmtest.Shape{}.Pair(t)
		return fed(x, struct{ net.Conn }{y}, shmtest.Pattern(0, copyBytes))
	}},
	{"overlay", copyBytes, func(t testing.TB) io.Reader {
		f := overlayFile(t)
		if _, err := f.Write(shmtest.Pattern(0, copyBytes)); err != nil {
			t.Fatal(err)
		}
		if err := shmtest.Rewind(f); err != nil {
			t.Fatal(err)
		}
		return f
	}},
	{"FUSE", copyBytes, func(t testing.TB) io.Reader { return newFuse(t, shmtest.Pattern(0, copyBytes)).file }},
	{"FUSE, with an EFAULT of its own", 0, func(t testing.TB) io.Reader {
		f := newFuse(t, shmtest.Pattern(0, copyBytes))
		f.fail.Store(int32(unix.EFAULT))
		return f.file
	}},
}

// hugeFile is of a file system that is memory but no tmpfs.
func hugeFile(t testing.TB) io.Reader {
	fd, err := unix.MemfdCreate("huge", unix.MFD_HUGETLB|unix.MFD_CLOEXEC)
	if err != nil {
		t.Skipf("no huge pages: %v", err)
	}
	f := fileOf(t, fd, nil)
	if err := f.Truncate(2 << 20); err != nil {
		t.Skipf("no huge pages: %v", err)
	}
	return io.LimitReader(f, 4096)
}

// A copySink is a Writer for io.Copy from a connection.
type copySink struct {
	name  string
	fails bool // before it has taken all of copyBytes
	make  func(t testing.TB) sink
	plain bool // for a Unix socket it is but a Writer: splice has errors of its own
}

// written is a file sink, whose contents are read by another descriptor.
func written(f *os.File) sink {
	raw, err := f.SyscallConn()
	if err != nil {
		return sink{f, func() {}, func() []byte { return nil }}
	}
	var again *os.File
	raw.Control(func(fd uintptr) {
		if n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			again = os.NewFile(uintptr(n), "again")
		}
	})
	return sink{f, func() { f.Close() }, func() []byte {
		defer again.Close()
		b, _ := io.ReadAll(again)
		return b
	}}
}

// copyEnd is written last to what has no end of its own.
var copyEnd = []byte("this is the end of the copy")

// terminalSink is w, one end of a terminal, and what r, the other one, gets.
func terminalSink(t testing.TB, w, r *os.File) sink {
	var got bytes.Buffer
	done := make(chan bool)
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, err := r.Read(buf)
			got.Write(buf[:n])
			if err != nil || bytes.HasSuffix(got.Bytes(), copyEnd) {
				return
			}
		}
	}()
	return sink{w, func() { unix.SetNonblock(int(w.Fd()), false); w.Write(copyEnd) }, func() []byte {
		<-done
		return bytes.TrimSuffix(got.Bytes(), copyEnd)
	}}
}

func slowly(w io.WriteCloser, r io.Reader) sink {
	return collected(w, readerFunc(func(b []byte) (int, error) {
		time.Sleep(100 * time.Microsecond)
		return r.Read(b[:min(len(b), 20_000)])
	}))
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// datagrams returns a sink that is a socket of kind.
func datagrams(t testing.TB, kind int) sink {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i := range c {
		f := os.NewFile(uintptr(p[i]), "socket")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { c[0].Close(); c[1].Close() })
	ch := make(chan []byte, 1)
	go func() {
		var got []byte
		buf := make([]byte, 1<<20)
		for {
			n, err := c[1].Read(buf)
			if err != nil || bytes.Equal(buf[:n], copyEnd) {
				break
			}
			got = append(got, buf[:n]...)
		}
		ch <- got
	}()
	return sink{c[0], func() { c[0].Write(copyEnd) }, func() []byte { return <-ch }}
}

var copySinks = []copySink{
	{"file", false, func(t testing.TB) sink { return written(openedAt(t, os.O_RDWR, nil, 0)) }, false},
	{"file, at an offset", false, func(t testing.TB) sink { return written(openedAt(t, os.O_RDWR, []byte("hello"), 3)) }, false},
	{"file, to append", false, func(t testing.TB) sink {
		return written(openedAt(t, os.O_RDWR|os.O_APPEND, []byte("hello"), 3))
	}, false},
	{"file, to read only", true, func(t testing.TB) sink { return written(openedAt(t, os.O_RDONLY, nil, 0)) }, false},
	{"closed file", true, func(t testing.TB) sink {
		f := openedAt(t, os.O_RDWR, nil, 0)
		f.Close()
		return written(f)
	}, false},
	{"memory file", false, func(t testing.TB) sink { return written(memoryFileOf(t, nil)) }, false},
	{"memory file, sealed", true, func(t testing.TB) sink {
		fd, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		f := fileOf(t, fd, err)
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW); err != nil {
			t.Fatal(err)
		}
		return written(f)
	}, false},
	{"/dev/null", false, func(t testing.TB) sink {
		fd, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		return sink{fileOf(t, fd, err), func() {}, func() []byte { return nil }}
	}, false},
	{"/dev/full", true, func(t testing.TB) sink {
		fd, err := unix.Open("/dev/full", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		return sink{fileOf(t, fd, err), func() {}, func() []byte { return nil }}
	}, true},
	{"timer", true, func(t testing.TB) sink {
		return sink{timer(t, 0, time.Hour), func() {}, func() []byte { return nil }}
	}, false},
	{"pipe", false, func(t testing.TB) sink { r, w := shmtest.PipePair(t); return slowly(w, r) }, false},
	{"pipe, blocking", false, func(t testing.TB) sink { r, w := blockingPipe(t); return slowly(w, r) }, false},
	{"pipe, made non-blocking by others", false, func(t testing.TB) sink {
		r, w := blockingPipe(t)
		return slowly(unblock(t, w), r)
	}, false},
	{"broken pipe", true, func(t testing.TB) sink {
		r, w := shmtest.PipePair(t)
		r.Close()
		return sink{w, func() {}, func() []byte { return nil }}
	}, false},
	{"pipe with a deadline", true, func(t testing.TB) sink {
		_, w := shmtest.PipePair(t)
		w.SetWriteDeadline(time.Now().Add(-time.Second))
		return sink{w, func() {}, func() []byte { return nil }}
	}, false},
	{"terminal", false, func(t testing.TB) sink { m, s := terminal(t); return terminalSink(t, s, m) }, false},
	{"terminal, made non-blocking by others", false, func(t testing.TB) sink {
		m, s := terminal(t)
		return terminalSink(t, unblock(t, s), m)
	}, false},
	{"tcp", false, func(t testing.TB) sink { x, y := shmtest.TCPPair(t); return slowly(x, y) }, false},
	{"tcp, closed", true, func(t testing.TB) sink {
		x, _ := shmtest.TCPPair(t)
		x.Close()
		return sink{x, func() {}, func() []byte { return nil }}
	}, false},
	{"tcp, as a file", false, func(t testing.TB) sink {
		x, y := shmtest.TCPPair(t)
		f, err := x.File()
		if err != nil {
			t.Fatal(err)
		}
		x.Close()
		return slowly(f, y)
	}, false},
	{"unix", false, func(t testing.TB) sink { x, y := shmtest.UnixShape.Pair(t); return slowly(x, y) }, false},
	{"unix, packets", false, func(t testing.TB) sink { return datagrams(t, unix.SOCK_SEQPACKET) }, false},
	{"unix, datagrams", false, func(t testing.TB) sink { return datagrams(t, unix.SOCK_DGRAM) }, false},
	{"shm", false, func(t testing.TB) sink { x, y := shmtest.Shape{Ring: 4096}.Pair(t); return collected(x, y) }, false},
	{"shm, wrapped", false, func(t testing.TB) sink {
		x, y := shmtest.Shape{Ring: 4096}.Pair(t)
		return collected(struct{ net.Conn }{x}, y)
	}, false},
	{"io.Pipe", false, func(t testing.TB) sink { r, w := io.Pipe(); return collected(w, r) }, false},
	{"overlay", false, func(t testing.TB) sink { return written(overlayFile(t)) }, false},
	{"FUSE", false, func(t testing.TB) sink {
		f := newFuse(t, nil)
		return sink{f.file, func() { f.file.Close() }, f.contents}
	}, false},
	{"FUSE, with an EFAULT of its own", true, func(t testing.TB) sink {
		f := newFuse(t, nil)
		f.fail.Store(int32(unix.EFAULT))
		return sink{f.file, func() {}, f.contents}
	}, false},
}

// copyKind is what kind of error err is, in words that both networks share.
func copyKind(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, fs.ErrClosed), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return shmtest.Class(err)
}

// copyThrough copies from src to a connection, and from its other end to dst.
func copyThrough(t *testing.T, s shmtest.Shape, src copySource, dst copySink) string {
	a, b := s.Pair(t)
	// So that no address in the ring is as an unbuffered file wants it.
	if _, err := a.Write([]byte("header\n")); err != nil {
		t.Fatal(err)
	}
	var in string
	r, k := src.make(t), dst.make(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err := io.Copy(a, r)
		in = fmt.Sprintf("in %d %s", n, copyKind(err))
		if !dst.fails && src.n >= 0 && n != int64(src.n) {
			t.Errorf("%v: io.Copy from %s = %d, %v, want %d bytes", s, src.name, n, err, src.n)
		}
		a.CloseWrite()
	}()
	w := k.w
	if dst.plain && s.Net == "unix" {
		w = struct{ io.Writer }{w}
	}
	n, err := io.Copy(w, b)
	out := fmt.Sprintf("out %d %s", n, copyKind(err))
	b.Close()
	<-done
	k.close()
	got := k.got()
	if dst.fails {
		if err == nil {
			t.Errorf("%v: io.Copy to %s = %d, and no error", s, dst.name, n)
		}
		return out // how much had been written by then is a matter of chance
	}
	return fmt.Sprintf("%s; %s; got %d, %.4x", in, out, len(got), sha256.Sum256(got))
}

// TestCopyLikeUnix copies from each kind of source to each kind of sink,
// through a Unix socket and through shared memory: what comes out, the counts,
// and the kinds of error are the same. Sources are paired with three sinks and
// sinks with three sources, with -long all with all.
func TestCopyLikeUnix(t *testing.T) {
	for i, src := range copySources {
		for j, dst := range copySinks {
			if !*shmtest.Long && i > 0 && j > 0 && src.name != "memory file" && dst.name != "pipe" && dst.name != "tcp" && src.name != "pipe" {
				continue
			}
			t.Run(strings.ReplaceAll("from="+src.name+"/to="+dst.name, " ", "_"), func(t *testing.T) {
				want := copyThrough(t, shmtest.UnixShape, src, dst)
				for _, s := range []shmtest.Shape{{}, {Ring: 4096, Anonymous: true, Swap: true}} {
					if got := copyThrough(t, s, src, dst); got != want {
						t.Errorf("%v: %s\nunix: %s", s, got, want)
					}
				}
			})
		}
	}
}

// TestCopyOfItself copies a connection to itself.
func TestCopyOfItself(t *testing.T) {
	for _, s := range []shmtest.Shape{shmtest.UnixShape, {}, {Ring: 4096}} {
		a, b := s.Pair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			n, err := io.Copy(b, b)
			if n != copyBytes || err != nil {
				t.Errorf("%v: io.Copy = %d, %v", s, n, err)
			}
			b.CloseWrite()
		}()
		go func() { a.Write(shmtest.Pattern(0, copyBytes)); a.CloseWrite() }()
		got, err := io.ReadAll(a)
		if len(got) != copyBytes || err != nil {
			t.Errorf("%v: read %d, %v", s, len(got), err)
		}
		shmtest.CheckPattern(t, got, 0)
		<-done
	}
}

// TestCopyChangingFile lets a file grow, and shrink, while it is copied: what
// there was is copied once, and the copy ends where the file ends by then.
func TestCopyChangingFile(t *testing.T) {
	const size, more = 16 << 20, 1 << 20 // size is more than any connection holds
	for _, s := range []shmtest.Shape{shmtest.UnixShape, {}, {Ring: 4096}} {
		for _, kind := range []string{"disk", "memory"} {
			for _, grows := range []bool{true, false} {
				t.Run(fmt.Sprintf("%v/%s/grows=%t", s, kind, grows), func(t *testing.T) {
					a, b := s.Pair(t)
					f := memoryFileOf(t, shmtest.Pattern(0, size))
					if kind == "disk" {
						f = openedAt(t, os.O_RDWR, shmtest.Pattern(0, size), 0)
					}
					var n int64
					var err error
					done := shmtest.Blocked(a, func() { n, err = io.Copy(a, f); a.CloseWrite() })
					if grows {
						_, werr := f.WriteAt(shmtest.Pattern(size, more), size)
						if werr != nil {
							t.Fatal(werr)
						}
					} else if err := f.Truncate(1); err != nil {
						t.Fatal(err)
					}
					got, rerr := io.ReadAll(b)
					<-done
					if err != nil || rerr != nil || int64(len(got)) != n {
						t.Errorf("io.Copy = %d, %v; read %d, %v", n, err, len(got), rerr)
					}
					if grows && n != size+more || !grows && (n == 0 || n >= size) {
						t.Errorf("io.Copy = %d of a file of %d", n, size)
					}
					if grows || s.Net != "unix" { // a Unix socket holds pages of the file's
						shmtest.CheckPattern(t, got, 0)
					}
				})
			}
		}
	}
}

// TestCopyFullRing copies a file that fills the ring, to nobody who reads: the
// end of the file needs no room.
func TestCopyFullRing(t *testing.T) {
	for _, kind := range []string{"disk", "memory"} {
		a, _ := shmtest.Shape{}.ShmPair(t)
		size := a.Available()
		f := memoryFileOf(t, shmtest.Pattern(0, size))
		if kind == "disk" {
			f = openedAt(t, os.O_RDWR, shmtest.Pattern(0, size), 0)
		}
		a.SetWriteDeadline(time.Now().Add(10 * time.Second))
		for _, want := range []int{size, 0} { // and again, of nothing
			if n, err := io.Copy(a, f); n != int64(want) || err != nil {
				t.Errorf("%s: io.Copy = %d, %v, want %d", kind, n, err, want)
			}
		}
	}
}

// TestCopyIsFast checks that the kernel does copy, of which the sign is that a
// copy cut short has not read from the file what it has not written.
func TestCopyIsFast(t *testing.T) {
	shmtest.SkipSockets(t, "the kernel does not copy")
	for _, kind := range []string{"disk", "memory"} {
		for _, how := range []struct {
			name string
			copy func(a *shmconn.Conn, f *os.File) (int64, error)
		}{
			{"io.Copy", func(a *shmconn.Conn, f *os.File) (int64, error) { return io.Copy(a, f) }},
			{"io.CopyN", func(a *shmconn.Conn, f *os.File) (int64, error) { return io.CopyN(a, f, 1<<30) }},
			{"ReadFrom", func(a *shmconn.Conn, f *os.File) (int64, error) { return a.ReadFrom(f) }},
		} {
			t.Run(kind+"/"+how.name, func(t *testing.T) {
				a, _ := shmtest.Shape{Ring: 4096}.ShmPair(t)
				f := memoryFileOf(t, shmtest.Pattern(0, copyBytes))
				if kind == "disk" {
					f = openedAt(t, os.O_RDWR, shmtest.Pattern(0, copyBytes), 0)
					b := make([]byte, 1)
					if _, err := preadNowait(f, b); err != nil {
						t.Skipf("this file system cannot be told not to wait: %v", err)
					}
				}
				a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
				n, err := how.copy(a, f)
				if n != 4096 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("copied %d, %v, want 4096 and a timeout", n, err)
				}
				if off, err := f.Seek(0, io.SeekCurrent); off != n || err != nil {
					t.Errorf("copied %d, and read %d", n, off)
				}
			})
		}
	}
}

func preadNowait(f *os.File, b []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	raw.Control(func(fd uintptr) { n, err = unix.Preadv2(int(fd), [][]byte{b}, 0, unix.RWF_NOWAIT) })
	return n, err
}

// soon fails unless f returns, which takes no time of its own, within a time
// that nobody's slowness explains. Then release ends what f waits for.
func soon(t *testing.T, what string, release, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Errorf("%s waits for a copy", what)
		release()
		<-done
	}
}

// A waitingEnd is a source or a sink that waits. It does so by the time that
// waits returns, or a moment later, until release.
type waitingEnd struct {
	name string
	make func(t *testing.T) (x io.ReadWriter, waits, release func())
}

func aMoment() { time.Sleep(50 * time.Millisecond) }

var waitingSources = []waitingEnd{
	{"timer", func(t *testing.T) (io.ReadWriter, func(), func()) { return waitingTimer(t, unix.TFD_NONBLOCK) }},
	{"timer, blocking", func(t *testing.T) (io.ReadWriter, func(), func()) { return waitingTimer(t, 0) }},
	{"inotify, blocking", func(t *testing.T) (io.ReadWriter, func(), func()) {
		f, touch := watched(t, 0)
		return f, aMoment, touch
	}},
	{"pipe", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := shmtest.PipePair(t)
		return r, aMoment, func() { w.Close() }
	}},
	{"pipe, blocking", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := blockingPipe(t)
		return r, aMoment, func() { w.Close() }
	}},
	{"terminal", func(t *testing.T) (io.ReadWriter, func(), func()) {
		m, s := terminal(t)
		return s, aMoment, func() { m.Close() }
	}},
	{"FUSE", func(t *testing.T) (io.ReadWriter, func(), func()) {
		f := newFuse(t, shmtest.Pattern(0, 100))
		release := f.hold()
		return f.file, func() { <-f.entered }, release
	}},
}

func waitingTimer(t *testing.T, flags int) (io.ReadWriter, func(), func()) {
	f := timer(t, flags, time.Hour)
	return f, aMoment, func() {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.Timespec{Nsec: 1}}, nil)
		})
	}
}

// TestCopySourceWaits checks that nothing else waits while the source of an
// io.Copy does: another Write, CloseWrite and what the peer is told of it, and
// Close.
func TestCopySourceWaits(t *testing.T) {
	for _, src := range waitingSources {
		for _, end := range []string{"CloseWrite", "Close"} {
			t.Run(strings.ReplaceAll(src.name, " ", "_")+"/"+end, func(t *testing.T) {
				a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
				r, waits, release := src.make(t)
				done := make(chan struct{})
				go func() { defer close(done); io.CopyN(a, r, 8) }()
				waits()
				defer func() { release(); <-done }()
				soon(t, "Write", release, func() {
					if n, err := a.Write([]byte("fast")); n != 4 || err != nil {
						t.Errorf("Write = %d, %v", n, err)
					}
				})
				soon(t, end, release, func() {
					if end == "Close" {
						a.Close()
					} else {
						a.CloseWrite()
					}
				})
				soon(t, "the peer's Read", release, func() {
					got, err := io.ReadAll(b)
					if string(got) != "fast" || err != nil {
						t.Errorf("the peer has read %q, %v", got, err)
					}
				})
			})
		}
	}
}

// filled returns w, in which there is no more room.
func filled(t *testing.T, w io.ReadWriter, fd uintptr) io.ReadWriter {
	t.Helper()
	was, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(int(fd), true)
	for _, size := range []int{1 << 16, 1} {
		for {
			if _, err := unix.Write(int(fd), make([]byte, size)); err != nil {
				break
			}
		}
	}
	unix.SetNonblock(int(fd), was&unix.O_NONBLOCK != 0)
	return w
}

func filledFile(t *testing.T, f *os.File) io.ReadWriter {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { filled(t, f, fd) })
	return f
}

var waitingSinks = []waitingEnd{
	{"pipe", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := shmtest.PipePair(t)
		return filledFile(t, w), aMoment, func() { r.Close() }
	}},
	{"pipe, blocking", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := blockingPipe(t)
		return filledFile(t, w), aMoment, func() { r.Close() }
	}},
	{"pipe, made non-blocking by others", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := blockingPipe(t)
		return filledFile(t, unblock(t, w)), aMoment, func() { r.Close() }
	}},
	{"pipe, made blocking by others", func(t *testing.T) (io.ReadWriter, func(), func()) {
		r, w := shmtest.PipePair(t)
		raw, err := w.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { unix.SetNonblock(int(fd), false) })
		return filledFile(t, w), aMoment, func() { r.Close() }
	}},
	{"tcp", func(t *testing.T) (io.ReadWriter, func(), func()) {
		x, y := shmtest.TCPPair(t)
		raw, err := x.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { filled(t, x, fd) })
		return x, aMoment, func() { y.Close() }
	}},
	{"tcp, made blocking by others", func(t *testing.T) (io.ReadWriter, func(), func()) {
		x, y := shmtest.TCPPair(t)
		raw, err := x.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			filled(t, x, fd)
			unix.SetNonblock(int(fd), false)
		})
		return x, aMoment, func() { y.Close() }
	}},
	{"terminal", func(t *testing.T) (io.ReadWriter, func(), func()) {
		m, s := terminal(t)
		return filledFile(t, s), aMoment, func() { m.Close() }
	}},
	{"shm", func(t *testing.T) (io.ReadWriter, func(), func()) {
		x, y := shmtest.Shape{Ring: 4096}.Pair(t)
		x.Write(make([]byte, 2048))
		x.Write(make([]byte, 2048))
		return x, aMoment, func() { y.Close() }
	}},
	{"FUSE", func(t *testing.T) (io.ReadWriter, func(), func()) {
		f := newFuse(t, nil)
		release := f.hold()
		return f.file, func() { <-f.entered }, release
	}},
}

// TestCopySinkWaits checks that nothing else waits while the sink of an io.Copy
// does: another Read, CloseRead and what the peer is told of it, and Close.
func TestCopySinkWaits(t *testing.T) {
	for _, dst := range waitingSinks {
		for _, end := range []string{"CloseRead", "Close"} {
			t.Run(strings.ReplaceAll(dst.name, " ", "_")+"/"+end, func(t *testing.T) {
				a, b := shmtest.Shape{Ring: 4096}.ShmPair(t)
				w, waits, release := dst.make(t)
				done := make(chan struct{})
				a.Write([]byte("slow"))
				go func() { defer close(done); io.Copy(w, b) }()
				waits()
				defer func() { release(); <-done }()
				soon(t, "Read", release, func() {
					// Where the kernel copies, what it could not is still
					// there. But nobody may wait for the copy.
					b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					n, err := b.Read(make([]byte, 8))
					if n == 0 {
						shmtest.WantErr(t, "Read", err, "read timeout")
					}
					b.SetReadDeadline(shmtest.NoDeadline)
					// The sink may take some more before it waits, a terminal
					// does: so there is more until the Read has got some.
					got := make(chan struct{})
					go func() {
						defer close(got)
						buf := make([]byte, 8)
						n, err := b.Read(buf)
						if !strings.Contains("slow"+strings.Repeat("fast", 4), string(buf[:n])) || n == 0 || err != nil {
							t.Errorf("Read = %q, %v", buf[:n], err)
						}
					}()
					for more := true; more; {
						a.TryWrite([]byte("fast"))
						select {
						case <-got:
							more = false
						case <-time.After(time.Millisecond):
						}
					}
				})
				soon(t, end, release, func() {
					if end == "Close" {
						b.Close()
					} else {
						b.CloseRead()
					}
				})
				soon(t, "the peer's Write", release, func() {
					shmtest.Eventually(func() bool {
						_, err := a.TryWrite([]byte("x"))
						return errors.Is(err, syscall.EPIPE)
					})
				})
			})
		}
	}
}

// TestCopyToMessages copies to sockets that take no message of more than a
// private buffer.
func TestCopyToMessages(t *testing.T) {
	const size = 300_000
	for _, kind := range []int{unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
		a, b := shmtest.Shape{Ring: 1 << 20}.ShmPair(t)
		k := datagrams(t, kind)
		// The kernel doubles it, for what it needs itself.
		if err := k.w.(*net.UnixConn).SetWriteBuffer(40 << 10); err != nil {
			t.Fatal(err)
		}
		a.Write(shmtest.Pattern(0, size))
		a.CloseWrite()
		if n, err := io.Copy(k.w, b); n != size || err != nil {
			t.Errorf("socket of kind %d: io.Copy = %d, %v", kind, n, err)
		}
		k.close()
		got := k.got()
		if len(got) != size {
			t.Errorf("socket of kind %d: got %d bytes", kind, len(got))
		}
		shmtest.CheckPattern(t, got, 0)
	}
}

// inMounts calls f on a thread with mounts of its own, of which nothing is left
// but the descriptor that f returns.
func inMounts(t testing.TB, f func() (fd int, err error)) *os.File {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	var fd int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends
		if err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return
		}
		if err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return
		}
		fd, err = f()
	}()
	<-done
	if err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	return fileOf(t, fd, nil)
}

// overlayFile returns an empty file of an overlay.
func overlayFile(t testing.TB) *os.File {
	t.Helper()
	dir := t.TempDir()
	return inMounts(t, func() (int, error) {
		// An overlay cannot be on top of another one, in a container, but of a tmpfs.
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return 0, err
		}
		for _, name := range []string{"lower", "upper", "work", "all"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				return 0, err
			}
		}
		all := filepath.Join(dir, "all")
		options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
		if err := unix.Mount("overlay", all, "overlay", 0, options); err != nil {
			return 0, err
		}
		return unix.Open(filepath.Join(all, "file"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	})
}

// A fuse is a file of a FUSE file system that is served by this process. While
// it is held neither a read nor a write of it is answered.
type fuse struct {
	file    *os.File
	dev     *os.File
	entered chan struct{} // gets a token for each read or write

	fail atomic.Int32 // what reads and writes fail with

	gate sync.RWMutex // held by hold
	mu   sync.Mutex
	data []byte
}

// The requests that a file needs, and their sizes.
const (
	fuseLookup, fuseForget, fuseGetattr, fuseSetattr     = 1, 2, 3, 4
	fuseOpen, fuseRead, fuseWrite, fuseStatfs            = 14, 15, 16, 17
	fuseRelease, fuseFlush, fuseInit, fuseInterrupt      = 18, 25, 26, 36
	fuseBatchForget, fuseInHeader, fuseOutHeader         = 42, 40, 16
	fuseAttrSize, fuseInitSize, fuseMaxWrite, fuseFileID = 88, 64, 128 << 10, 2
)

func newFuse(t testing.TB, data []byte) *fuse {
	t.Helper()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	f := &fuse{data: data, entered: make(chan struct{}, 1)}
	dir := t.TempDir()
	f.file = inMounts(t, func() (fd int, err error) {
		err = unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV,
			fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev))
		f.dev = os.NewFile(uintptr(dev), "/dev/fuse") // now, as before it cannot be polled
		t.Cleanup(func() { f.dev.Close() })           // which answers all that is open
		if err != nil {
			return 0, err
		}
		go f.serve()
		return unix.Open(filepath.Join(dir, "file"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	})
	return f
}

// hold makes reads and writes of the file wait until it is released.
func (f *fuse) hold() (release func()) {
	f.gate.Lock()
	return sync.OnceFunc(f.gate.Unlock)
}

func (f *fuse) contents() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.data
}

func (f *fuse) serve() {
	for {
		buf := make([]byte, fuseMaxWrite+8192)
		n, err := f.dev.Read(buf)
		if err != nil {
			return
		}
		go f.answer(buf[:n])
	}
}

func (f *fuse) answer(in []byte) {
	ne := binary.NativeEndian
	body := in[fuseInHeader:]
	out := make([]byte, fuseOutHeader)
	reply := func(errno unix.Errno) {
		ne.PutUint32(out, uint32(len(out)))
		ne.PutUint32(out[4:], uint32(-int32(errno)))
		copy(out[8:16], in[8:16]) // which request
		f.dev.Write(out)
	}
	node := ne.Uint64(in[16:])
	switch op := ne.Uint32(in[4:]); op {
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return
	case fuseInit:
		b := make([]byte, fuseInitSize)
		ne.PutUint32(b, 7)
		ne.PutUint32(b[4:], 31)
		ne.PutUint32(b[20:], fuseMaxWrite)
		out = append(out, b...)
	case fuseLookup:
		b := make([]byte, 40)
		ne.PutUint64(b, fuseFileID)
		out = append(append(out, b...), f.attr(fuseFileID)...)
	case fuseGetattr, fuseSetattr:
		out = append(append(out, make([]byte, 16)...), f.attr(node)...)
	case fuseOpen:
		out = append(out, make([]byte, 16)...)
	case fuseRead, fuseWrite:
		nudgeTest(f.entered)
		f.gate.RLock()
		defer f.gate.RUnlock()
		if errno := f.fail.Load(); errno != 0 {
			reply(unix.Errno(errno))
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		off, size := int(ne.Uint64(body[8:])), int(ne.Uint32(body[16:]))
		if op == fuseRead {
			off = min(off, len(f.data))
			out = append(out, f.data[off:min(off+size, len(f.data))]...)
			break
		}
		if end := off + size; end > len(f.data) {
			f.data = append(f.data, make([]byte, end-len(f.data))...)
		}
		copy(f.data[off:], body[40:40+size])
		out = ne.AppendUint64(out, uint64(size))
	case fuseStatfs:
		out = append(out, make([]byte, 80)...)
	case fuseFlush, fuseRelease:
	default:
		reply(unix.ENOSYS)
		return
	}
	reply(0)
}

// attr is the attributes of the directory, node 1, or the fine.
func (f *fuse) attr(node uint64) []byte {
	b := make([]byte, fuseAttrSize)
	ne := binary.NativeEndian
	ne.PutUint64(b, node)
	mode := uint32(unix.S_IFDIR | 0o700)
	if node == fuseFileID {
		mode = unix.S_IFREG | 0o600
		ne.PutUint64(b[8:], uint64(len(f.contents())))
	}
	ne.PutUint32(b[60:], mode)
	ne.PutUint32(b[64:], 1)
	return b
}

func nudgeTest(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A scribbler uses all of the slice it is given as scratch space, and returns
// little.
type scribbler struct{ r io.Reader }

func (s scribbler) Read(b []byte) (int, error) {
	n, err := s.r.Read(b[:min(len(b), 333)])
	for i := range b[n:] {
		b[n+i] = 0xEE
	}
	return n, err
}

// A lastReader returns its last bytes together with io.EOF.
type lastReader struct{ b []byte }

func (r *lastReader) Read(b []byte) (int, error) {
	n := copy(b, r.b)
	r.b = r.b[n:]
	if len(r.b) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// fed returns r, into which w gets b in the background.
func fed(w io.WriteCloser, r io.Reader, b []byte) io.Reader {
	go func() { w.Write(b); w.Close() }()
	return r
}

// sources are the kinds of Reader for ReadFrom.
var sources = []struct {
	name string
	make func(t testing.TB, b []byte) io.Reader
}{
	{"file", func(t testing.TB, b []byte) io.Reader { return shmtest.TempFile(t, b) }},
	{"file,limited", func(t testing.TB, b []byte) io.Reader {
		return io.LimitReader(shmtest.TempFile(t, append(bytes.Clone(b), "not this"...)), int64(len(b)))
	}},
	{"file,offset", func(t testing.TB, b []byte) io.Reader {
		f := shmtest.TempFile(t, append([]byte("not this"), b...))
		f.Seek(8, io.SeekStart)
		return f
	}},
	{"pipe", func(t testing.TB, b []byte) io.Reader { r, w := shmtest.PipePair(t); return fed(w, r, b) }},
	{"tcp", func(t testing.TB, b []byte) io.Reader { x, y := shmtest.TCPPair(t); return fed(x, y, b) }},
	{"unix", func(t testing.TB, b []byte) io.Reader { x, y := shmtest.UnixShape.Pair(t); return fed(x, y, b) }},
	{"shm", func(t testing.TB, b []byte) io.Reader { x, y := shmtest.Shape{Ring: 4096}.Pair(t); return fed(x, y, b) }},
	{"bytes.Reader", func(t testing.TB, b []byte) io.Reader { return bytes.NewReader(b) }},
	{"io.Pipe", func(t testing.TB, b []byte) io.Reader { r, w := io.Pipe(); return fed(w, r, b) }},
	{"scribbler", func(t testing.TB, b []byte) io.Reader { return scribbler{bytes.NewReader(b)} }},
	{"data with EOF", func(t testing.TB, b []byte) io.Reader { return &lastReader{b} }},
	{"onlyReader", func(t testing.TB, b []byte) io.Reader { return shmtest.OnlyReader{Reader: bytes.NewReader(b)} }},
}

func TestReadFrom(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		for _, src := range sources {
			t.Run("from="+src.name, func(t *testing.T) {
				for _, n := range []int{0, 1, 4095, 4096, 4097, s.RingSize() + 1, 1<<20 + 3} {
					a, b := s.ShmPair(t)
					r := src.make(t, shmtest.Pattern(0, n))
					a.Write([]byte("before"))
					var m int64
					var err error
					done := make(chan bool)
					go func() {
						defer close(done)
						m, err = a.ReadFrom(r)
						a.Write([]byte("after"))
						a.Close()
					}()
					got, rerr := io.ReadAll(b)
					<-done
					if m != int64(n) || err != nil {
						t.Errorf("ReadFrom(%d) = %d, %v", n, m, err)
					}
					head, mid, tail := cutEnds(got, len("before"), len("after"))
					if string(head) != "before" || string(tail) != "after" || len(mid) != n || rerr != nil {
						t.Errorf("ReadFrom(%d): read %d between %q and %q, %v", n, len(mid), head, tail, rerr)
					}
					shmtest.CheckPattern(t, mid, 0)
					b.Close()
				}
			})
		}

		t.Run("deadline", func(t *testing.T) {
			for _, src := range sources[:1] {
				a, b := s.ShmPair(t)
				r := src.make(t, shmtest.Pattern(0, 2*s.RingSize()))
				var n int64
				var err error
				done := shmtest.Blocked(a, func() { n, err = a.ReadFrom(r) })
				a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
				<-done
				shmtest.WantErr(t, "ReadFrom", err, "readfrom timeout")
				if n <= 0 || n >= int64(2*s.RingSize()) {
					t.Errorf("ReadFrom = %d", n)
				}
				if off, _ := r.(*os.File).Seek(0, io.SeekCurrent); off != n && !shmtest.Sockets { // no kernel's copy there
					t.Errorf("ReadFrom = %d, and left the file's offset at %d", n, off)
				}
				a.Close()
				got, err := io.ReadAll(b)
				if int64(len(got)) != n || err != nil {
					t.Errorf("ReadFrom = %d, but read were %d, %v", n, len(got), err)
				}
				shmtest.CheckPattern(t, got, 0)
			}
		})
		t.Run("errors", func(t *testing.T) {
			a, b := s.ShmPair(t)
			n, err := a.ReadFrom(io.MultiReader(strings.NewReader("hello"), errReader{errForeign}))
			if n != 5 || !errors.Is(err, errForeign) {
				t.Errorf("ReadFrom = %d, %v", n, err)
			}
			shmtest.Outcome(t, shmtest.Network, err)
			if got := make([]byte, 8); true {
				if n, _ := b.Read(got); string(got[:n]) != "hello" {
					t.Errorf("Read = %q", got[:n])
				}
			}
			for _, src := range sources {
				a, b := s.ShmPair(t)
				b.Close()
				n, err := a.ReadFrom(src.make(t, []byte("hello")))
				if n != 0 {
					t.Errorf("%s: ReadFrom after the peer's Close = %d", src.name, n)
				}
				shmtest.WantErr(t, src.name+": ReadFrom after the peer's Close", err, "readfrom EPIPE")
				a.Close()
				_, err = a.ReadFrom(src.make(t, []byte("hello")))
				shmtest.WantErr(t, src.name+": ReadFrom after Close", err, "readfrom closed")
			}
		})
	})
}

func cutEnds(b []byte, head, tail int) (h, m, t []byte) {
	if len(b) < head+tail {
		return b, nil, nil
	}
	return b[:head], b[head : len(b)-tail], b[len(b)-tail:]
}

// A sink is a Writer, and what it has got once it is closed.
type sink struct {
	w     io.Writer
	close func()
	got   func() []byte
}

// collected reads r in the background.
func collected(w io.WriteCloser, r io.Reader) sink {
	ch := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(r); ch <- b }()
	return sink{w, func() { w.Close() }, func() []byte { return <-ch }}
}

var sinks = []struct {
	name string
	make func(t testing.TB) sink
}{
	{"file", func(t testing.TB) sink {
		f := shmtest.TempFile(t, nil)
		return sink{f, func() {}, func() []byte { b, _ := os.ReadFile(f.Name()); return b }}
	}},
	{"file,append", func(t testing.TB) sink {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return sink{f, func() { f.Close() }, func() []byte { b, _ := os.ReadFile(f.Name()); return b }}
	}},
	{"pipe", func(t testing.TB) sink { r, w := shmtest.PipePair(t); return collected(w, r) }},
	{"tcp", func(t testing.TB) sink { x, y := shmtest.TCPPair(t); return collected(x, y) }},
	{"unix", func(t testing.TB) sink { x, y := shmtest.UnixShape.Pair(t); return collected(x, y) }},
	{"shm", func(t testing.TB) sink { x, y := shmtest.Shape{Ring: 4096}.Pair(t); return collected(x, y) }},
	{"bytes.Buffer", func(t testing.TB) sink { b := new(bytes.Buffer); return sink{b, func() {}, b.Bytes} }},
	{"io.Pipe", func(t testing.TB) sink { r, w := io.Pipe(); return collected(w, r) }},
	{"io.MultiWriter", func(t testing.TB) sink {
		var x, y bytes.Buffer
		return sink{io.MultiWriter(&x, &y), func() {}, func() []byte {
			if !bytes.Equal(x.Bytes(), y.Bytes()) {
				t.Error("a MultiWriter's two got different bytes")
			}
			return x.Bytes()
		}}
	}},
	{"onlyWriter", func(t testing.TB) sink {
		b := new(bytes.Buffer)
		return sink{shmtest.OnlyWriter{Writer: b}, func() {}, b.Bytes}
	}},
}

func TestWriteTo(t *testing.T) {
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		for _, dst := range sinks {
			t.Run("to="+dst.name, func(t *testing.T) {
				for _, n := range []int{0, 1, 4095, 4096, 4097, s.RingSize() + 1, 1<<20 + 3} {
					a, b := s.ShmPair(t)
					go func() {
						for off := 0; off < n; off += 10_000 {
							a.Write(shmtest.Pattern(off, min(10_000, n-off)))
						}
						a.Close()
					}()
					k := dst.make(t)
					m, err := b.WriteTo(k.w)
					if m != int64(n) || err != nil {
						t.Errorf("WriteTo(%d) = %d, %v", n, m, err)
					}
					k.close()
					got := k.got()
					if len(got) != n {
						t.Errorf("WriteTo(%d): written were %d", n, len(got))
					}
					shmtest.CheckPattern(t, got, 0)
					b.Close()
				}
			})
		}

		t.Run("deadline", func(t *testing.T) {
			for _, dst := range sinks {
				a, b := s.ShmPair(t)
				a.Write(shmtest.Pattern(0, 1000))
				k := dst.make(t)
				var n int64
				var err error
				done := shmtest.Blocked(b, func() { n, err = b.WriteTo(k.w) })
				b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				<-done
				shmtest.WantErr(t, dst.name+": WriteTo", err, "writeto timeout")
				k.close()
				if got := k.got(); n != 1000 || len(got) != 1000 {
					t.Errorf("%s: WriteTo = %d, and wrote %d, want 1000", dst.name, n, len(got))
				}
			}
		})
		t.Run("errors", func(t *testing.T) {
			a, b := s.ShmPair(t)
			a.Write([]byte("hello"))
			n, err := b.WriteTo(failingWriter{})
			if n != 0 || !errors.Is(err, errForeign) {
				t.Errorf("WriteTo = %d, %v", n, err)
			}
			shmtest.Outcome(t, shmtest.Network, err)
			a.Write([]byte("hello"))
			n, err = b.WriteTo(shortWriter{})
			if !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("WriteTo = %d, %v", n, err)
			}
			// What the kernel did not take is still there.
			f := shmtest.TempFile(t, nil)
			f.Close()
			r, w := shmtest.PipePair(t)
			r.Close()
			x, _ := shmtest.TCPPair(t)
			x.Close()
			for _, dst := range []struct {
				name string
				w    io.Writer
				err  error
			}{
				{"a closed file", f, os.ErrClosed},
				{"a broken pipe", w, syscall.EPIPE},
				{"a closed TCP connection", x, net.ErrClosed},
			} {
				a, b := s.ShmPair(t)
				a.Write([]byte("hello"))
				n, err := b.WriteTo(dst.w)
				if n != 0 || !errors.Is(err, dst.err) {
					t.Errorf("WriteTo %s = %d, %v", dst.name, n, err)
				}
				got := make([]byte, 8)
				if n, err := b.TryRead(got); string(got[:n]) != "hello" && !shmtest.Sockets { // no kernel's copy there
					t.Errorf("after WriteTo %s failed, read %q, %v", dst.name, got[:n], err)
				}
			}
			for _, dst := range sinks {
				_, b := s.ShmPair(t)
				b.Close()
				k := dst.make(t)
				_, err := b.WriteTo(k.w)
				shmtest.WantErr(t, dst.name+": WriteTo after Close", err, "writeto closed")
				k.close()
				k.got()
			}
		})
	})
}

// TestSlowCopy checks that a Read or Write beside an io.Copy whose other side
// blocks goes on and keeps its deadline.
func TestSlowCopy(t *testing.T) {
	blockedPipe := func(t *testing.T) (f *os.File, free func()) {
		r, w := shmtest.PipePair(t)
		for w.SetWriteDeadline(time.Now().Add(time.Millisecond)); ; {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
		w.SetWriteDeadline(shmtest.NoDeadline)
		return w, func() { r.Close() }
	}
	shmtest.OnShapes(t, shmtest.SmallShapes, func(t *testing.T, s shmtest.Shape) {
		t.Run("ReadFrom", func(t *testing.T) {
			a, b := s.ShmPair(t)
			src := newSlowReader("slow")
			done := make(chan bool)
			go func() {
				defer close(done)
				if n, err := a.ReadFrom(src); n != 4 || err != nil {
					t.Errorf("ReadFrom = %d, %v", n, err)
				}
			}()
			<-src.entered
			buf := make([]byte, 8)
			if n, err := a.Write([]byte("fast")); n != 4 || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			if n, _ := b.Read(buf); string(buf[:n]) != "fast" {
				t.Errorf("read %q", buf[:n])
			}
			for {
				if n, err := a.TryWrite(make([]byte, 1<<16)); n == 0 {
					if err != nil {
						t.Error(err)
					}
					break
				}
			}
			a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
			_, err := a.Write([]byte("x"))
			shmtest.WantErr(t, "Write", err, "write timeout")
			a.SetWriteDeadline(shmtest.NoDeadline)
			go io.Copy(io.Discard, b)
			close(src.release)
			<-done
			a.Close()
		})
		t.Run("WriteTo", func(t *testing.T) {
			a, b := s.ShmPair(t)
			dst := newSlowWriter(io.Discard)
			done := make(chan bool)
			go func() {
				defer close(done)
				if n, err := b.WriteTo(dst); n != 4 || err != nil {
					t.Errorf("WriteTo = %d, %v", n, err)
				}
			}()
			a.Write([]byte("slow"))
			<-dst.entered
			b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			buf := make([]byte, 8)
			_, err := b.Read(buf)
			shmtest.WantErr(t, "Read", err, "read timeout")
			b.SetReadDeadline(shmtest.NoDeadline)
			a.Write([]byte("fast"))
			if n, err := b.Read(buf); string(buf[:n]) != "fast" || err != nil {
				t.Errorf("Read = %q, %v", buf[:n], err)
			}
			a.Close()
			close(dst.release)
			<-done
		})
		t.Run("WriteTo a pipe that is full", func(t *testing.T) {
			a, b := s.ShmPair(t)
			w, free := blockedPipe(t)
			done := make(chan bool)
			go func() { defer close(done); b.WriteTo(w) }()
			a.Write([]byte("x"))
			// Whether WriteTo has the byte already or Read gets it: neither may wait
			// beyond the deadline.
			b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			n, err := b.Read(make([]byte, 1))
			if n == 0 {
				shmtest.WantErr(t, "Read", err, "read timeout")
			}
			// Nor may Close wait.
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			free()
			<-done
		})
		t.Run("WriteTo a TCP connection that is full", func(t *testing.T) {
			a, b := s.ShmPair(t)
			x, y := shmtest.TCPPair(t)
			for x.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); ; {
				if _, err := x.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			x.SetWriteDeadline(shmtest.NoDeadline)
			done := make(chan bool)
			go func() { defer close(done); b.WriteTo(x) }()
			a.Write([]byte("x"))
			b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			n, err := b.Read(make([]byte, 1))
			if n == 0 {
				shmtest.WantErr(t, "Read", err, "read timeout")
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			y.Close()
			x.Close()
			<-done
		})
	})
}
