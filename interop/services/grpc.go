//go:build linux

package services

import (
	"context"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
)

// maxMessage is more than the largest message of a test.
const maxMessage = 65 << 20

// A server asks a client that says nothing for so long whether it is there, and
// waits so long for the answer.
const (
	pingAfter   = time.Second // the least that gRPC allows
	pingTimeout = 3 * time.Second
)

// echo sends back what it was sent.
type echo struct {
	grpc_testing.UnimplementedBenchmarkServiceServer
}

func (echo) UnaryCall(_ context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return &grpc_testing.SimpleResponse{Payload: r.Payload}, nil
}

func (echo) StreamingCall(s grpc_testing.BenchmarkService_StreamingCallServer) error {
	for {
		r, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.SimpleResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// message is the request that carries b.
func message(b []byte) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: b}}
}

func serveGRPC(l net.Listener) (func() error, error) {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}))
	grpc_testing.RegisterBenchmarkServiceServer(s, echo{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return func() error {
		s.GracefulStop()
		return <-served
	}, nil
}

func dialGRPC(dial Dial, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///service", append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))...)
}

func newGRPCClient(dial Dial) (Client, error) {
	cc, err := dialGRPC(dial)
	if err != nil {
		return nil, err
	}
	c := grpc_testing.NewBenchmarkServiceClient(cc)
	call := func(b []byte) ([]byte, error) {
		r, err := c.UnaryCall(context.Background(), message(b))
		return r.GetPayload().GetBody(), err
	}
	return &funcClient{call, cc.Close}, nil
}
