package bench

import (
	"math"
	"slices"
)

// A Summary is the middle and the spread of some figures, one from each round.
type Summary struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summarize returns the summary of v. Quartiles between two figures are
// interpolated. Of no figures, everything is 0.
func Summarize(v []float64) Summary {
	if len(v) == 0 {
		return Summary{}
	}
	v = slices.Sorted(slices.Values(v))
	return Summary{
		N:      len(v),
		Median: quantile(v, 0.5),
		Q1:     quantile(v, 0.25),
		Q3:     quantile(v, 0.75),
		Min:    v[0],
		Max:    v[len(v)-1],
	}
}

// quantile returns the figure below which the part p of the sorted v lies.
func quantile(v []float64, p float64) float64 {
	at := p * float64(len(v)-1)
	i := int(at)
	if i+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// Ratios returns a[i]/b[i] for each round i that both have finished.
func Ratios(a, b []float64) []float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		if q := a[i] / b[i]; !math.IsNaN(q) && !math.IsInf(q, 0) {
			r = append(r, q)
		}
	}
	return r
}

// best returns the median of the best quarter of v, where more is better.
func best(v []float64) []float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)-(len(v)+3)/4:]
}
