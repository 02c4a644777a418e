package inspect

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
)

// A process is what /proc shows of one that has doorbells, or listens.
type process struct {
	Process
	parent int
	pipes  []pipeEnd
	files  []openFile
	socks  []uint64 // inodes
	maps   []mapping
}

// A pipeEnd is a descriptor for what can be a doorbell.
type pipeEnd struct {
	fd    int
	inode uint64
	write bool
	// adopted says that it was opened by way of /proc, as the acceptor does
	// with what it is handed, and not made by pipe2, as the dialer's.
	adopted bool
}

// An openFile is a descriptor for a segment.
type openFile struct {
	fd int
	segmentFile
	locked bool // this opening of the file has the lock
}

// A mapping is one of the start of a segment: there is one for each end.
type mapping struct {
	start, end uint64
	ring       int  // bytes of a ring, by how it is mapped; 0 if that makes no sense
	shaped     bool // with those behind it it is as an end maps a segment
	segmentFile
}

// A segmentFile is what the path of a segment shows.
type segmentFile struct {
	key
	dir      string // "" for anonymous memory
	kind     segment.Kind
	base     string     // "" where only the header has it
	id       segment.ID // of a connection segment with a name
	nameless bool       // a file that never had a name: it may be anybody's
	deleted  bool
}

// parsePath reads a path as /proc shows it.
func parsePath(path string, inode uint64) (f segmentFile, ok bool) {
	path, f.deleted = strings.CutSuffix(path, " (deleted)")
	file, anonymous := strings.CutPrefix(path, "/memfd:")
	if !anonymous {
		f.dir, file = filepath.Split(path)
		f.dir = filepath.Clean(f.dir)
	}
	f.kind, f.base, f.id = segment.ParseFile(file)
	f.key = key{inode: inode, file: file}
	if number, ok := strings.CutPrefix(file, "#"); ok && f.deleted && !anonymous {
		_, err := strconv.ParseUint(number, 10, 64)
		f.kind, f.nameless = segment.ConnFile, true
		return f, err == nil
	}
	switch f.kind {
	case segment.ConnFile:
		return f, !anonymous
	case segment.ListenerFile:
		if anonymous {
			f.kind = segment.ConnFile
		}
		return f, true
	}
	return f, false
}

// nameless is in the path of a file that never had a name, as the kernel shows
// it.
const nameless = "/#"

// errEnded says that a process has ended meanwhile, or is none that has
// descriptors.
var errEnded = errors.New("process has ended")

// look returns what there is to know of the process pid. The error is
// fs.ErrPermission if the caller may not look into it.
func look(pid int) (*process, error) {
	p := &process{}
	p.PID = pid
	dir := fmt.Sprintf("/proc/%d/", pid)
	if err := p.stat(dir); err != nil {
		return nil, err
	}
	fds, err := readNames(dir + "fd")
	if err != nil {
		return nil, err
	}
	bells := 0
	for _, name := range fds {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		target, err := os.Readlink(dir + "fd/" + name)
		if err != nil {
			continue
		}
		if strings.HasPrefix(target, "pipe:") {
			if e, ok := lookPipe(dir, fd); ok {
				p.pipes = append(p.pipes, e)
				bells++
			}
		} else if n, ok := strings.CutPrefix(target, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(n, "]"), 10, 64); err == nil {
				p.socks = append(p.socks, inode)
			}
		} else if strings.Contains(target, segment.Prefix) || strings.Contains(target, nameless) {
			if f, ok := lookFile(dir, fd, target); ok {
				p.files = append(p.files, f)
			}
		}
	}
	// Who has a segment mapped has doorbells. To read the mappings of everybody
	// would cost more, and hold up who maps memory at that moment.
	if bells > 0 {
		if p.maps, err = readMaps(dir + "maps"); err != nil {
			return nil, err
		}
	}
	p.UID = effectiveUID(dir)
	return p, nil
}

// stat reads what everybody may know. Kernel threads and zombies are none of
// ours.
func (p *process) stat(dir string) error {
	b, err := os.ReadFile(dir + "stat")
	if err != nil {
		return errEnded
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return errEnded
	}
	f := strings.Fields(string(b[end+1:])) // the third field of proc_pid_stat(5) and on
	if len(f) < 7 {
		return errEnded
	}
	const kernelThread = 0x00200000
	flags, _ := strconv.ParseUint(f[6], 10, 64)
	if f[0] == "Z" || f[0] == "X" || flags&kernelThread != 0 {
		return errEnded
	}
	p.Command = string(b[open+1 : end])
	p.Stopped = f[0] == "T" || f[0] == "t"
	p.parent, _ = strconv.Atoi(f[1])
	return nil
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		return nil, errEnded
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, fs.ErrPermission) {
		return nil, err // as some kernels say here
	}
	return names, nil
}

func effectiveUID(dir string) int {
	b, _ := os.ReadFile(dir + "status")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Uid:" {
			if uid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				return int(uid)
			}
		}
	}
	return -1
}

// lookPipe returns what the descriptor fd, of a pipe, is if it can be a
// doorbell: a pipe that everybody may open who can find it.
func lookPipe(dir string, fd int) (e pipeEnd, ok bool) {
	var st unix.Stat_t
	if unix.Stat(dir+"fd/"+strconv.Itoa(fd), &st) != nil || st.Mode != unix.S_IFIFO|0o666 {
		return e, false
	}
	flags, _, err := readFDInfo(dir, fd)
	if err != nil {
		return e, false
	}
	return pipeEnd{fd, st.Ino, flags&unix.O_ACCMODE == unix.O_WRONLY, flags&reopened() != 0}, true
}

