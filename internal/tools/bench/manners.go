//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// dialAndClose dials, waits until the server has accepted and closed, and
// closes.
func dialAndClose(e *end, q quota) (Result, error) {
	var b [1]byte
	return countConns(e, q, func() error {
		c, err := e.net.Dial(e.spec, e.addr)
		if err != nil {
			return err
		}
		n, err := c.(io.Reader).Read(b[:])
		c.Close()
		if n != 0 || err != io.EOF {
			return fmt.Errorf("bench: read from a connection that was closed by its peer: %d, %v", n, err)
		}
		return nil
	})
}

// acceptAndClose accepts, on all the slices' behalf, and closes.
func acceptAndClose(e *end, _ quota) (Result, error) {
	e.serveDials(func(c io.Closer) { c.Close() })
	return answerCount(e)
}

// dialAndAsk dials, gets a byte back, and closes.
func dialAndAsk(e *end, q quota) (Result, error) {
	return countConns(e, q, func() error {
		_, err := timeDial(e.net, e.spec, e.addr)
		return err
	})
}

// acceptAndAnswer accepts, and sends a byte back on each connection.
func acceptAndAnswer(e *end, _ quota) (Result, error) {
	e.serveDials(e.echoDial)
	return answerCount(e)
}

// echoDial sends back one byte in a goroutine, as a server does.
func (e *end) echoDial(c io.Closer) {
	go func() {
		if err := echoByte(c); err != nil {
			e.failed.CompareAndSwap(nil, &err)
		}
	}()
}

// serveDials accepts, on all the slices' behalf.
func (e *end) serveDials(serve func(io.Closer)) {
	e.background.Do(func() {
		go func() {
			for {
				c, err := e.listener.Accept()
				if err != nil {
					e.failed.CompareAndSwap(nil, &err)
					return
				}
				e.dials.Add(1)
				serve(c)
			}
		}()
	})
}

// idle is either end while nothing is sent. A goroutine waits in Read on each
// connection.
func idle(e *end, q quota) (Result, error) {
	e.background.Do(func() {
		for _, c := range e.conns {
			r, ok := c.(io.Reader)
			if !ok {
				continue
			}
			go func() {
				var b [1]byte
				n, err := r.Read(b[:])
				err = fmt.Errorf("bench: an idle connection's Read returned %d, %v", n, err)
				e.failed.CompareAndSwap(nil, &err)
			}()
		}
	})
	start := time.Now()
	time.Sleep(q.D)
	r := Result{Ops: 1, AllOps: 1, Elapsed: time.Since(start)}
	if err := e.failed.Load(); err != nil {
		return r, *err
	}
	return r, nil
}

// poll lets a goroutine wait in Read on each of the busy-polling connections.
// It returns a function that waits until each has read one byte.
func (e *end) poll() (wait func() error) {
	errs := make(chan error, len(e.pollers))
	for _, p := range e.pollers {
		go func() {
			var b [1]byte
			_, err := io.ReadFull(p, b[:])
			errs <- err
		}()
	}
	return func() (err error) {
		for range e.pollers {
			err = errors.Join(err, <-errs)
		}
		return err
	}
}

// release ends the other end's poll.
func (e *end) release() error {
	for _, p := range e.pollers {
		if _, err := p.Write([]byte{1}); err != nil {
			return err
		}
	}
	return nil
}

// besidePollers times round trips while other connections of the process poll.
func besidePollers(e *end, q quota) (Result, error) {
	m, size := e.msgs[0], e.spec.Size
	wait := e.poll()
	var r Result
	err := e.timed(m, q, &r)
	r.Ops, r.Elapsed = r.AllOps, q.D
	if err = errors.Join(err, exchange(m, size, last(size))); err != nil {
		return r, err
	}
	if e.spec.PollBoth {
		err = e.release()
	}
	return r, errors.Join(err, wait())
}

func echoBesidePollers(e *end, q quota) (Result, error) {
	wait := func() error { return nil }
	if e.spec.PollBoth {
		wait = e.poll()
	}
	r, err := echo(e, q)
	if err != nil {
		return r, err
	}
	return r, errors.Join(e.release(), wait())
}
