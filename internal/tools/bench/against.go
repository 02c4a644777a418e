package bench

import (
	"slices"
	"strings"
)

// Two states of the library, measured in the same rounds by the same loops.

// Fallen is how much of its speed a row may lose: it has fallen if three
// quarters of the rounds are worse than this, that is, if the upper quartile of
// new / old is below it.
const Fallen = 0.9

// The contenders of a comparison.
const (
	newState = "new"
	oldState = "old"
)

// A Comparison is what came of a row of two states.
type Comparison struct {
	Row  string
	Got  Summary // new / old; of times old / new, so that more is better
	Tail float64 // the same of p99, all rounds together; 0 where there is none
	Fell bool
	// Others is how many cores were used meanwhile by processes that have
	// nothing to do with this.
	Others float64
	Note   string // why there is no figure
}

// usesLibrary reports whether a contender has a connection of the library.
func (c Contender) usesLibrary() bool {
	return !c.Limit && (strings.HasPrefix(c.Spec.Net, "shm") || c.Spec.Pollers > 0)
}

// variantOf reports whether c is def with another ring or another BusyPoll.
func (c Contender) variantOf(def Contender) bool {
	s := c.Spec
	s.RingSize, s.BusyPoll = def.Spec.RingSize, def.Spec.BusyPoll
	return c.Name != def.Name && s == def.Spec
}

// Against returns workloads that compare the library as two programs have it,
// new and old. There is one for each contender of ws that has a connection of
// the library. Unless all is true, those are left out that differ from the
// default in the size of the ring or in BusyPoll alone.
func Against(ws []Workload, newProgram, oldProgram string, all bool) (out []Workload) {
	for _, w := range ws {
		def := w.Contender("shm")
		for _, c := range w.Contenders {
			if !c.usesLibrary() || !all && def != nil && c.variantOf(*def) {
				continue
			}
			row := w
			if c.Name != "shm" {
				row.Name += " " + c.Name
				row.Title += ", " + c.Name
			}
			n, o := c, c
			n.Name, n.Program = newState, newProgram
			o.Name, o.Program = oldState, oldProgram
			row.Contenders, row.Baseline = []Contender{n, o}, oldState
			out = append(out, row)
		}
	}
	return out
}

// Without returns ws without the contenders of some networks.
func Without(ws []Workload, nets []string) []Workload {
	ws = slices.Clone(ws)
	for i := range ws {
		ws[i].Contenders = slices.DeleteFunc(slices.Clone(ws[i].Contenders), func(c Contender) bool {
			return slices.Contains(nets, c.Spec.Net)
		})
	}
	return ws
}

// Compare returns what came of a workload of [Against].
func Compare(w *WorkloadResult) Comparison {
	c := Comparison{Row: w.Name, Note: w.Skipped, Others: w.Others}
	n, o := w.Contender(newState), w.Contender(oldState)
	switch {
	case n == nil || o == nil:
		return c
	case o.Error != "":
		c.Note = "old: " + o.Error
	case n.Error != "":
		c.Note = "new: " + n.Error
	case w.Unit == "allocs" && n.Value.Median <= background && o.Value.Median <= background:
		c.Note = "none, but for what the runtime does"
	default:
		c.Got = n.Better
	}
	c.Fell = c.Got.N > 0 && c.Got.Q3 < Fallen
	if n.Latency != nil && o.Latency != nil && n.Latency.P99 > 0 {
		c.Tail = float64(o.Latency.P99) / float64(n.Latency.P99)
	}
	return c
}
