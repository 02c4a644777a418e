//go:build !linux

package main

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// On other systems than Linux there is nothing to find but that.
func thisMachine() *machine {
	return &machine{
		root: rootFS(), dir: namesDir(), arch: runtime.GOARCH,
		space:      func(string) (uint64, uint64, error) { return 0, 0, errors.ErrUnsupported },
		membarrier: func() error { return errors.ErrUnsupported },
		trial:      func(context.Context) (time.Duration, error) { return 0, errors.ErrUnsupported },
	}
}
