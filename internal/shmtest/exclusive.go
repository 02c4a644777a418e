//go:build linux

package shmtest

import (
	"io"
	"sync/atomic"

	"shmconn"
)

// An Exclusively is a net.Conn whose Reads and Writes are those of a Consumer
// and of a Producer, one at a time. Writes go through all the ways there are.
type Exclusively struct {
	*shmconn.Conn
	turn *atomic.Uint32
}

func NewExclusively(c Conn) Exclusively {
	return Exclusively{c.(*shmconn.Conn), new(atomic.Uint32)}
}

func (x Exclusively) Read(b []byte) (n int, err error) {
	err = x.Consume(func(r *shmconn.Consumer) error {
		n, err = r.Read(b)
		return err
	})
	return n, err
}

func (x Exclusively) Write(b []byte) (n int, err error) {
	write := (*shmconn.Producer).Write
	if x.turn.Add(1)%2 == 0 {
		write = (*shmconn.Producer).Put
	}
	err = x.Produce(func(p *shmconn.Producer) error {
		n, err = write(p, b)
		return err
	})
	return n, err
}

// Ways are those to read from a Conn and to write to it: its own calls, and
// those of handles.
var Ways = []struct {
	Name string
	Of   func(*shmconn.Conn) io.ReadWriter
}{
	{"conn", func(c *shmconn.Conn) io.ReadWriter { return c }},
	{"handles", func(c *shmconn.Conn) io.ReadWriter { return NewExclusively(c) }},
}
