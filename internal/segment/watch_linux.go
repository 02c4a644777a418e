package segment

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Watch waits for the files of one name to change, which a listener's
// beginning to listen always does: it makes the socket under its name and
// writes to the segment, also where it takes over what another has left, and
// last of all the magic number.
//
// The kernel reports that by inotify. The directory is watched, and all that
// lead to it: so it may come later, vanish, and come again.
type Watch struct {
	dir   string // absolute
	files []string
	f     *os.File // the inotify instance; nil if there is none
	short bool     // something could not be watched that is there
	buf   [4096]byte
}

const (
	// WatchEvery is how long a Wait lasts at the most. A look a second finds
	// what inotify does not report: a file system that is mounted over the
	// directory, and the target of a symbolic link on the way to it.
	WatchEvery = time.Second

	// WatchWithout is the same where inotify cannot be had.
	WatchWithout = 50 * time.Millisecond
)

const (
	watchFiles = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MODIFY
	watchNames = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
	watchSelf  = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
)

// NewWatch returns the Watch of the name base in the directory at path, which
// need not exist. It does not fail: without inotify
// (fs.inotify.max_user_instances, a filter of system calls) Wait is just
// shorter.
func NewWatch(path, base string) (*Watch, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	w := &Watch{dir: abs, files: []string{Prefix + base, socketName(base)}}
	fd, err := inotifyInit(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w, nil
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	if w.f.SetReadDeadline(time.Time{}) != nil {
		w.Close() // the runtime's poller could not take it
	}
	return w, nil
}

// inotifyInit is a variable for tests of what is done without it.
var inotifyInit = unix.InotifyInit1

// Aim watches what there is now. It is called before each look at the files: a
// change after that ends the next Wait.
func (w *Watch) Aim() {
	if w.f == nil {
		return
	}
	raw, err := w.f.SyscallConn()
	if err != nil {
		return
	}
	w.short = false
	raw.Control(func(fd uintptr) {
		mask := uint32(watchFiles | watchSelf | unix.IN_ONLYDIR)
		for dir := w.dir; ; dir = filepath.Dir(dir) {
			// One that does not exist, or may not be read, is left to the ones
			// above.
			_, err := unix.InotifyAddWatch(int(fd), dir, mask)
			if err == unix.ENOSPC || err == unix.ENOMEM {
				w.short = true // fs.inotify.max_user_watches
			}
			if dir == filepath.Dir(dir) {
				return
			}
			mask = watchNames | watchSelf | unix.IN_ONLYDIR
		}
	})
}

// Wait waits until the files may have changed since Aim, for limit or
// WatchEvery at the most, or until ctx ends.
func (w *Watch) Wait(ctx context.Context, limit time.Duration) {
	f := w.f
	if f == nil {
		select {
		case <-ctx.Done():
		case <-time.After(min(limit, WatchWithout)):
		}
		return
	}
	if w.short {
		limit = min(limit, WatchWithout)
	}
	f.SetReadDeadline(time.Now().Add(min(limit, WatchEvery)))
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		n, err := f.Read(w.buf[:])
		if err != nil || w.concerns(w.buf[:n]) {
			return
		}
	}
}

// concerns reports whether one of the events in b can be about the files.
func (w *Watch) concerns(b []byte) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			break
		}
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		if w.knows(name) {
			return true
		}
		b = b[size:]
	}
	return false
}

// knows reports whether name is one of the files, or of a directory on the way.
// No name stands for a watched directory itself, or for events that were lost.
func (w *Watch) knows(name string) bool {
	return name == "" || name == w.files[0] || name == w.files[1] ||
		strings.Contains(w.dir+"/", "/"+name+"/")
}

// Close ends the Watch.
func (w *Watch) Close() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}
