package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

type doctorCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *doctorCmd) Help() string {
	return `Reports which properties of this machine matter to connections, as the process
that runs it sees them. Run it where your program runs: in the same container,
as the same user, and pinned in the same way. Each line is ok, a note or a
warning. A note and a warning say what the consequence is, and what to do.

Finally it makes a connection to a process of its own and measures round trips.
The exit status is 1 if that does not work, and 0 otherwise, whatever else it
finds.

Example:

    shmconn doctor
    taskset -c 3 shmconn doctor
    shmconn doctor --json | jq '.findings[] | select(.level != "ok")'`
}

// A level says how much a finding matters.
type level string

const (
	ok      level = "ok"
	note    level = "note"    // worth knowing
	warning level = "warning" // costs speed, or will fail
	failure level = "failure" // connections do not work
)

// A finding is what doctor says of one thing.
type finding struct {
	Check       string `json:"check"`
	Level       level  `json:"level"`
	Found       string `json:"found"`
	Consequence string `json:"consequence,omitempty"`
	Remedy      string `json:"remedy,omitempty"`
}

// A machine is what doctor looks at. Its files say most; the rest is system
// calls.
type machine struct {
	root       fs.FS                                                     // /
	dir        string                                                    // of names
	arch       string                                                    // as Go calls it
	space      func(dir string) (total, free uint64, err error)          // of the file system
	membarrier func() error                                              // whether the kernel lets us have one
	trial      func(ctx context.Context) (trip time.Duration, err error) // a connection to another process
}

func (c *doctorCmd) Run(ctx context.Context, s stdio) error {
	return c.examine(ctx, s, thisMachine())
}

// examine reports on m.
func (c *doctorCmd) examine(ctx context.Context, s stdio, m *machine) error {
	findings := m.findings()
	last := m.tryConnection(ctx)
	if ctx.Err() != nil {
		return interrupted(false)
	}
	findings = append(findings, last)
	var err error
	if c.JSON {
		err = printJSON(s.out, struct {
			Findings []finding `json:"findings"`
		}{findings})
	} else {
		err = printFindings(s.out, findings)
	}
	if err == nil && last.Level == failure {
		return status(1)
	}
	return err
}

// findings returns what m has to say, without a connection being made.
func (m *machine) findings() (list []finding) {
	for _, check := range []func(*machine) []finding{
		checkKernel, checkProcessors, checkQuota, checkIsolated, checkIdle, checkGovernor,
		checkDirectory, checkHugePages, checkFiles, checkMappings, checkMembarrier, checkProc,
	} {
		list = append(list, check(m)...)
	}
	return list
}

// tryConnection has a process of its own echo.
func (m *machine) tryConnection(ctx context.Context) finding {
	f := finding{Check: "connection", Level: ok}
	trip, err := m.trial(ctx)
	if err != nil {
		f.Level, f.Found = failure, clean(err.Error())
		f.Consequence = "Connections between processes do not work here."
		f.Remedy = hint(err)
		return f
	}
	f.Found = fmt.Sprintf("works; a round trip of 64 bytes takes %.1f us (median)", us(int64(trip)))
	return f
}

var levelStyles = map[level]lipgloss.Style{ok: green, note: yellow, warning: red, failure: red}

// printFindings prints a line for each finding, and under those that are not ok
// what follows and what to do.
func printFindings(w io.Writer, list []finding) error {
	const text = 9 + 15 // where it begins
	var b strings.Builder
	for _, f := range list {
		head := levelStyles[f.Level].Render(string(f.Level)) + strings.Repeat(" ", 9-len(f.Level)) + fmt.Sprintf("%-15s", f.Check)
		indent := "\n" + strings.Repeat(" ", text)
		wrap := func(s string, width int) string {
			return strings.ReplaceAll(ansi.Wordwrap(s, width, ""), "\n", indent)
		}
		b.WriteString(head + wrap(f.Found, 80-text))
		if f.Consequence != "" {
			b.WriteString(indent + wrap(f.Consequence, 80-text))
		}
		if f.Remedy != "" {
			b.WriteString(indent + "→ " + strings.ReplaceAll(wrap(f.Remedy, 80-text-2), indent, indent+"  "))
		}
		b.WriteString("\n")
	}
	_, err := lipgloss.Fprint(w, b.String())
	return err
}

// read returns the text of a file below the root, without space around it, and
// "" where it cannot be read.
func (m *machine) read(name string) string {
	b, err := fs.ReadFile(m.root, strings.TrimPrefix(path.Clean(name), "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// field returns what stands behind a key in a file of lines "key: value".
func (m *machine) field(name, key string) string {
	for line := range strings.Lines(m.read(name)) {
		if k, v, found := strings.Cut(line, ":"); found && k == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func rootFS() fs.FS { return os.DirFS("/") }
