//go:build !amd64 && !arm64

package ring

const hasPrefetchWrite = false

// prefetchWrite is not called where there is no such instruction at hand.
func prefetchWrite(*byte) {}
