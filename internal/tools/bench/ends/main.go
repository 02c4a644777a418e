// Command ends is the processes of a bench and nothing else: bench -against
// runs it, built with the library of another commit.
package main

import (
	"fmt"
	"os"

	"shmconn/internal/tools/bench"
)

func main() {
	bench.Main() // does not return in the processes that a bench starts
	fmt.Fprintln(os.Stderr, "ends: is run by shmconn bench")
	os.Exit(2)
}
