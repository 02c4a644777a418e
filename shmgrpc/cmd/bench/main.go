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
// And three kinds of messages, each from one goroutine and from eight over the
// same connection:
//
//	unary     a call that sends as many bytes as it gets back
//	pingpong  the same over a stream: one message each way at a time
//	stream    messages of the server, as fast as the client takes them
//
// In a round each contender has its turn, in an order by chance, and the ratios
// are taken within the round: their median and quartiles are printed. Of the
// rates the median is printed, of the 99th percentile of the time of a message,
// and of the processor time that both processes take for it.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
)

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

// median returns the median of what of has of each result.
func median(results []result, of func(result) float64) float64 {
	var values []float64
	for _, r := range results {
		values = append(values, of(r))
	}
	_, m, _ := quartiles(values)
	return m
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
	chosen := slices.DeleteFunc(workloads(), func(w workload) bool { return !re.MatchString(w.String()) })

	dir, err := os.MkdirTemp("/dev/shm", "shmconn-bench-grpc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var opponents []*opponent
	for _, contender := range contenders {
		o, err := start(ctx, contender, filepath.Join(dir, contender))
		if err != nil {
			return err
		}
		defer o.stop()
		opponents = append(opponents, o)
	}

	fmt.Printf("%d rounds of %v for each of %s; gRPC %s, %s, %d processors\n\n",
		*rounds, *d, strings.Join(contenders, ", "), grpc.Version, runtime.Version(), runtime.NumCPU())
	tw := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	names := strings.Join(contenders, "\t")
	fmt.Fprint(tw, "messages/s\t", names)
	for _, contender := range contenders[1:] {
		fmt.Fprintf(tw, "\t%s / %s\tquartiles", contenders[0], contender)
	}
	fmt.Fprintf(tw, "\tp99, us: %s\tprocessors, us: %[1]s\n", names)
	for _, w := range chosen {
		results := make([][]result, len(contenders))
		ratios := make([][]float64, len(contenders))
		for round := range *rounds {
			for _, i := range rand.Perm(len(contenders)) {
				r, err := w.measure(ctx, opponents[i], *d)
				if err != nil {
					return fmt.Errorf("%v, %s: %w", w, contenders[i], err)
				}
				results[i] = append(results[i], r)
			}
			for i := range contenders {
				ratios[i] = append(ratios[i], results[0][round].rate/results[i][round].rate)
			}
			if *verbose {
				fmt.Fprintf(os.Stderr, "%v, round %d: ", w, round+1)
				for i, contender := range contenders {
					fmt.Fprintf(os.Stderr, " %s %.0f/s (%.2f)", contender, results[i][round].rate, ratios[i][round])
				}
				fmt.Fprintln(os.Stderr)
			}
		}
		fmt.Fprint(tw, w)
		for i := range contenders {
			fmt.Fprintf(tw, "\t%.0f", median(results[i], func(r result) float64 { return r.rate }))
		}
		for i := range contenders[1:] {
			low, middle, high := quartiles(ratios[i+1])
			fmt.Fprintf(tw, "\t%.2f\t%.2f .. %.2f", middle, low, high)
		}
		for i := range contenders {
			fmt.Fprintf(tw, "\t%.0f", median(results[i], func(r result) float64 { return r.p99 }))
		}
		for i := range contenders {
			fmt.Fprintf(tw, "\t%.1f", median(results[i], func(r result) float64 { return r.processor }))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}
