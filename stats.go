package shmconn

import "time"

// Stats are the counters of one end of a connection, since it was made. None
// ever falls. While a call is at work the calls since the last wait may be
// missing from ReadCalls and WriteCalls, and less than a quarter of the ring
// from BytesRead.
type Stats struct {
	Network      string // what it goes over: "shm", or "unix" for a Unix socket
	RingSize     int    // bytes in each direction
	Reused       uint64 // earlier connections that had the same memory
	BytesRead    uint64 // bytes taken off the connection by this end
	BytesWritten uint64 // bytes published by this end
	ReadCalls    uint64 // calls of Read, TryRead and Discard that took bytes, and pieces of a WriteTo
	WriteCalls   uint64 // calls of Write, TryWrite, TryWriteAll, WriteBuffers and Commit that wrote bytes, and pieces of a ReadFrom

	// How long calls waited for something to read, and for room, in waits that
	// the first spin did not end. One that is under way counts until now.
	ReadWait, WriteWait time.Duration

	Waits uint64 // how many such waits
	Parks uint64 // those of them that went to sleep; the others were ended by polling
	Rings uint64 // system calls made to wake the parked peer

	// Why waits went to sleep: these make up Parks. DESIGN.md has how it is
	// decided.
	ParksAlways    uint64 // BusyPoll says so: it is below a microsecond
	ParksGap       uint64 // at once: the wait before had been longer than BusyPoll
	ParksContended uint64 // processes other than this one and its peers want the processors
	ParksNear      uint64 // the peer was on the only processor that there is to run on, or on this one while others wanted it
	ParksSpent     uint64 // after polling for as long as BusyPoll
}
