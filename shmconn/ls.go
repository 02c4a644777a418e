package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"shmconn/internal/tools/inspect"
)

type lsCmd struct {
	Name string `arg:"" optional:"" predictor:"name" help:"List this name only, or what is in this directory."`
	JSON bool   `name:"json" help:"Print JSON."`
}

func (c *lsCmd) Help() string {
	return `Lists the listener of each name, and the connections that you may see: root sees
all; other users see those of their own processes, and their own end of a
connection with another user's process. Arrows point from the dialer to the
acceptor, and back. Up to a quarter of the ring of WAITING may have been read
already: a reader reports what it has read a quarter of the ring at a time, and
before it waits.

STATE is listening, stale (left by a process that died; "shmconn rm" removes
it), waiting (dialed and not seen to be accepted), established, half closed,
peer closed, spare (both ends have closed, and keep the memory for their next
connection), peer gone (died without closing), corrupt or unknown.

ENDS says what the dialer and the acceptor do: parked (asleep until there is
something to read), blocked (asleep until there is room to write), full (awake,
and there is no room to write) or awake. It is not visible whether an end that is awake
polls or computes. An end that sleeps says why it does not poll: never
polls (its BusyPoll is below a microsecond), long gaps (its waits are longer
than BusyPoll), cores wanted (other processes want the processors), same core
(the peer needs the processor that it is on), no news (it has polled for as long
as BusyPoll).

If NAME has a slash and is a directory, ls lists what is in it. ls only reads,
takes no lock, and disturbs no connection.

Example:

    shmconn ls
    shmconn ls --json feed | jq '.connections[] | select(.state == "peer gone")'`
}

func (c *lsCmd) Run(s stdio) error {
	at, err := where(c.Name)
	if err != nil {
		return fmt.Errorf("ls %s: %w", c.Name, err)
	}
	snap, err := (&inspect.Scanner{Dirs: []string{at.dir}}).Scan()
	if err != nil {
		return fmt.Errorf("ls: %w", err)
	}
	snap = at.selectFrom(snap)
	if c.JSON {
		err = printJSON(s.out, snap)
	} else {
		err = printTable(s.out, lsTable(snap))
	}
	if err != nil {
		return err
	}
	if snap.Hidden > 0 && terminal(s.out) && !c.JSON {
		fmt.Fprintf(s.err, "%d processes are hidden: you may not look into them; root may\n", snap.Hidden)
	}
	if c.Name != "" && len(snap.Listeners)+len(snap.Conns) == 0 {
		return fmt.Errorf("ls %s: nobody listens, and no connection is seen", c.Name)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// lsTable returns the rows of snap under a headline, nothing if there are none.
func lsTable(snap *inspect.Snapshot) [][]cell {
	type named struct {
		name string
		row  []cell
	}
	var rows []named
	for _, l := range snap.Listeners {
		rows = append(rows, named{l.Name, lsListener(&l, snap.Time)})
	}
	for _, c := range snap.Conns {
		rows = append(rows, named{c.Name, lsConn(&c, snap.Time)})
	}
	if len(rows) == 0 {
		return nil
	}
	slices.SortStableFunc(rows, func(a, b named) int { return cmp.Compare(a.name, b.name) })
	table := [][]cell{{
		left("NAME"), left("STATE"), left("DIALER"), left("ACCEPTOR"), right("UID"), right("RING"),
		right("BYTES→"), right("WAITING"), right("BYTES←"), right("WAITING"), right("AGE"), left("ENDS"),
	}}
	for _, r := range rows {
		table = append(table, r.row)
	}
	return table
}

func lsListener(l *inspect.Listener, now time.Time) []cell {
	what := fmt.Sprintf("%d accepted", l.Accepted)
	if l.Refused > 0 {
		what += fmt.Sprintf(", %d refused", l.Refused)
	}
	if l.Process != nil && l.Process.Stopped {
		what += ", stopped"
	}
	if l.State != inspect.Listening {
		what = ""
	}
	if l.Note != "" {
		what = clean(l.Note)
	}
	process := processOf(l.Process)
	if process == "" && l.State != inspect.Stale {
		process = "?"
	}
	return []cell{
		left(nameOf(l.Directory, l.Name)), {text: string(l.State), style: styleOf(l.State)},
		left(""), left(cmp.Or(process, "-")), right(user(l.UID)), right(ringSize(l.RingSize)),
		left(""), left(""), left(""), left(""), right(age(now, l.Since)), left(what),
	}
}

func lsConn(c *inspect.Conn, now time.Time) []cell {
	dialer, acceptor := ends(c)
	if c.RolesUnknown {
		dialer, acceptor = dialer+" ?", acceptor+" ?"
	}
	bytes := func(n uint64) cell {
		if !c.Readable {
			return right("")
		}
		return right(amount(n))
	}
	what := activities(c)
	if c.Note != "" {
		if what != "" {
			what += "; "
		}
		what += clean(c.Note)
	}
	return []cell{
		left(nameOf(c.Directory, c.Name)), {text: string(c.State), style: styleOf(c.State)},
		left(dialer), left(acceptor), right(users(c)), right(ringSize(c.RingSize)),
		bytes(c.ToAcceptor.Written), bytes(uint64(c.ToAcceptor.Waiting)),
		bytes(c.ToDialer.Written), bytes(uint64(c.ToDialer.Waiting)),
		right(age(now, c.Since)), left(what),
	}
}

func user(uid int) string {
	if uid < 0 {
		return "?"
	}
	return strconv.Itoa(uid)
}

func ringSize(n int) string {
	if n == 0 {
		return ""
	}
	return amount(uint64(n))
}
