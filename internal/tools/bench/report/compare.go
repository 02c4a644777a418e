package report

import (
	"fmt"
	"io"
	"strings"

	"shmconn/internal/tools/bench"
)

// Comparisons writes what came of rows of two states of the library.
func Comparisons(w io.Writer, rows []bench.Comparison) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nNew compared with old: above 1, new is better. A row whose upper quartile is\nbelow %v has fallen.\n", bench.Fallen)
	width := 0
	for _, r := range rows {
		width = max(width, len([]rune(r.Row)))
	}
	c := newColumns(w, width)
	c.row("", "median", "quartiles", "p99", "")
	for _, r := range rows {
		tail, verdict := "-", firstLine(r.Note)
		if r.Tail > 0 {
			tail = bench.Number(r.Tail)
		}
		if r.Fell {
			verdict = "FALLEN"
		}
		if r.Others >= disturbance {
			verdict = strings.TrimPrefix(fmt.Sprintf("%s; other processes used %.1f cores", verdict, r.Others), "; ")
		}
		got := "-"
		if r.Got.N > 0 {
			got = bench.Number(r.Got.Median)
		}
		c.row(r.Row, got, span(r.Got, "x"), tail, verdict)
	}
	return c.tw.Flush()
}

// Floors writes what came of rows that have floors.
func Floors(w io.Writer, rows []*bench.FloorResult) error {
	fmt.Fprintf(w, "\nTimes better than a Unix socket, best of up to %d tries\n", bench.MaxTries)
	width := 0
	for _, r := range rows {
		width = max(width, len([]rune(r.Row)))
	}
	c := newColumns(w, width)
	c.row("", "floor", "median", "quartiles", "tries", "")
	for _, r := range rows {
		got, best := "-", r.Best()
		if best.N > 0 {
			got = bench.Number(best.Median)
		}
		tries := fmt.Sprint(len(r.Tries))
		if r.Disturbed > 0 {
			tries += fmt.Sprintf(", %d disturbed", r.Disturbed)
		}
		c.row(r.Row, bench.Number(r.AtLeast), got, span(best, "x"), tries, r.Status())
	}
	if err := c.tw.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, e := range r.Errs {
			fmt.Fprintf(w, "  %s FAILED: %s\n", r.Row, firstLine(e))
		}
		if r.Skipped != "" {
			fmt.Fprintf(w, "  %s left out: %s\n", r.Row, r.Skipped)
		}
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
