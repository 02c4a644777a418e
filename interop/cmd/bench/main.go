//go:build linux && (amd64 || arm64)

// Command bench measures shmipc-go in the same rounds as connections of shmconn
// and their other rivals. Its flags are those of "shmconn bench".
package main

import (
	"os"

	"shmconn/internal/tools/bench"
	"shmconn/internal/tools/bench/cli"
	"shmconn/interop/shmipc"
)

func main() {
	shmipc.Register()
	bench.Main() // does not return in the processes that it starts
	c := cli.Command{Name: "bench", Workloads: shmipc.Workloads(), Targets: shmipc.Targets()}
	os.Exit(c.Main(os.Args[1:], os.Stdout, os.Stderr))
}
