package main

import "testing"

func TestSuggest(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`unexpected argument foo, did you mean "top"?`, "unexpected argument foo"},
		{`unknown flag -x, did you mean "-h"?`, "unknown flag -x"},
		{`unexpected argument pign, did you mean one of "ping", "pong"?`, `unexpected argument pign, did you mean "ping"?`},
		{`unexpected argument p, did you mean one of "proxy", "ping", "pong"?`, "unexpected argument p"},
		{`unexpected argument po, did you mean "pong"?`, `unexpected argument po, did you mean "pong"?`},
		{`unknown flag --anonimous, did you mean "--anonymous"?`, `unknown flag --anonimous, did you mean "--anonymous"?`},
		{`unknown flag --frob`, "unknown flag --frob"},
		{`expected "<name>"`, `expected "<name>"`},
	} {
		if got := suggest(tt.in); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.in, got, tt.want)
		}
	}
}
