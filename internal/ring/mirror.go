package ring

// A mirror is the end of a ring and, behind that, its front: equally many bytes
// of both. A span of the ring wraps if it goes on at the front, which is not
// behind the end anywhere but there.
type mirror []byte

// span returns the n bytes at i of the ring data, which wrap, or those before
// they wrap if the mirror does not have them all.
func (m mirror) span(data []byte, i uint64, n int) []byte {
	at := int(i) - (len(data) - len(m)/2) // of i, in the mirror
	if at < 0 || at+n > len(m) {
		return data[i:]
	}
	return m[at:][:n]
}

// pieces returns the n bytes at i of the ring data, in two pieces if they wrap.
func pieces(data []byte, i uint64, n int) (first, second []byte) {
	first = data[i:]
	if n <= len(first) {
		return first[:n], nil
	}
	return first, data[:n-len(first)]
}
