package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/alecthomas/kong"

	"shmconn/internal/version"
)

// A status is the exit status of a command that has said on stderr what went
// wrong.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// A usageError is a command line that makes no sense: exit status 2.
type usageError struct{ error }

// exited is what the parser panics with where it would end the process, after
// --help.
type exited int

// run runs the command and returns its exit status: 0, 1 if something failed, 2
// if the command line makes no sense.
func run(ctx context.Context, args []string, s stdio) (code int) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	parser := newParser(s)
	if os.Getenv("COMP_LINE") != "" {
		complete(parser, s.out)
		return 0
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:len(args):len(args)], "--help")
	}
	if len(args) == 0 {
		fmt.Fprintln(s.err, `shmconn: no command is given: "shmconn --help" lists them`)
		return 2
	}
	command, err := parser.Parse(args)
	if err == nil {
		command.BindTo(ctx, (*context.Context)(nil))
		err = command.Run(s)
	}
	return report(s, err)
}

// versionLine is what --version prints.
func versionLine() string {
	s := "shmconn " + version.Version
	if rev, modified := version.Commit(); rev != "" {
		s += ", commit " + rev
		if modified {
			s += ", modified"
		}
	}
	return fmt.Sprintf("%s, %s %s/%s", s, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// newParser makes the parser of the command line.
func newParser(s stdio) *kong.Kong {
	return kong.Must(new(commandLine),
		kong.Name("shmconn"),
		kong.Description("See, measure and carry connections over shared memory."),
		kong.Vars{"version": versionLine()},
		kong.Writers(s.out, s.err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
}

// report says on stderr what went wrong, with a hint where there is one, and
// returns the exit status.
func report(s stdio, err error) int {
	var st status
	var wrong usageError
	var parse *kong.ParseError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &st):
		return int(st)
	case errors.As(err, &parse):
		fmt.Fprintf(s.err, "shmconn: %s\n", suggest(err.Error()))
		name := "shmconn"
		if n := parse.Context.Selected(); n != nil {
			name = n.FullPath()
		}
		fmt.Fprintf(s.err, "  \"%s --help\" says more\n", name)
		return 2
	}
	say(s, err)
	if errors.As(err, &wrong) {
		return 2
	}
	return 1
}

// say says on stderr that err has happened, with a hint where there is one.
func say(s stdio, err error) {
	fmt.Fprintf(s.err, "shmconn: %v\n", err)
	if h := hint(err); h != "" {
		fmt.Fprintf(s.err, "  %s\n", h)
	}
}
