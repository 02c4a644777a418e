package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"shmconn/examples/internal/market"
)

// config is what the command line says, and the input that it names.
type config struct {
	loops     int
	rate      int
	data      string
	orders    string
	away      int // strategies
	kill      int
	nats      string
	remove    bool
	elsewhere bool

	quotes  []market.Quote
	symbols [][]market.Symbol // of each strategy; the last ones are away
	scenes  []scene           // the runs that are compared
}

const maxStrategies = 256

func parseFlags(args []string) (*config, error) {
	c := new(config)
	flags := flag.NewFlagSet("machines", flag.ExitOnError)
	strategies := flags.Int("strategies", 4, "`number` of strategies")
	flags.IntVar(&c.away, "away", 2, "`number` of them that get their prices over NATS")
	flags.IntVar(&c.kill, "kill", 1, "kill the bridge, a strategy that is away and the server `n` times each, in a run of its own")
	flags.StringVar(&c.nats, "nats", "", "`URL` of a NATS server with JetStream (default: one that the command starts)")
	flags.BoolVar(&c.remove, "remove", false, "with -nats: remove the streams that an earlier run has left there")
	flags.BoolVar(&c.elsewhere, "elsewhere", false, "with -nats: do not start the strategies that are away, but say how to")
	flags.IntVar(&c.loops, "loops", 20, "replay the prices `n` times")
	flags.IntVar(&c.rate, "rate", 5000, "`prices` a second")
	flags.StringVar(&c.data, "data", "", "CSV `file` with symbol,date,price; -: stdin (default: 560 monthly closes of 5 stocks)")
	flags.StringVar(&c.orders, "orders", "", "`file` to write the orders of the last run to, as CSV")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: machines [flags]")
		flags.PrintDefaults()
		fmt.Fprintln(flags.Output(), "\nusage: machines strategy -nats URL -number N -symbols LIST")
		fmt.Fprintln(flags.Output(), "  a strategy on another machine, for a command with -elsewhere")
	}
	flags.Parse(args)
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case c.loops < 1:
		return nil, fmt.Errorf("-loops %d: must be at least 1", c.loops)
	case c.rate < 1:
		return nil, fmt.Errorf("-rate %d: must be at least 1", c.rate)
	case c.kill < 0:
		return nil, fmt.Errorf("-kill %d: must be at least 0", c.kill)
	case *strategies < 1 || *strategies > maxStrategies:
		return nil, fmt.Errorf("-strategies %d: must be 1 to %d", *strategies, maxStrategies)
	case c.away < 1 || c.away > *strategies:
		return nil, fmt.Errorf("-away %d: must be 1 to %d, the strategies", c.away, *strategies)
	case c.elsewhere && c.nats == "":
		return nil, errors.New("-elsewhere: give -nats, a server that others reach")
	case c.remove && c.nats == "":
		return nil, errors.New("-remove: give -nats; a server of the command's own has no old streams")
	}
	c.symbols = make([][]market.Symbol, *strategies)
	return c, nil
}

// load loads the prices, deals the symbols out to the strategies in turn, and plans
// the runs. After it, nothing can be wrong with the input any more.
func (c *config) load(stdin io.Reader) error {
	var err error
	if c.quotes, err = market.Load(c.data, stdin); err != nil {
		return err
	}
	for i, s := range market.SymbolsOf(c.quotes) {
		n := i % len(c.symbols)
		if c.isAway(n) {
			if err := checkSubject(s); err != nil {
				return err
			}
		}
		c.symbols[n] = append(c.symbols[n], s)
	}
	c.scenes = []scene{{name: "all here"}, {name: "some away", away: c.away}}
	if c.kill > 0 {
		plan, err := c.planKills()
		if err != nil {
			return err
		}
		c.scenes = append(c.scenes, scene{"some away, with kills", c.away, plan})
	}
	return nil
}

// isAway reports whether strategy n is away.
func (c *config) isAway(n int) bool { return n >= len(c.symbols)-c.away }

// among returns how many of the first n prices are of symbols, and the number of
// the last of them.
func (c *config) among(symbols []market.Symbol, n uint64) (count, last uint64) {
	for i := range n {
		if slices.Contains(symbols, c.quotes[i%uint64(len(c.quotes))].Symbol) {
			count++
			last = i + 1
		}
	}
	return count, last
}

// prices returns how many prices there are, over all loops.
func (c *config) prices() uint64 { return uint64(len(c.quotes) * c.loops) }

// A scene is a way to run the pipeline.
type scene struct {
	name string
	away int // strategies
	plan []kill
}

// symbolList returns symbols as strategyByHand takes them.
func symbolList(symbols []market.Symbol) string {
	var names []string
	for _, s := range symbols {
		names = append(names, s.String())
	}
	return strings.Join(names, ",")
}
