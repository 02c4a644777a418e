package ring

import "unsafe"

// At returns the header in the first HeaderSize bytes of b, which are aligned
// to 8 bytes at least.
func At(b []byte) *Header {
	_ = b[HeaderSize-1]
	return (*Header)(unsafe.Pointer(unsafe.SliceData(b)))
}
