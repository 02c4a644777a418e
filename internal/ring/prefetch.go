//go:build amd64 || arm64

package ring

// cacheLine is how much memory one prefetch asks for. A processor with longer
// lines is asked for some of them twice.
const cacheLine = 64

// prefetched is the longest message for which Prefetch asks: beyond, it made no
// difference (DESIGN.md, "Performance notes", 25).
const prefetched = 4 * cacheLine

// Prefetch asks for the cache lines of the message after the next, so as to
// have them when they are written. It takes messages to be as long as the last
// one, of n bytes; then those of the next message were asked for by the call
// before. The consumer's processor has these lines, from a ring ago. Taking
// them away from it takes longer than all else that a Write does, and the next
// atomic operation would wait until the stores to them are done.
//
// To ask is not to touch: a prefetch does not fault, wherever it leads.
func (p *Producer) Prefetch(n uint64) {
	if next := p.pos + n; -next%cacheLine < n {
		p.prefetch(next, n)
	}
}

// prefetch asks for the lines that begin in the n bytes from a position on. It
// stands apart so that Prefetch can be inlined.
//
//go:noinline
func (p *Producer) prefetch(from, n uint64) {
	for d, end := p.ahead(from, n); d < end; d += cacheLine {
		prefetchWrite(&p.data[(from+d)&(p.size-1)])
	}
}

// ahead returns how far from the position the first of these lines begins, and
// before how far the last one does. It returns 0 and 0 if the n bytes are too
// many, or if not all that the lines hold is free for sure.
func (p *Producer) ahead(from, n uint64) (first, end uint64) {
	if !hasPrefetchWrite || n > prefetched || from+n+cacheLine-p.cachedPeer > p.size {
		return 0, 0
	}
	return -from % cacheLine, n
}

// prefetchWrite asks for the cache line of p, to write to it soon.
//
//go:noescape
func prefetchWrite(p *byte)
