package market

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

func TestStocks(t *testing.T) {
	quotes, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, q := range quotes {
		counts[q.Symbol.String()]++
	}
	want := map[string]int{"MSFT": 123, "AMZN": 123, "IBM": 123, "GOOG": 68, "AAPL": 123}
	if len(quotes) != 560 || fmt.Sprint(counts) != fmt.Sprint(want) {
		t.Errorf("%d quotes, %v; want 560, %v", len(quotes), counts, want)
	}
	if days := ByDate(quotes); len(days) != 123 || len(days[0]) != 4 || len(days[122]) != 5 {
		t.Errorf("%d dates, %d quotes on the first, %d on the last", len(days), len(days[0]), len(days[len(days)-1]))
	}
	if q := quotes[0]; q.Symbol.String() != "MSFT" || q.Price != 39_8100 || q.Date.Format("2006-01-02") != "2000-01-01" {
		t.Errorf("first quote is %+v", q)
	}
}

func TestParseQuotes(t *testing.T) {
	const header = "symbol,date,price\n"
	tests := []struct {
		name, text string
		want       string // the quotes, or the error
	}{
		{"header", header + "A,2024-01-02,1\n", "A 1.0000"},
		{"no header", "A,2024-01-02,1\n", "A 1.0000"},
		{"no newline at the end", "A,2024-01-02,1.5", "A 1.5000"},
		{"carriage returns", header + "A,2024-01-02,1\r\nB,2024-01-02,2\r\n", "A 1.0000, B 2.0000"},
		{"empty lines", "\nA,2024-01-02,1\n\n", "A 1.0000"},
		{"quoted", `"A","Jan 2 2024","1"`, "A 1.0000"},
		{"sorted", "A,2024-01-03,1\nB,2024-01-02,2\nC,2024-01-03,3\nD,2024-01-02,4", "B 2.0000, D 4.0000, A 1.0000, C 3.0000"},
		{"times", "A,2024-01-02 10:00:00,1\nB,2024-01-02T09:59:59.5Z,2", "B 2.0000, A 1.0000"},

		{"empty", "", "no prices"},
		{"only a header", header, "no prices"},
		{"price", header + "A,2024-01-02,1\nA,2024-01-03,abc\n", `line 3: price "abc" must be a number above 0`},
		{"no price", "A,2024-01-02,\n", `line 1: price "" must be`},
		{"date", "A,2024-01-02,1\nA,2024-02-30,1\n", `line 2: date "2024-02-30" must be like one of`},
		{"symbol", "A,2024-01-02,1\nTOOLONGSYM,2024-01-02,1\n", `line 2: symbol "TOOLONGSYM" must have`},
		{"too few fields", "A,2024-01-02,1\n\nA,2024-01-02\n", "line 3: want symbol,date,price"},
		{"too many fields", "A,2024-01-02,1,2\n", "line 1: want symbol,date,price"},
		{"thousands", "A,2024-01-02,1,000\n", "line 1: want symbol,date,price"},
		{"quote", "A,2024-01-02,1\nA,\"2024-01-02,1\n", "line 2: "},
		{"header twice", header + header, "line 2: date"},
		{"last line", header + strings.Repeat("A,2024-01-02,1\n", 1000) + "A,2024-01-02,-1", "line 1002: price"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			quotes, err := ParseQuotes(strings.NewReader(test.text))
			var got []string
			for _, q := range quotes {
				got = append(got, fmt.Sprint(q.Symbol, q.Price))
			}
			if s := strings.Join(got, ", "); err == nil && s != test.want {
				t.Errorf("quotes are %s, want %s", s, test.want)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), test.want) || quotes != nil) {
				t.Errorf("%d quotes, error %v; want %s", len(quotes), err, test.want)
			}
		})
	}
	boom := errors.New("boom")
	if _, err := ParseQuotes(iotest.ErrReader(boom)); !errors.Is(err, boom) {
		t.Errorf("error is %v, want %v", err, boom)
	}
}

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]Amount{
		"1": 1_0000, "0.0001": 1, "39.81": 39_8100, ".5": 5000, "7.": 7_0000,
		"007": 7_0000, "1000000000": MaxAmount,
	} {
		if got, err := parseAmount(text); got != want || err != nil {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "0", "0.0000", "-1", "+1", "1.-5", "1.+5", "1e3", "0x10", "1_000", "NaN", "Inf", " 1", "1 ",
		"1.00001", "1.2.3", "1000000000.0001", "99999999999999999999", "9223372036854775807",
	} {
		if got, err := parseAmount(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.csv"), filepath.Join(dir, "bad.csv")
	for name, text := range map[string]string{good: "A,2024-01-02,1", bad: "A,2024-01-02"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if quotes, err := Load(good, nil); len(quotes) != 1 || err != nil {
		t.Errorf("%v, %v", quotes, err)
	}
	if quotes, err := Load("-", strings.NewReader("A,2024-01-02,1")); len(quotes) != 1 || err != nil {
		t.Errorf("%v, %v", quotes, err)
	}
	if _, err := Load("-", strings.NewReader("A")); err == nil || !strings.HasPrefix(err.Error(), "stdin: line 1: ") {
		t.Error(err)
	}
	if _, err := Load(bad, nil); err == nil || !strings.HasPrefix(err.Error(), bad+": line 1: ") {
		t.Error(err)
	}
	if _, err := Load(filepath.Join(dir, "absent"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
