package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"shmconn/internal/tools/inspect"
)

// looks returns a scan that gives these, one after the other.
func looks(list ...*inspect.Snapshot) func() (*inspect.Snapshot, error) {
	return func() (*inspect.Snapshot, error) {
		if len(list) == 0 {
			return nil, errors.New("no more")
		}
		s := list[0]
		list = list[1:]
		return s, nil
	}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// busy returns a look at n connections after so many seconds, the i-th of which
// carries i MiB a second out and half of that back.
func busy(n, seconds int) *inspect.Snapshot {
	s := &inspect.Snapshot{
		Time: epoch.Add(time.Duration(seconds) * time.Second),
		Listeners: []inspect.Listener{{
			Name: "feed", Directory: namesDir(), State: inspect.Listening, Process: &inspect.Process{PID: 4242, Command: "feedd"},
			RingSize: 1 << 20, Accepted: uint64(n), Since: epoch.Add(-time.Hour),
		}},
	}
	for i := range n {
		rate := uint64(i) << 20
		s.Conns = append(s.Conns, inspect.Conn{
			Name: fmt.Sprintf("feed%d", i), Directory: namesDir(), ID: fmt.Sprint(i), State: inspect.Established, Readable: true,
			Dialer: &inspect.Process{PID: 1000 + i, Command: "strategy"}, Acceptor: &inspect.Process{PID: 4242, Command: "feedd"},
			RingSize: 1 << 20, Since: epoch.Add(-time.Duration(n-i) * time.Minute),
			ToAcceptor: inspect.Flow{Written: rate * uint64(seconds), Waiting: i << 20 / n, Writer: inspect.Awake, Reader: inspect.Parked},
			ToDialer:   inspect.Flow{Written: rate / 2 * uint64(seconds), Writer: inspect.Awake, Reader: inspect.Awake},
		})
	}
	return s
}

// newTestTop returns a top that has had these looks, in a terminal of 80x24.
func newTestTop(t *testing.T, list ...*inspect.Snapshot) *top {
	t.Helper()
	m := newTop(&topCmd{Sort: "rate", Interval: seconds(time.Second)}, looks(list...))
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	for range list {
		if _, cmd := m.Update(m.look()); cmd == nil {
			t.Fatal("after a look nothing is to be done")
		}
	}
	return m
}

// press presses keys, given by what bubbletea calls them.
func (m *top) press(keys ...string) (last tea.Cmd) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: rune(k[0]), Text: k}
		switch k {
		case "up":
			msg = tea.KeyPressMsg{Code: tea.KeyUp}
		case "down":
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		case "pgup":
			msg = tea.KeyPressMsg{Code: tea.KeyPgUp}
		case "pgdown":
			msg = tea.KeyPressMsg{Code: tea.KeyPgDown}
		case "end":
			msg = tea.KeyPressMsg{Code: tea.KeyEnd}
		case "esc":
			msg = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "ctrl+c":
			msg = tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
		case "space":
			msg = tea.KeyPressMsg{Code: tea.KeySpace, Text: " "}
		}
		_, last = m.Update(msg)
	}
	return last
}

// screen returns what is to be seen, without colours.
func (m *top) screen() []string { return strings.Split(ansi.Strip(m.View().Content), "\n") }

// order returns the names of the rows that are to be seen.
func (m *top) names() (list []string) {
	for _, line := range m.screen()[2:] {
		f := strings.Fields(line)
		if len(f) == 0 {
			break
		}
		list = append(list, f[0])
	}
	return list
}

func TestTopView(t *testing.T) {
	m := newTestTop(t, busy(4, 1), busy(4, 3))
	if v := m.View(); !v.AltScreen {
		t.Error("it does not take the whole screen")
	}
	want := []string{
		"03:04:08  1 listener, 4 connections  → 6M/s  ← 3M/s",
		"NAME        STATE    DIALER        ACCEPTOR        →/s FILL     ←/s FILL   ENDS",
		"feed3       estab    1003 strategy 4242 feedd       3M ████▌·  1.5M ······ · z",
		"feed2       estab    1002 strategy 4242 feedd     2M ███··· 1M ······ · z",
		"feed1       estab    1001 strategy 4242 feedd     1M █▌···· 512K ······ · z",
		"feed        listen                 4242 feedd",
		"feed0       estab    1000 strategy 4242 feedd        0 ······    0 ······ · z",
	}
	got := m.screen()
	for i, w := range want {
		if squeeze(got[i]) != squeeze(w) {
			t.Errorf("line %d is\n%q, want\n%q", i, got[i], w)
		}
	}
	if len(got) != 24 {
		t.Errorf("%d lines", len(got))
	}
	details := []string{
		"feed3  established  1003 strategy → 4242 feedd",
		"uid 0  rings of 1M  age 1m3s",
		"→ 9M, 768K waiting  ← 4.5M, 0 waiting  awake / parked",
	}
	for i, w := range details {
		if got := m.screen()[20+i]; strings.TrimSpace(got) != w {
			t.Errorf("details: %q, want %q", got, w)
		}
	}
}

