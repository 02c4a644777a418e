//go:build !amd64 && !arm64

package ring

// Prefetch does nothing where there is no such instruction at hand.
func (p *Producer) Prefetch(uint64) {}
