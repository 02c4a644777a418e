// Package stream is one end of two rings in a segment of shared memory: what is
// behind a Conn, as a poll.FD is behind a socket's. read.go and write.go are
// the path of the data, park.go is what a call does that has to wait, half.go
// what both directions have in common. Package turn decides which call may act.
package stream

import "time"

// Stats are the counters of a stream, as shmconn.Stats has them.
type Stats struct {
	Network      string
	RingSize     int
	Reused       uint64
	BytesRead    uint64
	BytesWritten uint64
	ReadCalls    uint64
	WriteCalls   uint64

	ReadWait, WriteWait time.Duration

	Waits uint64
	Parks uint64
	Rings uint64

	ParksAlways    uint64
	ParksGap       uint64
	ParksContended uint64
	ParksNear      uint64
	ParksSpent     uint64
}
