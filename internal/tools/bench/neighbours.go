package bench

import "fmt"

// Neighbours are processes that have nothing to do with what is measured and
// want the same processors. They are children of the process that measures, run
// from before the first round of a workload until after its last, and end with
// it.
type Neighbours struct {
	Kind   string // one of the constants below; "": none
	N      int
	Pinned bool // the i-th has the i-th of the processors alone
}

// What neighbours do.
const (
	Computing = "compute"  // compute
	Yielding  = "yield"    // compute, and yield the processor every 10 us
	Compiling = "compile"  // run one short process after the other, as a compiler's driver does
	Polling   = "pollpair" // a pair of processes each, with a hot connection of this library
)

func (n Neighbours) check() error {
	switch n.Kind {
	case "", Computing, Yielding, Compiling, Polling:
		return nil
	}
	return fmt.Errorf("bench: no neighbours of kind %q", n.Kind)
}
