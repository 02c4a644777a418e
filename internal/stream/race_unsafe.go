//go:build race && linux && !shmconn_sockets

package stream

import (
	"runtime"
	"unsafe"
)

// The race detector does not see shared memory, so it does not know that what
// happens before a Write happens before the Read of its bytes. These calls
// report it, for all connections alike, as the standard library does for
// sockets.
var raceEdge byte

func raceRelease() { runtime.RaceReleaseMerge(unsafe.Pointer(&raceEdge)) }
func raceAcquire() { runtime.RaceAcquire(unsafe.Pointer(&raceEdge)) }
