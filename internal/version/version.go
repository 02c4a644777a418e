// Package version has the version of the project. CHANGELOG.md and SECURITY.md
// name the same; a test of the command holds them to it.
package version

import "runtime/debug"

// Version is the version of the project.
const Version = "v0.2.0"

// Commit returns the commit that this program was built from, as the go command
// has noted it, and whether the sources had been changed since. It is "" where
// nothing was noted, as under go run and go test.
func Commit() (rev string, modified bool) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", false
	}
	return commit(info.Settings)
}

func commit(settings []debug.BuildSetting) (rev string, modified bool) {
	for _, s := range settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	return rev, modified
}
