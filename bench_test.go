//go:build linux

package shmconn_test

import (
	"fmt"
	"testing"

	"shmconn/internal/tools/bench"
)

// The other end of these benchmarks is this test binary, run again. That must
// be seen before flags are parsed or anything is started.
func init() { bench.Main() }

// rivals are measured by the same loops. On a shared machine only ratios taken
// within short rounds mean something: for these there is go run ./shmconn
// bench.
var rivals = []string{"shm", "unix", "tcp", "pipe"}

// benchmark does b.N operations of s with a peer in a process, and in a
// goroutine.
func benchmark(b *testing.B, name string, s bench.Spec, bytes int) {
	for _, peer := range []string{"process", "goroutine"} {
		b.Run(fmt.Sprintf("%s/peer=%s/size=%d", name, peer, s.Size), func(b *testing.B) {
			p, err := bench.StartPeer(s, peer == "goroutine")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(bytes))
			b.ResetTimer()
			if err := p.Do(b.N); err != nil {
				b.Error(err)
			}
			b.StopTimer()
			if err := p.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkRoundTrip sends a message and waits for its echo.
func BenchmarkRoundTrip(b *testing.B) {
	for _, net := range rivals {
		for _, size := range []int{1, 64, 1 << 10, 64 << 10} {
			benchmark(b, "net="+net, bench.Spec{Net: net, Loop: "roundtrip", Size: size}, 0)
		}
	}
	benchmark(b, "limit=ping-pong", bench.Spec{Net: "memory", Loop: "pingpong", Size: 8}, 0)
}

// BenchmarkWrite writes small messages by one Write each; the peer has received
// all of them at the end.
func BenchmarkWrite(b *testing.B) {
	for _, net := range rivals {
		for _, size := range []int{4, 8, 16, 32, 64} {
			benchmark(b, "net="+net, bench.Spec{Net: net, Loop: "write", Size: size}, size)
		}
	}
	benchmark(b, "limit=int-ring", bench.Spec{Net: "memory", Loop: "ints", Size: 4}, 4)
	benchmark(b, "limit=int-ring-cached", bench.Spec{Net: "memory", Loop: "ints-cached", Size: 4}, 4)
}

// BenchmarkBufio is BenchmarkWrite through a bufio.Writer.
func BenchmarkBufio(b *testing.B) {
	for _, net := range rivals {
		for _, size := range []int{4, 8, 16, 32, 64} {
			benchmark(b, "net="+net, bench.Spec{Net: net, Loop: "bufio", Size: size}, size)
		}
	}
}

// BenchmarkStream writes large chunks; the peer reads into a buffer of that
// size.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		for _, ring := range []int{256 << 10, 1 << 20, 4 << 20} {
			benchmark(b, fmt.Sprintf("net=shm/ring=%d", ring), bench.Spec{Net: "shm", Loop: "stream", Size: size, RingSize: ring}, size)
			benchmark(b, fmt.Sprintf("limit=memcpy/ring=%d", ring), bench.Spec{Net: "memory", Loop: "memory-copy", Size: size, RingSize: ring}, size)
		}
		for _, net := range rivals[1:] {
			benchmark(b, "net="+net, bench.Spec{Net: net, Loop: "stream", Size: size}, size)
		}
	}
}

// BenchmarkZeroCopy sends messages in place and takes them there: by Reserve,
// Commit, Peek and Discard, and by CommitReserve and PeekAtLeast; beside it the
// same by Write and Read.
func BenchmarkZeroCopy(b *testing.B) {
	for _, net := range []string{"shm-zerocopy", "shm-inplace", "shm", "unix"} {
		benchmark(b, "net="+net, bench.Spec{Net: net, Loop: "messages", Size: 64}, 64)
	}
}

// BenchmarkDial dials, is accepted, and closes.
func BenchmarkDial(b *testing.B) {
	for _, ring := range []int{64 << 10, 256 << 10, 1 << 20} {
		benchmark(b, fmt.Sprintf("net=shm/ring=%d", ring), bench.Spec{Net: "shm", Loop: "dial", RingSize: ring}, 0)
	}
	benchmark(b, "net=unix", bench.Spec{Net: "unix", Loop: "dial"}, 0)
}
