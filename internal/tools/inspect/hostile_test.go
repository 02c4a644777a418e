//go:build linux

package inspect

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shmconn/internal/segment"
)

// evil has memory mapped that looks like a connection's from outside. A line is
// where it is ("memfd:NAME" or a path), its size, the size of the mapping, and
// the first bytes, in hexadecimal digits.
func evil(in *bufio.Scanner) {
	var pipe [2]int
	err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	err = errors.Join(err, unix.Fchmod(pipe[0], 0o666))
	if err != nil {
		fmt.Println(err)
		return
	}
	for in.Scan() {
		f := strings.Fields(in.Text())
		size, _ := strconv.Atoi(f[1])
		length, _ := strconv.Atoi(f[2])
		var b []byte
		if len(f) > 3 {
			b, _ = hex.DecodeString(f[3])
		}
		var fd int
		var err error
		if name, ok := strings.CutPrefix(f[0], "memfd:"); ok {
			fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		} else {
			fd, err = unix.Open(f[0], unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		}
		if err == nil {
			_, err = unix.Pwrite(fd, b, 0)
			err = errors.Join(err, unix.Ftruncate(fd, int64(size)))
			_, merr := unix.Mmap(fd, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			err = errors.Join(err, merr)
		}
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("ok")
	}
}

// header returns a header page of a connection with rings of size bytes.
func header(size int, id segment.ID, change func(b []byte)) []byte {
	b := make([]byte, segment.HeaderUsed)
	e := binary.NativeEndian
	copy(b, "shmconn\n")
	if e.Uint16([]byte{1, 0}) != 1 {
		slices.Reverse(b[:8])
	}
	e.PutUint32(b[8:], segment.Version)
	e.PutUint32(b[12:], uint32(segment.PageSize))
	e.PutUint64(b[16:], uint64(size))
	copy(b[32:], id[:])
	if change != nil {
		change(b)
	}
	return b
}

func put(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.NativeEndian.PutUint64(b[at:], v) }
}

// TestHostile looks at memory that looks like a connection's and is none, or is
// a damaged one.
func TestHostile(t *testing.T) {
	page := segment.PageSize
	ring := 4 * page
	full := page + 2*ring
	id := segment.ID{1, 2, 3}
	e := start(t, "evil", 0)
	for _, tt := range []struct {
		name    string
		size    int
		mapped  int
		content []byte
		want    State
		note    string
	}{
		{"sound", full, page + ring, header(ring, id, nil), Unknown, ""}, // of an unknown peer
		{"empty", 0, page, nil, Corrupt, "shorter"},
		{"a byte", 1, page, []byte("s"), Corrupt, ""}, // how much there is of a page depends on how it is read
		{"zeros", full, page + ring, nil, Corrupt, "no header"},
		{"garbage", full, page + ring, bytes.Repeat([]byte("garbage!"), 256), Corrupt, "magic"},
		{"another version", full, page + ring, header(ring, id, func(b []byte) { b[8] ^= 0xf0 }), Corrupt, "version"},
		{"no rings", page, page, header(0, id, nil), Corrupt, "rings of 0"},
		{"a ring of 3 pages", page + 6*page, page, header(3*page, id, nil), Corrupt, "rings of"},
		{"a huge ring", full, page + ring, header(ring, id, put(16, 1<<63)), Corrupt, "rings of"},
		{"an endless ring", full, page + ring, header(ring, id, put(16, math.MaxUint64)), Corrupt, "rings of"},
		{"consumed too much", full, page + ring, header(ring, id, put(512+128, 1)), Corrupt, "consumer's position is 1"},
		{"produced too much", full, page + ring, header(ring, id, put(512, uint64(ring)+1)), Corrupt, "producer's position"},
		{"produced everything", full, page + ring, header(ring, id, put(1024, math.MaxUint64)), Corrupt, "producer's position"},
		{"closed thrice", full, page + ring, header(ring, id, put(512+264, 3)), Corrupt, "closed"},
		{"parked for ever", full, page + ring, header(ring, id, put(512+256, math.MaxUint64)), Unknown, ""},
		{"a mapping of the header alone", full, page, header(ring, id, nil), Unknown, ""},
		{"a mapping that is far too large", full, full + 64*page, header(ring, id, nil), Unknown, ""},
	} {
		for _, where := range kinds {
			t.Run(where+"/"+strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
				name := newName()
				at := "memfd:shmconn." + name
				if where == "named" {
					at = filepath.Join(testDir(), "shmconn."+name+"@"+hex.EncodeToString(id[:]))
					defer os.Remove(at)
				}
				e.do("%s %d %d %x", at, tt.size, tt.mapped, tt.content)
				c := one(t, name)
				want := tt.want
				if want == Unknown && where == "named" {
					want = Waiting // an acceptor would have removed the name
				}
				if c.State != want || !strings.Contains(c.Note, tt.note) {
					t.Errorf("state is %s (%s), want %s (%s)", c.State, c.Note, want, tt.note)
				}
				if c.RingSize < 0 || c.RingSize > segment.MaxRing {
					t.Errorf("a ring of %d bytes", c.RingSize)
				}
			})
		}
	}
}

