package bench

import (
	"slices"
	"strings"
	"testing"
)

// Every row that can have a floor has one, and no other.
func TestFloorsAreOfRows(t *testing.T) {
	fs, err := Floors()
	if err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, f := range fs {
		have = append(have, f.Row)
		if f.AtLeast < lowest && !f.Owes() {
			t.Errorf("the floor of %s is %v, below %v", f.Row, f.AtLeast, lowest)
		}
	}
	rows := FloorRows(Workloads())
	for _, w := range rows {
		want = append(want, w.Name)
		if !w.Contenders[0].usesLibrary() || w.Contenders[1].Name != "unix" {
			t.Errorf("%s compares %s with %s", w.Name, w.Contenders[0].Name, w.Contenders[1].Name)
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("there are floors of\n%v\nand rows\n%v", have, want)
	}
	if len(rows) < 50 || slices.Contains(want, "beside") || slices.Contains(want, "allocs") {
		t.Errorf("%d rows: %v", len(rows), want)
	}
}

func TestFloorsFile(t *testing.T) {
	in := []Floor{{"roundtrip/size=64", 8, 16}, {"echo/conns=512", 0.7, 0}, {"scenes/compute=1,pinned", 0.7, 1.25}, {"scenes/first-accept", 0.0003, 0.0006}}
	var b strings.Builder
	if err := WriteFloors(&b, "Commit 1234, 2026-01-02.", in); err != nil {
		t.Fatal(err)
	}
	if out, err := ReadFloors(strings.NewReader(b.String())); err != nil || !slices.Equal(in, out) {
		t.Errorf("%v, %v came back as %v from\n%s", err, in, out, b.String())
	}
	for text, want := range map[string]string{
		"roundtrip 1":          "line 1 has 2 fields",
		"# x\n\nroundtrip a 3": `line 3: "roundtrip a 3" is no floor`,
		"roundtrip 1 b":        "is no floor",
		"roundtrip 0 1":        "is no floor",
		"roundtrip NaN 1":      "is no floor",
	} {
		if fs, err := ReadFloors(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %s", text, fs, err, want)
		}
	}
}

func TestNewFloor(t *testing.T) {
	for _, tt := range []struct {
		row            string
		measured, want float64
	}{
		{"roundtrip/size=64", 16, 8}, {"roundtrip/size=64", 1.4, 0.7}, {"roundtrip/size=64", 1.2, 0.7}, {"roundtrip/size=64", 1, 0.5},
		{"dial", 0.08, 0.04}, {"scenes/second-dial", 0.2, 0.1},
	} {
		if f := NewFloor(tt.row, tt.measured); f.AtLeast != tt.want || f.Row != tt.row || f.Measured != tt.measured {
			t.Errorf("%s at %v: %+v, want a floor of %v", tt.row, tt.measured, f, tt.want)
		}
	}
}

func TestFloorStatus(t *testing.T) {
	type try struct{ better, others float64 }
	for _, tt := range []struct {
		tries []try
		want  string
	}{
		{nil, Unmeasured},
		{[]try{{2, 0}}, Holds},
		{[]try{{1, 0}, {1, 0}, {2, 0}}, Holds},
		{[]try{{1, 0}, {1, 0.1}, {1.9, 0}}, Below},
		{[]try{{1, 0.3}, {1, 0}, {1.9, 0}}, Below},
		{[]try{{1, 0.3}, {1, 0.3}, {1.9, 0}}, Disturbed},
		{[]try{{1, 0.3}}, Disturbed},
		{[]try{{1, 0.2}}, Below}, // a tenth, and no more
		{[]try{{1, 0}}, Below},
		{[]try{{2, 1}}, Holds},
	} {
		f := FloorResult{Floor: Floor{AtLeast: 2}}
		for _, x := range tt.tries {
			w := result("row", false, map[string][]float64{"shm": {10, 10}, "unix": {10 * x.better, 10 * x.better}})
			w.Others = x.others
			f.Add(&w, 2) // of which others may have 0.2
		}
		if got := f.Status(); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.tries, got, tt.want)
		}
	}
	f := FloorResult{Floor: Floor{AtLeast: 2}}
	w := result("row", false, map[string][]float64{"shm": {1}, "unix": {10}})
	w.Contenders[1].Error = "gone"
	if f.Add(&w, 2); f.Status() != Failed {
		t.Errorf("a contender failed: %s", f.Status())
	}
}
