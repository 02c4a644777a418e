//go:build linux && (amd64 || arm64)

// Package shmipc makes shmipc-go a contender of the bench, on the way to use it
// that its authors show: a session manager with its pool of streams, messages
// written and read in shared memory through BufferWriter and BufferReader, a
// Flush each, and the default configuration.
package shmipc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/cloudwego/shmipc-go"

	"shmconn/internal/tools/bench"
)

// Register adds the networks "shmipc", "shmipc-1p" and "shmipc-copied". The
// second runs both processes with GOMAXPROCS=1, as all examples of shmipc-go
// do. The third copies what it has received, as Read does, so that it is the
// receiver's own.
func Register() {
	for _, name := range []string{"shmipc", "shmipc-1p", "shmipc-copied"} {
		set := func() {
			if name == "shmipc-1p" {
				runtime.GOMAXPROCS(1) // each end has a process of its own
			}
		}
		bench.Register(bench.Network{
			Name:   name,
			Listen: func(s bench.Spec) (bench.Listener, error) { set(); return listen(s) },
			Dial:   func(s bench.Spec, addr string) (io.Closer, error) { set(); return dial(s, addr) },
		})
	}
}

var serial atomic.Int64

type listener struct {
	net.Listener
	spec bench.Spec
	addr string
}

func listen(s bench.Spec) (bench.Listener, error) {
	addr := fmt.Sprintf("%s/shmipc-%d-%d.sock", s.Dir, os.Getpid(), serial.Add(1))
	l, err := net.Listen("unix", addr)
	if err != nil {
		return nil, err
	}
	return &listener{l, s, addr}, nil
}

func (l *listener) Addr() string { return l.addr }

func (l *listener) Accept() (io.Closer, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	session, err := shmipc.Server(c, shmipc.DefaultConfig())
	if err != nil {
		return nil, err
	}
	stream, err := session.AcceptStream()
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	m := newConn(l.spec, stream, session.Close)
	_, err = m.receive(8) // the greeting, without which there would be no stream here
	return m, err
}

func dial(s bench.Spec, addr string) (io.Closer, error) {
	conf := shmipc.DefaultSessionManagerConfig()
	conf.Network, conf.Address = "unix", addr
	// The same kind of memory as by default, in the directory of this run.
	conf.ShareMemoryPathPrefix, conf.QueuePath = addr+".shm", addr+".queue"
	sm, err := shmipc.NewSessionManager(conf)
	if err != nil {
		return nil, err
	}
	stream, err := sm.GetStream()
	if err != nil {
		return nil, errors.Join(err, sm.Close())
	}
	m := newConn(s, stream, func() error {
		sm.PutBack(stream)
		return sm.Close()
	})
	return m, m.send(8, 0)
}

// A conn is a stream of shmipc-go as a bench.Messenger.
//
// A stream has no flow control: who writes faster than the other reads runs out
// of shared memory, and from then on the stream goes through the socket, for
// good. In the stream workload the reader therefore grants credit, a small
// message for every grant messages, as an application would.
type conn struct {
	stream *shmipc.Stream
	end    func() error
	data   []byte // of a large message
	copied bool

	// Flow control.
	size     int    // of the messages that need credit, 0: none do
	sent     uint64 // of these
	received uint64
	credits  uint64 // received
}

const (
	window = 32 // messages that may be under way
	grant  = 8  // messages that a credit stands for
	large  = 4 << 10
)

func newConn(s bench.Spec, stream *shmipc.Stream, end func() error) *conn {
	c := &conn{stream: stream, end: end, data: make([]byte, max(s.Size, 8)), copied: s.Net == "shmipc-copied"}
	if s.Loop == "stream" {
		c.size = s.Size
	}
	return c
}

func (c *conn) Close() error { return c.end() }

