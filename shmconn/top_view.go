package main

import (
	"cmp"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"shmconn/internal/tools/inspect"
)

// topLines are the lines that are not rows: title, headline; a line that
// separates, three of details and the keys.
const topLines = 7

const topKeys = "sort: n name b rate t total f fill a age | r reverse l listeners ? help q quit"

func (m *top) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "shmconn top"
	return v
}

// lines returns the screen.
func (m *top) lines() []string {
	if m.help {
		return m.fit(m.helpLines())
	}
	columns := m.columns()
	lines := []string{m.title(), m.headline(columns)}
	rows := m.shown()
	for i := m.first; i < min(m.first+m.page(), len(rows)); i++ {
		lines = append(lines, m.row(columns, rows[i], i == m.cursor()))
	}
	for len(lines) < m.height-topLines+2 {
		lines = append(lines, "")
	}
	lines = append(lines, "")
	lines = append(lines, m.details()...)
	lines = append(lines, faint.Render(topKeys))
	return m.fit(lines)
}

// fit takes off what the terminal has no room for.
func (m *top) fit(lines []string) []string {
	if m.height > 0 && len(lines) > m.height {
		lines = lines[:m.height]
	}
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, "")
	}
	return lines
}

// title says what there is in all.
func (m *top) title() string {
	if m.err != nil {
		return red.Render("shmconn top: " + clean(m.err.Error()))
	}
	if m.snap == nil {
		return "looking"
	}
	var out, in float64
	for _, r := range m.rows {
		out, in = out+r.Out, in+r.In
	}
	s := fmt.Sprintf("%s  %s, %s  → %s/s  ← %s/s", m.snap.Time.Format("15:04:05"),
		count(len(m.snap.Listeners), "listener"), count(len(m.snap.Conns), "connection"), amount(uint64(out)), amount(uint64(in)))
	if m.snap.Hidden > 0 {
		s += fmt.Sprintf("  %d hidden", m.snap.Hidden)
	}
	if m.paused {
		s += "  " + yellow.Render("paused")
	}
	return s
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// A column is part of each line.
type column struct {
	title string
	width int
	right bool
	sort  string // that it is marked at
	show  func(r topRow) cell
}

// columns returns what there is room for: 80 are enough for what matters most.
func (m *top) columns() []column {
	name, process := 11, 13
	spare := max(m.width-80, 0)
	totals := spare >= 14
	if totals {
		spare -= 14
	}
	ages := spare >= 8
	if ages {
		spare -= 8
	}
	name += min(spare/3, 20)
	process += min(spare/3, 12)
	list := []column{
		{"NAME", name, false, "name", topName},
		{"STATE", 8, false, "", topState},
		{"DIALER", process, false, "", func(r topRow) cell { return topEnd(r, true) }},
		{"ACCEPTOR", process, false, "", func(r topRow) cell { return topEnd(r, false) }},
		{"→/s", 5, true, "rate", func(r topRow) cell { return topNumber(r, r.Out) }},
		{"FILL", 6, false, "fill", func(r topRow) cell { return topFill(r, r.ToAcceptor) }},
		{"←/s", 5, true, "rate", func(r topRow) cell { return topNumber(r, r.In) }},
		{"FILL", 6, false, "fill", func(r topRow) cell { return topFill(r, r.ToDialer) }},
		{"ENDS", 4, false, "", topLetters},
	}
	if totals {
		list = append(list,
			column{"TOT→", 6, true, "total", func(r topRow) cell { return topNumber(r, float64(r.ToAcceptor.Written)) }},
			column{"TOT←", 6, true, "total", func(r topRow) cell { return topNumber(r, float64(r.ToDialer.Written)) }})
	}
	if ages {
		list = append(list, column{"AGE", 7, true, "age", func(r topRow) cell { return left(age(m.snap.Time, r.since())) }})
	}
	return list
}

func (m *top) headline(columns []column) string {
	var parts []string
	for _, c := range columns {
		style := lipgloss.NewStyle().Bold(true)
		if c.sort == m.sort {
			style = style.Underline(true)
		}
		parts = append(parts, pad(cell{c.title, c.right, style}, c.width))
	}
	return strings.Join(parts, " ")
}

// row returns the line of r.
func (m *top) row(columns []column, r topRow, selected bool) string {
	var parts []string
	for _, c := range columns {
		shown := c.show(r)
		shown.right = c.right
		if selected {
			shown.style = plain
		}
		parts = append(parts, pad(shown, c.width))
	}
	line := strings.Join(parts, " ")
	if selected {
		line = lipgloss.NewStyle().Reverse(true).Render(line + strings.Repeat(" ", max(m.width-lipgloss.Width(line), 0)))
	}
	return line
}

// pad returns c in the width.
func pad(c cell, width int) string {
	text := shorten(c.text, width)
	space := strings.Repeat(" ", max(width-lipgloss.Width(text), 0))
	if c.right {
		return space + c.style.Render(text)
	}
	return c.style.Render(text) + space
}

func topName(r topRow) cell {
	if r.listener != nil {
		return left(nameOf(r.listener.Directory, r.listener.Name))
	}
	return left(nameOf(r.Directory, r.Name))
}

// shorten takes off what does not fit: of a path the beginning, of other text
// the end.
func shorten(s string, width int) string {
	if n := lipgloss.Width(s); strings.HasPrefix(s, "/") && n > width {
		return ansi.TruncateLeft(s, n-width+1, "…")
	}
	return ansi.Truncate(s, width, "…")
}

func topState(r topRow) cell {
	s := r.State
	if r.listener != nil {
		s = r.listener.State
	}
	short := map[inspect.State]string{
		inspect.Listening: "listen", inspect.Established: "estab", inspect.HalfClosed: "half",
		inspect.PeerClosed: "closed", inspect.Spare: "spare", inspect.PeerGone: "gone",
	}
	return cell{text: cmp.Or(short[s], string(s)), style: styleOf(s)}
}

func topEnd(r topRow, dialer bool) cell {
	if r.listener != nil {
		if dialer {
			return left("")
		}
		return left(processOf(r.listener.Process))
	}
	d, a := ends(&r.Conn)
	if dialer {
		return left(d)
	}
	return left(a)
}

func topNumber(r topRow, n float64) cell {
	switch {
	case r.listener != nil:
		return left("")
	case !r.Readable:
		return left("?")
	}
	return left(amount(uint64(n)))
}

// topFill draws how full the ring of f is.
func topFill(r topRow, f inspect.Flow) cell {
	const width = 6
	if r.listener != nil || !r.Readable {
		return left("")
	}
	part := fill(f, r.RingSize)
	eighths := int(part*width*8 + 0.5)
	if part > 0 {
		eighths = max(eighths, 1)
	}
	bar := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		bar += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	bar += strings.Repeat("·", width-eighths/8-min(eighths%8, 1))
	style := green
	switch {
	case part >= 0.9:
		style = red
	case part >= 0.5:
		style = yellow
	case part == 0:
		style = faint
	}
	return cell{text: bar, style: style}
}

// topLetters says in a letter each what the ends do.
func topLetters(r topRow) cell {
	if r.listener != nil {
		if p := r.listener.Process; p != nil && p.Stopped {
			return left("  s")
		}
		return left("")
	}
	if !r.Readable || r.State == inspect.Stale {
		return left("")
	}
	return left(letter(r.Dialer, r.ToAcceptor.Writer, r.ToDialer.Reader) + " " + letter(r.Acceptor, r.ToDialer.Writer, r.ToAcceptor.Reader))
}

func letter(p *inspect.Process, writes, reads inspect.Activity) string {
	switch {
	case p != nil && p.Stopped:
		return "s"
	case writes == inspect.Absent && reads == inspect.Absent:
		return "-"
	case writes == inspect.Closed && reads == inspect.Closed:
		return "x"
	case writes == inspect.Blocked:
		return "B"
	case writes == inspect.Full:
		return "F"
	case reads == inspect.Parked:
		return "z"
	case writes == inspect.Closed:
		return "w"
	}
	return "·"
}

// details says all about the selected row, in three lines.
func (m *top) details() []string {
	rows := m.shown()
	switch {
	case m.snap == nil:
		return []string{"", "", ""}
	case len(rows) == 0:
		return []string{"nobody listens, and no connection is seen", "", ""}
	}
	r := rows[m.cursor()]
	if l := r.listener; l != nil {
		return []string{
			fmt.Sprintf("%s  %s  %s", nameOf(l.Directory, l.Name), l.State, processOf(l.Process)),
			fmt.Sprintf("uid %s  rings of %s  age %s  %s", user(l.UID), amount(uint64(l.RingSize)), age(m.snap.Time, l.Since), clean(l.Note)),
			fmt.Sprintf("%d accepted, %d refused", l.Accepted, l.Refused),
		}
	}
	d, a := ends(&r.Conn)
	lines := []string{
		fmt.Sprintf("%s  %s  %s → %s", nameOf(r.Directory, r.Name), r.State, d, a),
		fmt.Sprintf("uid %s  rings of %s  age %s  %s", users(&r.Conn), amount(uint64(r.RingSize)), age(m.snap.Time, r.Since), clean(r.Note)),
		"",
	}
	if r.Readable {
		lines[2] = fmt.Sprintf("→ %s, %s waiting  ← %s, %s waiting  %s", amount(r.ToAcceptor.Written), amount(uint64(r.ToAcceptor.Waiting)),
			amount(r.ToDialer.Written), amount(uint64(r.ToDialer.Waiting)), activities(&r.Conn))
	}
	return lines
}
