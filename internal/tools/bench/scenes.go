package bench

import (
	"fmt"
	"strings"
	"time"
)

// scenePrefix begins the name of each scene, so that -run scenes means all.
const scenePrefix = "scenes/"

// sceneNets are the contenders of a scene: the default, its two extremes (which
// park at once, and never), and what all are compared with.
var sceneNets = []string{"shm", "shm-parked", "shm-polling", "unix"}

// Scenes returns the workloads about waiting: what a connection costs, and how
// late messages are, where processors are shared, pinned, or wanted by others.
//
// Where others are near, everything has two processors, however many there are:
// a scene is about sharing them.
func Scenes() []Workload {
	var ws []Workload
	add := func(w Workload, s Spec, more ...string) {
		w.Name, w.Baseline = scenePrefix+w.Name, "unix"
		if w.Slice == 0 {
			w.Slice = 150 * time.Millisecond
		}
		if w.MinSlice == 0 {
			w.MinSlice = 40 * time.Millisecond
		}
		w.Contenders = With(s, append(sceneNets[:len(sceneNets):len(sceneNets)], more...)...)
		ws = append(ws, w)
	}
	trip := Spec{Loop: "roundtrip", Size: 64}
	add(Workload{Name: "free", Title: "Round trip, 64 B", Metric: timePerOp, Slice: 60 * time.Millisecond}, trip)
	for _, n := range []Neighbours{
		{Computing, 1, false}, {Computing, 1, true}, {Computing, 2, false}, {Yielding, 1, false},
		{Compiling, 1, false}, {Compiling, 2, false}, {Polling, 1, false},
	} {
		add(Workload{
			Name: n.name(), Title: "Round trip, 64 B, next to " + n.title(), Metric: timePerOp, TwoCores: true, Neighbours: n,
		}, trip)
	}
	add(Workload{Name: "pairs=2", Title: "Round trip, 64 B, four processes in pairs on two cores", Metric: timePerOp, TwoCores: true, Pairs: 2}, trip)
	add(Workload{
		Name: "pinned", Title: "One way, 5,000 a second, 64 B, each end pinned, the sender spins", Metric: lateness, Pinned: true,
	}, Spec{Loop: "oneway", Size: 64, Rate: 5000})
	// As examples/pipeline has it: the prices of one date are due at once.
	add(Workload{
		Name: "pipeline", Title: "Pipeline of four processes on two cores, 20,000 a second, five at a time, 64 B", Metric: lateness, TwoCores: true,
		Slice: 300 * time.Millisecond, MinSlice: 50 * time.Millisecond,
	}, Spec{Loop: "oneway", Size: 64, Rate: 20000, Burst: 5, Sleeps: true, Relays: 2})
	for _, hz := range []int{100, 1000, 10000, 100000} {
		w := Workload{
			Name: fmt.Sprintf("hz=%d", hz), Title: fmt.Sprintf("Round trips at %d a second, 64 B, late from when they were due", hz),
			Metric: cpuPerOp, Slice: 200 * time.Millisecond,
		}
		if hz < 1000 {
			w.Slice, w.MinSlice = 300*time.Millisecond, 100*time.Millisecond
		}
		add(w, Spec{Loop: "rate", Size: 64, Rate: hz, FromDue: true}, "pacing")
	}
	add(Workload{
		Name: "rested", Title: "Round trip after 5 ms idle, 64 B", Metric: median, Slice: 200 * time.Millisecond, MinSlice: 50 * time.Millisecond,
	}, Spec{Loop: "pause", Size: 64, Pause: 5 * time.Millisecond})
	add(Workload{
		Name: "burst", Title: "Round trips for 20 ms after 100 ms idle, 64 B", Metric: timePerOp, Slice: 250 * time.Millisecond, MinSlice: 250 * time.Millisecond,
	}, Spec{Loop: "pause", Size: 64, Pause: 100 * time.Millisecond, For: 20 * time.Millisecond})
	for _, n := range []struct{ conns, busy int }{{8, 0}, {64, 0}, {512, 0}, {512, 8}} {
		w := Workload{Name: fmt.Sprintf("echo=%d", n.conns), Title: fmt.Sprintf("Echo connections: %d, 64 B", n.conns), Metric: messages}
		if n.busy > 0 {
			w.Name += fmt.Sprintf(",busy=%d", n.busy)
			w.Title += fmt.Sprintf(", of which %d are busy", n.busy)
		}
		add(w, Spec{Loop: "echo", Size: 64, Conns: n.conns, Busy: n.busy})
	}
	for _, victim := range []string{"pipe", "tcp", "shm"} {
		w := Workload{
			Name: "victim=" + victim, Title: "How late a quiet " + victim + " connection is in a process with a hot one",
			Metric: p90, TwoCores: true, MaxProcs: 2, Slice: 300 * time.Millisecond, MinSlice: 60 * time.Millisecond,
		}
		s := Spec{Loop: "victim", Size: 64, Victim: victim}
		add(w, s)
		w.Name, w.Title, s.Compute = w.Name+",compute=1", w.Title+" and a goroutine that computes", 1
		add(w, s)
	}
	for _, hz := range []int{200, 5000} {
		add(Workload{
			Name: fmt.Sprintf("beside=%d", hz), Title: fmt.Sprintf("Round trips, 64 B, in a process with a connection of %d messages a second", hz),
			Metric: trips, TwoCores: true, MaxProcs: 2, Slice: 200 * time.Millisecond, MinSlice: 60 * time.Millisecond,
		}, Spec{Loop: "victim", Size: 64, Victim: "shm", Rate: hz})
	}
	for _, loop := range []string{"first-dial", "second-dial", "first-accept", "second-accept"} {
		which, what, _ := strings.Cut(loop, "-")
		add(Workload{
			Name: loop, Title: fmt.Sprintf("The %s %s of a process, and a byte there and back", which, what), Metric: opening,
		}, Spec{Loop: loop})
	}
	return ws
}

// name returns the name of the scene with n.
func (n Neighbours) name() string {
	s := fmt.Sprintf("%s=%d", n.Kind, n.N)
	if n.Pinned {
		s += ",pinned"
	}
	return s
}

// title says what n are, after "next to".
func (n Neighbours) title() string {
	what := map[string]string{Computing: "computing", Yielding: "computing and yielding", Compiling: "compiling"}[n.Kind]
	where := ""
	if n.Pinned {
		where = ", pinned"
	}
	processes := "process"
	if n.N > 1 {
		processes = "processes"
	}
	if n.Kind == Polling {
		return "another pair of processes with a hot connection"
	}
	return fmt.Sprintf("%d %s %s%s", n.N, what, processes, where)
}