// TestTopPicture checks that docs/top.svg, which is drawn of a real run, has
// the head line and the keys of today.
func TestTopPicture(t *testing.T) {
	f, err := os.Open("../docs/top.svg")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var picture struct {
		Words []struct {
			Y    int    `xml:"y,attr"`
			Text string `xml:",chardata"`
		} `xml:"g>text"`
	}
	if err := xml.NewDecoder(f).Decode(&picture); err != nil {
		t.Fatalf("docs/top.svg: %v", err)
	}
	var lines []string
	y := 0
	for _, w := range picture.Words { // from the left to the right, line by line
		if w.Y != y {
			lines, y = append(lines, ""), w.Y
		}
		lines[len(lines)-1] += " " + w.Text
	}
	if len(lines) < topLines {
		t.Fatalf("docs/top.svg has %d lines of text", len(lines))
	}
	screen := newTestTop(t, busy(4, 1), busy(4, 3)).screen()
	for _, tt := range []struct{ drawn, want string }{
		{lines[1], screen[1]},
		{lines[len(lines)-1], screen[len(screen)-1]},
	} {
		if squeeze(tt.drawn) != squeeze(tt.want) {
			t.Errorf("docs/top.svg has the line\n%q, and top shows\n%q: bash docs/picture/top.sh", squeeze(tt.drawn), squeeze(tt.want))
		}
	}
}

// squeeze makes one space of any.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// TestTopSizes draws terminals of all sizes: no line is too long, and there are
// not too many.
func TestTopSizes(t *testing.T) {
	m := newTestTop(t, busy(40, 1), busy(40, 2))
	for height := range 60 {
		for _, width := range []int{1, 20, 40, 79, 80, 81, 93, 94, 101, 102, 120, 300} {
			m.Update(tea.WindowSizeMsg{Width: width, Height: height})
			m.press("down")
			content := m.View().Content
			if n := lipgloss.Height(content); height > 0 && n != max(height, topLines+1) && n != height {
				t.Errorf("%dx%d: %d lines", width, height, n)
			}
			if n := lipgloss.Width(content); n > width {
				t.Errorf("%dx%d: a line of %d", width, height, n)
			}
		}
	}
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 24})
	if head := m.screen()[1]; !strings.Contains(head, "TOT→") || !strings.Contains(head, "AGE") {
		t.Errorf("a wide terminal has no more columns: %q", head)
	}
}

func TestTopKeys(t *testing.T) {
	m := newTestTop(t, busy(3, 1), busy(3, 2))
	for _, tt := range []struct {
		key  string
		want string
	}{
		{"n", "feed feed0 feed1 feed2"},
		{"r", "feed2 feed1 feed0 feed"},
		{"b", "feed2 feed1 feed feed0"}, // from the most again
		{"t", "feed2 feed1 feed feed0"},
		{"f", "feed2 feed1 feed feed0"},
		{"a", "feed feed0 feed1 feed2"},
		{"l", "feed0 feed1 feed2"},
		{"r", "feed2 feed1 feed0"},
		{"l", "feed2 feed1 feed0 feed"},
		{"x", "feed2 feed1 feed0 feed"}, // no key
	} {
		if cmd := m.press(tt.key); cmd != nil {
			t.Errorf("%s has something done", tt.key)
		}
		if got := strings.Join(m.names(), " "); got != tt.want {
			t.Errorf("after %s: %s, want %s", tt.key, got, tt.want)
		}
	}
	for _, key := range []string{"q", "esc", "ctrl+c"} {
		if cmd := m.press(key); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not quit", key)
		}
	}
}

