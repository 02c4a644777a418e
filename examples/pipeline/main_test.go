package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"shmconn/examples/internal/exampletest"
	"shmconn/examples/internal/market"
	"shmconn/examples/internal/transport"
)

func TestMain(m *testing.M) { exampletest.Main(m, main) }

// runPipeline runs the command, and returns what it wrote to stdout, and the
// orders.
func runPipeline(t *testing.T, stdin string, args ...string) (stdout string, orders []byte) {
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

var closes = func() []market.Quote {
	quotes, err := market.Load("", nil)
	if err != nil {
		panic(err)
	}
	return quotes
}()

// The orders are the same bytes over all networks, and those that were
// calculated without any.
func TestNetworks(t *testing.T) {
	want := exampletest.WantOrders(closes, 4, []string{"MSFT", "IBM", "GOOG"}, []string{"AMZN", "AAPL"})
	for _, network := range transport.Networks {
		for _, rate := range []int{0, 100_000} {
			t.Run(fmt.Sprintf("net=%s/rate=%d", network, rate), func(t *testing.T) {
				exampletest.PrivateNames(t)
				out, orders := runPipeline(t, "", "-net", network, "-loops", "4", "-rate", fmt.Sprint(rate))
				exampletest.CheckOrders(t, orders, want)
				checkOutput(t, out,
					`^560 prices of 5 symbols x 4 loops to 2 strategies, `,
					`^over `+network+`: feed handler \d+, order gateway \d+, strategies \d+ \d+$`,
					`^ +MSFT +492 +0 +\d+ +\d+$`,
					`^ +all +2240 +\d+ +\d+$`,
					fmt.Sprintf(`^ +orders +%d$`, bytes.Count(want, []byte("\n"))-1),
					`^ +messages/s +\d+$`,
					`^ +feed to order p50 +[0-9.]+ µs$`,
					`^ +feed to order p99 +[0-9.]+ µs$`,
					`^ +feed to order p99.9 +[0-9.]+ µs$`)
			})
		}
	}
}

func TestAll(t *testing.T) {
	exampletest.PrivateNames(t)
	out, orders := runPipeline(t, "", "-net", "all", "-loops", "2", "-rate", "0", "-strategies", "3")
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, 2, []string{"MSFT", "AAPL"}, []string{"AMZN", "GOOG"}, []string{"IBM"}))
	checkOutput(t, out,
		`^over shm: `, `^over unix: `, `^over tcp: `,
		`^ +shm +unix +tcp$`,
		`^ +messages/s( +\d+){3}$`,
		`^ +feed to order p99.9( +[0-9.]+ µs){3}$`,
		`^The orders are the same, byte for byte\.$`)
}

func TestSubscribe(t *testing.T) {
	exampletest.PrivateNames(t)
	out, orders := runPipeline(t, "", "-subscribe", "MSFT, IBM;IBM;AAPL", "-loops", "3", "-rate", "0")
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, 3, []string{"MSFT", "IBM"}, []string{"IBM"}, []string{"AAPL"}))
	checkOutput(t, out, `^ +MSFT +369 +0 `, `^ +IBM +369 +0,1 `, `^ +AAPL +369 +2 `, `^ +GOOG +204 +none +0 +0$`)
}

// More strategies than symbols: some have nothing to do.
func TestManyStrategies(t *testing.T) {
	exampletest.PrivateNames(t)
	_, orders := runPipeline(t, "", "-strategies", "6", "-loops", "2", "-rate", "0")
	exampletest.CheckOrders(t, orders, exampletest.WantOrders(closes, 2, []string{"MSFT"}, []string{"AMZN"}, []string{"IBM"}, []string{"AAPL"}, []string{"GOOG"}))
}

// The user's own prices, from a file and from stdin.
func TestData(t *testing.T) {
	exampletest.PrivateNames(t)
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "EUR/USD,2024-01-02 10:%02d:%02d,%d.%04d\n", i/60, i%60, 1+i%7%3, i*i%10_000)
	}
	file := filepath.Join(t.TempDir(), "prices.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	quotes, err := market.ParseQuotes(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	want := exampletest.WantOrders(quotes, 2, []string{"EUR/USD"}, nil)
	if bytes.Count(want, []byte("\n")) < 10 {
		t.Fatalf("the test's prices lead to few orders:\n%s", want)
	}
	for _, data := range []string{file, "-"} {
		out, orders := runPipeline(t, text.String(), "-data", data, "-loops", "2", "-rate", "0")
		exampletest.CheckOrders(t, orders, want)
		checkOutput(t, out, `^300 prices of 1 symbols x 2 loops`, `^ +EUR/USD +600 +0 `)
	}
}

// Whatever is wrong with the input, it is said before anything is started.
func TestBadInput(t *testing.T) {
	tests := []struct {
		args  []string
		stdin string
		want  string
	}{
		{args: []string{"-data", "-"}, stdin: "symbol,date,price\nA,2024-01-02,1\nA,2024-01-03,one\n",
			want: `pipeline: stdin: line 3: price "one" must be`},
		{args: []string{"-data", "-"}, stdin: "A,2024-01-02,1\nA,2024-01-03\n", want: "stdin: line 2: want symbol,date,price"},
		{args: []string{"-data", "-"}, want: "stdin: no prices"},
		{args: []string{"-data", "absent.csv"}, want: "absent.csv: no such file"},
		{args: []string{"-subscribe", "MSFT;NONE"}, want: "-subscribe: there are no prices of NONE, only of [MSFT AMZN IBM AAPL GOOG]"},
		{args: []string{"-subscribe", "MSFT;"}, want: `-subscribe: symbol "" must have`},
		{args: []string{"-subscribe", "MSFT", "-strategies", "1"}, want: "give one of them"},
		{args: []string{"-strategies", "0"}, want: "-strategies 0: must be 1 to 256"},
		{args: []string{"-strategies", "257"}, want: "-strategies 257: must be 1 to 256"},
		{args: []string{"-loops", "0"}, want: "-loops 0: must be at least 1"},
		{args: []string{"-rate", "-1"}, want: "-rate -1: must be at least 0"},
		{args: []string{"-rate", "x"}, want: "invalid value"},
		{args: []string{"-net", "udp"}, want: `unknown network "udp": want one of shm, unix, tcp, all`},
		{args: []string{"prices.csv"}, want: `unexpected argument "prices.csv"`},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			exampletest.PrivateNames(t)
			file := filepath.Join(t.TempDir(), "orders.csv")
			cmd := exampletest.Command(t, slices.Concat([]string{"-orders", file}, test.args)...)
			cmd.Stdin = strings.NewReader(test.stdin)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("%v\n%s\nwant %q", err, &stderr, test.want)
			}
			if _, err := os.Stat(file); err == nil || stdout.Len() > 0 {
				t.Errorf("the pipeline was started: %s", &stdout)
			}
		})
	}
}

// A process that fails makes the command fail, with what the process said.
func TestProcessError(t *testing.T) {
	dir := exampletest.PrivateNames(t)
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-orders", filepath.Join(dir, "absent", "orders.csv")}, "(?s)^pipeline: over shm: order gateway: .*no such file"},
	}
	for _, test := range tests {
		out, err := exampletest.Command(t, test.args...).CombinedOutput()
		if err == nil {
			t.Errorf("no error\n%s", out)
		}
		checkOutput(t, string(out), test.want)
	}
}
