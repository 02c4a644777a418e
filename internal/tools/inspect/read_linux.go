package inspect

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
)

// The header of a segment can be read in three ways, which are tried in this
// order:
//
//   - The dialer of a named segment keeps a descriptor of it. A process that
//     may read the file (its owner's, or root's) can open the file again by
//     /proc/PID/fd.
//   - /proc/PID/map_files has all mappings, also of memory for which no process
//     has a descriptor any more. Opening it takes CAP_SYS_ADMIN or
//     CAP_CHECKPOINT_RESTORE.
//   - process_vm_readv copies from the memory of a process that the caller
//     could debug: one of its own, where kernel.yama.ptrace_scope is 0.
//
// The first two are opened for reading only and read like any file. A mapping
// of our own would fault if a process truncated the segment.

// reopened returns the flags that a descriptor has that was opened by way of
// /proc, and one that pipe2 made has not. Which bit that is, O_LARGEFILE,
// depends on the processor.
var reopened = sync.OnceValue(func() uint64 {
	var fd [2]int
	if unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return 0
	}
	defer unix.Close(fd[0])
	defer unix.Close(fd[1])
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd[0]), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(again)
	a, _, err1 := readFDInfo("/proc/self/", fd[0])
	b, _, err2 := readFDInfo("/proc/self/", again)
	if err1 != nil || err2 != nil {
		return 0
	}
	return b &^ a
})

// open opens what path, a link of /proc, leads to, if it is of the kind and the
// inode. Nothing else is opened: it may have been replaced, and to open a
// device can do things.
func open(path string, kind uint32, inode uint64) (int, error) {
	at, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return -1, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != kind || st.Ino != inode {
		return -1, errEnded
	}
	again := fmt.Sprintf("/proc/self/fd/%d", at)
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Open(again, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM { // somebody else's, which one may read
		fd, err = unix.Open(again, flags, 0)
	}
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	return fd, nil
}

// ringable reports whether anybody could still ring the doorbell of the process
// pid. To ask it opens the reading end once more, which neither end of a
// connection notices.
func ringable(pid int, e pipeEnd) (bool, error) {
	fd, err := open(fmt.Sprintf("/proc/%d/fd/%d", pid, e.fd), unix.S_IFIFO, e.inode)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return pollable(fd)
}

func pollable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		return fds[0].Revents&unix.POLLHUP == 0, nil
	}
}

// A source is a way to read the header of a segment.
type source interface {
	// copy fills b from the beginning of the segment.
	copy(b []byte) error
	// describe fills in what is known of it as a file.
	describe(f *facts)
	close()
}

type fileSource int

func openFileSource(path string, inode uint64) (source, error) {
	fd, err := open(path, unix.S_IFREG, inode)
	if err != nil {
		return nil, err
	}
	return fileSource(fd), nil
}

func (s fileSource) copy(b []byte) error {
	for {
		n, err := unix.Pread(int(s), b, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("pread", err)
		case n < len(b):
			return errTruncated
		default:
			return nil
		}
	}
}

var errTruncated = errors.New("segment is shorter than its header")

func (s fileSource) describe(f *facts) {
	var st unix.Stat_t
	if unix.Fstat(int(s), &st) == nil {
		f.uid, f.size = int(st.Uid), st.Size
	}
	var sx unix.Statx_t
	if unix.Statx(int(s), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &sx) == nil && sx.Mask&unix.STATX_BTIME != 0 {
		f.since = time.Unix(sx.Btime.Sec, int64(sx.Btime.Nsec))
	}
}

func (s fileSource) close() { unix.Close(int(s)) }

type memorySource struct {
	pid  int
	addr uint64
}

func (s memorySource) copy(b []byte) error {
	if uint64(uintptr(s.addr)) != s.addr {
		return errors.ErrUnsupported // 32 bits look at 64
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(s.pid, local, []unix.RemoteIovec{{Base: uintptr(s.addr), Len: len(b)}}, 0)
	switch {
	case err == unix.EFAULT:
		return errTruncated
	case err != nil:
		return os.NewSyscallError("process_vm_readv", err)
	case n < len(b):
		return errTruncated
	}
	return nil
}

func (s memorySource) describe(*facts) {}
func (s memorySource) close()          {}

// read reads the header of the segment that f is about.
func (f *facts) read() {
	err := errors.New("no process has it")
	for _, open := range f.sources() {
		var s source
		if s, err = open(); err != nil {
			continue
		}
		s.describe(f)
		err = f.copyHeader(s)
		s.close()
		if err == nil || errors.Is(err, errTruncated) {
			break
		}
	}
	f.err = err
}

// sources lists the ways to read the header.
func (f *facts) sources() (list []func() (source, error)) {
	file := func(path string) {
		list = append(list, func() (source, error) { return openFileSource(path, f.inode) })
	}
	for _, h := range f.holders {
		file("/proc/" + strconv.Itoa(h.pid) + "/fd/" + strconv.Itoa(h.fd))
	}
	if f.path != "" {
		file(f.path)
	}
	for _, e := range f.ends {
		file(fmt.Sprintf("/proc/%d/map_files/%x-%x", e.PID, e.start, e.end))
	}
	for _, e := range f.ends {
		list = append(list, func() (source, error) { return memorySource{e.PID, e.start}, nil })
	}
	return list
}

// copyHeader makes two copies of the header, one after the other: see
// [ring.Snapshot.Check].
func (f *facts) copyHeader(s source) error {
	for i := range f.copies {
		f.copies[i] = make([]byte, segment.HeaderUsed)
		if err := s.copy(f.copies[i]); err != nil {
			return err
		}
	}
	return nil
}
