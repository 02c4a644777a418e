package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"

	"shmconn/internal/tools/inspect"
)

type topCmd struct {
	Name     string  `arg:"" optional:"" predictor:"name" help:"Show this name only, or what is in this directory."`
	Interval seconds `short:"i" help:"Refresh every D, in seconds or like 500ms. Default 1." default:"1" placeholder:"D"`
	Count    int     `short:"c" help:"Stop after N refreshes. 0: when interrupted." placeholder:"N"`
	Sort     string  `enum:"name,rate,total,fill,age" default:"rate" help:"Sort by name, rate, total, fill or age. Default rate." placeholder:"COLUMN"`
	JSON     bool    `name:"json" help:"Print a line of JSON for each refresh. This needs no terminal."`
}

func (c *topCmd) Help() string {
	return `Shows live what "shmconn ls" lists. Bytes a second and the fill of the ring come in
pairs: from the dialer to the acceptor, and back. ENDS has a letter each for the
dialer and the acceptor: z is parked, B blocked by a full ring, F awake with a
full ring, w has closed its writing direction, x both directions, s is a stopped
process, - is gone or not there yet, and a dot is awake.

Keys: ? explains keys and columns; n, b, t, f and a sort by name, bytes a
second, total bytes, fill and age; r reverses; l leaves listeners out; up and
down select; space pauses; q quits.

Example:

    shmconn top
    shmconn top --json -c 1 feed | jq '.connections[].to_acceptor_per_second'`
}

func (c *topCmd) Validate() error {
	switch {
	case c.Count < 0:
		return errors.New("-c is negative")
	case time.Duration(c.Interval) < 10*time.Millisecond:
		return errors.New("-i must be at least 10ms")
	}
	return nil
}

func (c *topCmd) Run(ctx context.Context, s stdio) error {
	at, err := where(c.Name)
	if err != nil {
		return fmt.Errorf("top %s: %w", c.Name, err)
	}
	scanner := &inspect.Scanner{Dirs: []string{at.dir}}
	scan := func() (*inspect.Snapshot, error) {
		snap, err := scanner.Scan()
		if err != nil {
			return nil, err
		}
		return at.selectFrom(snap), nil
	}
	if c.JSON {
		return c.printLooks(ctx, s, scan)
	}
	in, ok := s.in.(*os.File)
	if !ok || !terminal(s.out) || !terminal(in) {
		return errors.New(`top needs a terminal: use --json, or "shmconn ls"`)
	}
	p := tea.NewProgram(newTop(c, scan), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(s.out), tea.WithoutSignalHandler())
	m, err := p.Run()
	if ctx.Err() != nil {
		return nil // told to end
	}
	if err != nil {
		return fmt.Errorf("top: %w", err)
	}
	return m.(*top).err
}

// A rated is a connection with what went over it between two looks.
type rated struct {
	inspect.Conn
	Out float64 `json:"to_acceptor_per_second"`
	In  float64 `json:"to_dialer_per_second"`
}

// printLooks prints every look but the first, which has no rates, as a line of
// JSON.
func (c *topCmd) printLooks(ctx context.Context, s stdio, scan func() (*inspect.Snapshot, error)) error {
	e := json.NewEncoder(s.out)
	var m meter
	tick := time.NewTicker(time.Duration(c.Interval))
	defer tick.Stop()
	for n := 0; ; n++ {
		snap, err := scan()
		if err != nil {
			return fmt.Errorf("top: %w", err)
		}
		list := m.measure(snap)
		if n > 0 {
			look := struct {
				*inspect.Snapshot
				Conns []rated `json:"connections"`
			}{snap, list}
			if err := e.Encode(look); err != nil {
				return err
			}
		}
		if n > 0 && n == c.Count {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// A meter remembers the last look.
type meter struct {
	time    time.Time
	written map[any][2]uint64
}

// measure returns the connections of snap with their rates since the last look,
// 0 for those that were not there.
func (m *meter) measure(snap *inspect.Snapshot) []rated {
	list := make([]rated, 0, len(snap.Conns))
	written := make(map[any][2]uint64)
	seconds := snap.Time.Sub(m.time).Seconds()
	for _, c := range snap.Conns {
		r := rated{Conn: c}
		now := [2]uint64{c.ToAcceptor.Written, c.ToDialer.Written}
		if last, ok := m.written[c.Key()]; ok && seconds > 0 && c.Readable {
			r.Out = rate(last[0], now[0], seconds)
			r.In = rate(last[1], now[1], seconds)
		}
		if c.Readable {
			written[c.Key()] = now
		}
		list = append(list, r)
	}
	m.time, m.written = snap.Time, written
	return list
}

func rate(last, now uint64, seconds float64) float64 {
	if now < last {
		return 0
	}
	return float64(now-last) / seconds
}
