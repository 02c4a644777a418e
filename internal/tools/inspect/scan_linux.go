package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
)

// answerTimeout is how long the kernel may take to answer for one process. The
// answer can depend on a process that delays it: the server of a FUSE file
// system, say.
const answerTimeout = time.Second

// A Scanner looks for listeners and connections. It is for one goroutine.
type Scanner struct {
	Dirs []string // where to look for names; connections are found wherever they are

	stuck map[int]chan struct{} // closed when the kernel has answered after all
}

// Scan looks at all processes of the machine once.
func (s *Scanner) Scan() (*Snapshot, error) {
	snap := &Snapshot{Time: time.Now(), Listeners: []Listener{}, Conns: []Conn{}} // which JSON has as [], not as null
	// Names first: a segment that is seen here and whose process has ended by
	// the time that processes are looked at is found out to be gone.
	files, err := s.names()
	if err != nil {
		return nil, err
	}
	procs, err := s.processes(snap)
	if err != nil {
		return nil, err
	}
	all := gather(procs, files)
	for _, f := range all {
		if !s.read(f) || !f.identify() {
			continue
		}
		f.lone = s.lone(f, procs)
		f.lone.all = snap.Hidden == 0 && os.Geteuid() == 0 || f.listenerSeen(procs)
		f.setRoles(procs)
		snap.Conns = append(snap.Conns, f.judge())
	}
	snap.Listeners = append(snap.Listeners, s.listeners(procs, files)...)
	snap.sort()
	return snap, nil
}

// A name is a file in one of the directories.
type name struct {
	segmentFile
	path string
	uid  int
	time time.Time
}

// names returns the files in the directories.
func (s *Scanner) names() (list []name, err error) {
	for _, dir := range s.Dirs {
		// As /proc has it.
		if dir, err = filepath.Abs(dir); err == nil {
			dir, err = filepath.EvalSymlinks(dir)
		}
		if err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			kind, base, id := segment.ParseFile(e.Name())
			if kind != segment.ListenerFile && kind != segment.ConnFile || !e.Type().IsRegular() {
				continue
			}
			var st unix.Stat_t
			path := filepath.Join(dir, e.Name())
			if unix.Lstat(path, &st) != nil {
				continue
			}
			f := segmentFile{key: key{inode: st.Ino, file: e.Name()}, dir: dir, kind: kind, base: base, id: id}
			list = append(list, name{f, path, int(st.Uid), time.Unix(st.Mtim.Unix())})
		}
	}
	return list, nil
}

// processes looks into all processes.
func (s *Scanner) processes(snap *Snapshot) (map[int]*process, error) {
	names, err := readNames("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot see processes: %w", err)
	}
	procs := make(map[int]*process)
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid == os.Getpid() && !lookAtSelf {
			continue
		}
		var p *process
		if !s.withinTimeout(pid, func() { p, err = look(pid) }) || errors.Is(err, fs.ErrPermission) {
			snap.Hidden++
		} else if err == nil {
			procs[pid] = p
		}
	}
	return procs, nil
}

// lookAtSelf is for tests, whose process has connections.
var lookAtSelf = false

