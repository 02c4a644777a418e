package main

import (
	"fmt"

	"shmconn/internal/tools/bench/cli"
)

// A benchCmd hands its arguments to the bench, whose flags also have a single
// dash.
type benchCmd struct {
	Args []string `arg:"" optional:"" help:"Flags of the bench."`
}

func (c *benchCmd) Help() string { return fmt.Sprintf(cli.Text, "shmconn bench") }

func (c *benchCmd) Run(s stdio) error {
	return exit(new(cli.Command).Main(c.Args, s.out, s.err))
}

// exit returns the error for an exit status.
func exit(code int) error {
	if code == 0 {
		return nil
	}
	return status(code)
}
