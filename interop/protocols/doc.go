// Package protocols has no code but its tests, which run libraries that know
// nothing of shmconn over it, unchanged: gRPC with the interoperability tests
// that its authors ship, yamux, net/http in versions 1 and 2, with TLS and
// without, and net/rpc. Each has its server once in the same process and once
// in another, and once with the smallest ring there is and once with the
// default one.
package protocols
