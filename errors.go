package shmconn

import (
	"fmt"
)

// A CorruptError says that the peer, or another process that may write to the
// segment, damaged it. Every later call on the connection returns the same
// error, except after Close or the deadline.
type CorruptError struct {
	What    string // the word or the size that was wrong
	Seen    uint64 // what was read there
	Allowed uint64 // the largest value, or the only one, that could be right
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("segment is corrupt: %s is %d, allowed is %d", e.What, e.Seen, e.Allowed)
}
