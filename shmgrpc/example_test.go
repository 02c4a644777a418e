//go:build linux

package shmgrpc_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"shmconn"
	"shmconn/shmgrpc"
)

func Example() {
	// The server.
	l, err := shmconn.Listen("health")
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer(append(shmgrpc.ServerOptions(),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			who, ok := shmgrpc.FromContext(ctx)
			fmt.Println("called by this process:", ok && who.PID == os.Getpid())
			return next(ctx, req)
		}))...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	defer s.Stop()

	// The client, in another process.
	cc, err := grpc.NewClient("shm:///health", shmgrpc.DialOptions(nil)...)
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	r, err := healthpb.NewHealthClient(cc).Check(context.Background(), new(healthpb.HealthCheckRequest))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Status)
	// Output:
	// called by this process: true
	// SERVING
}
