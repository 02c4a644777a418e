//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/interop/grpc_testing"
)

// A workload has goroutines that exchange messages of one size with a server.
type workload struct {
	kind       string
	size       int // bytes of a message's payload
	goroutines int // of the client, each with a call or a stream of its own
}

func (w workload) String() string {
	s := fmt.Sprintf("%s %d", w.kind, w.size)
	if w.goroutines > 1 {
		s += fmt.Sprintf(" x%d", w.goroutines)
	}
	return s
}

// An exchange gets one message from the server, sending one before if the kind
// is not "stream". end ends a stream.
type exchange func(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int) (one func() error, end func(), err error)

var kinds = map[string]exchange{"unary": unary, "pingpong": pingpong, "stream": stream}

func workloads() (list []workload) {
	for _, kind := range []string{"unary", "pingpong", "stream"} {
		for _, n := range []int{1, 8} {
			for _, size := range []int{64, 1 << 10, 4 << 10, 64 << 10} {
				list = append(list, workload{kind, size, n})
			}
		}
	}
	return list
}

func request(size int) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, size)}}
}

func unary(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int) (one func() error, end func(), err error) {
	m := request(size)
	return func() error {
		r, err := c.UnaryCall(ctx, m)
		return checkSize(r, err, size)
	}, func() {}, nil
}

func pingpong(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int) (one func() error, end func(), err error) {
	s, err := c.StreamingCall(ctx)
	if err != nil {
		return nil, nil, err
	}
	m := request(size)
	return func() error {
			if err := s.Send(m); err != nil {
				return err
			}
			r, err := s.Recv()
			return checkSize(r, err, size)
		}, func() {
			s.CloseSend()
			drain(s)
		}, nil
}

func stream(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int) (one func() error, end func(), err error) {
	streaming, cancel := context.WithCancel(ctx)
	s, err := c.StreamingFromServer(streaming, request(size))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return func() error {
			r, err := s.Recv()
			return checkSize(r, err, size)
		}, func() {
			cancel()
			drain(s)
		}, nil
}

// drain receives until a stream has ended.
func drain(s interface {
	Recv() (*grpc_testing.SimpleResponse, error)
}) {
	for {
		if _, err := s.Recv(); err != nil {
			return
		}
	}
}

func checkSize(r *grpc_testing.SimpleResponse, err error, size int) error {
	if n := len(r.GetPayload().GetBody()); err == nil && n != size {
		return fmt.Errorf("%d bytes came, want %d", n, size)
	}
	return err
}

// A result is what a turn has measured.
type result struct {
	rate      float64 // messages a second, of all goroutines
	p99       float64 // of the time that a message takes, in us; of a stream, between two
	processor float64 // time of both processes for a message, in us
}

// measure runs w for a tenth of d, and then measures for d.
func (w workload) measure(ctx context.Context, o *opponent, d time.Duration) (result, error) {
	errs := make([]error, w.goroutines)
	times := make([][]time.Duration, w.goroutines)
	var warm, measured, done sync.WaitGroup
	begin := make(chan struct{})
	var start time.Time
	warm.Add(w.goroutines)
	measured.Add(w.goroutines)
	for i := range w.goroutines {
		done.Go(func() {
			one, end, err := kinds[w.kind](ctx, o.client, w.size)
			if err == nil {
				defer end()
			}
			for start := time.Now(); err == nil && time.Since(start) < d/10; {
				err = one()
			}
			warm.Done()
			<-begin
			for now := start; err == nil && now.Sub(start) < d; {
				err = one()
				next := time.Now()
				times[i] = append(times[i], next.Sub(now))
				now = next
			}
			errs[i] = err
			measured.Done()
		})
	}
	warm.Wait()
	before, err := o.processorTime()
	errs = append(errs, err)
	start = time.Now()
	close(begin)
	measured.Wait()
	took := time.Since(start)
	after, err := o.processorTime()
	done.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		return result{}, err
	}
	// The server may still be sending what nobody takes any more.
	if _, err := o.client.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseSize: quiet}); err != nil {
		return result{}, err
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	n := float64(len(all))
	return result{
		rate:      n / took.Seconds(),
		p99:       all[len(all)*99/100].Seconds() * 1e6,
		processor: (after - before).Seconds() * 1e6 / n,
	}, nil
}
