// Command connection draws what a connection is: two processes, two rings in a
// segment that both map, and a doorbell for each.
//
//	go run ./docs/picture/connection >docs/connection.svg
package main

import (
	"fmt"
	"io"
	"log"
	"os"
)

// Colours and sizes, in pixels.
const (
	ink, faint, paper = "#24292f", "#6e7781", "#ffffff"
	there, back       = "#0969da", "#1a7f37" // the two directions

	width, height = 760, 250
)

func main() {
	if err := draw(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// A pen keeps the first error.
type pen struct {
	w   io.Writer
	err error
}

func (p *pen) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *pen) box(x, y, w, h int, color string, fill string) {
	p.printf(`<rect x="%d" y="%d" width="%d" height="%d" rx="8" fill="%s" stroke="%s" stroke-width="1.5"/>`, x, y, w, h, fill, color)
}

func (p *pen) text(x, y int, anchor, color, s string) {
	p.printf(`<text x="%d" y="%d" text-anchor="%s" fill="%s">%s</text>`, x, y, anchor, color, s)
}

func (p *pen) arrow(x1, y1, x2, y2 int, color, style string) {
	p.printf(`<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2" marker-end="url(#%s)"%s/>`,
		x1, y1, x2, y2, color, color[1:], style)
}

func draw(w io.Writer) error {
	p := &pen{w: w}
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="system-ui, sans-serif" font-size="14">`, width, height)
	p.printf(`<title>Two processes, two rings of bytes in shared memory, and a doorbell each</title>`)
	p.printf(`<rect width="100%%" height="100%%" fill="%s"/>`, paper)
	p.printf(`<defs>`)
	for _, c := range []string{there, back, faint} {
		p.printf(`<marker id="%s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="%s"/></marker>`, c[1:], c)
	}
	p.printf(`</defs>`)

	const left, right, process, top, tall = 20, width - 170, 150, 30, 150
	p.box(left, top, process, tall, ink, paper)
	p.text(left+process/2, top+24, "middle", ink, "feed handler")
	p.text(left+process/2, top+44, "middle", faint, `Listen("feed")`)
	p.box(right, top, process, tall, ink, paper)
	p.text(right+process/2, top+24, "middle", ink, "strategy")
	p.text(right+process/2, top+44, "middle", faint, `Dial("feed")`)

	const ring, wide = 235, 290
	p.printf(`<rect x="%d" y="%d" width="%d" height="%d" rx="10" fill="#f6f8fa" stroke="%s" stroke-dasharray="5 4"/>`, ring-20, top, wide+40, tall, faint)
	p.text(ring+wide/2, top-10, "middle", faint, "one segment of shared memory, mapped by both")
	for _, r := range []struct {
		y     int
		color string
		label string
		full  int
		from  int
	}{{top + 58, there, "ring: acceptor to dialer", 4, 3}, {top + 108, back, "ring: dialer to acceptor", 2, 4}} {
		const cells = 10
		for i := range cells {
			fill := paper
			if i >= r.from && i < r.from+r.full {
				fill = r.color
			}
			p.printf(`<rect x="%d" y="%d" width="%d" height="20" fill="%s" stroke="%s" fill-opacity="0.75"/>`, ring+i*wide/cells, r.y, wide/cells, fill, r.color)
		}
		p.text(ring+wide/2, r.y-6, "middle", r.color, r.label)
	}
	p.text(left+process-12, top+73, "end", there, "Write")
	p.arrow(left+process-6, top+68, ring-4, top+68, there, "")
	p.arrow(ring+wide+4, top+68, right+4, top+68, there, "")
	p.text(right+14, top+73, "start", there, "Read")
	p.text(right+14, top+123, "start", back, "Write")
	p.arrow(right+6, top+118, ring+wide+4, top+118, back, "")
	p.arrow(ring-4, top+118, left+process-4, top+118, back, "")
	p.text(left+process-12, top+123, "end", back, "Read")

	const bell = top + tall + 34
	p.arrow(left+process/2, bell-28, left+process/2, bell-6, faint, "")
	p.printf(`<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2" stroke-dasharray="3 5"/>`, left+process/2, bell, right+process/2, bell, faint)
	p.arrow(right+process/2, bell-6, right+process/2, bell-28, faint, "")
	p.text(width/2, bell-8, "middle", faint, "doorbells: two pipes, rung only when the other end sleeps")
	p.text(width/2, bell+22, "middle", faint, "A Unix socket introduces the two processes, and is closed.")
	p.printf(`</svg>`)
	return p.err
}
