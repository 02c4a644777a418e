//go:build linux

package bench

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// An end is one process's half of a contender: its connections, and what loops
// keep from one slice to the next.
type end struct {
	spec     Spec
	net      Network
	addr     string
	listener Listener // nil in the client
	conns    []io.Closer
	hist     *hdrhistogram.Histogram // latencies of this slice
	msgs     []Messenger             // the same connections; nil where they are limits

	// Connections beside the main ones: those that poll, or the victim.
	pollListener Listener
	pollAddr     string
	pollConns    []io.Closer
	pollers      []io.ReadWriter // the same

	out io.ReadWriter // a relay's connection to the next process; nil in others

	accepted sync.WaitGroup
	failed   atomic.Pointer[error] // by accepting

	background sync.Once // starts what a loop leaves running between slices
	dials      atomic.Uint64
}

// pollSpec describes the connections of Spec.Pollers.
func pollSpec(s Spec) Spec { return Spec{Net: "shm", Dir: s.Dir, BusyPoll: -1, Conns: s.Pollers} }

// victimSpec describes the connection of Spec.Victim. Its server is a helper.
func victimSpec(s Spec) Spec { return Spec{Net: s.Victim, Loop: s.Loop, Dir: s.Dir, Rate: s.Rate} }

// listenEnd makes a server's end, which accepts in the background. If next is
// not empty it is a relay's, with a connection to the process that listens
// there.
func listenEnd(s Spec, next string) (*end, error) {
	e := &end{spec: s, hist: newHist()}
	var err error
	if e.net, err = network(s.Net); err != nil {
		return nil, err
	}
	if e.listener, err = e.net.Listen(s); err != nil {
		return nil, err
	}
	e.addr = e.listener.Addr()
	e.conns = make([]io.Closer, s.conns())
	e.accept(e.listener, e.conns)
	if next != "" {
		c, err := e.net.Dial(s, next)
		if err != nil {
			return nil, err
		}
		e.out = c.(io.ReadWriter)
	}
	if s.Pollers > 0 {
		if e.pollListener, err = networks["shm"].Listen(pollSpec(s)); err != nil {
			return nil, err
		}
		e.pollAddr = e.pollListener.Addr()
		e.pollConns = make([]io.Closer, s.Pollers)
		e.accept(e.pollListener, e.pollConns)
	}
	return e, nil
}

func (e *end) accept(l Listener, conns []io.Closer) {
	e.accepted.Go(func() {
		for i := range conns {
			c, err := l.Accept()
			if err != nil {
				e.failed.CompareAndSwap(nil, &err)
				return
			}
			conns[i] = c
		}
	})
}

// dialEnd makes a client's end, connected to the server's.
func dialEnd(s Spec, addr, pollAddr string) (*end, error) {
	e := &end{spec: s, addr: addr, hist: newHist()}
	var err error
	if e.net, err = network(s.Net); err != nil {
		return nil, err
	}
	dial := func(n Network, s Spec, addr string) ([]io.Closer, error) {
		conns := make([]io.Closer, s.conns())
		for i := range conns {
			if conns[i], err = n.Dial(s, addr); err != nil {
				return nil, err
			}
		}
		return conns, nil
	}
	if e.conns, err = dial(e.net, s, addr); err != nil {
		return nil, err
	}
	switch {
	case s.Pollers > 0:
		e.pollConns, err = dial(networks["shm"], pollSpec(s), pollAddr)
	case s.Victim != "":
		e.pollConns, err = dial(networks[s.Victim], victimSpec(s), pollAddr)
	}
	if err != nil {
		return nil, err
	}
	e.setMessengers()
	return e, nil
}

// ready waits until a server's end has accepted everything.
func (e *end) ready() error {
	e.accepted.Wait()
	if err := e.failed.Load(); err != nil {
		return *err
	}
	e.setMessengers()
	return nil
}

func (e *end) setMessengers() {
	for _, c := range e.conns {
		switch c := c.(type) {
		case Messenger:
			e.msgs = append(e.msgs, c)
		case io.ReadWriter:
			e.msgs = append(e.msgs, newByteMessenger(c, max(e.spec.Size, 8)))
		}
	}
	for _, c := range e.pollConns {
		e.pollers = append(e.pollers, c.(io.ReadWriter))
	}
}

// stream returns the end's connection for loops that stream bytes.
func (e *end) stream() (io.ReadWriter, error) {
	rw, ok := e.conns[0].(io.ReadWriter)
	if !ok {
		return nil, fmt.Errorf("bench: %s is not a stream of bytes", e.spec.Net)
	}
	return rw, nil
}

// record notes how long an operation took.
func (e *end) record(d time.Duration) {
	e.hist.RecordValue(min(int64(max(d, 1)), e.hist.HighestTrackableValue()))
}

// close closes everything, and with that removes names.
func (e *end) close() {
	for _, c := range append(e.conns, e.pollConns...) {
		if c != nil {
			c.Close()
		}
	}
	if c, ok := e.out.(io.Closer); ok {
		c.Close()
	}
	for _, l := range []Listener{e.listener, e.pollListener} {
		if l != nil {
			l.Close()
		}
	}
}
