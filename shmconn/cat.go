package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"shmconn"
)

type catCmd struct {
	Name   string `arg:"" predictor:"name" help:"Name of the listener."`
	Listen bool   `short:"l" help:"Listen on NAME and take one connection, instead of connecting to it."`
	Keep   bool   `short:"k" help:"With -l: take one connection after another, until interrupted. Standard input is not read, because it could go to only one of them."`

	waitFlags
	pollFlags
	dialFlags   `group:"To connect:"`
	listenFlags `group:"To listen:"`
}

func (c *catCmd) Help() string {
	return `The end of standard input closes that direction only: cat goes on writing what
comes back until the peer ends, too. On a terminal, and with -k, the end of the
peer is enough.

The exit status is 0 if everything was written to the connection and the peer
ended in order, and 1 if not. A cat that is interrupted, or cannot write its
output, aborts the connection: its peer gets an error, and does not take a part
for the whole.

Example:

    shmconn cat -l feed >copy &
    shmconn cat --wait 5 feed <file`
}

func (c *catCmd) Validate() error {
	switch {
	case c.Keep && !c.Listen:
		return errors.New("-k needs -l")
	case c.Wait != 0 && c.Listen:
		return errors.New("--wait cannot be used with -l")
	}
	return nil
}

func (c *catCmd) Run(ctx context.Context, s stdio) error {
	stayAwake()
	if !c.Listen {
		conn, err := c.limit(c.dialer(c.pollFlags)).DialConn(ctx, c.Name)
		if err != nil {
			return err
		}
		return cat(ctx, conn, s)
	}
	l, err := c.config(c.pollFlags).Listen(c.Name)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if c.Keep {
		s.in = nil
	}
	a := &acceptor{Listener: l, say: func(err error) { say(s, err) }}
	for {
		conn, err := a.next(ctx)
		if ctx.Err() != nil {
			return interrupted(c.Keep)
		}
		if err != nil {
			return err
		}
		if !c.Keep {
			l.Close() // those that dial later are refused at once
			return cat(ctx, conn.(*shmconn.Conn), s)
		}
		switch err := cat(ctx, conn.(*shmconn.Conn), s); {
		case ctx.Err() != nil:
			return interrupted(c.Keep)
		case errors.As(err, new(outputError)):
			return err
		case err != nil:
			say(s, err) // the next connection may do better
		}
	}
}

// interrupted is the error of a command that was told to stop. For one that
// would have gone on for ever that is the way to end.
func interrupted(forever bool) error {
	if forever {
		return nil
	}
	return errors.New("interrupted")
}

// An outputError is an error of standard output: no other connection will do
// better.
type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

// cat copies s.in to conn and conn to s.out, until both have ended. If s.in is
// nil, cat only does the latter, and leaves s.out open for the next connection.
//
// When something goes wrong, cat aborts conn: the peer must not take a part for
// the whole.
func cat(ctx context.Context, conn *shmconn.Conn, s stdio) error {
	defer conn.Abort() // does nothing once conn is closed
	in := &input{r: s.in}
	sent, received := make(chan error, 1), make(chan error, 1)
	keep := s.in == nil
	if keep {
		sent = nil // and the peer sees the end when all it sent has been written
	} else {
		go func() { sent <- send(conn, in) }()
	}
	go func() { received <- receive(s.out, conn, !keep) }()
	var look <-chan time.Time // ticks when it is time to see whether the peer has closed
	for sent != nil || received != nil {
		select {
		case <-ctx.Done():
			return interrupted(false)
		case err := <-sent:
			if err != nil {
				return err
			}
			sent = nil
		case err := <-received:
			if err != nil {
				return err
			}
			received = nil
			if isTerminal(s.in) {
				return conn.Close()
			}
			look = time.Tick(50 * time.Millisecond)
		case <-look:
			// Nobody wants what standard input may still bring.
			if _, err := conn.TryWrite(nil); errors.Is(err, syscall.EPIPE) && in.waits.Load() {
				return conn.Close()
			}
		}
	}
	return conn.Close()
}

// An input is standard input, and knows whether somebody waits for it.
type input struct {
	r     io.Reader
	waits atomic.Bool
}

func (in *input) Read(b []byte) (int, error) {
	in.waits.Store(true)
	n, err := in.r.Read(b)
	in.waits.Store(false)
	if err != nil && noTerminal(err) {
		err = io.EOF
	}
	return n, err
}

// send copies in to conn and closes that direction.
func send(conn *shmconn.Conn, in *input) error {
	var r io.Reader = in
	if f, ok := in.r.(*os.File); ok && isRegular(f) {
		r = f // which the kernel copies straight into the ring
	}
	if _, err := conn.ReadFrom(r); err != nil {
		return err
	}
	err := conn.CloseWrite()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// receive copies conn to out, and closes out, too, if there is nothing to come
// after it: so half close is carried through a pipeline.
func receive(out io.Writer, conn *shmconn.Conn, last bool) error {
	_, err := conn.WriteTo(out)
	if c, ok := out.(io.Closer); ok && last && err == nil {
		if err := c.Close(); err != nil {
			return outputError{fmt.Errorf("standard output: %w", err)}
		}
	}
	var op *net.OpError
	if errors.Is(err, syscall.ECONNRESET) || errors.As(err, new(*shmconn.CorruptError)) || !errors.As(err, &op) {
		return err
	}
	return outputError{fmt.Errorf("standard output: %w", op.Err)}
}

func isRegular(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// isTerminal reports whether f, an io.Reader or io.Writer, is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
