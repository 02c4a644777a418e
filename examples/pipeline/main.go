// Command pipeline is a small trading system of several processes: a feed
// handler replays prices, strategies subscribe to symbols and decide by moving
// averages, and an order gateway takes their orders. Every link between them is
// a net.Conn, over shared memory, Unix sockets or TCP.
//
//	              prices of MSFT, IBM, AAPL              orders
//	             ┌─────────────────────────▶ strategy 0 ────────┐
//	feed handler ┤                                              ├▶ order gateway
//	             └─────────────────────────▶ strategy 1 ────────┘
//	              prices of AMZN, GOOG                   orders
//
// The command starts the processes itself, by running itself again:
//
//	go run ./examples/pipeline
//	go run ./examples/pipeline -net all
//	go run ./examples/pipeline -strategies 3 -orders orders.csv
//	go run ./examples/pipeline -subscribe 'MSFT,IBM;IBM,AAPL'
//	go run ./examples/pipeline -data prices.csv
//	go run ./examples/pipeline -rate 0 -loops 2000
//
// The prices are lines "symbol,date,price". Those of one date are sent
// together.
//
// # What is measured
//
// The latency of an order is the time from when its price was due to be sent to
// when the order gateway has read it, through two connections and three
// processes. Prices are due at a constant rate, -rate a second, and when one is
// sent late because the pipeline could not take it sooner, that counts; a
// measurement from the time of sending would leave out the worst of it
// (coordinated omission). With -rate 0 prices are sent as fast as the pipeline
// takes them. Then messages/s is the figure to look at, and the latency is
// mostly that of waiting in full buffers.
//
// Processes that poll need a processor each. On a machine that has fewer, they
// wait for each other's time slices: try -busypoll 1ns there, with which shared
// memory parks at once, and a -rate that leaves the processors idle in between.
// Where there are enough, try -busypoll -1ns, with which it never parks.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		exit(runRole(os.Args[1], os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil {
		err = fmt.Errorf("pipeline: %w", err)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, args []string) error {
	c, err := parseFlags(args)
	if err != nil {
		return err
	}
	if err := c.load(os.Stdin); err != nil {
		return err
	}
	c.printInput(os.Stdout)
	var outcomes []outcome
	for _, network := range c.networks {
		o, err := c.run(ctx, network, os.Stdout)
		if err != nil {
			return fmt.Errorf("over %s: %w", network, err)
		}
		outcomes = append(outcomes, o)
	}
	if err := checkSame(outcomes); err != nil {
		return err
	}
	c.printOrders(os.Stdout, outcomes[0])
	printFigures(os.Stdout, outcomes)
	return nil
}
