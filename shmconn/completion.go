package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	posener "github.com/posener/complete"

	"shmconn/internal/segment"
	"shmconn/internal/tools/bench/cli"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Help() string {
	return `The script completes commands, flags and the names of listeners.

Example: for this shell only. For every shell, put the line into ~/.bashrc.

    source <(shmconn completion bash)

In ~/.zshrc, and in ~/.config/fish/config.fish:

    source <(shmconn completion zsh)
    shmconn completion fish | source`
}

func (c *completionCmd) Run(ctx *kong.Context) error {
	return (&kongcompletion.Completion{Shell: c.Shell, Code: true}).Run(ctx)
}

// complete answers a shell that asks by $COMP_LINE how the command line may go
// on.
func complete(parser *kong.Kong, out io.Writer) {
	command, err := kongcompletion.Command(parser, kongcompletion.WithPredictors(map[string]posener.Predictor{
		"name":     posener.PredictFunc(predictNames),
		"endpoint": posener.PredictFunc(predictEndpoints),
	}))
	if err != nil {
		panic(err) // a field of commandLine has a predictor that is not one of these
	}
	bench := command.Sub["bench"]
	bench.Flags = posener.Flags{}
	cli.Flags().VisitAll(func(f *flag.Flag) { bench.Flags["-"+f.Name], bench.Flags["--"+f.Name] = nil, nil })
	command.Sub["bench"] = bench

	var answers bytes.Buffer
	c := posener.New(parser.Model.Name, command)
	c.Out = &answers
	c.Complete()
	lines := slices.Sorted(strings.Lines(answers.String()))
	for _, line := range slices.Compact(lines) {
		io.WriteString(out, strings.TrimPrefix(line, behindColon()))
	}
}

// behindColon returns what bash has of the word already and does not want to
// hear again: to it a word ends at a colon. It is the shell that sets
// $COMP_TYPE.
func behindColon() string {
	if os.Getenv("COMP_TYPE") == "" {
		return ""
	}
	line := os.Getenv("COMP_LINE")
	if n, err := strconv.Atoi(os.Getenv("COMP_POINT")); err == nil && n < len(line) {
		line = line[:n]
	}
	word := line[strings.LastIndexByte(line, ' ')+1:]
	return word[:strings.LastIndexByte(word, ':')+1]
}

// predictNames returns the names of listeners.
func predictNames(posener.Args) (names []string) {
	entries, _ := os.ReadDir(cmp.Or(os.Getenv("SHMCONN_DIR"), segment.DefaultDir))
	for _, e := range entries {
		// Anybody can make a file of any name there, and the shell would run what is
		// in it.
		name, ok := strings.CutPrefix(e.Name(), segment.Prefix)
		if _, _, err := segment.ParseName(name); ok && err == nil {
			names = append(names, name)
		}
	}
	return names
}

// predictEndpoints returns what proxy may listen at or connect to.
func predictEndpoints(a posener.Args) (list []string) {
	if path, ok := strings.CutPrefix(a.Last, "unix:"); ok {
		a.Last = path
		for _, file := range posener.PredictFiles("*").Predict(a) {
			list = append(list, "unix:"+file)
		}
		return list
	}
	for _, name := range predictNames(a) {
		list = append(list, fmt.Sprintf("shm:%s", name))
	}
	return list
}