// Send is part of bench.Messenger.
func (c *conn) Send(size int, head uint64) error {
	if size == c.size {
		for c.sent-c.credits*grant >= window {
			if err := c.credit(); err != nil {
				return err
			}
		}
		c.sent++
	}
	return c.send(size, head)
}

// credit waits for one credit.
func (c *conn) credit() error {
	_, err := c.receive(8)
	c.credits++
	return err
}

func (c *conn) send(size int, head uint64) error {
	w := c.stream.BufferWriter()
	if size < large {
		b, err := w.Reserve(size)
		if err != nil {
			return err
		}
		bench.PutHead(b, head)
	} else {
		// The bytes have to come from somewhere, as they do with Write.
		bench.PutHead(c.data[:size], head)
		if _, err := w.WriteBytes(c.data[:size]); err != nil {
			return err
		}
	}
	return c.stream.Flush(false)
}

// Receive is part of bench.Messenger. It looks at no more of a message than its
// head, and where that is not asked for, does not copy it.
func (c *conn) Receive(size int) (uint64, error) {
	if c.size != 0 && size != c.size {
		// What comes after all that was sent: credits for it come first.
		for c.credits < c.sent/grant {
			if err := c.credit(); err != nil {
				return 0, err
			}
		}
	}
	head, err := c.receive(size)
	if err == nil && size == c.size {
		if c.received++; c.received%grant == 0 {
			err = c.send(8, 0)
		}
	}
	return head, err
}

func (c *conn) receive(size int) (uint64, error) {
	r := c.stream.BufferReader()
	b, err := r.ReadBytes(size)
	if err != nil {
		return 0, err
	}
	head := bench.Head(b)
	if c.copied {
		copy(c.data, b)
	}
	if c.size == 0 {
		c.stream.ReleaseReadAndReuse() // for the answer
	} else {
		r.ReleasePreviousRead()
	}
	return head, nil
}

// Workloads are those in which shmipc-go takes part, with all other contenders.
func Workloads() (ws []bench.Workload) {
	for _, w := range bench.Workloads() {
		if w.Name != "roundtrip/size=64" && w.Name != "stream/size=65536" {
			continue
		}
		names := []string{"shmipc", "shmipc-1p", "shmipc-copied", "shm-zerocopy", "shm-zerocopy-4MiB"}
		w.Contenders = append(w.Contenders, bench.With(w.Contender("unix").Spec, names...)...)
		ws = append(ws, w)
	}
	return ws
}

// Targets are those that are about shmipc-go.
func Targets() []bench.Target {
	const rt, stream = "roundtrip/size=64", "stream/size=65536"
	return []bench.Target{
		{Text: "round trip 64 B, times faster than shmipc-go", Workload: rt, Num: "shmipc", Den: "shm", AtLeast: 10},
		{Text: "  with GOMAXPROCS=1 for shmipc-go", Workload: rt, Num: "shmipc-1p", Den: "shm", Note: true},
		{Text: "64 KiB stream / shmipc-go", Workload: stream, Num: "shm", Den: "shmipc", AtLeast: 3},
		{Text: "  with GOMAXPROCS=1 for shmipc-go", Workload: stream, Num: "shm", Den: "shmipc-1p", Note: true},
		{Text: "  ring 1 MiB", Workload: stream, Num: "shm-1MiB", Den: "shmipc", Note: true},
		{Text: "  ring 4 MiB", Workload: stream, Num: "shm-4MiB", Den: "shmipc", Note: true},
		{Text: "  both received in place", Workload: stream, Num: "shm-zerocopy", Den: "shmipc", Note: true},
		{Text: "  both received in place, ring 4 MiB", Workload: stream, Num: "shm-zerocopy-4MiB", Den: "shmipc", Note: true},
		{Text: "  both received into a buffer", Workload: stream, Num: "shm", Den: "shmipc-copied", Note: true},
		{Text: "  both received into a buffer, ring 4 MiB", Workload: stream, Num: "shm-4MiB", Den: "shmipc-copied", Note: true},
	}
}
