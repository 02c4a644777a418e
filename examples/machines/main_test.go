package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/market"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

var closes = func() []market.Quote {
	quotes, err := market.Load("", nil)
	if err != nil {
		panic(err)
	}
	return quotes
}()

// subscriptions are those that four strategies have by default, the last two away.
var subscriptions = [][]string{{"MSFT", "GOOG"}, {"AMZN"}, {"IBM"}, {"AAPL"}}

// runMachines runs the command, and returns what it wrote to stdout, and the orders.
func runMachines(t *testing.T, stdin string, args ...string) (stdout string, orders []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "orders.csv")
	cmd := exampletest.Command(t, append(args, "-orders", file)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s%s", err, out, &stderr)
	}
	if orders, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	return string(out), orders
}

func checkOutput(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !regexp.MustCompile(`(?m)` + w).MatchString(out) {
			t.Errorf("output is\n%s\nwant a match of %s", out, w)
		}
	}
}

// numbers returns the number in each match of pattern.
func numbers(t *testing.T, out, pattern string) (list []int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list
}

// The bridge, a strategy that is away and the server are killed in the middle, twice
// each, and the orders are those of the run that is all here, and those that were
// calculated without any.
func TestKills(t *testing.T) {
	exampletest.PrivateNames(t)
	const kills, loops = 2, 10
	out, orders := runMachines(t, "", "-kill", fmt.Sprint(kills), "-loops", fmt.Sprint(loops))
	t.Logf("\n%s", out)
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, loops, subscriptions...))
	checkOutput(t, out,
		`^560 prices of 5 symbols x 10 loops to 4 strategies, 2 of them away, 5000 a second$`,
		`^all here: feed handler \d+, order gateway \d+, strategies here \d+ \d+ \d+ \d+$`,
		`^some away: feed handler \d+, order gateway \d+, strategies here \d+ \d+, bridge \d+, server \d+, strategies away \d+ \d+$`,
		`^some away, with kills: feed handler \d+, .*, strategies away \d+ \d+$`,
		fmt.Sprintf(`^ +orders +%d +\d+ +\d+ +\d+ +\d+$`, bytes.Count(orders, []byte("\n"))-1),
		`^ +price to order p50( +[0-9.]+ µs){5}$`,
		`^ +price to order p99( +[0-9.]+ µs){5}$`,
		`^The orders are the same, byte for byte\.$`)
	for what, want := range map[string]int{"bridge": kills, "server": kills, "strategy 2": 1, "strategy 3": 1} {
		if got := len(numbers(t, out, what+`: killed, process (\d+);`)); got != want {
			t.Errorf("%s was killed %d times, want %d", what, got, want)
		}
	}
	// A bridge that was killed, or lost the server, goes on in the middle, and does
	// so for no other reason.
	after := numbers(t, out, `bridge goes on after price (\d+); `)
	if len(after) != 2*kills || slices.Min(after) == 0 || slices.Max(after) >= loops*len(closes) {
		t.Errorf("a bridge went on after the prices %v of %d, want %d times, in the middle", after, loops*len(closes), 2*kills)
	}
	for _, strategy := range []string{"strategy 2", "strategy 3"} {
		if had := numbers(t, out, strategy+` goes through the prices again; (\d+) of its`); len(had) < 1+kills || slices.Max(had) == 0 {
			t.Errorf("%s began again with %v orders in the stream, want %d times or more", strategy, had, 1+kills)
		}
	}
}

// All strategies are away, and there are more of them than symbols.
func TestAllAway(t *testing.T) {
	exampletest.PrivateNames(t)
	out, orders := runMachines(t, "", "-strategies", "6", "-away", "6", "-kill", "0", "-loops", "2", "-rate", "20000")
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, 2, []string{"MSFT"}, []string{"AMZN"}, []string{"IBM"}, []string{"AAPL"}, []string{"GOOG"}, nil))
	checkOutput(t, out, `^some away: feed handler \d+, order gateway \d+, bridge \d+, server \d+, strategies away( \d+){6}$`,
		`^ +price to order max +[0-9.]+ µs +- +[0-9.]+ µs$`)
}

