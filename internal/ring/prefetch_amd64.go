package ring

// cpuPrefetchesWrite reports whether the processor knows PREFETCHW: CPUID leaf
// 80000001, bit 8 of ECX (Intel SDM, volume 2, CPUID).
func cpuPrefetchesWrite() bool

var hasPrefetchWrite = cpuPrefetchesWrite()
