package market

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stocks is the default input: 560 monthly closing prices of MSFT, AMZN, IBM,
// GOOG and AAPL, 2000 to 2010. It is data/stocks.csv of the npm package
// vega-datasets 3.2.1 (BSD-3-Clause), https://github.com/vega/vega-datasets.
//
//go:embed stocks.csv
var stocks []byte

// An Amount is a price in 1/10,000.
type Amount int64

// unit is the amount of 1.
const unit = 10_000

// MaxAmount keeps sums of prices far from an overflow.
const MaxAmount = 1_000_000_000 * unit

func (a Amount) String() string { return fmt.Sprintf("%d.%04d", a/unit, a%unit) }

// parseAmount returns the amount written as text: a positive decimal number
// with at most 4 decimal places, exactly.
func parseAmount(text string) (Amount, error) {
	whole, decimals, _ := strings.Cut(text, ".")
	if len(decimals) <= 4 {
		digits := whole + decimals + "0000"[len(decimals):]
		n, err := strconv.ParseUint(digits, 10, 64)
		if err == nil && n > 0 && n <= MaxAmount {
			return Amount(n), nil
		}
	}
	return 0, fmt.Errorf("price %q must be a number above 0, up to %d, with at most 4 decimal places", text, MaxAmount/unit)
}

// A Quote is one price of the input.
type Quote struct {
	Symbol Symbol
	Date   time.Time
	Price  Amount
}

// dateLayouts are the forms that a date in the input may have.
var dateLayouts = []string{"Jan 2 2006", time.DateOnly, time.DateTime, time.RFC3339Nano}

func parseDate(text string) (time.Time, error) {
	for _, layout := range dateLayouts {
		if date, err := time.Parse(layout, text); err == nil {
			return date, nil
		}
	}
	return time.Time{}, fmt.Errorf("date %q must be like one of %q", text, dateLayouts)
}

// Load returns the quotes in the file called name, in stdin for "-", or in
// stocks for "", in the order of their dates. An error names the file.
func Load(name string, stdin io.Reader) ([]Quote, error) {
	var r io.Reader
	switch name {
	case "":
		name, r = "stocks.csv", bytes.NewReader(stocks)
	case "-":
		name, r = "stdin", stdin
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	quotes, err := ParseQuotes(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return quotes, nil
}

// ParseQuotes returns the quotes in the lines "symbol,date,price" of r, in the
// order of their dates; those of one date stay in the order of their lines. The
// first line may be a header. If any line is wrong, there are no quotes, and
// the error has the line's number.
func ParseQuotes(r io.Reader) ([]Quote, error) {
	lines := csv.NewReader(r)
	lines.FieldsPerRecord = 3
	lines.ReuseRecord = true
	var quotes []Quote
	for first := true; ; first = false {
		fields, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, atLine(err)
		}
		if first && slices.Equal(fields, []string{"symbol", "date", "price"}) {
			continue
		}
		q, err := parseQuote(fields)
		if err != nil {
			line, _ := lines.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		quotes = append(quotes, q)
	}
	if len(quotes) == 0 {
		return nil, errors.New("no prices")
	}
	slices.SortStableFunc(quotes, func(a, b Quote) int { return a.Date.Compare(b.Date) })
	return quotes, nil
}

// atLine rewrites an error of package csv to have the line's number first.
func atLine(err error) error {
	var bad *csv.ParseError
	switch {
	case !errors.As(err, &bad):
		return err
	case errors.Is(err, csv.ErrFieldCount):
		return fmt.Errorf("line %d: want symbol,date,price", bad.Line)
	}
	return fmt.Errorf("line %d: %w", bad.Line, bad.Err)
}

func parseQuote(fields []string) (Quote, error) {
	s, err := ParseSymbol(fields[0])
	if err != nil {
		return Quote{}, err
	}
	date, err := parseDate(fields[1])
	if err != nil {
		return Quote{}, err
	}
	p, err := parseAmount(fields[2])
	if err != nil {
		return Quote{}, err
	}
	return Quote{Symbol: s, Date: date, Price: p}, nil
}

// ByDate cuts quotes, which are in the order of their dates, into one slice a
// date.
func ByDate(quotes []Quote) [][]Quote {
	var days [][]Quote
	for len(quotes) > 0 {
		n := slices.IndexFunc(quotes, func(q Quote) bool { return !q.Date.Equal(quotes[0].Date) })
		if n < 0 {
			n = len(quotes)
		}
		days = append(days, quotes[:n])
		quotes = quotes[n:]
	}
	return days
}

// SymbolsOf returns the symbols of quotes, in the order in which they first
// appear.
func SymbolsOf(quotes []Quote) []Symbol {
	var symbols []Symbol
	seen := make(map[Symbol]bool)
	for _, q := range quotes {
		if !seen[q.Symbol] {
			seen[q.Symbol] = true
			symbols = append(symbols, q.Symbol)
		}
	}
	return symbols
}
