package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"shmconn/internal/segment"
	"shmconn/internal/tools/inspect"
)

// What ls and top have in common: how things are written that were found.

// namesDir is where names without a slash live.
func namesDir() string { return cmp.Or(os.Getenv("SHMCONN_DIR"), "/dev/shm") }

// A scope is a NAME argument, as the scanner has it.
type scope struct {
	dir  string // to look into
	name string // for Select
}

// where returns what to look for: everything if name is empty; what is in a
// directory if name ends in a slash, or names a directory and not a listener.
func where(name string) (scope, error) {
	if isDir(name) {
		name += "/"
	}
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return scope{namesDir(), name}, nil
	}
	dir, err := filepath.Abs(name[:i+1])
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	return scope{dir, filepath.Join(dir, "/") + "/" + name[i+1:]}, err
}

// isDir reports whether name, which does not end in a slash, is meant as a
// directory. A word without a slash is a name, unless it cannot be one.
func isDir(name string) bool {
	if strings.HasSuffix(name, "/") || !strings.Contains(name, "/") && name != "." && name != ".." {
		return false
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return false
	}
	_, err := os.Lstat(filepath.Join(filepath.Dir(name), segment.Prefix+filepath.Base(name)))
	return err != nil
}

// selectFrom returns what of snap is at p.
func (p scope) selectFrom(snap *inspect.Snapshot) *inspect.Snapshot {
	if p.name == "" {
		return snap
	}
	return snap.Select(p.name)
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// clean replaces what a terminal would take for more than text: names of
// processes and directories are for their owners to choose.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// nameOf returns a name as a user would write it.
func nameOf(dir, name string) string {
	own, err := filepath.EvalSymlinks(namesDir())
	if dir == "" || err == nil && dir == own {
		return name
	}
	return clean(filepath.Join(dir, name))
}

// processOf returns a process as "pid command".
func processOf(p *inspect.Process) string {
	if p == nil {
		return ""
	}
	return strings.TrimSpace(strconv.Itoa(p.PID) + " " + clean(p.Command))
}

// ends returns both ends of c, "-" for one that is gone or not there yet, "?"
// for one that is not seen.
func ends(c *inspect.Conn) (dialer, acceptor string) {
	missing := "?"
	switch c.State {
	case inspect.Waiting, inspect.PeerGone, inspect.PeerClosed, inspect.Stale:
		missing = "-"
	}
	return cmp.Or(processOf(c.Dialer), missing), cmp.Or(processOf(c.Acceptor), missing)
}

// users returns the users of both ends of c.
func users(c *inspect.Conn) string {
	var list []string
	for _, p := range []*inspect.Process{c.Dialer, c.Acceptor} {
		if p != nil && p.UID >= 0 && (len(list) == 0 || list[0] != strconv.Itoa(p.UID)) {
			list = append(list, strconv.Itoa(p.UID))
		}
	}
	if len(list) == 0 && c.UID >= 0 {
		return strconv.Itoa(c.UID)
	}
	return strings.Join(list, ",")
}

// activities says what each end of c does, as far as it can be told: "awake /
// parked".
func activities(c *inspect.Conn) string {
	if !c.Readable || c.State == inspect.Stale {
		return ""
	}
	return activity(c.Dialer, &c.ToAcceptor, &c.ToDialer) + " / " + activity(c.Acceptor, &c.ToDialer, &c.ToAcceptor)
}

// activity says what the end p does that writes to one flow and reads from the
// other.
func activity(p *inspect.Process, to, from *inspect.Flow) string {
	writes, reads := to.Writer, from.Reader
	var words []string
	if p != nil && p.Stopped {
		words = append(words, "stopped")
	}
	switch {
	case writes == inspect.Absent && reads == inspect.Absent:
		return "-"
	case writes == inspect.Closed && reads == inspect.Closed:
		return "closed"
	}
	switch writes {
	case inspect.Closed:
		words = append(words, "write closed")
	case inspect.Blocked, inspect.Full:
		words = append(words, string(writes))
	}
	switch reads {
	case inspect.Closed:
		words = append(words, "read closed")
	case inspect.Parked:
		words = append(words, string(reads))
	}
	if len(words) == 0 {
		return string(inspect.Awake)
	}
	if cause := cmp.Or(from.ReaderCause, to.WriterCause); cause != "" {
		words[len(words)-1] += " (" + cause + ")"
	}
	return strings.Join(words, ", ")
}

// amount writes a number of bytes in five characters at most.
func amount(n uint64) string {
	f := float64(n)
	for _, unit := range []string{"", "K", "M", "G", "T", "P", "E"} {
		switch {
		case f < 999.5 && (unit == "" || f >= 9.95 || f == float64(int64(f))):
			return fmt.Sprintf("%.0f%s", f, unit)
		case f < 9.95:
			return fmt.Sprintf("%.1f%s", f, unit)
		case f < 1023.5 && unit != "":
			return fmt.Sprintf("%.0f%s", f, unit)
		case f < 1024 && unit == "":
			return fmt.Sprintf("%.0f", f)
		}
		f /= 1024
	}
	return ">1E"
}

// age writes how long ago t was: 12s, 3m12s, 5h7m, 2d3h.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	s := int64(max(now.Sub(t), 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}

// Colours are those of the terminal's own palette. Whoever prints a style takes
// them out where there is no terminal, or $NO_COLOR is set.
var (
	red, green = lipgloss.NewStyle().Foreground(lipgloss.Color("1")), lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	yellow     = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	blue       = lipgloss.NewStyle().Foreground(lipgloss.Color("4"))
	plain      = lipgloss.NewStyle()
	faint      = lipgloss.NewStyle().Faint(true)
)

func styleOf(s inspect.State) lipgloss.Style {
	switch s {
	case inspect.Established:
		return green
	case inspect.Listening:
		return blue
	case inspect.HalfClosed, inspect.PeerClosed, inspect.Waiting:
		return yellow
	case inspect.PeerGone, inspect.Corrupt:
		return red
	}
	return faint
}

// A cell of a table; width is that of the text alone.
type cell struct {
	text  string
	right bool
	style lipgloss.Style
}

func left(s string) cell  { return cell{text: s, style: plain} }
func right(s string) cell { return cell{s, true, plain} }

// printTable prints rows in columns, which are as wide as they need to be.
func printTable(w io.Writer, rows [][]cell) error {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], lipgloss.Width(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			space := strings.Repeat(" ", widths[i]-lipgloss.Width(c.text))
			text := c.style.Render(c.text)
			if c.text == "" {
				text = ""
			}
			switch {
			case c.right:
				line.WriteString(space + text)
			case i < len(row)-1:
				line.WriteString(text + space)
			default:
				line.WriteString(text)
			}
			if i < len(row)-1 {
				line.WriteString("  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := lipgloss.Fprint(w, b.String())
	return err
}
