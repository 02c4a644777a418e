package main

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	suggestion = regexp.MustCompile(`^(.* )(\S+), did you mean (?:one of )?("[^?]*)\?$`)
	quoted     = regexp.MustCompile(`"([^"]*)"`)
)

// suggest returns the parser's message with those of its suggestions only that
// are close to what was written. The parser takes two letters that differ for
// close, even where there are no more than two.
func suggest(message string) string {
	m := suggestion.FindStringSubmatch(message)
	if m == nil {
		return message
	}
	var list []string
	for _, q := range quoted.FindAllStringSubmatch(m[3], -1) {
		if similar(m[2], q[1]) {
			list = append(list, q[0])
		}
	}
	message = m[1] + m[2]
	if len(list) > 0 {
		message += fmt.Sprintf(", did you mean %s?", strings.Join(list, " or "))
	}
	return message
}

// similar reports whether a user who wrote a may have meant b: a is the
// beginning of b, or differs from it by one slip for every four letters.
func similar(a, b string) bool {
	a, b = strings.TrimLeft(a, "-"), strings.TrimLeft(b, "-")
	if len(a) < 2 || len(b) < 2 {
		return false
	}
	return strings.HasPrefix(b, a) || slips(a, b) <= max(1, len(b)/4)
}

// slips returns how many slips make a of b: a letter too many, one left out, a
// wrong one, or two in the wrong order (the optimal string alignment distance).
func slips(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			wrong := 1
			if a[i-1] == b[j-1] {
				wrong = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+wrong)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