// TestWrongID has a named segment with another's id.
func TestWrongID(t *testing.T) {
	e, name := start(t, "evil", 0), newName()
	page := segment.PageSize
	at := filepath.Join(testDir(), "shmconn."+name+"@"+strings.Repeat("ab", 16))
	defer os.Remove(at)
	e.do("%s %d %d %x", at, 3*page, 2*page, header(page, segment.ID{1}, nil))
	c := one(t, name)
	if c.State != Corrupt || !strings.Contains(c.Note, "differs in id") {
		t.Errorf("%s: %s", c.State, c.Note)
	}
}

// TestJudgeRandom judges what chance puts together: it must not panic, and not
// say anything that cannot be.
func TestJudgeRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	states := make(map[State]int)
	sizes := []uint64{0, 1, uint64(segment.PageSize), uint64(segment.PageSize) * 4, 3 << 20, 1 << 30, 1 << 63, math.MaxUint64}
	for range 50000 {
		f := &facts{uid: -1, locked: r.IntN(2) == 0}
		f.base, f.kind = "feed", segment.ConnFile
		if r.IntN(2) == 0 {
			f.dir = "/dev/shm"
		}
		if r.IntN(2) == 0 {
			f.path = "/dev/shm/x"
		}
		if r.IntN(2) == 0 {
			f.size = int64(r.Uint64())
		}
		for range r.IntN(4) {
			start := r.Uint64() >> r.IntN(64)
			m := mapping{start: start, end: start + 1 + uint64(segment.PageSize)*r.Uint64N(9)}
			m.ring, m.shaped = m.alone()
			f.ends = append(f.ends, end{
				process: &process{Process: Process{PID: r.IntN(3)}},
				mapping: m,
				role:    role(r.IntN(3)),
			})
		}
		f.lone = lone{bells: r.IntN(3), all: r.IntN(2) == 0}
		f.lone.gone = r.IntN(f.lone.bells + 1)
		f.err = []error{nil, nil, nil, nil, errTruncated, fs.ErrPermission}[r.IntN(6)]
		for i := range f.copies {
			ring := sizes[r.IntN(len(sizes))]
			f.copies[i] = header(0, segment.ID{}, put(16, ring))
			if i > 0 && r.IntN(8) > 0 {
				copy(f.copies[1], f.copies[0])
			}
			for range r.IntN(6) {
				put([]int{0, 8, 24, 512, 512 + 128, 512 + 256, 512 + 264, 512 + 384, 512 + 392, 1024, 1024 + 128, 1024 + 256, 1024 + 264}[r.IntN(13)],
					[]uint64{0, 1, 1, 2, 7, 4096, r.Uint64()}[r.IntN(7)])(f.copies[i])
			}
		}
		c := f.judge()
		states[c.State]++
		if c.RingSize < 0 || c.RingSize > segment.MaxRing || c.ToAcceptor.Waiting < 0 || c.ToAcceptor.Waiting > c.RingSize || c.ToDialer.Waiting < 0 || c.ToDialer.Waiting > c.RingSize {
			t.Fatalf("%+v of %+v", c, f)
		}
		if !c.Readable && c.ToAcceptor != (Flow{}) {
			t.Fatalf("not readable, and yet: %+v", c)
		}
	}
	t.Log(states)
	for _, s := range []State{Stale, Waiting, Established, HalfClosed, PeerClosed, PeerGone, Corrupt, Unknown} {
		if states[s] == 0 {
			t.Errorf("nothing was %s", s)
		}
	}
}

