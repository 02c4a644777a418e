//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"

	"shmconn"
	"shmconn/shmgrpc"
)

// contenders are in the order of the table. The first is held against the
// others.
var contenders = []string{"shm", "unix", "unix+"}

// serveEnv has this program, run again, serve a contender: its name and a path.
const serveEnv = "SHMGRPC_BENCH_SERVE"

// service echoes, and sends the message of a stream's request for as long as
// the client takes it.
type service struct {
	grpc_testing.UnimplementedBenchmarkServiceServer
	streams *sync.WaitGroup // those under way
}

// quiet, as the size of a response, asks a server to answer when no stream is
// left.
const quiet = -1

func (s service) UnaryCall(_ context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if r.ResponseSize == quiet {
		s.streams.Wait()
	}
	return &grpc_testing.SimpleResponse{Payload: r.Payload}, nil
}

func (s service) StreamingFromServer(r *grpc_testing.SimpleRequest, out grpc_testing.BenchmarkService_StreamingFromServerServer) error {
	s.streams.Add(1)
	defer s.streams.Done()
	m := &grpc_testing.SimpleResponse{Payload: r.Payload}
	for {
		if err := out.Send(m); err != nil {
			return err
		}
	}
}

func (s service) StreamingCall(both grpc_testing.BenchmarkService_StreamingCallServer) error {
	s.streams.Add(1)
	defer s.streams.Done()
	for {
		r, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := both.Send(&grpc_testing.SimpleResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// serveRole serves until standard input ends.
func serveRole(role string) error {
	contender, path, _ := strings.Cut(role, " ")
	var l net.Listener
	var err error
	var opts []grpc.ServerOption
	switch contender {
	case "shm":
		l, err = shmconn.Listen(path)
		opts = shmgrpc.ServerOptions()
	default:
		l, err = net.Listen("unix", path)
		if contender == "unix+" {
			opts = append(shmgrpc.ServerOptions(), grpc.Creds(insecure.NewCredentials()))
		}
	}
	if err != nil {
		return err
	}
	s := grpc.NewServer(opts...)
	grpc_testing.RegisterBenchmarkServiceServer(s, service{streams: new(sync.WaitGroup)})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		s.Stop()
	}()
	fmt.Println("ready")
	return s.Serve(l)
}

// An opponent is a contender's server, a process of its own, and the client's
// connection to it.
type opponent struct {
	contender string
	client    grpc_testing.BenchmarkServiceClient
	pid       int // of the server
	stop      func()
}

// start starts the server of a contender and connects to it.
func start(ctx context.Context, contender, path string) (*opponent, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+contender+" "+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := func() {
		in.Close()
		cmd.Wait()
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		end()
		return nil, fmt.Errorf("the server of %s says %q: %v", contender, line, err)
	}
	target, opts := "shm:///"+path, shmgrpc.DialOptions(nil)
	switch contender {
	case "unix":
		target, opts = "unix://"+path, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	case "unix+":
		target = "unix://" + path
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(nil))
	}
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		end()
		return nil, err
	}
	return &opponent{
		contender: contender, client: grpc_testing.NewBenchmarkServiceClient(cc), pid: cmd.Process.Pid,
		stop: func() { cc.Close(); end() },
	}, nil
}

// processorTime returns how much both processes have used.
func (o *opponent) processorTime() (time.Duration, error) {
	var sum time.Duration
	for _, clock := range []int{unix.CLOCK_PROCESS_CPUTIME_ID, ^o.pid<<3 | 2} { // as clock_getcpuclockid(3)
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(clock), &ts); err != nil {
			return 0, fmt.Errorf("clock of the processor time: %w", err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}