func lookFile(dir string, fd int, target string) (f openFile, ok bool) {
	sf, ok := parsePath(target, 0)
	if !ok {
		return f, false
	}
	var st unix.Stat_t
	if unix.Stat(dir+"fd/"+strconv.Itoa(fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return f, false
	}
	sf.inode = st.Ino
	if sf.nameless {
		sf.dev = uint64(st.Dev)
	}
	_, locked, err := readFDInfo(dir, fd)
	return openFile{fd, sf, locked}, err == nil
}

// readFDInfo returns the flags of a descriptor, and whether the opening of the
// file that it stands for holds a write lock.
func readFDInfo(dir string, fd int) (flags uint64, locked bool, err error) {
	b, err := os.ReadFile(dir + "fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "flags:":
			flags, err = strconv.ParseUint(f[1], 8, 64)
		case len(f) > 4 && f[0] == "lock:" && f[2] == "OFDLCK" && f[4] == "WRITE":
			locked = true
		}
	}
	return flags, locked, err
}

// readMaps returns the mappings of the beginnings of connection segments.
func readMaps(path string) (list []mapping, err error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		return nil, errEnded
	}
	defer f.Close()
	return parseMaps(f), nil
}

func parseMaps(maps io.Reader) (list []mapping) {
	var last, beforeLast part
	for r := bufio.NewReaderSize(maps, 64<<10); ; {
		line, err := r.ReadSlice('\n')
		if p, ok := parsePart(line); ok {
			if p.offset == 0 {
				p.ring, p.shaped = p.alone()
				list = append(list, p.mapping)
			} else if n := len(list) - 1; n >= 0 {
				if ring := mirrored(last, p); ring != 0 {
					list[n].ring, list[n].shaped = ring, true
				} else if ring := twice(beforeLast, last, p); ring != 0 {
					list[n].ring, list[n].shaped = ring, true
				}
			}
			beforeLast, last = last, p
		}
		if err != nil && err != bufio.ErrBufferFull {
			return list
		}
	}
}

// A part is a line of /proc/PID/maps about a connection segment.
type part struct {
	mapping
	offset uint64
}

// An end maps a segment as a whole, and leaves room behind it for half a ring,
// a page at least. Later the front of ring B can be there, once more. Ends of
// other implementations map each ring twice in a row.

// alone returns the ring size by the first mapping of a segment, and whether
// that is as an end maps it.
func (m mapping) alone() (ring int, shaped bool) {
	n := m.bytes() - uint64(segment.PageSize)
	for _, ring := range [...]uint64{n / 3, n / 5 * 2} {
		if n == 2*ring+half(ring) && validRing(ring) != 0 {
			return int(ring), true
		}
	}
	return validRing(n / 2), false
}

// half is the length of a mirror of ring B.
func half(ring uint64) uint64 { return max(ring/2, uint64(segment.PageSize)) }

// mirrored returns the ring size if a and b map a segment and, behind it, the
// front of ring B; otherwise 0.
func mirrored(a, b part) int {
	ring := (a.bytes() - uint64(segment.PageSize)) / 2
	if !adjacent(a, b) || a.offset != 0 || a.bytes() != uint64(segment.PageSize)+2*ring ||
		b.offset != uint64(segment.PageSize)+ring || b.bytes() != half(ring) {
		return 0
	}
	return validRing(ring)
}

// twice returns the ring size if a, b and c map header and ring A, both rings,
// and ring B; otherwise 0.
func twice(a, b, c part) int {
	ring := a.bytes() - uint64(segment.PageSize)
	if !adjacent(a, b) || !adjacent(b, c) || a.offset != 0 || b.offset != uint64(segment.PageSize) ||
		b.bytes() != 2*ring || c.offset != b.offset+ring || c.bytes() != ring {
		return 0
	}
	return validRing(ring)
}

func adjacent(a, b part) bool { return a.key == b.key && a.end == b.start }

func (m mapping) bytes() uint64 { return m.end - m.start }

// validRing returns n, or 0 if it is no ring size.
func validRing(n uint64) int {
	if n > segment.MaxRing || segment.CheckRingSize(int(n)) != nil {
		return 0
	}
	return int(n)
}

// parsePart reads a line of /proc/PID/maps: "start-end access offset device
// inode path".
func parsePart(line []byte) (p part, ok bool) {
	if !bytes.Contains(line, []byte(segment.Prefix)) && !bytes.Contains(line, []byte(nameless)) {
		return p, false
	}
	rest := strings.TrimSuffix(string(line), "\n")
	var f [5]string
	for i := range f {
		f[i], rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	start, end, _ := strings.Cut(f[0], "-")
	inode, err := strconv.ParseUint(f[4], 10, 64)
	if err != nil {
		return p, false
	}
	p.segmentFile, ok = parsePath(strings.TrimLeft(rest, " "), inode)
	if !ok || p.kind != segment.ConnFile || p.nameless && f[1] != "rw-s" {
		return p, false
	}
	if p.nameless {
		if p.dev, err = parseDevice(f[3]); err != nil {
			return p, false
		}
	}
	if p.offset, err = strconv.ParseUint(f[2], 16, 64); err != nil {
		return p, false
	}
	if p.start, err = strconv.ParseUint(start, 16, 64); err != nil {
		return p, false
	}
	if p.end, err = strconv.ParseUint(end, 16, 64); err != nil || p.end <= p.start {
		return p, false
	}
	return p, true
}

// parseDevice reads "major:minor".
func parseDevice(s string) (uint64, error) {
	major, minor, _ := strings.Cut(s, ":")
	a, err1 := strconv.ParseUint(major, 16, 32)
	b, err2 := strconv.ParseUint(minor, 16, 32)
	return unix.Mkdev(uint32(a), uint32(b)), cmp.Or(err1, err2)
}