func TestParseMapping(t *testing.T) {
	id := strings.Repeat("0a", 16)
	for line, want := range map[string]string{
		"7f00-7f80 rw-s 00000000 00:01 123                        /memfd:shmconn.feed (deleted)\n": "7f00 7f80 123 feed  true",
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/shmconn.feed@" + id + "\n":                       "7f00 7f80 5 feed /dev/shm false",
		"7f00-7f80 rw-s 00000000 00:1a 5 /a b/c (deleted)/shmconn.feed@" + id + " (deleted)\n":     "7f00 7f80 5 feed /a b/c (deleted) true",
		"7f00-7f80 r--s 00000000 00:1a 5 /shmconn.feed@" + id:                                      "7f00 7f80 5 feed / false",
		"7f00-7f80 rw-s 00001000 00:1a 5 /dev/shm/shmconn.feed@" + id + "\n":                       "7f00 7f80 5 feed /dev/shm false +1000",
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/#5 (deleted)\n":                                  "7f00 7f80 5  /dev/shm true 0:1a",
		"7f00-7f80 rw-s 00000000 fe:1a 5 /#5 (deleted)\n":                                          "7f00 7f80 5  / true fe:1a",
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/#5\n":                                            "", // has that name
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/#5x (deleted)\n":                                 "",
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/# (deleted)\n":                                   "",
		"7f00-7f80 r--s 00000000 00:1a 5 /dev/shm/#5 (deleted)\n":                                  "",
		"7f00-7f80 rw-p 00000000 00:1a 5 /dev/shm/#5 (deleted)\n":                                  "",
		"7f00-7f80 rw-s 00000000 001a 5 /dev/shm/#5 (deleted)\n":                                   "",
		"7f00-7f80 rw-s 00000000 00:01 5 /memfd:#5 (deleted)\n":                                    "",
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/shmconn.feed\n":                                  "", // a listener's
		"7f00-7f80 rw-s 00000000 00:1a 5 /dev/shm/shmconn.feed@sock\n":                             "",
		"7f00-7f80 rw-s 00000000 00:01 123 /memfd:shmconn.feed@" + id + " (deleted)\n":             "",
		"7f80-7f00 rw-s 00000000 00:01 123 /memfd:shmconn.feed (deleted)\n":                        "",
		"7f00 rw-s 00000000 00:01 123 /memfd:shmconn.feed (deleted)\n":                             "",
		"zz-7f00 rw-s 00000000 00:01 123 /memfd:shmconn.feed\n":                                    "",
		"7f00-7f80 rw-s 00000000 00:01 -1 /memfd:shmconn.feed\n":                                   "",
		"7f00-11111111111111111 rw-s 00000000 00:01 1 /memfd:shmconn.feed\n":                       "",
		"shmconn.":   "",
		"shmconn.\n": "",
		"":           "",
		"7f00-7f80 rw-p 00000000 00:00 0 [anon:shmconn.feed]\n": "",
	} {
		m, ok := parsePart([]byte(line))
		got := ""
		if ok {
			got = fmt.Sprintf("%x %x %d %s %s %t", m.start, m.end, m.inode, m.base, m.dir, m.deleted)
			if m.offset != 0 {
				got += fmt.Sprintf(" +%x", m.offset)
			}
			if m.dev != 0 {
				got += fmt.Sprintf(" %x:%02x", unix.Major(m.dev), unix.Minor(m.dev))
			}
		}
		if got != want {
			t.Errorf("parsePart(%q) = %q, want %q", line, got, want)
		}
	}
}

