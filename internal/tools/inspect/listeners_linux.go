package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
	"shmconn/internal/sockdiag"
)

// listeners returns those whose files are in the directories, and those that
// were found by their descriptors.
func (s *Scanner) listeners(procs map[int]*process, files []name) (list []Listener) {
	seen := make(map[key]bool)
	holders := make(map[key]*process)
	for _, pid := range slices.Sorted(maps.Keys(procs)) {
		for _, o := range procs[pid].files {
			if o.kind == segment.ListenerFile && o.locked && holders[o.key] == nil {
				holders[o.key] = procs[pid]
			}
		}
	}
	for _, n := range files {
		if n.kind != segment.ListenerFile {
			continue
		}
		seen[n.key] = true
		l := Listener{Name: n.base, Directory: n.dir, UID: n.uid}
		info, err := lookUp(n.dir, n.base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has closed meanwhile
		}
		l.fill(info, err, holders[n.key], procs)
		if err == nil && info.Shared {
			l.share(procs)
		}
		l.Since = socketMade(n.path)
		list = append(list, l)
	}
	for _, pid := range slices.Sorted(maps.Keys(procs)) {
		p := procs[pid]
		for _, o := range p.files {
			if o.kind != segment.ListenerFile || !o.locked || seen[o.key] {
				continue
			}
			seen[o.key] = true
			if l, ok := s.elsewhere(p, o); ok {
				list = append(list, l)
			}
		}
	}
	return list
}

func lookUp(dir, base string) (segment.Info, error) {
	d, err := segment.OpenDir(dir)
	if err != nil {
		return segment.Info{}, err
	}
	defer d.Close()
	return segment.Lookup(d, base)
}

// fill records what the listener segment shows, and the process that has it
// locked.
func (l *Listener) fill(info segment.Info, err error, holder *process, procs map[int]*process) {
	l.RingSize, l.Anonymous, l.Accepted, l.Refused = info.RingSize, info.Anonymous, info.Accepted, info.Refused
	if holder != nil {
		l.Process = &holder.Process
	}
	switch {
	case errors.Is(err, segment.ErrNoListener) && holder != nil:
		l.State, l.Note = Unknown, "it is being made"
	case errors.Is(err, segment.ErrNoListener):
		l.State = Stale
	case errors.Is(err, fs.ErrPermission):
		l.State, l.Note = Unknown, "its segment may not be read"
	case err != nil:
		l.State, l.Note = Corrupt, err.Error()
	case info.Alive || holder != nil:
		l.State = Listening
	default:
		l.State = Stale
	}
	if l.State == Listening && l.Process == nil {
		l.Process = claimed(info, procs)
	}
}

// share looks who has the socket of a listener that has shared it: processes
// that listen on it, or a service manager that does so for one that is to come.
func (l *Listener) share(procs map[int]*process) {
	inode, err := listening(filepath.Join(l.Directory, segment.Prefix+l.Name+"@sock"))
	switch {
	case err != nil:
		l.Note = "who has its socket cannot be seen"
		return
	case inode == 0:
		l.State, l.Process = Stale, nil
		return
	}
	l.State = Listening
	var named []string
	for _, pid := range slices.Sorted(maps.Keys(procs)) {
		p := procs[pid]
		if !slices.Contains(p.socks, inode) || l.Process != nil && l.Process.PID == pid {
			continue
		}
		named = append(named, fmt.Sprintf("%s[%d]", p.Command, pid))
	}
	switch holder := l.Process != nil && l.Process.UID >= 0; {
	case len(named) > 0 && holder:
		l.Note = "its socket is shared with " + strings.Join(named, ", ")
	case len(named) > 0:
		l.Process = nil
		l.Note = "its socket is held by " + strings.Join(named, ", ")
	case !holder:
		l.Process = nil
		l.Note = "its socket is held by a process that is not seen"
	}
}

// listening returns the number of the socket that listens on the file at path,
// 0 if none does.
func listening(path string) (inode uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if err == unix.ENOENT {
			return 0, nil
		}
		return 0, err
	}
	n, err := sockdiag.Listening(uint64(st.Dev), uint32(st.Ino))
	return uint64(n), err
}

// claimed returns the process that a listener says it is, which is not seen to
// be.
func claimed(info segment.Info, procs map[int]*process) *Process {
	p := &process{}
	p.PID, p.UID = info.PID, -1
	dir := fmt.Sprintf("/proc/%d/", p.PID)
	// In another PID namespace the number is another process's here.
	if effectiveUID(dir) != int(info.UID) || procs[info.PID] != nil || p.stat(dir) != nil {
		return &Process{PID: info.PID, UID: -1}
	}
	p.UID = int(info.UID)
	return &p.Process
}

// elsewhere returns the listener of p whose segment is in none of the
// directories, or has no name any more.
func (s *Scanner) elsewhere(p *process, o openFile) (l Listener, ok bool) {
	l = Listener{Name: o.base, Directory: o.dir, UID: -1}
	var (
		info segment.Info
		err  error
		made time.Time
	)
	ok = s.withinTimeout(p.PID, func() {
		info, err = lookUpOpen(p.PID, o)
		if !o.deleted {
			made = socketMade(filepath.Join(o.dir, o.file))
		}
	})
	if !ok || err == errEnded {
		return l, false
	}
	l.Since = made
	if err == nil {
		l.UID = int(info.UID)
	}
	l.fill(info, err, p, nil)
	if o.deleted && l.Note == "" {
		l.Note = "its name was removed"
	}
	return l, true
}

// socketMade returns when the socket beside the listener segment at path was
// made, which it is each time that somebody begins to listen.
func socketMade(path string) time.Time {
	var st unix.Stat_t
	if unix.Lstat(path+"@sock", &st) != nil {
		return time.Time{}
	}
	return time.Unix(st.Mtim.Unix())
}

func lookUpOpen(pid int, o openFile) (segment.Info, error) {
	fd, err := open(fmt.Sprintf("/proc/%d/fd/%d", pid, o.fd), unix.S_IFREG, o.inode)
	if err != nil {
		return segment.Info{}, err
	}
	defer unix.Close(fd)
	return segment.LookupFile(fd, o.file)
}
