package ring

// cacheLine is how much of memory one prefetch asks for. Where lines are longer
// it asks for some twice.
const cacheLine = 64

// prefetched is the longest message whose lines Prefetch asks for. With longer
// ones the processor sees by itself how they follow each other.
const prefetched = 4 * cacheLine

// Prefetch asks for the cache lines of the message after the next, so as to
// have them when they are written, if messages are as long as the last one, of
// n bytes. The consumer has read these lines, a ring ago; to take them away
// from its processor lasts longer than all that a Write does, and the next
// atomic operation would wait for that. Those of the next message were asked
// for by the call before.
func (p *Producer) Prefetch(n int) {
	if next := p.pos + uint64(n); -next%cacheLine < uint64(n) {
		p.prefetch(next, uint64(n))
	}
}

// prefetch asks for the lines that begin in the n bytes from a position on.
// Prefetch is inlined because this is not a part of it.
//
//go:noinline
func (p *Producer) prefetch(from, n uint64) {
	if !p.mayPrefetch(from, n) {
		return
	}
	for d := -from % cacheLine; d < n; d += cacheLine {
		prefetchWrite(&p.data[(from+d)&(p.size-1)])
	}
}

// mayPrefetch reports whether these are few enough, and all that their lines
// hold is free.
func (p *Producer) mayPrefetch(from, n uint64) bool {
	return hasPrefetchWrite && n <= prefetched && from+n+cacheLine-p.cachedPeer <= p.size
}
