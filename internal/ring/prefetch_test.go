//go:build amd64 || arm64

package ring

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestAhead compares the lines that are asked for with all that begin in the
// message after the next, at all places of small rings and of large positions,
// with all the room that there can be.
func TestAhead(t *testing.T) {
	if !hasPrefetchWrite {
		t.Skip("this processor has no prefetch for writing")
	}
	for _, size := range []uint64{64, 128, 512} {
		for _, start := range starts {
			h, data := layouts[0].make(int(size))
			p, _ := newEnds(h, data, start)
			for range cacheLine {
				for used := uint64(0); used <= size; used += 31 {
					p.cachedPeer = p.pos - used
					for n := uint64(1); n < prefetched+2; n++ {
						next := p.pos + n
						var want []uint64
						for at := next; at-next < n; at++ {
							if at%cacheLine == 0 {
								want = append(want, at)
							}
						}
						if last := next + n + cacheLine - 1; last-p.cachedPeer >= size || n > prefetched {
							want = nil // some of it is not free, or it is too long
						}
						var got []uint64
						for d, end := p.ahead(next, n); d < end; d += cacheLine {
							got = append(got, next+d)
						}
						if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
							t.Fatalf("size %d, position %d, used %d, %d bytes: lines %v, want %v", size, p.pos, used, n, got, want)
						}
						p.Prefetch(n) // does not panic
					}
				}
				p.pos++
			}
		}
	}
}

// TestHasPrefetchWrite asks the kernel what the processor can do.
func TestHasPrefetchWrite(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("other processors always have it")
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip(err) // not on Linux
	}
	if want := strings.Contains(string(info), " 3dnowprefetch "); hasPrefetchWrite != want {
		t.Errorf("hasPrefetchWrite = %v, want %v", hasPrefetchWrite, want)
	}
}
