//go:build linux

package bench

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is the work of one slice. The client's half ends when its quota is
// used up and says so in its last message; the server's half ends when it has
// seen that.
type loop struct {
	client, server func(*end, quota) (Result, error)
	helper         func(*end, quota) (Result, error) // nil where there are none
}

// loops are the halves that Spec.Loop names.
var loops = map[string]loop{
	"oneway":        {client: sendPaced, server: receivePaced, helper: relay},
	"victim":        {client: hotBesideVictim, server: echo, helper: beat},
	"first-dial":    {client: freshConns(dialFresh, 0), server: acceptFreshDials},
	"second-dial":   {client: freshConns(dialFresh, 1), server: acceptFreshDials},
	"first-accept":  {client: freshConns(acceptFresh, 0), server: echoFreshEnd},
	"second-accept": {client: freshConns(acceptFresh, 1), server: echoFreshEnd},

	"roundtrip":     {client: roundTrips, server: echo},
	"echo":          {client: manyRoundTrips, server: echo},
	"rate":          {client: atRate, server: echo},
	"pause":         {client: afterPause, server: echo},
	"beside":        {client: besidePollers, server: echoBesidePollers},
	"write":         {client: write, server: readBulk},
	"bufio":         {client: writeBuffered, server: readBulk},
	"stream":        {client: writeStream, server: readStream},
	"messages":      {client: sendMessages, server: receiveMessages},
	"dial":          {client: dialAndClose, server: acceptAndClose},
	"dial-byte":     {client: dialAndAsk, server: acceptAndAnswer},
	"http":          {client: getRequests, server: serveRequests},
	"idle":          {client: idle, server: idle},
	"pace":          {client: atRate, server: idle},
	"pingpong":      {client: pingPong, server: pingPongEcho},
	"pingpong-ring": {client: ringPingPong, server: ringPingPongEcho},
	"ints":          {client: intsUncached, server: takeIntsUncached},
	"ints-cached":   {client: intsCached, server: takeIntsCached},
	"memory-copy":   {client: copyIn, server: copyOut},
}

// exchange sends one message and waits for it to come back.
func exchange(m Messenger, size int, head uint64) error {
	if err := m.Send(size, head); err != nil {
		return err
	}
	got, err := m.Receive(size)
	if err != nil {
		return err
	}
	if got != head {
		return fmt.Errorf("bench: sent message %#x, %#x came back", head, got)
	}
	return nil
}

// roundTrips sends one message after the other over one connection. In the
// first half of the quota only the whole is timed, in the second each.
func roundTrips(e *end, q quota) (Result, error) {
	m, size := e.msgs[0], e.spec.Size
	r, err := untimed(m, size, q.half())
	if err != nil {
		return r, err
	}
	if q.D > 0 {
		err = e.timed(m, q.half(), &r)
	}
	return r, errors.Join(err, exchange(m, size, last(size)))
}

func untimed(m Messenger, size int, q quota) (r Result, err error) {
	mask := last(size) - 1
	c := newClock(q)
	for n := c.next(); n > 0; n = c.next() {
		for range n {
			if err := exchange(m, size, r.Ops&mask); err != nil {
				return r, err
			}
			r.Ops++
		}
	}
	r.Elapsed = c.elapsed()
	r.AllOps = r.Ops
	return r, nil
}

func (e *end) timed(m Messenger, q quota, r *Result) (err error) {
	size := e.spec.Size
	mask := last(size) - 1
	for c := newClock(q); c.elapsed() < c.D; {
		t := time.Now()
		if err := exchange(m, size, r.AllOps&mask); err != nil {
			return err
		}
		e.record(time.Since(t))
		r.AllOps++
	}
	return nil
}

// echo sends everything back, on each connection, until the last message of
// each.
func echo(e *end, _ quota) (Result, error) {
	one := func(m Messenger) (n uint64, err error) {
		size := e.spec.Size
		for end := last(size); ; n++ {
			head, err := m.Receive(size)
			if err != nil {
				return n, err
			}
			if err := m.Send(size, head); err != nil || head&end != 0 {
				return n, err
			}
		}
	}
	return each(e.msgs, one)
}

