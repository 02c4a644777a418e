// Command ints sends 4-byte integers from one process to another: a producer
// writes 1, 2, 3, ... and ends with a zero; a consumer reads until the zero and
// checks that none is missing, doubled or damaged. Nothing is buffered: every
// Write of the producer is one Write of -chunk bytes on the connection.
//
// Run it as one command, which starts itself again as the producer:
//
//	go run ./examples/ints
//	go run ./examples/ints -chunk 64 -count 100000000
//	go run ./examples/ints -net unix
//
// or as two commands in two terminals:
//
//	go run ./examples/ints -listen demo
//	go run ./examples/ints -dial demo -chunk 16
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"shmconn"
	"shmconn/examples/internal/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ints:", err)
		os.Exit(1)
	}
}

// config is the command line.
type config struct {
	transport.Transport
	listen string // name to listen on, as the consumer
	dial   string // name to dial, as the producer
	chunk  int    // bytes per Write
	alone  bool   // one goroutine has each half to itself
	count  uint64 // integers before the zero
}

func parse(args []string) (config, error) {
	var c config
	flags := flag.NewFlagSet("ints", flag.ExitOnError)
	flags.StringVar(&c.Network, "net", "shm", "`network`: shm, unix or tcp")
	flags.StringVar(&c.listen, "listen", "", "be the consumer only, and listen on `name` (tcp: host:port)")
	flags.StringVar(&c.dial, "dial", "", "be the producer only, and dial `name` (tcp: host:port)")
	flags.IntVar(&c.chunk, "chunk", 4, "`bytes` per Write, a multiple of 4")
	flags.BoolVar(&c.alone, "producer", false, "over shm: write by a Producer and read by a Consumer, each the only goroutine to do so")
	flags.DurationVar(&c.BusyPoll, "busypoll", 0, "over shm, how long a wait polls before it parks, as a `duration`; 0: the default; -1ns: it never parks")
	flags.Uint64Var(&c.count, "count", 10_000_000, "`integers` before the zero")
	flags.Parse(args)
	if err := transport.Check(c.Network); err != nil {
		return c, err
	}
	switch {
	case flags.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case c.listen != "" && c.dial != "":
		return c, errors.New("-listen and -dial are for two processes: give one of them, or none")
	case c.alone && c.Network != "shm":
		return c, fmt.Errorf("-producer is for shm, not for %s", c.Network)
	case c.chunk < 4 || c.chunk%4 != 0:
		return c, fmt.Errorf("-chunk %d: must be a multiple of 4, and at least 4", c.chunk)
	case c.chunk > maxChunk:
		return c, fmt.Errorf("-chunk %d: must be at most %d", c.chunk, maxChunk)
	case c.count > math.MaxUint32:
		return c, fmt.Errorf("-count %d: must be at most %d, the largest 4-byte integer", c.count, uint32(math.MaxUint32))
	}
	return c, nil
}

// maxChunk is the largest -chunk, in bytes.
const maxChunk = 1 << 30

func run(ctx context.Context, args []string, stdout io.Writer) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	switch {
	case c.listen != "":
		return runConsumer(ctx, c, stdout)
	case c.dial != "":
		return runProducer(ctx, c, stdout)
	}
	return runBoth(ctx, c, stdout)
}

// runConsumer listens, and reads from the first who dials.
func runConsumer(ctx context.Context, c config, stdout io.Writer) error {
	l, err := c.Listen(ctx, c.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "consumer: listening on", l.Addr())
	_, err = acceptOne(ctx, c, l, stdout)
	return err
}

// runProducer dials, and writes.
func runProducer(ctx context.Context, c config, stdout io.Writer) error {
	conn, err := c.Dial(ctx, c.dial)
	if err != nil {
		return err
	}
	defer closeWith(ctx, conn)()

	start := time.Now()
	writes, err := produceOn(conn, c)
	if err != nil {
		return orCause(ctx, err)
	}
	seconds := time.Since(start).Seconds()
	bytes := 4 * (float64(c.count) + 1)
	fmt.Fprintf(stdout, "producer: %d writes of %d bytes over %s: %.2f million writes/s, %.1f MB/s\n",
		writes, c.chunk, c.Network, float64(writes)/seconds/1e6, bytes/seconds/1e6)
	return nil
}

// runBoth is the consumer, and starts this program again as the producer.
func runBoth(ctx context.Context, c config, stdout io.Writer) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l, err := c.Listen(ctx, fmt.Sprintf("ints-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer l.Close()
	producer := exec.CommandContext(ctx, exe, "-net", c.Network, "-busypoll", c.BusyPoll.String(), "-producer="+strconv.FormatBool(c.alone),
		"-dial", l.Addr().String(), "-chunk", strconv.Itoa(c.chunk), "-count", strconv.FormatUint(c.count, 10))
	producer.Stdout, producer.Stderr = stdout, os.Stderr
	if err := producer.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		err := producer.Wait()
		if err != nil {
			err = fmt.Errorf("producer: %w", err)
			cancel(err) // the consumer need not wait for it any longer
		}
		ended <- err
	}()

	n, err := acceptOne(ctx, c, l, stdout)
	if err != nil {
		cancel(err) // nor the producer for the consumer
		<-ended
		return context.Cause(ctx) // what failed first
	}
	if err := <-ended; err != nil {
		return err
	}
	if uint64(n) != c.count {
		return fmt.Errorf("consumer: the zero came after %d integers, want %d", n, c.count)
	}
	return nil
}

// acceptOne reads what the first who dials writes, and returns how many
// integers that were. It closes l as soon as it has accepted, so that the name
// is free again, whatever becomes of this process.
func acceptOne(ctx context.Context, c config, l net.Listener, stdout io.Writer) (uint32, error) {
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		return 0, orCause(ctx, err)
	}
	l.Close()
	defer closeWith(ctx, conn)()
	fmt.Fprintln(stdout, "consumer: connected")

	start := time.Now()
	n, err := consumeFrom(conn, c)
	if err != nil {
		return n, fmt.Errorf("consumer: %w", orCause(ctx, err))
	}
	mb := 4 * (float64(n) + 1) / 1e6
	fmt.Fprintf(stdout, "consumer: %d integers in sequence, then the zero: %.1f MB/s\n", n, mb/time.Since(start).Seconds())
	return n, nil
}

// produceOn is produce, by a Producer if the command line says so.
func produceOn(conn net.Conn, c config) (writes int, err error) {
	if !c.alone {
		return produce(conn, uint32(c.count), c.chunk)
	}
	err = conn.(*shmconn.Conn).Produce(func(p *shmconn.Producer) error {
		writes, err = produce(p, uint32(c.count), c.chunk)
		return err
	})
	return writes, err
}

// consumeFrom is consume, by a Consumer if the command line says so.
func consumeFrom(conn net.Conn, c config) (n uint32, err error) {
	if !c.alone {
		return consume(conn)
	}
	err = conn.(*shmconn.Conn).Consume(func(r *shmconn.Consumer) error {
		n, err = consume(r)
		return err
	})
	return n, err
}

// closeWith closes conn when ctx is cancelled. The function it returns closes
// conn, or waits until that has been done.
func closeWith(ctx context.Context, conn net.Conn) (closeConn func() error) {
	closeConn = sync.OnceValue(conn.Close)
	context.AfterFunc(ctx, func() { closeConn() })
	return closeConn
}

// orCause returns why ctx was cancelled, if it was: that is what closed the
// connection under the call that returned err.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
