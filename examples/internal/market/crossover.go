package market

// The averages of a crossover are over so many prices.
const (
	Fast = 3
	Slow = 10
)

// A Crossover decides by the moving averages of one symbol's prices: buy when
// the fast one rises above the slow one, sell when it falls below. It
// calculates with integers, so that it decides the same on every machine.
type Crossover struct {
	prices  [Slow]Amount // the last ones; prices[seen%slow] is the oldest
	seen    int
	fastSum Amount
	slowSum Amount
	above   bool // the fast average was above the slow one, when they last differed
	known   bool // they have differed
}

// Next takes the next price, and reports whether the averages crossed, and what
// to do then. It decides nothing before there are prices for the slow average.
func (c *Crossover) Next(p Amount) (what Side, crossed bool) {
	c.fastSum += p - c.last(Fast)
	c.slowSum += p - c.last(Slow)
	c.prices[c.seen%Slow] = p
	c.seen++
	difference := c.fastSum*Slow - c.slowSum*Fast
	if c.seen < Slow || difference == 0 {
		return 0, false
	}
	above := difference > 0
	crossed = c.known && above != c.above
	c.above, c.known = above, true
	if above {
		return Buy, crossed
	}
	return Sell, crossed
}

// last returns the nth last price, or 0 if there have not been so many.
func (c *Crossover) last(n int) Amount {
	if c.seen < n {
		return 0
	}
	return c.prices[(c.seen-n)%Slow]
}
