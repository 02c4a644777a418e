package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// ls lists the names of listeners whose files are in a directory.
func ls(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("shmconn ls", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: shmconn ls [DIRECTORY]\n\nLists the names that somebody listens on in DIRECTORY, by default $SHMCONN_DIR or /dev/shm,\nand those that a listener which died has left.")
	}
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if fs.NArg() > 1 {
		fs.Usage()
		return 2
	}
	dir := cmp.Or(fs.Arg(0), os.Getenv("SHMCONN_DIR"), "/dev/shm")
	names, err := listeners(dir)
	if err != nil {
		fmt.Fprintln(stderr, "shmconn ls:", err)
		return 1
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	if len(names) > 0 {
		fmt.Fprintln(w, "NAME\tSTATE\tPID\tRING SIZE\tACCEPTED\tREFUSED")
	}
	for _, name := range names {
		fmt.Fprintf(w, "%s\t%s\n", name, describe(dir, name))
	}
	w.Flush()
	return 0
}

// listeners returns the names of the listener segments in dir, sorted.
func listeners(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		// Files of connections and sockets have an "@" in their names.
		name, ok := strings.CutPrefix(e.Name(), "shmconn.")
		if ok && name != "" && !strings.Contains(name, "@") && e.Type().IsRegular() {
			names = append(names, name)
		}
	}
	return names, nil
}
