//go:build !linux

package segment

import "os"

// DefaultDir is where names without a slash live, unless $SHMCONN_DIR says
// otherwise.
var DefaultDir = os.TempDir()
