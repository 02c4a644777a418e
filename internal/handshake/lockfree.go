//go:build !(mips || mipsle || (arm && !arm.7))

package handshake

// lockFree reports whether 64-bit atomics are the processor's own.
const lockFree = true
