package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"shmconn/internal/tools/bench/cli"
	"shmconn/internal/version"
)

type manCmd struct{}

func (c *manCmd) Help() string {
	return `Example:

    shmconn man >/usr/local/share/man/man1/shmconn.1
    man shmconn`
}

func (c *manCmd) Run(_ context.Context, ctx *kong.Context, s stdio) error {
	var b strings.Builder
	page{&b}.write(ctx.Model)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// A page is a manual page, in roff. It says what --help says, from the same
// source.
type page struct{ *strings.Builder }

func (p page) write(app *kong.Application) {
	name := strings.ToUpper(app.Name)
	fmt.Fprintf(p, ".TH %s 1 \"\" \"%s %s\"\n.SH NAME\n%s \\- %s\n", name, app.Name, version.Version, app.Name, roff(strings.TrimSuffix(app.Help, ".")))
	fmt.Fprintf(p, ".SH SYNOPSIS\n.B %s\n.I command\n[flags]\n", app.Name)
	p.WriteString(".SH DESCRIPTION\n")
	p.text(app.Detail)
	p.WriteString(".SH COMMANDS\n")
	for _, n := range app.Leaves(true) {
		fmt.Fprintf(p, ".SS %s\n", roff(app.Name+" "+n.Path()))
		fmt.Fprintf(p, "%s\n", roff(n.Help))
		for _, a := range n.Positional {
			p.item(a.Summary(), a.Help)
		}
		for _, f := range n.Flags {
			p.item(flagName(f), f.Help)
		}
		if n.Name == "bench" {
			p.benchFlags()
		}
		if n.Detail != "" {
			p.WriteString(".PP\n")
			p.text(n.Detail)
		}
	}
}

// item writes a flag or an argument, and what it is for.
func (p page) item(name, help string) {
	fmt.Fprintf(p, ".TP\n.B %s\n%s\n", roff(name), roff(help))
}

func (p page) benchFlags() {
	cli.Flags().VisitAll(func(f *flag.Flag) {
		_, help := flag.UnquoteUsage(f)
		p.item(cli.Name(f), cli.Sentence(help))
	})
}

// text writes paragraphs, and those that are indented as they are.
func (p page) text(s string) {
	for i, para := range strings.Split(s, "\n\n") {
		if i > 0 {
			p.WriteString(".PP\n")
		}
		if code, ok := strings.CutPrefix(para, "    "); ok {
			code = strings.ReplaceAll(code, "\n    ", "\n")
			fmt.Fprintf(p, ".RS 4\n.EX\n%s\n.EE\n.RE\n", roff(code))
			continue
		}
		fmt.Fprintf(p, "%s\n", roff(para))
	}
}

// flagName returns a flag as it is written: -l, --listen.
func flagName(f *kong.Flag) string {
	long := "--" + f.Name
	if !f.IsBool() {
		long += "=" + f.FormatPlaceHolder()
	}
	if f.Short != 0 {
		return fmt.Sprintf("-%c, %s", f.Short, long)
	}
	return long
}

// roff escapes what has a meaning in a manual page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `"`, `\(dq`, "→", `\(->`, "←", `\(<-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
