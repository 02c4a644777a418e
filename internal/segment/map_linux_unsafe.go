//go:build linux

package segment

import (
	"os"
	"sync"
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
	if doubles() {
		return nil
	}
	for _, r := range []Ring{RingA, RingB} {
		if _, err := s.mirror(r, fd); err != nil {
			s.munmap()
			return Explain(os.NewSyscallError("mmap", err))
		}
	}
	s.mirrored = true
	return nil
}

// doubles reports whether mremap of no bytes makes another mapping of the same
// pages. Linux does that, but not each emulator (qemu-user): there, all is
// mapped while there is a descriptor to map it by.
var doubles = sync.OnceValue(func() bool {
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(PageSize), access, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		return false
	}
	defer unix.MunmapPtr(p, uintptr(PageSize))
	q, err := unix.MremapPtr(p, 0, nil, uintptr(PageSize), unix.MREMAP_MAYMOVE)
	if err != nil {
		return false
	}
	unix.MunmapPtr(q, uintptr(PageSize))
	return true
})

// mirror is Mirror with the kernel's error. Usually there is no descriptor to
// map the file by any more, and fd is -1.
func (s *Segment) mirror(r Ring, fd int) ([]byte, error) {
	half := s.half()
	_, data := s.Ring(r)
	front := unsafe.Pointer(unsafe.SliceData(data))
	end := unsafe.Add(front, s.ring-half)
	if r == RingB && s.mirrored {
		return unsafe.Slice((*byte)(end), 2*half), nil
	}
	if r == RingB {
		_, err := s.double(fd, front, unsafe.Add(end, half), half)
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
	mirror, err := s.double(fd, end, nil, 2*half)
	if err != nil {
		return nil, err
	}
	if _, err := s.double(fd, front, unsafe.Add(mirror, half), half); err != nil {
		unix.MunmapPtr(mirror, uintptr(2*half))
		return nil, err
	}
	s.mirrorA.Store((*byte)(mirror))
	return unsafe.Slice((*byte)(mirror), 2*half), nil
}

// double maps n bytes of s, those at from, once more: at the address at, in
// place of what is there, or, if that is nil, where the kernel likes. It does
// so by fd, if there is one.
func (s *Segment) double(fd int, from, at unsafe.Pointer, n int) (unsafe.Pointer, error) {
	if fd < 0 {
		flags := unix.MREMAP_MAYMOVE
		if at != nil {
			flags |= unix.MREMAP_FIXED
		}
		return unix.MremapPtr(from, 0, at, uintptr(n), flags)
	}
	flags := unix.MAP_SHARED
	if at != nil {
		flags |= unix.MAP_FIXED
	}
	offset := uintptr(from) - uintptr(unsafe.Pointer(unsafe.SliceData(s.mem)))
	return unix.MmapPtr(fd, int64(offset), at, uintptr(n), access, flags)
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
