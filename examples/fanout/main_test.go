package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"shmconn"
	"shmconn/examples/internal/exampletest"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

// Each strategy accounts for all ticks, up to those that the feed had for it
// after its last.
func TestRun(t *testing.T) {
	exampletest.PrivateNames(t)
	const ticks = 200_000
	out, err := exampletest.Command(t, "-ticks", strconv.Itoa(ticks)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	line := regexp.MustCompile(`^pause (\S+): (\d+) ticks, (\d+) missed$`)
	slow := 0
	for l := range strings.Lines(string(out)) {
		m := line.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			t.Fatalf("line %q", l)
		}
		got, _ := strconv.Atoi(m[2])
		missed, _ := strconv.Atoi(m[3])
		if got == 0 || got+missed > ticks {
			t.Errorf("%s of %d ticks", l, ticks)
		}
		if m[1] == "5ms" {
			slow++ // whether it misses any is a matter of how fast the feed is here
		}
	}
	if slow != 1 || strings.Count(string(out), "\n") != 3 {
		t.Errorf("output:\n%s", out)
	}
}

// A strategy that has had no room for a while goes on with the next tick that
// there is room for, and knows how many it has missed.
func TestMissed(t *testing.T) {
	exampletest.PrivateNames(t)
	lc := shmconn.ListenConfig{RingSize: 4096}
	l, err := lc.Listen("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d shmconn.Dialer
	c, err := d.DialConn(t.Context(), "feed")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{conns: map[*shmconn.Conn]int{s: 0}}
	const room = 4096 / tickSize
	tick := make([]byte, tickSize)
	publish := func(from, to uint64) {
		for ; from < to; from++ {
			binary.LittleEndian.PutUint64(tick, from)
			f.publish(tick)
		}
	}
	publish(0, room+100)
	if _, err := c.Discard(room * tickSize); err != nil {
		t.Fatal(err)
	}
	publish(room+100, room+110)
	f.close()
	if sum, err := follow(c, 0); err != nil || sum != (summary{got: 10, missed: room + 100}) {
		t.Errorf("%+v, %v, want 10 ticks after %d that it has not seen", sum, err, room+100)
	}
}

// A strategy that does not read at all gets whole ticks only, holds up nobody,
// and is thrown out after a while.
func TestThrownOut(t *testing.T) {
	exampletest.PrivateNames(t)
	lc := shmconn.ListenConfig{RingSize: 4096}
	l, err := lc.Listen("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := shmconn.Dial("feed")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{conns: map[*shmconn.Conn]int{s: 0}}
	tick := make([]byte, tickSize)
	n := 0
	for ; f.count() > 0; n++ {
		binary.LittleEndian.PutUint64(tick, uint64(n))
		f.publish(tick)
		if n > 2*maxMissed {
			t.Fatal("it is still there")
		}
	}
	sum, err := follow(c, 0)
	if !errors.Is(err, syscall.ECONNRESET) || sum != (summary{got: 4096 / tickSize}) {
		t.Errorf("%+v, %v after %d ticks, want %d of them and ECONNRESET", sum, err, n, 4096/tickSize)
	}
	if err := fmt.Sprint(f.conns); err != "map[]" {
		t.Error(err)
	}
}
