//go:build linux

package segment

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmap maps the segment behind fd, of the size that s.ring asks for.
func (s *Segment) mmap(fd int) error {
	total := PageSize + 4*s.ring
	// The first is as long as all of them, to have the addresses.
	const access = unix.PROT_READ | unix.PROT_WRITE
	base, err := unix.MmapPtr(fd, 0, nil, uintptr(total), access, unix.MAP_SHARED)
	if err != nil {
		return Explain(os.NewSyscallError("mmap", err))
	}
	s.mem = unsafe.Slice((*byte)(base), total)
	ringA, ringB := PageSize, PageSize+s.ring // offsets in the file
	for _, m := range []struct{ at, offset, length int }{
		{PageSize + s.ring, ringA, 2 * s.ring}, // behind header and A: A, B
		{PageSize + 3*s.ring, ringB, s.ring},   // B
	} {
		_, err := unix.MmapPtr(fd, int64(m.offset), unsafe.Add(base, m.at), uintptr(m.length), access, unix.MAP_SHARED|unix.MAP_FIXED)
		if err != nil {
			s.munmap()
			return Explain(os.NewSyscallError("mmap", err))
		}
	}
	return nil
}

func (s *Segment) munmap() {
	if s.mem != nil {
		unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(s.mem)), uintptr(len(s.mem)))
		s.mem = nil
	}
}

func (s *Segment) zero() {
	_, err := unix.MmapPtr(-1, 0, unsafe.Pointer(unsafe.SliceData(s.mem)), uintptr(len(s.mem)),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE|unix.MAP_FIXED)
	if err == nil {
		s.mem = nil
	}
	// If it failed the segment stays mapped: the spans are good all the same.
}

// Holds reports whether addr is an address of the segment.
func (s *Segment) Holds(addr uintptr) bool {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(s.mem)))
	return addr >= first && addr-first < uintptr(len(s.mem))
}

// bytesOf returns the memory of *p, which holds no pointers.
func bytesOf[T connHeader | listenerPage](p *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))
}
