package version

import (
	"runtime/debug"
	"testing"
)

func TestCommit(t *testing.T) {
	rev, modified := commit([]debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "1234"}, {Key: "vcs.modified", Value: "true"}})
	if rev != "1234" || !modified {
		t.Errorf("%q, %v", rev, modified)
	}
	if rev, modified := commit(nil); rev != "" || modified {
		t.Errorf("of nothing: %q, %v", rev, modified)
	}
}
