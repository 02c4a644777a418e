// Command rpc is a net/rpc server, and its client in another process, over
// shared memory. Each needs one line that it would not need over TCP.
//
//	go run ./examples/rpc
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/rpc"
	"os"

	"shmconn"
	"shmconn/examples/internal/again"
)

// Quotes is the service.
type Quotes struct{}

// prices are what it knows.
var prices = map[string]float64{"GOOG": 560.19, "IBM": 125.55}

// Price is a method that can be called from elsewhere.
func (Quotes) Price(symbol string, price *float64) error {
	p, ok := prices[symbol]
	if !ok {
		return fmt.Errorf("no price of %q", symbol)
	}
	*price = p
	return nil
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rpc:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("rpc", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: rpc [name]\n\nWithout a name it serves, and runs itself again as the client of that server.")
	}
	flags.Parse(args)
	switch args := flags.Args(); len(args) {
	case 0:
		return serve(ctx, fmt.Sprintf("rpc-%d", os.Getpid()), stdout)
	case 1:
		return client(flags.Arg(0), stdout)
	}
	return errors.New("usage: rpc [name]")
}

// serve serves for as long as the client runs.
func serve(ctx context.Context, name string, stdout io.Writer) error {
	l, err := shmconn.Listen(name)
	if err != nil {
		return err
	}
	defer l.Close()
	s := rpc.NewServer()
	if err := s.Register(Quotes{}); err != nil {
		return err
	}
	go func() {
		for { // not rpc.Server.Accept, which logs that the listener was closed
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(c)
		}
	}()
	return again.Run(ctx, stdout, name)
}

// client asks for some prices.
func client(name string, stdout io.Writer) error {
	conn, err := shmconn.Dial(name)
	if err != nil {
		return err
	}
	c := rpc.NewClient(conn)
	defer c.Close()
	for _, symbol := range []string{"GOOG", "IBM", "SUN"} {
		var price float64
		if err := c.Call("Quotes.Price", symbol, &price); err != nil {
			fmt.Fprintln(stdout, err)
			continue
		}
		fmt.Fprintln(stdout, symbol, price)
	}
	return nil
}
