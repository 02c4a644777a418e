package main

import "strings"

// topHelp is what "?" shows: at most 24 lines of 80 columns.
const topHelp = `n b t f a    sort by name, bytes a second, total bytes, fill, age
r            reverse the order          l        show listeners, or not
↑ ↓ k j      select a row, whose details are at the bottom
PgUp PgDn    a screen up, down          g G      first row, last row
space        pause                      q Esc    quit

STATE        listen: a listener         stale: left by a process that died
             waiting: not accepted yet  estab: both ends are there
             half: as estab, and a direction is closed
             closed, gone: one end has closed, or died without closing
             corrupt: its memory holds values that neither end may store
→/s TOT→     bytes a second, and in all, from the dialer to the acceptor
←/s TOT←     the other way              AGE      since the dial
FILL         how full the ring is: what was written and is not read yet
ENDS         what the dialer and the acceptor do, in a letter each:
  ·  awake: polls, or computes          z  parked: sleeps until it can read
  B  blocked: sleeps, the ring is full  F  awake, and the ring is full
  w  has closed its writing direction   x  has closed both
  s  its process is stopped             -  gone, or not there yet
?  instead of a number: it may not be read. "N hidden" at the top: you may
   not inspect N processes; root sees all.

any key: back`

// helpLines returns the screen of "?".
func (m *top) helpLines() []string {
	lines := strings.Split(topHelp, "\n")
	lines[len(lines)-1] = faint.Render(lines[len(lines)-1])
	return lines
}
