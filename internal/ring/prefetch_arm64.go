package ring

const hasPrefetchWrite = true

// prefetchWrite asks for the cache line of p, to write to it soon.
//
//go:noescape
func prefetchWrite(p *byte)