// The user's own prices, from a file and from stdin, with dots in a name and a date
// for each price.
func TestData(t *testing.T) {
	exampletest.PrivateNames(t)
	var text strings.Builder
	for i := range 600 {
		fmt.Fprintf(&text, "BRK.%c,2024-01-02 10:%02d:%02d,%d.%04d\n", 'A'+i%2, i/60, i%60, 1+i%7%3, i*i%10_000)
	}
	quotes, err := market.ParseQuotes(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prices.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	want := exampletest.WantOrders(quotes, 2, []string{"BRK.A"}, []string{"BRK.B"})
	if bytes.Count(want, []byte("\n")) < 10 {
		t.Fatalf("the test's prices lead to few orders:\n%s", want)
	}
	for _, data := range []string{file, "-"} {
		_, orders := runMachines(t, text.String(), "-data", data, "-strategies", "2", "-away", "1", "-loops", "2", "-rate", "3000")
		exampletest.CheckOrders(t, orders, want)
	}
}

// Whatever is wrong with the input, it is said before anything is started.
func TestBadInput(t *testing.T) {
	tests := []struct {
		args  []string
		stdin string
		want  string
	}{
		{args: []string{"-data", "-"}, stdin: "A,2024-01-02,1\nA,2024-01-03,one\n", want: `machines: stdin: line 2: price "one" must be`},
		{args: []string{"-data", "absent.csv"}, want: "absent.csv: no such file"},
		{args: []string{"-data", "-", "-away", "4"}, stdin: "A.*,2024-01-02,1\n", want: `symbol "A.*" cannot be part of a NATS subject`},
		{args: []string{"-data", "-", "-away", "4"}, stdin: "A..B,2024-01-02,1\n", want: `symbol "A..B" cannot be part of a NATS subject`},
		{args: []string{"-strategies", "0"}, want: "-strategies 0: must be 1 to 256"},
		{args: []string{"-strategies", "257"}, want: "-strategies 257: must be 1 to 256"},
		{args: []string{"-away", "0"}, want: "-away 0: must be 1 to 4"},
		{args: []string{"-away", "5"}, want: "-away 5: must be 1 to 4"},
		{args: []string{"-loops", "0"}, want: "-loops 0: must be at least 1"},
		{args: []string{"-rate", "0"}, want: "-rate 0: must be at least 1"},
		{args: []string{"-kill", "-1"}, want: "-kill -1: must be at least 0"},
		{args: []string{"-kill", "20", "-loops", "1"}, want: "-kill 20: there are too few prices, 560 with up to 5 of one date; give a larger -loops"},
		{args: []string{"-elsewhere"}, want: "-elsewhere: give -nats"},
		{args: []string{"-remove"}, want: "-remove: give -nats"},
		{args: []string{"prices.csv"}, want: `unexpected argument "prices.csv"`},
		{args: []string{"strategy"}, want: "-number -1: must be 0 to 255"},
		{args: []string{"strategy", "-number", "1", "-symbols", "IBM,TOOLONGSYM"}, want: `-symbols: symbol "TOOLONGSYM" must have`},
		{args: []string{"strategy", "-number", "1", "-symbols", "A>"}, want: `-symbols: symbol "A>" cannot be part`},
		{args: []string{"strategy", "x"}, want: `unexpected argument "x"`},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			exampletest.PrivateNames(t)
			cmd := exampletest.Command(t, test.args...)
			cmd.Stdin = strings.NewReader(test.stdin)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("%v\n%s\nwant %q", err, &stderr, test.want)
			}
			if strings.Contains(stdout.String(), "feed handler") {
				t.Errorf("the pipeline was started: %s", &stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	out, err := exampletest.Command(t, "-h").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	checkOutput(t, string(out), `^usage: machines \[flags\]$`, `^  -nats URL$`, `^usage: machines strategy -nats URL -number N -symbols LIST$`)
}
