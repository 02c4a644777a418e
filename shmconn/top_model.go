package main

import (
	"cmp"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"shmconn/internal/tools/inspect"
)

// A top is what the live view shows and how.
type top struct {
	scan     func() (*inspect.Snapshot, error)
	interval time.Duration
	left     int // looks to go; less than 0: no end

	width, height int
	snap          *inspect.Snapshot // the last look, nil before the first
	err           error             // that it failed with
	meter         meter
	rows          []topRow // in order
	sort          string
	reverse       bool
	noListeners   bool
	paused        bool
	help          bool // "?" is shown instead
	selected      any  // key of a row
	first         int  // row that is shown at the top
}

// A topRow is a listener or a connection.
type topRow struct {
	key      any
	listener *inspect.Listener
	rated
}

func newTop(c *topCmd, scan func() (*inspect.Snapshot, error)) *top {
	m := &top{scan: scan, interval: time.Duration(c.Interval), left: c.Count, sort: c.Sort, width: 80, height: 24}
	if c.Count == 0 {
		m.left = -1
	}
	return m
}

// Messages of the program to itself.
type (
	lookMsg struct { // a look has ended
		snap *inspect.Snapshot
		err  error
	}
	tickMsg struct{} // it is time for the next
)

func (m *top) Init() tea.Cmd { return m.look }

// look runs beside the program, one at a time.
func (m *top) look() tea.Msg {
	snap, err := m.scan()
	return lookMsg{snap, err}
}

func (m *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case lookMsg:
		return m, m.looked(msg)
	case tickMsg:
		if m.paused {
			return m, m.tick()
		}
		return m, m.look
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

func (m *top) tick() tea.Cmd {
	return tea.Tick(m.interval, func(time.Time) tea.Msg { return tickMsg{} })
}

// looked takes in what a look has found.
func (m *top) looked(msg lookMsg) tea.Cmd {
	m.err = msg.err
	if msg.err == nil {
		m.snap = msg.snap
		m.rows = m.rows[:0]
		for i := range m.snap.Listeners {
			l := &m.snap.Listeners[i]
			m.rows = append(m.rows, topRow{key: l.Directory + "/" + l.Name, listener: l})
		}
		for _, r := range m.meter.measure(m.snap) {
			m.rows = append(m.rows, topRow{key: r.Key(), rated: r})
		}
		m.order()
	}
	if m.left > 0 {
		m.left--
	}
	if m.left == 0 {
		return tea.Quit
	}
	return m.tick()
}

// key does what a key is for.
func (m *top) key(k string) tea.Cmd {
	if m.help && k != "ctrl+c" {
		m.help = false
		return nil
	}
	switch k {
	case "?":
		m.help = true
	case "q", "esc", "ctrl+c":
		return tea.Quit
	case "n", "b", "t", "f", "a":
		m.sort = map[string]string{"n": "name", "b": "rate", "t": "total", "f": "fill", "a": "age"}[k]
		m.reverse = false
	case "r":
		m.reverse = !m.reverse
	case "l":
		m.noListeners = !m.noListeners
	case "space":
		m.paused = !m.paused
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-m.page())
	case "pgdown":
		m.move(m.page())
	case "home", "g":
		m.move(-len(m.rows))
	case "end", "G":
		m.move(len(m.rows))
	}
	m.order()
	return nil
}

// shown returns the rows that there are to be seen.
func (m *top) shown() []topRow {
	if !m.noListeners {
		return m.rows
	}
	return slices.DeleteFunc(slices.Clone(m.rows), func(r topRow) bool { return r.listener != nil })
}

// cursor returns the place of the selected row, the first if it is not there
// any more.
func (m *top) cursor() int {
	i := slices.IndexFunc(m.shown(), func(r topRow) bool { return r.key == m.selected })
	return max(i, 0)
}

func (m *top) move(n int) {
	rows := m.shown()
	if len(rows) > 0 {
		m.selected = rows[min(max(m.cursor()+n, 0), len(rows)-1)].key
	}
}

// page returns how many rows there is room for.
func (m *top) page() int { return max(m.height-topLines, 1) }

// order sorts the rows, and has the selected one in sight.
func (m *top) order() {
	compare := m.compare()
	slices.SortStableFunc(m.rows, func(a, b topRow) int {
		c := compare(a, b)
		if m.reverse {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(a.name(), b.name()), a.since().Compare(b.since()), cmp.Compare(a.ID, b.ID))
	})
	at, page := m.cursor(), m.page()
	m.first = min(max(m.first, at-page+1), at)
	m.first = max(min(m.first, len(m.shown())-page), 0)
}

// compare returns the order that is asked for: what is most comes first, and
// the oldest.
func (m *top) compare() func(a, b topRow) int {
	most := func(f func(r topRow) float64) func(a, b topRow) int {
		return func(a, b topRow) int { return cmp.Compare(f(b), f(a)) }
	}
	switch m.sort {
	case "name":
		return func(a, b topRow) int { return cmp.Compare(a.name(), b.name()) }
	case "total":
		return most(func(r topRow) float64 { return float64(r.ToAcceptor.Written) + float64(r.ToDialer.Written) })
	case "fill":
		return most(func(r topRow) float64 { return max(fill(r.ToAcceptor, r.RingSize), fill(r.ToDialer, r.RingSize)) })
	case "age":
		return func(a, b topRow) int { return a.since().Compare(b.since()) }
	}
	return most(func(r topRow) float64 { return r.Out + r.In })
}

func (r topRow) name() string {
	if r.listener != nil {
		return r.listener.Name
	}
	return r.Name
}

func (r topRow) since() time.Time {
	if r.listener != nil {
		return r.listener.Since
	}
	return r.Since
}

// fill returns which part of a ring of size bytes is full.
func fill(f inspect.Flow, size int) float64 {
	if size <= 0 {
		return 0
	}
	return min(float64(f.Waiting)/float64(size), 1)
}
