package cli

import (
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Text is what --help says between its first line and the flags.
const Text = `All are measured in turn, round after round. Each round has its own ratios;
what is shown are their median and quartiles.

Flags may have one dash or two.

Example: only the round trips, with charts; what waiting costs while other
processes want the same processors; how a change affects that.

    %[1]s --run roundtrip --html roundtrip.html
    %[1]s --run scenes
    %[1]s --run scenes --against HEAD~1`

// purpose is the first line.
const purpose = "Compare connections with sockets, pipes and the limits of the machine."

// help returns what --help says, in the form that the other commands have.
func (c *Command) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [flags]\n\n%s\n\n%s\n", c.Name, purpose, fmt.Sprintf(Text, c.Name))
	all := Flags()
	b.WriteString("\nFlags:\n")
	items := [][2]string{{"-h, --help", "Show this help."}}
	items = append(items, group(all, false)...)
	column(&b, items)
	b.WriteString("\nFor developers of shmconn:\n")
	column(&b, group(all, true))
	return b.String()
}

// group returns the flags that are for developers, or those that are not, with
// their texts.
func group(fs *flag.FlagSet, developers bool) (items [][2]string) {
	fs.VisitAll(func(f *flag.Flag) {
		_, text := flag.UnquoteUsage(f)
		if rest, ok := strings.CutPrefix(text, developer); ok == developers {
			items = append(items, [2]string{"    " + Name(f), Sentence(rest)})
		}
	})
	return items
}

// Name returns a flag as it is written: --run=REGEXP.
func Name(f *flag.Flag) string {
	value, _ := flag.UnquoteUsage(f)
	if value == "" {
		return "--" + f.Name
	}
	if value == "duration" {
		value = "D"
	}
	return "--" + f.Name + "=" + strings.ToUpper(value)
}

// Sentence returns s with a large letter in front, and a full stop.
func Sentence(s string) string {
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// column writes items in two columns.
func column(b *strings.Builder, items [][2]string) {
	width := 0
	for _, i := range items {
		width = max(width, len(i[0]))
	}
	for _, i := range items {
		lines := strings.Split(ansi.Wordwrap(i[1], 80-2-width-4, ""), "\n")
		fmt.Fprintf(b, "  %-*s    %s\n", width, i[0], lines[0])
		for line := range slices.Values(lines[1:]) {
			fmt.Fprintf(b, "  %-*s    %s\n", width, "", line)
		}
	}
}
