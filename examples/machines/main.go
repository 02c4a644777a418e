// Command machines is the pipeline of examples/pipeline on more than one machine:
// some of its strategies are on the machine of the feed handler and the order
// gateway, and get their prices over shared memory; the others are anywhere, and
// get them from a NATS server with JetStream. A bridge joins the two.
//
//	go run .                          # a server of its own, all on this machine
//	go run . -kill 3                  # what may die is killed three times each
//	go run . -nats nats://HOST:4222   # your server
//
// To have the strategies on other machines, too, the command does not start them,
// and says how to:
//
//	go run . -nats nats://HOST:4222 -elsewhere
//	go run . strategy -nats nats://HOST:4222 -number 2 -symbols IBM
//
// README.md has a picture of it, and says why no order is lost or given twice.
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
	var err error
	if len(os.Args) > 1 && os.Args[1] == "strategy" {
		err = strategyByHand(ctx, os.Args[2:])
	} else {
		err = run(ctx, os.Args[1:])
	}
	if err != nil {
		err = fmt.Errorf("machines: %w", err)
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
	var outcomes []*outcome
	for _, s := range c.scenes {
		o, err := c.run(ctx, s, os.Stdout)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		outcomes = append(outcomes, o)
	}
	printFigures(os.Stdout, outcomes)
	return checkSame(os.Stdout, outcomes)
}
