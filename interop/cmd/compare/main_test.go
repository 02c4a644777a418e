//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"shmconn/interop/services"
)

func TestMain(m *testing.M) {
	services.Main()
	work()
	os.Exit(m.Run())
}

// The table has a row for each service, with a ratio of each round that is its
// quotient.
func TestTable(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-rounds", "2", "-time", "5ms", "-size", "9", "-clients", "2", "-beside", "1"}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2+len(services.All) {
		t.Fatalf("%d lines:\n%s", len(lines), &out)
	}
	for i, s := range services.All {
		row := regexp.MustCompile(`^` + s.Name + ` +\d+ +\d+ +[0-9.]+[µm]?s +[0-9.]+[µm]?s +[0-9.]+ \[[0-9.]+ [0-9.]+\]  [0-9.]+ [0-9.]+$`)
		if !row.MatchString(lines[i+2]) {
			t.Errorf("row %q", lines[i+2])
		}
	}
}

func TestOptions(t *testing.T) {
	for _, args := range []string{"-rounds 0", "-run (", "more", "-clients -1", "-beside -1"} {
		if err := run(t.Context(), strings.Fields(args), new(strings.Builder)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
}

func TestQuantile(t *testing.T) {
	v := []time.Duration{5, 1, 4, 2, 3}
	got := fmt.Sprint(quantile(v, 0.25), quantile(v, 0.5), quantile(v, 0.75), quantile(v, 0.99), v[0])
	if want := "2ns 3ns 4ns 5ns 5ns"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
