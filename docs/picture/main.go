// Command picture makes an SVG of a terminal's screen, as "tmux capture-pane -e
// -p" prints it: go run ./docs/picture <screen >picture.svg. See top.sh.
package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Sizes in pixels.
const (
	cellWidth, cellHeight = 8.4, 18
	margin                = 14
	fontSize              = 14
)

const foreground, background = "#d8dee9", "#1e222a"

// palette are the colours 0 to 7.
var palette = [8]string{"#3b4252", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#abb2bf"}

// A style is what a part of a line looks like.
type style struct {
	color                         string
	bold, faint, underline, swaps bool
}

func main() {
	if err := draw(os.Stdout, os.Stdin); err != nil {
		log.Fatal(err)
	}
}

func draw(w io.Writer, r io.Reader) error {
	var body strings.Builder
	columns, rows := 80, 0
	var st style
	for s := bufio.NewScanner(r); s.Scan(); rows++ {
		column := 0
		for _, part := range strings.Split("\x1b[m"+s.Text(), "\x1b[")[1:] {
			// A part begins with the end of an escape sequence, of which all are "m".
			codes, text, ok := strings.Cut(part, "m")
			if !ok {
				return fmt.Errorf("line %d: another escape sequence than for a style", rows+1)
			}
			if column > 0 || codes != "" {
				st.set(codes)
			}
			st.write(&body, text, column, rows)
			column += utf8.RuneCountInString(text)
		}
		columns = max(columns, column)
	}
	width, height := float64(columns)*cellWidth+2*margin, rows*cellHeight+2*margin
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %[1]g %[2]d">
<rect width="100%%" height="100%%" rx="6" fill="%s"/>
<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="%d">
%s</g>
</svg>
`, width, height, background, fontSize, body.String())
	return err
}

// set changes st as the codes of an escape sequence say.
func (st *style) set(codes string) {
	for _, code := range strings.Split(codes, ";") {
		switch n, _ := strconv.Atoi(code); {
		case n == 0:
			*st = style{}
		case n == 1:
			st.bold = true
		case n == 2:
			st.faint = true
		case n == 4:
			st.underline = true
		case n == 7:
			st.swaps = true
		case n == 22:
			st.bold, st.faint = false, false
		case n == 24:
			st.underline = false
		case n == 27:
			st.swaps = false
		case n == 39:
			st.color = ""
		case n >= 30 && n < 38:
			st.color = palette[n-30]
		}
	}
}

// write draws text at a place of the screen.
func (st style) write(b *strings.Builder, text string, column, row int) {
	x, y := margin+float64(column)*cellWidth, margin+row*cellHeight
	length := float64(utf8.RuneCountInString(text)) * cellWidth
	color := st.color
	if color == "" {
		color = foreground
	}
	if st.swaps && text != "" {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y, length, cellHeight, color)
		color = background
	}
	more := ""
	if st.bold {
		more += ` font-weight="bold"`
	}
	if st.faint {
		more += ` opacity="0.6"`
	}
	if st.underline {
		more += ` text-decoration="underline"`
	}
	// Word by word, each where it belongs: how wide a space is depends on who
	// shows it.
	for word := range strings.SplitSeq(text, " ") {
		n := utf8.RuneCountInString(word)
		if n > 0 {
			fmt.Fprintf(b, `<text x="%.1f" y="%d" textLength="%.1f" fill="%s"%s>%s</text>`+"\n", x, y+cellHeight-5, float64(n)*cellWidth, color, more, html.EscapeString(word))
		}
		x += float64(n+1) * cellWidth
	}
}
