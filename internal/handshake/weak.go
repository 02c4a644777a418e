//go:build mips || mipsle || (arm && !arm.7)

package handshake

// lockFree says whether 64-bit atomics are the processor's own. Here they are
// locks of the process, which another process does not know of.
const lockFree = false
