// Command shmconn shows connections over shared memory, measures them, and
// carries them to programs and machines that only speak sockets.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"shmconn/internal/tools/bench"
)

// A commandLine has a field for each command: a struct whose fields are the
// flags and arguments, with a method
//
//	Run(ctx context.Context, s stdio) error
//
// and, for the text and the example of its --help, Help() string.
type commandLine struct {
	Ls         lsCmd         `cmd:"" help:"List listeners and connections."`
	Top        topCmd        `cmd:"" help:"Show listeners and connections live."`
	Rm         rmCmd         `cmd:"" help:"Remove what dead listeners and dialers left."`
	Cat        catCmd        `cmd:"" help:"Copy standard input to a connection, and the connection to standard output."`
	Proxy      proxyCmd      `cmd:"" help:"Carry connections between shared memory, Unix sockets and TCP."`
	Ping       pingCmd       `cmd:"" help:"Measure round trips to \"shmconn pong\"."`
	Pong       pongCmd       `cmd:"" help:"Listen, and send back whatever arrives."`
	Bench      benchCmd      `cmd:"" passthrough:"" help:"Compare connections with sockets, pipes and the limits of the machine."`
	Doctor     doctorCmd     `cmd:"" help:"Report which properties of this machine matter to connections."`
	Completion completionCmd `cmd:"" help:"Print the script that makes a shell complete the command line."`
	Man        manCmd        `cmd:"" help:"Print the manual page."`

	Version kong.VersionFlag `hidden:"" help:"Print the version."`
}

func (commandLine) Help() string {
	return `A NAME without a slash is in the directory $SHMCONN_DIR, or in /dev/shm if that
is not set. A NAME with a slash includes its directory.

A time D is in seconds, or has a unit: 2, 0.5, 500ms, 1m.

The exit status is 0, 1 if something failed, or 2 if the command line is wrong.
"shmconn --version" prints the version.`
}

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	bench.Main() // does not return in the processes that bench starts
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}