// withinTimeout runs f, which asks the kernel about the process pid, and
// reports whether f has ended within answerTimeout. If it has not, later calls
// for pid return false without running f, until the kernel has answered.
func (s *Scanner) withinTimeout(pid int, f func()) bool {
	if done, ok := s.stuck[pid]; ok {
		select {
		case <-done:
			delete(s.stuck, pid)
		default:
			return false
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true
	case <-time.After(answerTimeout):
		if s.stuck == nil {
			s.stuck = make(map[int]chan struct{})
		}
		s.stuck[pid] = done
		return false
	}
}

// gather puts together what belongs to the same memory.
func gather(procs map[int]*process, files []name) (list []*facts) {
	all := make(map[key]*facts)
	at := func(f segmentFile) *facts {
		if all[f.key] == nil {
			all[f.key] = &facts{segmentFile: f, uid: -1}
		}
		return all[f.key]
	}
	for _, pid := range slices.Sorted(maps.Keys(procs)) {
		p := procs[pid]
		for _, m := range p.maps {
			if !p.forked(procs, m) {
				f := at(m.segmentFile)
				f.ends = append(f.ends, end{process: p, mapping: m})
			}
		}
		for _, o := range p.files {
			if o.kind == segment.ConnFile {
				f := at(o.segmentFile)
				f.holders = append(f.holders, holder{pid, o.fd})
			}
		}
	}
	for _, n := range files {
		if n.kind == segment.ConnFile {
			f := at(n.segmentFile)
			f.path, f.uid, f.since = n.path, n.uid, n.time
		}
	}
	for _, f := range all {
		// Memory that somebody has a descriptor of and nobody has mapped is being
		// introduced right now.
		if len(f.ends) > 0 || len(f.holders) == 0 {
			list = append(list, f)
		}
	}
	return list
}

// forked reports whether p has m from its parent, with all doorbells: so it is
// between its fork and its exec, and no end of its own.
func (p *process) forked(procs map[int]*process, m mapping) bool {
	parent, ok := procs[p.parent]
	return ok && slices.ContainsFunc(parent.maps, func(o mapping) bool { return o.key == m.key && o.start == m.start }) &&
		!slices.ContainsFunc(p.pipes, func(e pipeEnd) bool { return !slices.Contains(parent.pipes, e) })
}

// read reads the header, and reports whether there still is a connection.
func (s *Scanner) read(f *facts) bool {
	if len(f.ends) == 0 {
		return f.readNameless()
	}
	got := *f // which the reader may still write to when answerTimeout has passed
	if s.withinTimeout(f.ends[0].PID, func() { got.readChecked() }) {
		*f = got
	} else {
		f.err = errors.New("the kernel gets no answer")
	}
	return true
}

// readChecked reads the header, again if it makes no sense: no promise is made
// that the kernel copies a word in one piece.
func (f *facts) readChecked() {
	for range 3 {
		f.read()
		if _, err := f.decode(new(Conn)); err == nil || f.err != nil {
			return
		}
	}
}

// readNameless reads the header of a segment whose processes are not seen, if
// any, and looks whether somebody has it locked.
func (f *facts) readNameless() bool {
	fd, err := open(f.path, unix.S_IFREG, f.inode)
	if errors.Is(err, fs.ErrNotExist) || err == errEnded {
		return false // it was accepted, or closed
	}
	if f.err = err; err != nil {
		return true
	}
	s := fileSource(fd)
	defer s.close()
	s.describe(f)
	if f.err = f.copyHeader(s); f.err == errTruncated && time.Since(f.since) < time.Second {
		return false // it is being made
	}
	var st unix.Stat_t
	f.locked = segment.Locked(fd)
	return unix.Fstat(fd, &st) == nil && st.Nlink > 0
}

// lone looks at the doorbells of the only end that was seen.
func (s *Scanner) lone(f *facts, procs map[int]*process) (l lone) {
	if len(f.ends) != 1 {
		return l
	}
	p := f.ends[0].process
	for _, e := range p.unseen(procs) {
		var can bool
		var err error
		if !s.withinTimeout(p.PID, func() { can, err = ringable(p.PID, e) }) || err != nil {
			continue
		}
		l.bells++
		if !can {
			l.gone++
		}
	}
	return l
}

// unseen returns the doorbells of p that nobody was seen to be able to ring.
func (p *process) unseen(procs map[int]*process) (list []pipeEnd) {
	for _, e := range p.pipes {
		if !e.write && !anyWriter(procs, e.inode) {
			list = append(list, e)
		}
	}
	return list
}

func anyWriter(procs map[int]*process, inode uint64) bool {
	for _, p := range procs {
		if slices.ContainsFunc(p.pipes, func(e pipeEnd) bool { return e.write && e.inode == inode }) {
			return true
		}
	}
	return false
}

// setRoles finds out who has dialed.
func (f *facts) setRoles(procs map[int]*process) {
	if f.dir != "" && (!f.nameless || len(f.holders) > 0) { // the dialer alone keeps a descriptor
		for i := range f.ends {
			e := &f.ends[i]
			e.role = acceptor
			if slices.ContainsFunc(f.holders, func(h holder) bool { return h.pid == e.PID }) {
				e.role = dialer
			}
		}
		return
	}
	switch len(f.ends) {
	case 1:
		e := &f.ends[0]
		e.role = roleByPipes(e.unseen(procs))
	case 2:
		a, b := &f.ends[0], &f.ends[1]
		if a.role = roleByPipes(shared(a.process, b.process)); a.role == anyRole {
			a.role = roleByName(f.base, a.process, b.process)
		}
		switch a.role {
		case dialer:
			b.role = acceptor
		case acceptor:
			b.role = dialer
		}
	}
}

// shared returns the ends that p has of pipes whose other ends q has.
func shared(p, q *process) (list []pipeEnd) {
	for _, e := range p.pipes {
		if slices.ContainsFunc(q.pipes, func(o pipeEnd) bool { return o.inode == e.inode && o.write != e.write }) {
			list = append(list, e)
		}
	}
	return list
}

// roleByPipes says what an end is that has these ends of doorbells: the dialer
// has made them, and the acceptor has opened what it was handed anew.
func roleByPipes(pipes []pipeEnd) role {
	adopted := 0
	for _, e := range pipes {
		if e.adopted {
			adopted++
		}
	}
	switch {
	case len(pipes) == 0 || reopened() == 0:
		return anyRole
	case adopted == 0:
		return dialer
	case adopted == len(pipes):
		return acceptor
	}
	return anyRole // it has dialed the other one, and the other one has dialed it
}

// roleByName says what p is to q if just one of them listens on the name.
func roleByName(base string, p, q *process) role {
	switch a, b := p.listens(base), q.listens(base); {
	case a && !b:
		return acceptor
	case b && !a:
		return dialer
	}
	return anyRole
}

// listenerSeen reports whether the process that accepts what f is about was
// seen. If it does not have it mapped, it has not accepted it yet.
func (f *facts) listenerSeen(procs map[int]*process) bool {
	for _, p := range procs {
		if f.dir != "" && slices.ContainsFunc(p.files, func(o openFile) bool {
			return o.kind == segment.ListenerFile && o.locked && o.base == f.base && o.dir == f.dir
		}) {
			return true
		}
	}
	return false
}

func (p *process) listens(base string) bool {
	return slices.ContainsFunc(p.files, func(o openFile) bool {
		return o.kind == segment.ListenerFile && o.locked && o.base == base
	})
}