// TestShaped finds segments without a name by how they are mapped: as an end of
// this implementation does, without and with a mirror of ring B, and as others
// do.
func TestShaped(t *testing.T) {
	line := func(start, end, offset int, rest string) string {
		return fmt.Sprintf("%x-%x rw-s %08x %s (deleted)\n", start, end, offset, rest)
	}
	const file, other = "00:1a 5 /dev/shm/#5", "00:1a 6 /dev/shm/#6"
	p, r := segment.PageSize, 4*segment.PageSize
	const at = 1 << 30
	whole := line(at, at+p+2*r+r/2, 0, file)
	small := line(at, at+p+2*p+p, 0, file)
	once, mirror := line(at, at+p+2*r, 0, file), line(at+p+2*r, at+p+2*r+r/2, p+r, file)
	elsewhere := line(2*at, 2*at+r/2, p+r/2, file) + line(2*at+r/2, 2*at+r, p, file) // A's mirror
	a, b, c := line(at, at+p+r, 0, file), line(at+p+r, at+p+3*r, p, file), line(at+p+3*r, at+p+4*r, p+r, file)
	for _, tt := range []struct {
		maps        string
		found, ring int
		want        bool
	}{
		{whole, 1, r, true},
		{small, 1, p, true},
		{whole + elsewhere, 1, r, true},
		{once + mirror, 1, r, true},
		{once + mirror + elsewhere, 1, r, true},
		{elsewhere + once + mirror, 1, r, true},
		{line(at, at+3*p, 0, file) + line(at+3*p, at+4*p, 2*p, file), 1, p, true},
		{once, 1, r, false}, // an end may, and then it is the header that tells
		{once + elsewhere, 1, r, false},
		{mirror + once, 1, r, false},
		{once + line(at+p+2*r, at+p+2*r+r/2, p+r, other), 1, r, false},
		{once + line(at+p+2*r, at+p+2*r+r/2, p, file), 1, r, false},
		{once + line(at+p+2*r, at+p+3*r, p+r, file), 1, r, false},
		{once + line(at+2*p+2*r, at+2*p+2*r+r/2, p+r, file), 1, r, false},
		{line(at, at+p+2*r+p, 0, file), 1, 0, false},
		{line(at, at+p, 0, file), 1, 0, false},

		{a + b + c, 1, r, true},
		{"55-56 r--p 00000000 00:1a 7 /bin/sh\n" + a + b + c + "66-67 rw-p 00000000 00:00 0\n", 1, r, true},
		{a + b, 1, r / 2, false},
		{a + c + b, 1, r / 2, false},
		{b + c + a, 1, r / 2, false},
		{a + line(at+p+r, at+p+3*r, p, other) + c, 1, r / 2, false},
		{a + b + line(at+p+3*r, at+p+4*r, r, file), 1, r / 2, false},
		{a + line(at+p+r, at+p+2*r, p, file) + line(at+p+2*r, at+p+3*r, p+r, file), 1, r / 2, false},
		{line(at, at+p+r-1, 0, file) + b + c, 1, 0, false},
		{a + b + c + a + b, 2, r, true},
	} {
		list := parseMaps(strings.NewReader(tt.maps))
		if len(list) != tt.found || list[0].shaped != tt.want || list[0].ring != tt.ring || len(list) > 1 && list[1].shaped {
			t.Errorf("%q: %+v", tt.maps, list)
		}
	}
}

// TestForked has a process that has everything from its parent, and one that
// has dialed its parent and has the segment at the same address.
func TestForked(t *testing.T) {
	m := mapping{start: 1, end: 2, segmentFile: segmentFile{base: "feed"}}
	bell, ringer := pipeEnd{5, 100, false, false}, pipeEnd{6, 101, true, false}
	parent := &process{pipes: []pipeEnd{bell, ringer}, maps: []mapping{m}}
	child := &process{parent: 1, pipes: []pipeEnd{bell, ringer}, maps: []mapping{m}}
	dialed := &process{parent: 1, pipes: []pipeEnd{{5, 100, true, true}, {6, 101, false, true}}, maps: []mapping{m}}
	procs := map[int]*process{1: parent, 2: child, 3: dialed}
	if !child.forked(procs, m) {
		t.Error("a child between fork and exec is taken for an end")
	}
	if dialed.forked(procs, m) || parent.forked(procs, m) {
		t.Error("an end is taken for a child between fork and exec")
	}
}

// TestAnswerTimeout asks about a process of which the kernel does not tell.
func TestAnswerTimeout(t *testing.T) {
	s := new(Scanner)
	release := make(chan struct{})
	if s.withinTimeout(1, func() { <-release }) {
		t.Error("the kernel has told")
	}
	start := time.Now()
	if s.withinTimeout(1, func() { t.Error("it was asked again") }) || time.Since(start) > answerTimeout/2 {
		t.Error("it was waited for again")
	}
	if !s.withinTimeout(2, func() {}) {
		t.Error("another process was not asked about")
	}
	close(release)
	eventually(func() bool { return s.withinTimeout(1, func() {}) })
}