// TestTopSelect moves through more rows than there is room for.
func TestTopSelect(t *testing.T) {
	m := newTestTop(t, busy(40, 1), busy(40, 2))
	m.press("n")
	selected := func() string { return m.shown()[m.cursor()].name() }
	visible := func() bool { return slices.Contains(m.names(), selected()) }
	if selected() != "feed" {
		t.Errorf("at first %s is selected", selected())
	}
	for _, tt := range []struct{ key, want string }{
		{"up", "feed"}, {"down", "feed0"}, {"j", "feed1"}, {"k", "feed0"},
		{"pgdown", "feed24"}, {"pgup", "feed0"}, {"end", "feed9"}, {"down", "feed9"}, {"g", "feed"}, {"G", "feed9"},
	} {
		m.press(tt.key)
		if selected() != tt.want || !visible() {
			t.Errorf("after %s %s is selected (visible: %t), want %s", tt.key, selected(), visible(), tt.want)
		}
	}
	// What is selected stays so, wherever it goes.
	m.press("r")
	if selected() != "feed9" || !visible() {
		t.Errorf("reversed: %s is selected (visible: %t)", selected(), visible())
	}
	m.Update(tea.WindowSizeMsg{Width: 80, Height: 9})
	if m.press("n"); !visible() {
		t.Error("not visible in a small terminal")
	}
	// Until it is gone.
	m.scan = looks(busy(2, 3))
	m.Update(m.look())
	if got := strings.Join(m.names(), " "); !visible() || got == "" {
		t.Errorf("%s is selected of %s", selected(), got)
	}
}

func TestTopPause(t *testing.T) {
	m := newTestTop(t, busy(1, 1))
	m.press("space")
	if !strings.Contains(m.screen()[0], "paused") {
		t.Errorf("it does not say that it is paused: %q", m.screen()[0])
	}
	m.scan = func() (*inspect.Snapshot, error) { t.Error("it looks while it is paused"); return nil, nil }
	m.interval = time.Millisecond
	if _, cmd := m.Update(tickMsg{}); cmd == nil || cmd() != any(tickMsg{}) {
		t.Error("it does not wait on")
	}
	m.press("space")
	m.scan = looks(busy(2, 2))
	_, cmd := m.Update(tickMsg{})
	m.Update(cmd())
	if len(m.names()) != 3 {
		t.Errorf("after the pause: %q", m.names())
	}
}

func TestTopError(t *testing.T) {
	m := newTestTop(t, busy(1, 1))
	if m.Update(m.look()); !strings.Contains(m.screen()[0], "no more") { // all looks have been given
		t.Errorf("title: %q", m.screen()[0])
	}
	m = newTop(&topCmd{Sort: "rate", Interval: seconds(time.Second)}, looks(&inspect.Snapshot{}))
	if got := m.screen(); len(got) != 24 { // before the first look
		t.Errorf("%q", got)
	}
	m.press("down", "pgdown", "end", "n")
	m.Update(m.look())
	m.press("down", "pgup")
	if got := strings.Join(m.screen(), "\n"); !strings.Contains(got, "nobody listens") {
		t.Errorf("%s", got)
	}
}

func TestTopCount(t *testing.T) {
	m := newTop(&topCmd{Sort: "rate", Count: 2, Interval: seconds(time.Millisecond)}, looks(busy(1, 1), busy(1, 2)))
	if _, cmd := m.Update(m.look()); cmd() != any(tickMsg{}) {
		t.Error("it ends after the first of two looks")
	}
	if _, cmd := m.Update(m.look()); cmd() != tea.Quit() {
		t.Error("it does not end after two looks")
	}
}

// TestTopHostile shows names of processes that try to do something to the
// terminal.
func TestTopHostile(t *testing.T) {
	s := busy(2, 1)
	s.Conns[0].Dialer.Command = "\x1b[2J\x07\r\n\u202eevil"
	s.Conns[0].Directory = "/\x1b]0;x\x07"
	s.Conns[1].Note, s.Conns[1].Readable = "\x1b[31m", false
	s.Listeners[0].Note = "a\nb\x9bc"
	m := newTestTop(t, s)
	for range 3 {
		content := m.View().Content
		if strings.ContainsAny(ansi.Strip(content), "\x07\r\u202e") || !utf8.ValidString(content) || strings.Contains(content, "\x1b[2J") || strings.Contains(content, "\x1b]") || len(m.screen()) != 24 {
			t.Errorf("%q", content)
		}
		m.press("down")
	}
	var b strings.Builder
	if err := printTable(&b, lsTable(s)); err != nil {
		t.Fatal(err)
	}
	if out := b.String(); strings.ContainsAny(out, "\x1b\x07\r\u202e") || strings.Count(out, "\n") != 4 {
		t.Errorf("%q", out)
	}
}

