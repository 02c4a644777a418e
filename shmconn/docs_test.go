package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"shmconn/internal/tools/inspect"
)

var update = flag.Bool("update", false, "write docs/help.md anew")

const helpFile = "../docs/help.md"

// help returns what --help says of a command, "" for all.
func help(t *testing.T, command string) string {
	t.Helper()
	t.Setenv("COLUMNS", "80")
	args := append(strings.Fields(command), "--help")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, stdio{nil, &stdout, &stderr}); code != 0 {
		t.Fatalf("shmconn %s: exit status %d, %s", args, code, stderr.String())
	}
	return stdout.String()
}

// TestHelp checks that every command says what it is for, with an example.
func TestHelp(t *testing.T) {
	for _, n := range newParser(stdio{nil, os.Stdout, os.Stderr}).Model.Leaves(true) {
		if n.Help == "" || !strings.HasSuffix(n.Help, ".") {
			t.Errorf("%s: its purpose is %q", n.Name, n.Help)
		}
		if _, example, ok := strings.Cut(n.Detail, "Example"); !ok || !strings.Contains(example, "\n    shmconn "+n.Name) && !strings.Contains(example, "<(shmconn "+n.Name) {
			t.Errorf("%s has no example: %s", n.Name, n.Detail)
		}
		for _, f := range n.Flags {
			if f.Help == "" {
				t.Errorf("%s: --%s has no help", n.Name, f.Name)
			}
		}
		text := help(t, n.Name)
		for _, line := range strings.Split(text, "\n") {
			if utf8.RuneCountInString(line) > 80 {
				t.Errorf("%s: longer than 80: %s", n.Name, line)
			}
		}
	}
}

// TestHelpFile checks that docs/help.md is what the commands say.
func TestHelpFile(t *testing.T) {
	var b strings.Builder
	b.WriteString("# What `shmconn --help` says\n\nWritten by `go test ./shmconn -run TestHelpFile -update`.\n")
	commands := []string{""}
	for _, n := range newParser(stdio{nil, os.Stdout, os.Stderr}).Model.Leaves(true) {
		commands = append(commands, n.Name)
	}
	for _, c := range commands {
		name := strings.TrimSpace("shmconn " + c)
		fmt.Fprintf(&b, "\n## %s\n\n```\n%s\n```\n", name, strings.TrimSpace(help(t, c)))
	}
	if *update {
		if err := os.WriteFile(helpFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(helpFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Errorf("docs/help.md is not what the commands say now: go test ./shmconn -run TestHelpFile -update")
	}
}

// TestManualPage checks that the page has every command, argument and flag.
func TestManualPage(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"man"}, stdio{nil, &stdout, &stderr}); code != 0 {
		t.Fatalf("exit status %d, %s", code, stderr.String())
	}
	page := stdout.String()
	for _, n := range newParser(stdio{nil, os.Stdout, os.Stderr}).Model.Leaves(true) {
		_, section, ok := strings.Cut(page, "\n.SS shmconn "+roff(n.Name)+"\n")
		if !ok {
			t.Errorf("the page has no %s", n.Name)
		}
		section, _, _ = strings.Cut(section, "\n.SS ")
		for _, f := range n.Flags {
			if !strings.Contains(section, "\n.B "+roff(flagName(f))+"\n"+roff(f.Help)+"\n") {
				t.Errorf("the page has no --%s of %s", f.Name, n.Name)
			}
		}
		for _, a := range n.Positional {
			if !strings.Contains(section, "\n.B "+roff(a.Summary())+"\n") {
				t.Errorf("the page has no %s of %s", a.Name, n.Name)
			}
		}
	}
}

// TestInspectPage checks that docs/inspect.md explains every field of the JSON,
// every state, and everything that an end can do.
func TestInspectPage(t *testing.T) {
	b, err := os.ReadFile("../docs/inspect.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, v := range []any{inspect.Snapshot{}, inspect.Listener{}, inspect.Conn{}, inspect.Process{}, inspect.Flow{}, rated{}} {
		typ := reflect.TypeOf(v)
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && !strings.Contains(page, "`"+name+"`") {
				t.Errorf("no field %s of %v", name, typ)
			}
		}
	}
	for _, s := range []inspect.State{
		inspect.Listening, inspect.Stale, inspect.Waiting, inspect.Established, inspect.HalfClosed,
		inspect.PeerClosed, inspect.PeerGone, inspect.Corrupt, inspect.Unknown,
	} {
		if !strings.Contains(page, "\n| "+string(s)+" | ") {
			t.Errorf("no state %s", s)
		}
	}
	for _, a := range []inspect.Activity{inspect.Awake, inspect.Parked, inspect.Blocked, inspect.Full, inspect.Closed} {
		if !strings.Contains(page, "\n| "+string(a)+" | ") {
			t.Errorf("no activity %s", a)
		}
	}
}
