//go:build linux

package doorbell

import (
	"testing"
	"time"
)

// TestEnd checks that rings neither end the wait for the end nor are lost by
// it.
func TestEnd(t *testing.T) {
	fd, ring, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewBell(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := NewRinger(ring)
	defer r.Close()
	for _, how := range []string{"closed", "ended", "had ended"} {
		e, err := b.End()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan bool, 1)
		go func() { ended <- e.Wait() }()
		if how != "had ended" {
			for range 3 {
				r.Ring()
				time.Sleep(time.Millisecond)
				if !b.Hold() {
					t.Fatal("somebody holds the bell")
				}
				if got := b.Wait(); got != Rung {
					t.Errorf("Wait() = %v, want Rung", got)
				}
				b.Release()
			}
			r.Ring() // a byte that stays
			time.Sleep(time.Millisecond)
			select {
			case got := <-ended:
				t.Fatalf("a ring ended the wait: %v", got)
			default:
			}
		}
		switch how {
		case "closed":
			e.Close()
			if <-ended {
				t.Error("Close of the End was taken for that of the pipe")
			}
			if !b.Hold() || b.Wait() != Rung {
				t.Error("the byte is lost")
			}
			b.Release()
		case "ended":
			r.Close()
			fallthrough
		default:
			if !<-ended {
				t.Errorf("%s: the end was not seen", how)
			}
			e.Close()
		}
		if e.Wait() {
			t.Error("Wait after Close = true")
		}
	}
}
