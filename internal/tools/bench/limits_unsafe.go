//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"shmconn"
)

// The limits: what two processes can do with shared memory when there is no
// connection, no API and nobody to distrust. They poll and never park.

// A memory is a piece of memory that two processes share.
//
//	offset  stored by
//	     0  client    ping: the number of the last message; stop
//	   128  server    pong: the number of the last message seen
//	   256  producer  position, in bytes or in integers
//	   384  consumer  position
//	   512  consumer  confirmed: what it had received at the end of a slice
//	  4096  producer  the ring
type memory struct {
	b                  []byte
	ring               []byte
	ints               []uint32 // the same
	ping, pong         *atomic.Uint64
	produced, consumed *atomic.Uint64
	confirmed          *atomic.Uint64
	stop               *atomic.Uint64 // on a line of its own
	pos                uint64         // this end's own position
	other              uint64         // the other's, as last seen
	turn               uint64
}

const memoryHeader = 4096

func (m *memory) Close() error { return unix.Munmap(m.b) }

func (m *memory) word(off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&m.b[off]))
}

func mapMemory(fd int) (*memory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	m := &memory{b: b, ring: b[memoryHeader:]}
	m.ints = unsafe.Slice((*uint32)(unsafe.Pointer(&m.ring[0])), len(m.ring)/4)
	m.ping, m.pong, m.produced, m.consumed = m.word(0), m.word(128), m.word(256), m.word(384)
	m.confirmed, m.stop = m.word(512), m.word(640)
	return m, nil
}

func listenMemory(s Spec) (Listener, error) {
	fd, err := unix.MemfdCreate("shmconn-bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Ftruncate(fd, memoryHeader+int64(cmp.Or(s.RingSize, shmconn.DefaultRingSize))); err != nil {
		return nil, os.NewSyscallError("ftruncate", err)
	}
	m, err := mapMemory(fd)
	if err != nil {
		return nil, err
	}
	return &madeListener{addrs: []string{procFile(fd)}, conns: []io.Closer{m}}, nil
}

func dialMemory(_ Spec, addr string) (io.Closer, error) {
	f, err := os.OpenFile(addr, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mapMemory(int(f.Fd()))
}

// stuck is called by a loop that waits for the n-th time. When that is far
// longer than a cache line takes, the other end does not run: both are
// goroutines of one process, or on one processor. Then a moment's sleep helps,
// as the kernel wakes this end on a processor that is idle, if there is one; a
// yield would leave it where it is. A sleep takes some 60 microseconds: did the
// other end not wait longer than that before it sleeps too, they would sleep in
// turns for ever.
func stuck(n int) {
	if n&(1<<12-1) == 0 {
		runtime.Gosched()
	}
	if n&(1<<18-1) == 0 {
		unix.Nanosleep(&unix.Timespec{Nsec: 1}, nil)
	}
}

// pause waits for about a microsecond without a look at memory. A consumer that
// looks all the time takes the producer's line away at every store; one that
// comes back when there are a hundred integers is three times as fast.
func pause() {
	for range 2000 {
	}
}

// confirm waits for the consumer's word that it has seen everything.
func (m *memory) confirm(want uint64) error {
	for n := 1; m.consumed.Load() != m.pos; n++ {
		stuck(n)
	}
	if got := m.confirmed.Load(); got != want {
		return fmt.Errorf("bench: produced %d, the peer has consumed %d", want, got)
	}
	return nil
}
