//go:build !linux

package shmconn

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// On other systems than Linux everything compiles, and Listen and Dial return
// errors.ErrUnsupported. So there is never a Conn or a Listener to call a method of.

type stream struct {
	addr Addr
	cred struct {
		pid      int32
		uid, gid uint32
	}
}

func (s *stream) read(b []byte) (int, error)                 { return 0, errors.ErrUnsupported }
func (s *stream) write(b []byte) (int, error)                { return 0, errors.ErrUnsupported }
func (s *stream) close() error                               { return errors.ErrUnsupported }
func (s *stream) closeRead() error                           { return errors.ErrUnsupported }
func (s *stream) closeWrite() error                          { return errors.ErrUnsupported }
func (s *stream) setDeadline(t time.Time, rd, wr bool) error { return errors.ErrUnsupported }
func (s *stream) tryRead(b []byte) (int, error)              { return 0, errors.ErrUnsupported }
func (s *stream) tryWrite(b []byte) (int, error)             { return 0, errors.ErrUnsupported }
func (s *stream) buffered() int                              { return 0 }
func (s *stream) available() int                             { return 0 }
func (s *stream) writeBuffers(v *net.Buffers) (int64, error) { return 0, errors.ErrUnsupported }
func (s *stream) readFrom(r io.Reader) (int64, error)        { return 0, errors.ErrUnsupported }
func (s *stream) writeTo(w io.Writer) (int64, error)         { return 0, errors.ErrUnsupported }
func (s *stream) peek(n int) ([]byte, error)                 { return nil, errors.ErrUnsupported }
func (s *stream) discard(n int) (int, error)                 { return 0, errors.ErrUnsupported }
func (s *stream) reserve(n int) ([]byte, error)              { return nil, errors.ErrUnsupported }
func (s *stream) commit(n int) error                         { return errors.ErrUnsupported }
func (s *stream) guard(f func()) error                       { return errors.ErrUnsupported }
func (s *stream) stats() Stats                               { return Stats{} }
func listen(lc ListenConfig, name string) (*Listener, error) { return nil, errors.ErrUnsupported }
func dial(ctx context.Context, d *Dialer, name string) (*Conn, error) {
	return nil, errors.ErrUnsupported
}

type listener struct{ addr Addr }

func (l *listener) accept() (*Conn, error)        { return nil, errors.ErrUnsupported }
func (l *listener) close() error                  { return errors.ErrUnsupported }
func (l *listener) stats() ListenerStats          { return ListenerStats{} }
func (l *listener) setDeadline(t time.Time) error { return errors.ErrUnsupported }
