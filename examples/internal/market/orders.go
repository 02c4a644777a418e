package market

import (
	"bufio"
	"fmt"
	"io"
)

// WriteOrders writes orders, which has those of each strategy, to w as CSV:
// those of strategy 0 in the order in which it sent them, then those of
// strategy 1, and so on. So they are the same bytes however the strategies took
// turns.
func WriteOrders(w io.Writer, orders [][]Message) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "strategy,order,symbol,side,price,cause")
	for strategy, list := range orders {
		for _, o := range list {
			fmt.Fprintf(out, "%d,%d,%v,%v,%v,%d\n", strategy, o.Seq, o.Symbol, o.Side, o.Price, o.Cause)
		}
	}
	return out.Flush() // with the first error of all
}
