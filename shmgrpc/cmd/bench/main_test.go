//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestContenders measures each workload with each contender, briefly, and that
// its server's process goes away.
func TestContenders(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "shmconn-test-grpc-bench-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, contender := range contenders {
		o, err := start(t.Context(), contender, filepath.Join(dir, contender))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workloads() {
			r, err := w.measure(t.Context(), o, 5*time.Millisecond)
			if r.rate <= 0 || r.p99 <= 0 || r.processor <= 0 || err != nil {
				t.Errorf("%s, %v: %+v, %v", contender, w, r, err)
			}
		}
		o.stop()
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
}

func TestQuartiles(t *testing.T) {
	for _, tt := range []struct{ values, want []float64 }{
		{[]float64{3}, []float64{3, 3, 3}},
		{[]float64{5, 1, 4, 2, 3}, []float64{2, 3, 4}},
		{[]float64{1, 2}, []float64{1.25, 1.5, 1.75}},
	} {
		low, median, high := quartiles(tt.values)
		if low != tt.want[0] || median != tt.want[1] || high != tt.want[2] {
			t.Errorf("%v: %v, %v, %v; want %v", tt.values, low, median, high, tt.want)
		}
	}
}
