package bench

import "fmt"

// sceneTargets are the targets about waiting.
func sceneTargets() (ts []Target) {
	scene := func(name string) string { return scenePrefix + name }
	ratio := func(text, name, figure string, atMost float64) {
		ts = append(ts, Target{Text: text + " / unix", Workload: scene(name), Num: "shm", Den: "unix", Figure: figure, AtMost: atMost})
	}
	times := func(text, name string, by float64) {
		ts = append(ts, faster(text+", times faster than unix", scene(name), "shm", "unix", by))
	}
	times("one way, pinned, paced, p50", "pinned", 30)
	for _, s := range []struct {
		n  Neighbours
		by float64
	}{
		{Neighbours{Computing, 1, false}, 2},
		{Neighbours{Computing, 1, true}, 2},
		{Neighbours{Yielding, 1, false}, 3},
		{Neighbours{Computing, 2, false}, 1.5},
		{Neighbours{Compiling, 1, false}, 1.5},
		{Neighbours{Compiling, 2, false}, 1.5},
		{Neighbours{Polling, 1, false}, 1.5},
	} {
		times("round trip next to "+s.n.title(), s.n.name(), s.by)
		ratio("  the same, p99", s.n.name(), FigureP99, 1)
	}
	times("round trip, four processes in pairs", "pairs=2", 1.5)
	ratio("  the same, p99", "pairs=2", FigureP99, 1)
	for _, hz := range []int{100, 1000, 10000, 100000} {
		name := fmt.Sprintf("hz=%d", hz)
		ratio(fmt.Sprintf("CPU per message at %d/s", hz), name, "", 0.5)
		ts = append(ts, Target{Text: "  the same without what pacing costs", Workload: scene(name), Num: "shm", Den: "unix", Less: "pacing", Note: true})
	}
	ratio("round trip after 5 ms idle, p50", "rested", "", 0.35)
	ts = append(ts, Target{Text: "round trip, parked back to back / unix", Workload: scene("free"), Num: "shm-parked", Den: "unix", AtMost: 0.5})
	ratio("pipeline at 20,000/s, p50", "pipeline", "", 0.4)
	ratio("  the same, p99", "pipeline", FigureP99, 0.7)
	ratio("  the same, p99.9", "pipeline", FigureP999, 0.8)
	for _, e := range []struct {
		name, text string
		by         float64
	}{
		{"echo=8", "8 echo connections", 4}, {"echo=64", "64 echo connections", 5},
		{"echo=512", "512 echo connections", 4}, {"echo=512,busy=8", "512 echo connections of which 8 are busy", 4},
	} {
		ts = append(ts, Target{Text: e.text + ", waiting, msg/s / unix", Workload: scene(e.name), Num: "shm", Den: "unix", AtLeast: e.by})
	}
	for _, victim := range []string{"pipe", "tcp", "shm"} {
		text := "p90 of a " + victim + " connection next to a hot one / next to a hot unix"
		ts = append(ts,
			Target{Text: text, Workload: scene("victim=" + victim), Num: "shm", Den: "unix", AtMost: 1.5},
			Target{Text: "  the same, and a goroutine computes", Workload: scene("victim=" + victim + ",compute=1"), Num: "shm", Den: "unix", AtMost: 2})
	}
	for _, hz := range []int{200, 5000} {
		ts = append(ts, Target{
			Text:     fmt.Sprintf("round trips/s in a process with a connection of %d messages a second / unix", hz),
			Workload: scene(fmt.Sprintf("beside=%d", hz)), Num: "shm", Den: "unix", AtLeast: 10,
		})
	}
	for _, what := range []string{"dial", "accept"} {
		ts = append(ts, Target{Text: "first " + what + " of a process, ms", Workload: scene("first-" + what), Num: "shm", Scale: 1e-6, AtMost: 1})
	}
	for _, w := range Scenes() {
		if w.Metric.Name == opening.Name {
			continue // dialing does not poll
		}
		ts = append(ts, Target{
			Text: "regret, " + w.Name, Workload: w.Name, Num: "shm", Figure: FigureRegret, AtMost: 1.05,
			// Of the p90 of a few dozen beats only large factors can be told.
			Note: w.Metric.Name == p90.Name,
		})
	}
	return ts
}
