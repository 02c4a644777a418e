//go:build !amd64 && !arm64

package ring

// prefetchWrite does nothing where there is no such instruction at hand.
func prefetchWrite(*byte) {}
