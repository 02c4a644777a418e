//go:build !amd64 && !arm64

package wait

// pause does nothing where there is no such instruction at hand.
func pause(uint32) {}
