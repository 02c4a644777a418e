//go:build linux

package segment

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// access is how all of a segment is mapped.
const access = unix.PROT_READ | unix.PROT_WRITE

// mmap maps the segment behind fd, of the size that s.ring asks for, and
// behind its end, where there is nothing to access, the room for B's mirror.
func (s *Segment) mmap(fd int) error {
	total := PageSize + 2*s.ring + s.half()
	base, err := unix.MmapPtr(fd, 0, nil, uintptr(total), access, unix.MAP_SHARED)
	if err != nil {
		return Explain(os.NewSyscallError("mmap", err))
	}
	s.mem = unsafe.Slice((*byte)(base), total)
	return nil
}

// mirror is Mirror with the kernel's error. There is no descriptor to map the
// file by any more, and none is needed: mremap of no bytes makes another
// mapping of the same pages.
func (s *Segment) mirror(r Ring) ([]byte, error) {
	half := s.half()
	_, data := s.Ring(r)
	front := unsafe.Pointer(unsafe.SliceData(data))
	end := unsafe.Add(front, s.ring-half)
	if r == RingB {
		err := again(front, unsafe.Add(end, half), half)
		if err != nil {
			// The kernel may have freed the room before it failed. Take it: Close
			// unmaps it, whoever has it by then.
			unix.MmapPtr(-1, 0, unsafe.Add(end, half), uintptr(half), unix.PROT_NONE,
				unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE|unix.MAP_FIXED)
			return nil, err
		}
		return unsafe.Slice((*byte)(end), 2*half), nil
	}
	mirror := unsafe.Pointer(s.mirrorA.Load())
	if mirror != nil {
		return unsafe.Slice((*byte)(mirror), 2*half), nil
	}
	// Twice as long as it need be, to have the addresses behind it.
	mirror, err := unix.MremapPtr(end, 0, nil, uintptr(2*half), unix.MREMAP_MAYMOVE)
	if err != nil {
		return nil, err
	}
	if err := again(front, unsafe.Add(mirror, half), half); err != nil {
		unix.MunmapPtr(mirror, uintptr(2*half))
		return nil, err
	}
	s.mirrorA.Store((*byte)(mirror))
	return unsafe.Slice((*byte)(mirror), 2*half), nil
}

// again maps what is mapped at from at the address at, too, in place of what is
// there.
func again(from, at unsafe.Pointer, n int) error {
	_, err := unix.MremapPtr(from, 0, at, uintptr(n), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
	return err
}

func (s *Segment) munmap() {
	if s.mem != nil {
		unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(s.mem)), uintptr(len(s.mem)))
		s.mem = nil
	}
	if a := s.mirrorA.Swap(nil); a != nil {
		unix.MunmapPtr(unsafe.Pointer(a), uintptr(2*s.half()))
	}
}

// zero takes the addresses for private pages. Those for which that fails stay
// mapped as they are: the spans are good all the same.
func (s *Segment) zero() {
	zero(unsafe.Pointer(unsafe.SliceData(s.mem)), len(s.mem))
	s.mem = nil
	if a := s.mirrorA.Swap(nil); a != nil {
		zero(unsafe.Pointer(a), 2*s.half())
	}
}

func zero(at unsafe.Pointer, n int) {
	unix.MmapPtr(-1, 0, at, uintptr(n), access,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE|unix.MAP_FIXED)
}

// Holds reports whether addr is an address of the segment.
func (s *Segment) Holds(addr uintptr) bool {
	return within(addr, unsafe.SliceData(s.mem), len(s.mem)) || within(addr, s.mirrorA.Load(), 2*s.half())
}

// within reports whether addr is one of the n bytes at first, which may be nil.
func within(addr uintptr, first *byte, n int) bool {
	at := uintptr(unsafe.Pointer(first))
	return first != nil && addr >= at && addr-at < uintptr(n)
}

// bytesOf returns the memory of *p, which holds no pointers.
func bytesOf[T connHeader | listenerPage](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
