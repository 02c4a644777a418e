// Command shmconn measures connections over shared memory and shows what listens.
package main

import (
	"fmt"
	"io"
	"os"

	"shmconn/internal/bench"
	"shmconn/internal/bench/cli"
)

const usage = `usage: shmconn COMMAND [flags]

  bench  measure connections beside sockets, pipes and the limits of the machine
  ls     list the names that somebody listens on

"shmconn COMMAND -h" shows the flags of a command.
`

func main() {
	bench.Main() // does not return in the processes that bench starts
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command and returns its exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch cmd := args[0]; cmd {
	case "bench":
		return new(cli.Command).Main(args[1:], stdout, stderr)
	case "ls":
		return ls(args[1:], stdout, stderr)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	default:
		fmt.Fprintf(stderr, "shmconn: no command %q\n\n%s", cmd, usage)
		return 2
	}
}
