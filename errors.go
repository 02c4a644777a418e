package shmconn

import (
	"fmt"
)

// A CorruptError says that the peer, or somebody else who may write to the
// segment, damaged it: what was seen there, and what was allowed. The
// connection is of no further use: every later call returns the same error, but
// for calls after Close or the deadline.
type CorruptError struct {
	What    string // the word or the size that was wrong
	Seen    uint64 // what was read there
	Allowed uint64 // the largest value, or the only one, that could be right
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("segment is corrupt: %s is %d, allowed is %d", e.What, e.Seen, e.Allowed)
}
