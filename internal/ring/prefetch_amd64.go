package ring

// prefetchWrite asks for the cache line of p, to write to it soon.
//
//go:noescape
func prefetchWrite(p *byte)

// cpuPrefetchesWrite reports whether the processor knows PREFETCHW: CPUID leaf
// 80000001, bit 8 of ECX (Intel SDM, volume 2, CPUID).
func cpuPrefetchesWrite() bool

var hasPrefetchWrite = cpuPrefetchesWrite()
