package wait

import "time"

// What is tuned, and the times of the kernel and of the runtime that count.
// DESIGN.md ("Waiting") has the measurements. All other numbers follow, by a
// small factor.
const (
	// burst is how many looks, with a PAUSE after each, take half a microsecond:
	// what is done between two of them costs no more than that.
	burst = 24

	// looksBlind is how many waits that spinning has ended, or looks without a
	// clock, there are from one that also reads the clock, or Ticks, to the next.
	looksBlind = 64

	// few is how many followers are a crowd: see pollers.free. With fewer, each of
	// two Ps has a slot.
	few = 12

	// yields is how often a wait looks and yields where nothing else makes sense.
	yields = 8

	// processorYieldAfter is how long a goroutine polls before it also yields
	// its processor, on which the peer may be waiting to run. A shorter time does
	// harm: two ends that happen to share a processor would stay there, handing
	// it to each other.
	processorYieldAfter = 5 * time.Microsecond

	// choreEvery is the time from one to the next of what a goroutine that polls
	// does for others: a visit of the network, which takes 1.1 us, and a look for
	// goroutines that want to run, 60 ns.
	choreEvery = 100 * time.Microsecond

	// slice is the least time that counts as lost to a process that computes:
	// the kernel's time slices are a millisecond or more. A process that polls
	// as well yields sooner.
	slice = time.Millisecond

	// monitor is how often the runtime's monitor, whose work a goroutine that
	// polls does, would come by itself: forcePreemptNS in runtime/proc.go.
	monitor = 10 * time.Millisecond

	rest        = 32 // times the time that was lost: see backoff
	longestRest = time.Second

	// quotaStays is how long a quota that was read is used.
	quotaStays = time.Second

	// partyLook is the time from one look at the party's processor time to the
	// next while this process polls.
	partyLook = 20 * time.Millisecond

	// partySpares is how much of each of two processors others can have had if
	// they have taken no slice worth speaking of. One process that computes
	// beside two ends on two processors has a third.
	partySpares = 0.2

	// maxParty is how many peers are asked at most, some 2 us each. With more,
	// others are taken to have had every slice.
	maxParty = 32
)

// What follows.
const (
	spins     = 2 * burst // looks of the first spin
	pauses    = burst     // PAUSE instructions of a Pause
	heartbeat = slice     // from one Tick to the next

	// longest is how long a wait may exceed its budget while others make
	// progress.
	longest = monitor

	// hotYieldEvery is the time between two yields of a hot connection, each of
	// which keeps both ends a microsecond or two.
	hotYieldEvery = 2 * choreEvery

	// leaderGrace is how long after its last progress a leader may lose a slice
	// without a rest: 512 connections had 1.0-2.3 of the rate over Unix sockets
	// instead of 0.7-0.9.
	leaderGrace = 2 * choreEvery

	// lookoutAfter is for how long a goroutine polls, after the network may have
	// woken it, before it starts a thread for that, which takes some
	// microseconds. Most waits are over by then.
	lookoutAfter = choreEvery

	schedAtLeast = monitor / 2 // the longest time without a Gosched

	// quotaFirst is at which age a process first reads its quota: later than its
	// first dial, and by the end of the first period that the kernel counts in.
	quotaFirst = quotaStays / 10

	// partyStays is after how long without a look those before say nothing.
	partyStays = 2 * partyLook
)
