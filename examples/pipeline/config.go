package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

// config is what the command line says, and the input that it names.
type config struct {
	networks  []string
	busyPoll  time.Duration
	loops     int
	rate      int
	data      string
	orders    string
	subscribe string

	quotes        []market.Quote
	subscriptions [][]market.Symbol // of each strategy
}

const (
	defaultStrategies = 2
	maxStrategies     = 256
	defaultRate       = 20_000
	defaultLoops      = 50 // 1.4 s of the default input at the default rate
)

func parseFlags(args []string) (*config, error) {
	c := new(config)
	flags := flag.NewFlagSet("pipeline", flag.ExitOnError)
	network := flags.String("net", "shm", "`network`: shm, unix, tcp, or all, one after the other")
	flags.DurationVar(&c.busyPoll, "busypoll", 0, "over shm, how long a wait polls before it parks, as a `duration`; 0: the default; -1ns: it never parks")
	strategies := flags.Int("strategies", defaultStrategies, "`number` of strategies")
	flags.IntVar(&c.loops, "loops", defaultLoops, "replay the prices `n` times")
	flags.IntVar(&c.rate, "rate", defaultRate, "`prices` a second; 0: as many as possible")
	flags.StringVar(&c.data, "data", "", "CSV `file` with symbol,date,price; -: stdin (default: 560 monthly closes of 5 stocks)")
	flags.StringVar(&c.orders, "orders", "", "`file` to write the orders to, as CSV")
	flags.StringVar(&c.subscribe, "subscribe", "", "`symbols` of each strategy, like MSFT,IBM;AAPL (default: all symbols, dealt out in turn)")
	flags.Parse(args)
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case c.loops < 1:
		return nil, fmt.Errorf("-loops %d: must be at least 1", c.loops)
	case c.rate < 0:
		return nil, fmt.Errorf("-rate %d: must be at least 0", c.rate)
	case *strategies < 1 || *strategies > maxStrategies:
		return nil, fmt.Errorf("-strategies %d: must be 1 to %d", *strategies, maxStrategies)
	}
	if *network == "all" {
		c.networks = transport.Networks
	} else if err := transport.Check(*network); err != nil {
		return nil, fmt.Errorf("%w, all", err)
	} else {
		c.networks = []string{*network}
	}
	c.subscriptions = make([][]market.Symbol, *strategies)
	if c.subscribe != "" && isSet(flags, "strategies") {
		return nil, errors.New("-strategies and -subscribe: give one of them")
	}
	return c, nil
}

func isSet(flags *flag.FlagSet, name string) bool {
	set := false
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// load loads the prices and decides who gets which. After it, nothing can be
// wrong with the input any more.
func (c *config) load(stdin io.Reader) error {
	var err error
	if c.quotes, err = market.Load(c.data, stdin); err != nil {
		return err
	}
	known := market.SymbolsOf(c.quotes)
	if c.subscribe == "" {
		for i, s := range known {
			n := i % len(c.subscriptions)
			c.subscriptions[n] = append(c.subscriptions[n], s)
		}
		return nil
	}
	if c.subscriptions, err = parseSubscriptions(c.subscribe, known); err != nil {
		return fmt.Errorf("-subscribe: %w", err)
	}
	return nil
}

// parseSubscriptions returns the symbols of each strategy in text, like
// "MSFT,IBM;AAPL". They must be known.
func parseSubscriptions(text string, known []market.Symbol) ([][]market.Symbol, error) {
	var subscriptions [][]market.Symbol
	for list := range strings.SplitSeq(text, ";") {
		var symbols []market.Symbol
		for name := range strings.SplitSeq(list, ",") {
			s, err := market.ParseSymbol(strings.TrimSpace(name))
			if err != nil {
				return nil, err
			}
			if !slices.Contains(known, s) {
				return nil, fmt.Errorf("there are no prices of %v, only of %v", s, known)
			}
			symbols = append(symbols, s)
		}
		subscriptions = append(subscriptions, symbols)
	}
	if len(subscriptions) > maxStrategies {
		return nil, fmt.Errorf("%d strategies: must be at most %d", len(subscriptions), maxStrategies)
	}
	return subscriptions, nil
}
