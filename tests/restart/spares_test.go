//go:build linux

package restart

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"shmconn"
	"shmconn/internal/shmtest"
)

// TestSpares hands the socket of a listener on whose dialers use the memory of
// their last connection again: they speak of it to the process that has it, and
// to no other. The two listeners are in this process, so that there can be many
// rounds, and dialers are here and in another one.
func TestSpares(t *testing.T) {
	others := shmtest.StartHelper(t, "restartdialer", shmtest.Shape{})
	rounds, requests := restarts(100, 3000), 0
	var y tally
	var reused uint64
	for i := range rounds {
		name := shmtest.NewName()
		l, err := shmconn.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		first := server{l: l}
		running := first.start()
		others.Do("%s", name)
		load := startLoad(name, 2)
		time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
		f, err := first.l.File()
		if err != nil {
			t.Fatal(err)
		}
		if l, err = shmconn.FileListener(f); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		f.Close()
		second := server{l: l}
		again := second.start()
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		y.end(t, &first, running)
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		reused += first.reused.Load()
		if n := second.reused.Load(); n != 0 {
			t.Errorf("round %d: %d connections of a listener that has no spares have used memory again", i, n)
		}
		requests += load.end(t)
		var n int
		if _, err := fmt.Sscan(others.Call("end"), &n); err != nil {
			t.Errorf("round %d, the other dialers: %v", i, err)
		}
		requests += n
		y.end(t, &second, again)
		wantNoFiles(t, name)
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
	if requests != y.served {
		t.Errorf("%d requests were answered, and %d connections served", requests, y.served)
	}
	if reused == 0 {
		t.Error("no connection has used memory again")
	}
	t.Logf("figure: %d times handed on, %d requests with a connection each, %d over memory of an earlier one, 0 reset", rounds, requests, reused)
}

// end is server.end for a server of this process.
func (y *tally) end(t *testing.T, s *server, running <-chan struct{}) {
	t.Helper()
	if err := s.l.Close(); err != nil {
		t.Error(err)
	}
	<-running
	s.serving.Wait()
	if w := s.wrong.Load(); w != nil || s.accepted.Load() != s.served.Load() {
		t.Errorf("accepted %d, served %d", s.accepted.Load(), s.served.Load())
		if w != nil {
			t.Error(*w)
		}
	}
	y.served += int(s.served.Load())
}