// each runs f for all of ms at once.
func each(ms []Messenger, f func(Messenger) (uint64, error)) (r Result, err error) {
	if len(ms) == 1 {
		r.Ops, err = f(ms[0])
		r.AllOps = r.Ops
		return r, err
	}
	var wg sync.WaitGroup
	ops, errs := make([]uint64, len(ms)), make([]error, len(ms))
	for i, m := range ms {
		wg.Go(func() { ops[i], errs[i] = f(m) })
	}
	wg.Wait()
	for _, n := range ops {
		r.Ops += n
	}
	r.AllOps = r.Ops
	return r, errors.Join(errs...)
}

// manyRoundTrips is roundTrips over all connections at once, none timed. Those
// that are not busy have nothing but a last message.
func manyRoundTrips(e *end, q quota) (Result, error) {
	busy, quiet := e.msgs, []Messenger(nil)
	if n := e.spec.Busy; n > 0 {
		busy, quiet = e.msgs[:n], e.msgs[n:]
	}
	size, start := e.spec.Size, time.Now()
	r, err := each(busy, func(m Messenger) (uint64, error) {
		r, err := untimed(m, size, q)
		return r.Ops, errors.Join(err, exchange(m, size, last(size)))
	})
	r.Elapsed = time.Since(start)
	for _, m := range quiet {
		err = errors.Join(err, exchange(m, size, last(size)))
	}
	return r, err
}

// atRate sends so many messages a second, and times each. A message that leaves
// late because the one before it came back late is timed from when it was due,
// so that a stall counts for all messages that it has delayed. One that leaves
// late because the clock has struck late is not, unless Spec.FromDue says so.
func atRate(e *end, q quota) (r Result, err error) {
	m, size, interval := e.msgs[0], e.spec.Size, time.Second/time.Duration(e.spec.Rate)
	mask := last(size) - 1
	ticks, err := newTicks(interval)
	if err != nil {
		return r, err
	}
	defer ticks.Close()
	var count [8]byte
	start := time.Now()
	for due := start; time.Since(start) < q.D; due = due.Add(interval) {
		from := due
		// The clock and this schedule are not exactly in step.
		for time.Until(due) > interval/8 {
			if _, err := ticks.Read(count[:]); err != nil {
				return r, err
			}
			if !e.spec.FromDue {
				from = time.Now()
			}
		}
		if err := exchange(m, size, r.Ops&mask); err != nil {
			return r, err
		}
		e.record(time.Since(from))
		r.Ops++
	}
	r.Elapsed, r.AllOps = time.Since(start), r.Ops
	return r, exchange(m, size, last(size))
}

// newTicks returns a timer of the kernel's that can be read once an interval.
// The wait for it is one in the runtime's poller, as that for a message from
// the network is, and costs little. time.Sleep is good for a millisecond only,
// and a sleep in a system call keeps the runtime's watchdog awake, which costs
// more than most messages.
func newTicks(interval time.Duration) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	ts := unix.NsecToTimespec(int64(interval))
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: ts, Value: ts}, nil); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return os.NewFile(uintptr(fd), "timerfd"), nil
}

// afterPause times round trips that follow a rest: one each, or as many as fit
// into a time.
func afterPause(e *end, q quota) (r Result, err error) {
	m, size := e.msgs[0], e.spec.Size
	mask := last(size) - 1
	for start := time.Now(); time.Since(start) < q.D; {
		time.Sleep(e.spec.Pause)
		for begun, more := time.Now(), true; more; {
			t := time.Now()
			if err := exchange(m, size, r.Ops&mask); err != nil {
				return r, err
			}
			d := time.Since(t)
			e.record(d)
			r.Elapsed += d
			r.Ops++
			more = t.Sub(begun) < e.spec.For
		}
	}
	r.AllOps = r.Ops
	return r, exchange(m, size, last(size))
}
