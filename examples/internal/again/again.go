// Package again lets an example run itself again, as its other end.
package again

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Run runs this program again with args, until it ends or ctx is cancelled.
func Run(ctx context.Context, stdout io.Writer, args ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the other end: %w", err)
	}
	return nil
}
