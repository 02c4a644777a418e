package main

import (
	"io"
	"regexp"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	out, err := exampletest.Command(t).CombinedOutput()
	want := `^1000000 quotes, volume 2999997 at 100\.00\d\d on average, [0-9.]+ million/s\n$`
	if err != nil || !regexp.MustCompile(want).Match(out) {
		t.Errorf("%v\n%s\nwant a match of %s", err, out, want)
	}
}

// Neither end allocates anything for a message.
func TestAllocations(t *testing.T) {
	if (shmconn.Addr{}).Network() == "unix" {
		t.Skip("over Unix sockets calls allocate")
	}
	a, b := exampletest.Pair(t, 0)
	var got total
	var first uint64
	var allocs float64
	const n = 1000
	err := a.Produce(func(p *shmconn.Producer) error {
		return b.Consume(func(r *shmconn.Consumer) error {
			allocs = testing.AllocsPerRun(100, func() {
				if err := send(p, first, n); err != nil {
					t.Fatal(err)
				}
				if err := got.receive(r, n); err != nil {
					t.Fatal(err)
				}
				first += n
			})
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
	if allocs != 0 || got.count != first {
		t.Errorf("%v allocations for %d quotes, and %d came of %d", allocs, n, got.count, first)
	}
}

// A gap and half a message are errors.
func TestErrors(t *testing.T) {
	a, b := exampletest.Pair(t, 0)
	if err := a.Produce(func(p *shmconn.Producer) error { return send(p, 5, 1) }); err != nil {
		t.Fatal(err)
	}
	var got total
	receive := func() error {
		return b.Consume(func(r *shmconn.Consumer) error { return got.receive(r, 1) })
	}
	if err := receive(); err == nil || err.Error() != "quote 5 follows 0" {
		t.Errorf("a gap: %v", err)
	}
	b.Discard(quoteSize)
	a.Write(make([]byte, quoteSize/2))
	a.Close()
	if err := receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("half a quote: %v", err)
	}
}