// TestMeter measures what carries on, is new, cannot be read, or goes
// backwards.
func TestMeter(t *testing.T) {
	var m meter
	for _, r := range m.measure(busy(3, 1)) {
		if r.Out != 0 || r.In != 0 {
			t.Errorf("a rate after one look: %+v", r)
		}
	}
	next := busy(5, 3)
	next.Conns[1].Readable = false
	next.Conns[2].ToAcceptor.Written = 0
	got := m.measure(next)
	for i, want := range []float64{0, 0, 0, 0, 0} {
		if got[i].Out != want {
			t.Errorf("%d: %v out, want %v", i, got[i].Out, want)
		}
	}
	if got[2].In != 1<<20 {
		t.Errorf("%v in, want %v", got[2].In, 1<<20)
	}
	b, err := json.Marshal(got[2])
	if err != nil || !strings.Contains(string(b), `"to_dialer_per_second":1048576`) || !strings.Contains(string(b), `"to_dialer":{"written":3145728`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestAmount(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 9: "9", 999: "999", 1000: "1000", 1023: "1023", 1024: "1K", 1025: "1.0K", 1536: "1.5K", 4096: "4K",
		10 << 10: "10K", 262144: "256K", 1023 << 10: "1023K", 1<<20 - 1: "1.0M", 1 << 20: "1M", 64 << 20: "64M", 1<<30 + 1: "1.0G", 1 << 63: "8E", 1<<64 - 1: "16E",
	} {
		if got := amount(n); got != want {
			t.Errorf("amount(%d) = %s, want %s", n, got, want)
		}
	}
	for i := range 64 {
		for d := range uint64(3) {
			if s := amount(1<<i + d - 1); len(s) > 5 {
				t.Errorf("%d is %s", uint64(1)<<i+d-1, s)
			}
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m0s", 3*time.Minute + 12*time.Second: "3m12s",
		5*time.Hour + 7*time.Minute: "5h7m", 51 * time.Hour: "2d3h",
	} {
		if got := age(epoch, epoch.Add(-d)); got != want {
			t.Errorf("age of %v = %s, want %s", d, got, want)
		}
	}
	if got := age(epoch, time.Time{}); got != "-" {
		t.Errorf("age of nothing = %s", got)
	}
}

// "?" explains every letter, state and key, on a screen of 80x24; any key leads
// back.
func TestTopHelp(t *testing.T) {
	m := newTestTop(t, busy(4, 1), busy(4, 3))
	before := m.screen()
	m.press("?")
	screen := m.screen()
	if len(screen) > 24 {
		t.Errorf("%d lines", len(screen))
	}
	for _, line := range screen {
		if lipgloss.Width(line) > 79 {
			t.Errorf("longer than 79: %s", line)
		}
	}
	text := strings.Join(screen, "\n")
	for _, letter := range []string{"·", "z", "B", "F", "w", "x", "s", "-"} {
		if !strings.Contains(text, "  "+letter+"  ") {
			t.Errorf("no letter %s", letter)
		}
	}
	for _, s := range []inspect.State{
		inspect.Listening, inspect.Stale, inspect.Waiting, inspect.Established, inspect.HalfClosed,
		inspect.PeerClosed, inspect.PeerGone, inspect.Corrupt,
	} {
		if short := topState(topRow{rated: rated{Conn: inspect.Conn{State: s}}}).text; !strings.Contains(text, " "+short+":") && !strings.Contains(text, " "+short+",") && !strings.Contains(text, short+" ") && !strings.Contains(text, short+":") {
			t.Errorf("no state %s", short)
		}
	}
	for _, c := range m.columns() {
		if c.title != "NAME" && c.title != "DIALER" && c.title != "ACCEPTOR" && !strings.Contains(text, c.title) {
			t.Errorf("no column %s", c.title)
		}
	}
	if cmd := m.press("q"); cmd != nil || !slices.Equal(m.screen(), before) {
		t.Errorf("after a key it shows\n%s", strings.Join(m.screen(), "\n"))
	}
	m.press("?")
	if cmd := m.press("ctrl+c"); cmd == nil {
		t.Error("Ctrl-C does not end it")
	}
}
