//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// Main does nothing where there is nothing to measure.
func Main() {}

func machine() Machine { return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()} }

func run(context.Context, Options, []Workload, *Report) error {
	return fmt.Errorf("bench: shared memory connections are for Linux only: %w", errors.ErrUnsupported)
}
