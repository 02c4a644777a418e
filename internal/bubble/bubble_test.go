package bubble

import (
	"testing"
	"testing/synctest"
	"time"

	"shmconn/internal/sema"
)

func TestIn(t *testing.T) {
	if In(Now()) {
		t.Error("outside: In = true")
	}
	synctest.Test(t, func(t *testing.T) {
		if !In(Now()) {
			t.Error("inside: In = false")
		}
		time.Sleep(100 * 365 * 24 * time.Hour)
		if !In(Now()) {
			t.Error("a century later: In = false")
		}
	})
}

// TestOutside checks that what is called there finds real time and no bubble,
// again and again, also after the porter has left.
func TestOutside(t *testing.T) {
	check := func(t *testing.T) {
		t.Helper()
		for range 100 {
			var done sema.Sema
			inside := true
			Outside(func() {
				inside = In(Now())
				done.Notify()
			})
			done.Wait()
			if inside {
				t.Fatal("called inside a bubble")
			}
		}
	}
	check(t)
	for range 2 {
		synctest.Test(t, check)
		for gone := false; !gone; time.Sleep(time.Millisecond) {
			outside.mu.Lock()
			gone = !outside.there
			outside.mu.Unlock()
		}
	}
}

// TestGo starts a goroutine from inside a bubble that is there after its end:
// the bubble neither waits for it nor ends with it.
func TestGo(t *testing.T) {
	var begin, done sema.Sema
	synctest.Test(t, func(t *testing.T) {
		Go(func() {
			begin.Wait()
			done.Notify()
		})
	})
	begin.Notify()
	done.Wait()
}
