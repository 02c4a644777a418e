package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

// An outcome is what came out of one run.
type outcome struct {
	network string
	fed     int64 // prices
	began   int64 // when the first was due, by market.Now()
	result
}

// perSecond returns how many prices a second went through the pipeline, from
// the first to the last order.
func (o *outcome) perSecond() float64 {
	return float64(o.fed) / time.Duration(o.Ended-o.began).Seconds()
}

// run runs the pipeline over network, and returns when all its processes have
// ended and nothing of it is left.
func (c *config) run(ctx context.Context, network string, stdout io.Writer) (outcome, error) {
	t := transport.Transport{Network: network, BusyPoll: c.busyPoll}
	o := outcome{network: network}
	bar := newBar(network, len(c.quotes)*c.loops)
	run := fmt.Sprintf("pipeline-%d", os.Getpid()) // names of its own for every run
	feedName, gatewayName := run+"-prices", run+"-orders"

	crew := newCrew(ctx)
	gateway := crew.start("order gateway", job{
		Role: roleGateway, Transport: t, Name: gatewayName, Strategies: len(c.subscriptions),
		Orders: c.orders,
	}, func(r report) {
		o.result = *r.Result
	})
	feed := crew.start("feed handler", job{
		Role: roleFeed, Transport: t, Name: feedName, Strategies: len(c.subscriptions),
		Quotes: c.quotes, Loops: c.loops, Rate: c.rate,
	}, func(r report) {
		o.fed, o.began = r.Fed, r.Began
		bar.Set64(r.Fed)
	})
	// If one of the two fails, the crew is stopped, and starts no more.
	gatewayAddress, feedAddress := crew.listening(gateway), crew.listening(feed)
	var pids []string
	for i, symbols := range c.subscriptions {
		strategy := crew.start(fmt.Sprintf("strategy %d", i), job{
			Role: roleStrategy, Transport: t, Strategy: i, Symbols: symbols,
			Feed: feedAddress, Gateway: gatewayAddress,
		}, nil)
		pids = append(pids, strconv.Itoa(strategy.pid()))
	}
	if crew.ctx.Err() == nil {
		fmt.Fprintf(stdout, "over %s: feed handler %d, order gateway %d, strategies %s\n",
			network, feed.pid(), gateway.pid(), strings.Join(pids, " "))
		bar.RenderBlank()
	}
	err := crew.wait()
	bar.Exit()
	if ctx.Err() != nil {
		err = context.Cause(ctx) // that processes lose each other follows from it
	}
	if err != nil {
		// A process that was killed has left its names.
		t.Remove(feedName)
		t.Remove(gatewayName)
	}
	return o, err
}

// newBar returns a progress bar for so many prices, on stderr if that is a
// terminal.
func newBar(network string, prices int) *progressbar.ProgressBar {
	return progressbar.NewOptions(prices,
		progressbar.OptionSetDescription(network),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionShowCount(),
		progressbar.OptionSetItsString("prices"),
		progressbar.OptionClearOnFinish())
}

// checkSame returns an error unless all outcomes have the same orders.
func checkSame(outcomes []outcome) error {
	first := outcomes[0]
	for _, o := range outcomes[1:] {
		if o.Digest != first.Digest {
			return fmt.Errorf("the orders over %s are not those over %s", o.network, first.network)
		}
	}
	return nil
}

// printInput prints what will be fed.
func (c *config) printInput(w io.Writer) {
	pace := "as fast as possible"
	if c.rate > 0 {
		pace = fmt.Sprintf("%d a second", c.rate)
	}
	fmt.Fprintf(w, "%d prices of %d symbols x %d loops to %d strategies, %s\n",
		len(c.quotes), len(market.SymbolsOf(c.quotes)), c.loops, len(c.subscriptions), pace)
}

// printOrders prints for each symbol what was fed, to whom, and what was
// ordered.
func (c *config) printOrders(w io.Writer, o outcome) {
	prices := make(map[market.Symbol]int)
	for _, q := range c.quotes {
		prices[q.Symbol] += c.loops
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\nsymbol\tprices\tstrategies\tbought\tsold\t")
	bought, sold := 0, 0
	for _, s := range market.SymbolsOf(c.quotes) {
		fmt.Fprintf(table, "%v\t%d\t%s\t%d\t%d\t\n", s, prices[s], c.subscribers(s), o.Bought[s], o.Sold[s])
		bought += o.Bought[s]
		sold += o.Sold[s]
	}
	fmt.Fprintf(table, "all\t%d\t\t%d\t%d\t\n", o.fed, bought, sold)
	table.Flush()
}

// subscribers returns the numbers of the strategies that s goes to.
func (c *config) subscribers(s market.Symbol) string {
	var numbers []string
	for i, symbols := range c.subscriptions {
		if slices.Contains(symbols, s) {
			numbers = append(numbers, strconv.Itoa(i))
		}
	}
	if len(numbers) == 0 {
		return "none"
	}
	return strings.Join(numbers, ",")
}

// printFigures prints the figures of the outcomes side by side.
func printFigures(w io.Writer, outcomes []outcome) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, figure func(o *outcome) string) {
		fmt.Fprintf(table, "%s\t", name)
		for i := range outcomes {
			fmt.Fprintf(table, "%s\t", figure(&outcomes[i]))
		}
		fmt.Fprintln(table)
	}
	latency := func(name string, figure func(o *outcome) time.Duration) {
		row("feed to order "+name, func(o *outcome) string {
			if o.Orders == 0 {
				return "-"
			}
			return fmt.Sprintf("%.1f µs", float64(figure(o).Nanoseconds())/1e3)
		})
	}
	fmt.Fprintln(table)
	row("", func(o *outcome) string { return o.network })
	row("orders", func(o *outcome) string { return strconv.Itoa(o.Orders) })
	row("messages/s", func(o *outcome) string { return fmt.Sprintf("%.0f", o.perSecond()) })
	latency("p50", func(o *outcome) time.Duration { return o.P50 })
	latency("p99", func(o *outcome) time.Duration { return o.P99 })
	latency("p99.9", func(o *outcome) time.Duration { return o.P999 })
	latency("max", func(o *outcome) time.Duration { return o.Max })
	table.Flush()
	if len(outcomes) > 1 {
		fmt.Fprintln(w, "\nThe orders are the same, byte for byte.")
	}
}
