//go:build !linux

package wait

import "time"

func processorTime(int) time.Duration { return 0 }

// A processorSet is of no use here: no process has used any.
type processorSet struct{}

func processorsOf(int) (s processorSet)  { return s }
func (s *processorSet) add(processorSet) {}
func (s *processorSet) count() int       { return 1 }

type idler struct{}

const idleStep = 0

func openIdler() (i idler)               { return i }
func (idler) read() (time.Duration, int) { return 0, 0 }
