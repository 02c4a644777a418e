//go:build !race

package stream

func raceRelease() {}
func raceAcquire() {}
