//go:build !linux

package stream

import (
	"errors"
	"io"
	"net"
	"time"
)

// A Stream is never made on other systems than Linux.
type Stream struct{}

// A Cred is what the kernel says of a process.
type Cred struct {
	PID      int32
	UID, GID uint32
}

func (s *Stream) Drop()                                    {}
func (s *Stream) Cred() Cred                               { return Cred{} }
func (s *Stream) RingSize() int                            { return 0 }
func (s *Stream) Read([]byte) (int, error)                 { return 0, errors.ErrUnsupported }
func (s *Stream) Write([]byte) (int, error)                { return 0, errors.ErrUnsupported }
func (s *Stream) Close() error                             { return errors.ErrUnsupported }
func (s *Stream) Abort() error                             { return errors.ErrUnsupported }
func (s *Stream) Done() <-chan struct{}                    { return nil }
func (s *Stream) CloseRead() error                         { return errors.ErrUnsupported }
func (s *Stream) CloseWrite() error                        { return errors.ErrUnsupported }
func (s *Stream) SetDeadline(time.Time, bool, bool) error  { return errors.ErrUnsupported }
func (s *Stream) TryRead([]byte) (int, error)              { return 0, errors.ErrUnsupported }
func (s *Stream) TryWrite([]byte) (int, error)             { return 0, errors.ErrUnsupported }
func (s *Stream) TryWriteAll([]byte) (bool, error)         { return false, errors.ErrUnsupported }
func (s *Stream) Buffered() int                            { return 0 }
func (s *Stream) Available() int                           { return 0 }
func (s *Stream) WriteBuffers(*net.Buffers) (int64, error) { return 0, errors.ErrUnsupported }
func (s *Stream) ReadFrom(io.Reader) (int64, error)        { return 0, errors.ErrUnsupported }
func (s *Stream) WriteTo(io.Writer) (int64, error)         { return 0, errors.ErrUnsupported }
func (s *Stream) Peek(int) ([]byte, error)                 { return nil, errors.ErrUnsupported }
func (s *Stream) PeekAtLeast(int) ([]byte, error)          { return nil, errors.ErrUnsupported }
func (s *Stream) Discard(int) (int, error)                 { return 0, errors.ErrUnsupported }
func (s *Stream) Reserve(int) ([]byte, error)              { return nil, errors.ErrUnsupported }
func (s *Stream) Commit(int) error                         { return errors.ErrUnsupported }
func (s *Stream) Guard(func()) error                       { return errors.ErrUnsupported }
func (s *Stream) Stats() Stats                             { return Stats{} }

// A Producer is never made, either, nor is a Consumer.
type Producer struct{}

type Consumer struct{}

func (s *Stream) Produce(*Producer, func()) error { return errors.ErrUnsupported }
func (s *Stream) Consume(*Consumer, func()) error { return errors.ErrUnsupported }

func (*Producer) Write([]byte) (int, error)       { return 0, errors.ErrUnsupported }
func (*Producer) Put([]byte) (int, error)         { return 0, errors.ErrUnsupported }
func (*Producer) Flush() error                    { return errors.ErrUnsupported }
func (*Producer) Reserve(int) ([]byte, error)     { return nil, errors.ErrUnsupported }
func (*Producer) Commit(int) error                { return errors.ErrUnsupported }
func (*Consumer) Read([]byte) (int, error)        { return 0, errors.ErrUnsupported }
func (*Consumer) Peek(int) ([]byte, error)        { return nil, errors.ErrUnsupported }
func (*Consumer) PeekAtLeast(int) ([]byte, error) { return nil, errors.ErrUnsupported }
func (*Consumer) Discard(int) (int, error)        { return 0, errors.ErrUnsupported }
