//go:build linux

package recipes

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPage checks that the Go code of docs/recipes.md is that of the tests, line by
// line.
func TestPage(t *testing.T) {
	var code strings.Builder
	for _, file := range []string{"recipes.go", "../../shmhttp/example_test.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	page, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllSubmatch(page, -1)
	if len(blocks) != 4 {
		t.Errorf("there are %d pieces of code, want 4", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(code.String(), string(b[1])) {
			t.Errorf("this is not in the tests:\n%s", b[1])
		}
	}
}
