package ring

// A memory is the bytes of a ring. A span of them wraps if it goes on at the
// front of the ring, which is not behind its end. So it is in two pieces, until
// the ring has a mirror.
type memory struct {
	data   []byte // the ring, once
	mirror []byte // as many bytes of its end as of its front, in this order
}

// Mirror makes spans contiguous that wrap. m is the end of the ring and, behind
// that, its front: equally many bytes of both, the same memory as the ring's. A
// span that is longer than one of the two may still wrap.
func (r *memory) Mirror(m []byte) { r.mirror = m }

// wrapped returns the n bytes at i, which wrap, or those before they wrap if
// the mirror does not have them all.
func (r *memory) wrapped(i uint64, n int) []byte {
	half := len(r.mirror) / 2
	at := int(i) - (len(r.data) - half) // of i, in the mirror
	if at < 0 || at+n > len(r.mirror) {
		return r.data[i:]
	}
	return r.mirror[at:][:n]
}

// pieces returns the n bytes at i.
func (r *memory) pieces(i uint64, n int) (first, second []byte) {
	first = r.data[i:]
	if n <= len(first) {
		return first[:n], nil
	}
	return first, r.data[:n-len(first)]
}
