//go:build mips || mipsle || (arm && !arm.7)

package handshake

// lockFree says whether 64-bit atomics are the processor's own. Here they are
// locks of this process, which other processes do not see.
const lockFree = false
