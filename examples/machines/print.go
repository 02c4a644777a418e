package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"shmconn/examples/internal/market"
)

// printInput prints what will be fed.
func (c *config) printInput(w io.Writer) {
	fmt.Fprintf(w, "%d prices of %d symbols x %d loops to %d strategies, %d of them away, %d a second\n",
		len(c.quotes), len(market.SymbolsOf(c.quotes)), c.loops, len(c.symbols), c.away, c.rate)
}

// printFigures prints the figures of the outcomes side by side: those of the
// strategies that are here, and of those that are away.
func printFigures(w io.Writer, outcomes []*outcome) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, figure func(o *outcome, f figures) string) {
		fmt.Fprintf(table, "%s\t", name)
		for _, o := range outcomes {
			for i, f := range []figures{o.Here, o.Away} {
				switch {
				case i == 1 && o.away == 0:
				case f.Orders == 0:
					fmt.Fprint(table, "-\t")
				default:
					fmt.Fprintf(table, "%s\t", figure(o, f))
				}
			}
		}
		fmt.Fprintln(table)
	}
	latency := func(name string, figure func(f figures) time.Duration) {
		row("price to order "+name, func(_ *outcome, f figures) string {
			return fmt.Sprintf("%.1f µs", float64(figure(f).Nanoseconds())/1e3)
		})
	}
	fmt.Fprintf(table, "\n\t")
	for _, o := range outcomes {
		switch {
		case o.away == 0:
			fmt.Fprintf(table, "%s\t", o.name)
		case len(o.plan) == 0:
			fmt.Fprint(table, "here\taway\t")
		default:
			fmt.Fprint(table, "here, kills\taway, kills\t")
		}
	}
	fmt.Fprintln(table)
	row("orders", func(_ *outcome, f figures) string { return strconv.Itoa(f.Orders) })
	latency("p50", func(f figures) time.Duration { return f.P50 })
	latency("p99", func(f figures) time.Duration { return f.P99 })
	latency("p99.9", func(f figures) time.Duration { return f.P999 })
	latency("max", func(f figures) time.Duration { return f.Max })
	table.Flush()
}

// checkSame returns an error unless all outcomes have the same orders.
func checkSame(w io.Writer, outcomes []*outcome) error {
	first := outcomes[0]
	for _, o := range outcomes[1:] {
		if o.Digest != first.Digest {
			return fmt.Errorf("the orders of the run %q are not those of %q", o.scene.name, first.scene.name)
		}
	}
	fmt.Fprintln(w, "\nThe orders are the same, byte for byte.")
	return nil
}
