package bench

import (
	"bufio"
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A Floor is how many times better than a Unix socket a row has to be at least.
// It is half of the lower quartile last measured, so that noise stays above it
// and a change that halves a row does not.
type Floor struct {
	Row      string
	AtLeast  float64
	Measured float64 // 0: not yet
}

// lowest is below which no floor should be, whatever was measured: no row is to
// be much slower than a Unix socket.
const lowest = 0.7

// owing is what a row has measured at most that owes: half of that is below
// lowest, and lowest is so near to it that noise would fail it, or is not
// reached yet. Such a row is held to half of what it has, and the table says
// that it owes.
const owing = 1.2

// NewFloor returns the floor that follows from what was measured.
func NewFloor(row string, measured float64) Floor {
	f := Floor{Row: row, AtLeast: measured / 2, Measured: measured}
	if !f.Owes() {
		f.AtLeast = max(f.AtLeast, lowest)
	}
	return f
}

// Owes reports whether f is below what every floor should be.
func (f Floor) Owes() bool { return f.Measured > 0 && f.Measured < owing }

// FloorsFile is where the floors are, below the root of the module.
const FloorsFile = benchPath + "/floors.txt"

//go:embed floors.txt
var floorsText string

// Floors returns the floors that this program was built with.
func Floors() ([]Floor, error) { return ReadFloors(strings.NewReader(floorsText)) }

// ReadFloors reads floors, as [WriteFloors] writes them.
func ReadFloors(r io.Reader) (fs []Floor, err error) {
	for s, line := bufio.NewScanner(r), 1; ; line++ {
		if !s.Scan() {
			return fs, s.Err()
		}
		text, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: line %d has %d fields, not a row, its floor and what was measured", FloorsFile, line, len(fields))
		}
		f := Floor{Row: fields[0]}
		if f.AtLeast, err = strconv.ParseFloat(fields[1], 64); err == nil && fields[2] != "-" {
			f.Measured, err = strconv.ParseFloat(fields[2], 64)
		}
		if err != nil || !(f.AtLeast > 0) {
			return nil, fmt.Errorf("%s: line %d: %q is no floor", FloorsFile, line, s.Text())
		}
		fs = append(fs, f)
	}
}

// WriteFloors writes floors that were measured as head says.
func WriteFloors(w io.Writer, head string, fs []Floor) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# How many times better than a Unix socket each row has to be at least.\n# Written by shmconn bench -floors -write. %s\n#\n# row, floor, measured\n", head)
	for _, f := range fs {
		measured := "-"
		if f.Measured > 0 {
			measured = strconv.FormatFloat(f.Measured, 'g', 3, 64)
		}
		fmt.Fprintf(b, "%-30s %8s %8s\n", f.Row, strconv.FormatFloat(f.AtLeast, 'g', 3, 64), measured)
	}
	return b.Flush()
}

// FloorRows returns the workloads that can have a floor, with the contender
// that has it and the Unix socket.
func FloorRows(ws []Workload) (rows []Workload) {
	for _, w := range ws {
		c, unix := w.Contender("shm"), w.Contender("unix")
		if i := slices.IndexFunc(w.Contenders, Contender.usesLibrary); c == nil && i >= 0 {
			c = &w.Contenders[i]
		}
		if c == nil || unix == nil || w.Metric.Unit == "allocs" {
			continue
		}
		w.Contenders, w.Baseline = []Contender{*c, *unix}, "unix"
		rows = append(rows, w)
	}
	return rows
}

// A FloorResult is what came of a row in all its tries.
type FloorResult struct {
	Floor
	Tries     []Summary // times better than a Unix socket
	Disturbed int       // tries during which others took too much
	Errs      []string
	Skipped   string // why it cannot be measured here
}

// MaxOthers is which part of the processors others may take before what was
// measured meanwhile proves nothing.
const MaxOthers = 0.1

// MaxTries is how often a row may fail to reach its floor.
const MaxTries = 3

// Add adds a try, on a machine of so many processors.
func (f *FloorResult) Add(w *WorkloadResult, processors int) {
	if f.Skipped = w.Skipped; f.Skipped != "" {
		return
	}
	c := w.Contenders[0]
	for _, c := range w.Contenders {
		if c.Error != "" {
			f.Errs = append(f.Errs, c.Name+": "+c.Error)
		}
	}
	f.Tries = append(f.Tries, c.Better)
	if w.Others > MaxOthers*float64(processors) {
		f.Disturbed++
	}
}

// Best returns the best try.
func (f *FloorResult) Best() Summary {
	if len(f.Tries) == 0 {
		return Summary{}
	}
	return slices.MaxFunc(f.Tries, func(a, b Summary) int { return cmp.Compare(a.Median, b.Median) })
}

// What has come of a row.
const (
	Holds      = "holds"
	Owing      = "holds, owes" // its floor is below 0.7
	Below      = "BELOW"
	Disturbed  = "below, disturbed" // as in most tries, which is no failure
	Unmeasured = "not measured"
	LeftOut    = "left out"
	Failed     = "FAILED"
)

// Status returns one of these words. A row holds if it has reached its floor in
// one try.
func (f *FloorResult) Status() string {
	switch {
	case f.Skipped != "":
		return LeftOut
	case len(f.Errs) > 0:
		return Failed
	case len(f.Tries) == 0:
		return Unmeasured
	case f.Best().Median >= f.AtLeast && f.Owes():
		return Owing
	case f.Best().Median >= f.AtLeast:
		return Holds
	case 2*f.Disturbed >= len(f.Tries):
		return Disturbed
	}
	return Below
}
