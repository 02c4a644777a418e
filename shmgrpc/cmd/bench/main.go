//go:build linux

// Command bench measures gRPC over shared memory against gRPC over a Unix
// socket: the client is this process and each server one of its own.
//
//	go run ./cmd/bench
//
// There are three contenders:
//
//	shm      shmgrpc.DialOptions and ServerOptions
//	unix     a Unix socket, as gRPC is without options
//	unix+    a Unix socket with the windows and buffers that shmgrpc sets
//
// A unary call sends as many bytes as it gets back, one call at a time. A
// stream is of the server's messages to the client. In a round each contender
// has its turn, in an order by chance, and the ratios are taken within the
// round: their median and quartiles are printed, of the rates the median.
package main

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"

	"shmconn"
	"shmconn/shmgrpc"
)

// serveEnv has this program, run again, serve a contender: its name and a path.
const serveEnv = "SHMGRPC_BENCH_SERVE"

// contenders are in the order of the table. The first is held against the
// others.
var contenders = []string{"shm", "unix", "unix+"}

func main() {
	if role := os.Getenv(serveEnv); role != "" {
		if err := serveRole(role); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

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

// start starts the server of a contender and returns a connection to it.
func start(ctx context.Context, contender, path string) (cc *grpc.ClientConn, stop func(), err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+contender+" "+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	end := func() {
		in.Close()
		cmd.Wait()
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		end()
		return nil, nil, fmt.Errorf("the server of %s says %q: %v", contender, line, err)
	}
	target, opts := "shm:///"+path, shmgrpc.DialOptions(nil)
	switch contender {
	case "unix":
		target, opts = "unix://"+path, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	case "unix+":
		target = "unix://" + path
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(nil))
	}
	cc, err = grpc.NewClient(target, opts...)
	if err != nil {
		end()
		return nil, nil, err
	}
	return cc, func() { cc.Close(); end() }, nil
}

// A workload measures how many messages a second come from a server.
type workload struct {
	name    string
	size    int
	measure func(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int, d time.Duration) (rate float64, err error)
}

func workloads() (list []workload) {
	for _, kind := range []workload{{name: "unary", measure: unary}, {name: "stream", measure: stream}} {
		for _, size := range []int{64, 1 << 10, 4 << 10, 64 << 10} {
			list = append(list, workload{fmt.Sprintf("%s %d", kind.name, size), size, kind.measure})
		}
	}
	return list
}

func message(size int) *grpc_testing.SimpleRequest {
	return &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, size)}}
}

// repeat calls f for a tenth of d, and then counts how often it can in d.
func repeat(d time.Duration, f func() error) (rate float64, err error) {
	for start := time.Now(); time.Since(start) < d/10; {
		if err := f(); err != nil {
			return 0, err
		}
	}
	n, start := 0, time.Now()
	for {
		if err := f(); err != nil {
			return 0, err
		}
		n++
		if took := time.Since(start); took >= d {
			return float64(n) / took.Seconds(), nil
		}
	}
}

func unary(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int, d time.Duration) (float64, error) {
	m := message(size)
	return repeat(d, func() error {
		r, err := c.UnaryCall(ctx, m)
		return checkSize(r, err, size)
	})
}

func stream(ctx context.Context, c grpc_testing.BenchmarkServiceClient, size int, d time.Duration) (float64, error) {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.StreamingFromServer(streaming, message(size))
	if err != nil {
		return 0, err
	}
	rate, err := repeat(d, func() error {
		r, err := s.Recv()
		return checkSize(r, err, size)
	})
	if err != nil {
		return 0, err
	}
	cancel()
	for err == nil {
		_, err = s.Recv()
	}
	_, err = c.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseSize: quiet})
	return rate, err
}

func checkSize(r *grpc_testing.SimpleResponse, err error, size int) error {
	if n := len(r.GetPayload().GetBody()); err == nil && n != size {
		return fmt.Errorf("%d bytes came, want %d", n, size)
	}
	return err
}

// quartiles returns the quartiles of values.
func quartiles(values []float64) (low, median, high float64) {
	s := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		x := q * float64(len(s)-1)
		i := min(int(x), max(len(s)-2, 0))
		return s[i] + (x-float64(i))*(s[min(i+1, len(s)-1)]-s[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

func run(ctx context.Context) error {
	rounds := flag.Int("rounds", 15, "how many `times` each contender has its turn")
	d := flag.Duration("d", 200*time.Millisecond, "how long a turn `lasts`")
	match := flag.String("run", "", "measure what `regexp` matches, such as \"unary|stream 64$\"")
	verbose := flag.Bool("v", false, "print the rates and the ratios of each round")
	flag.Parse()
	re, err := regexp.Compile(*match)
	if err != nil || flag.NArg() > 0 || *rounds < 1 {
		return cmp.Or(err, fmt.Errorf("usage: bench [-rounds N] [-d DURATION] [-run REGEXP] [-v]"))
	}
	chosen := slices.DeleteFunc(workloads(), func(w workload) bool { return !re.MatchString(w.name) })

	dir, err := os.MkdirTemp("/dev/shm", "shmconn-bench-grpc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	clients := make([]grpc_testing.BenchmarkServiceClient, len(contenders))
	for i, contender := range contenders {
		cc, stop, err := start(ctx, contender, filepath.Join(dir, contender))
		if err != nil {
			return err
		}
		defer stop()
		clients[i] = grpc_testing.NewBenchmarkServiceClient(cc)
	}

	fmt.Printf("%d rounds of %v for each of %s; gRPC %s, %s, %d processors\n\n",
		*rounds, *d, strings.Join(contenders, ", "), grpc.Version, runtime.Version(), runtime.NumCPU())
	tw := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "messages/s\t%s\tshm / unix\tquartiles\tshm / unix+\tquartiles\n", strings.Join(contenders, "\t"))
	for _, w := range chosen {
		rates := make([][]float64, len(contenders))
		ratios := make([][]float64, len(contenders))
		for round := range *rounds {
			for _, i := range rand.Perm(len(contenders)) {
				rate, err := w.measure(ctx, clients[i], w.size, *d)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", w.name, contenders[i], err)
				}
				rates[i] = append(rates[i], rate)
			}
			for i := range contenders {
				ratios[i] = append(ratios[i], rates[0][round]/rates[i][round])
			}
			if *verbose {
				fmt.Fprintf(os.Stderr, "%s, round %d: ", w.name, round+1)
				for i, contender := range contenders {
					fmt.Fprintf(os.Stderr, " %s %.0f/s (%.2f)", contender, rates[i][round], ratios[i][round])
				}
				fmt.Fprintln(os.Stderr)
			}
		}
		fmt.Fprint(tw, w.name)
		for i := range contenders {
			_, median, _ := quartiles(rates[i])
			fmt.Fprintf(tw, "\t%.0f", median)
		}
		for i := range contenders[1:] {
			low, median, high := quartiles(ratios[i+1])
			fmt.Fprintf(tw, "\t%.2f\t%.2f .. %.2f", median, low, high)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}
