//go:build !linux

package inspect

import "errors"

// A Scanner looks for listeners and connections, of which there are none but on
// Linux.
type Scanner struct{ Dirs []string }

// Scan returns [errors.ErrUnsupported].
func (s *Scanner) Scan() (*Snapshot, error) { return nil, errors.ErrUnsupported }
