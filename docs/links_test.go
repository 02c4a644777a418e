package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	fenced    = regexp.MustCompile("(?ms)^```.*?^```$")
	heading   = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notAnchor = regexp.MustCompile(`\]\([^)]*\)|[^\pL\pN _-]`)
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)|(?m)^\[[^\]]+\]: (\S+)$|<(?:a|img) [^>]*(?:href|src)="([^"]+)"`)
	elsewhere = regexp.MustCompile(`^[a-z]+:`)
)

// hasHeading reports whether a link to "#anchor" leads to a heading of page.
func hasHeading(page, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		if strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

// TestLinks checks that each link from a page to another file, or to a heading,
// leads there.
func TestLinks(t *testing.T) {
	pages := make(map[string]string) // without blocks of code, by file
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".md" {
			return err
		}
		b, err := os.ReadFile(name)
		pages[name] = fenced.ReplaceAllString(string(b), "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range pages {
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			file, anchor, _ := strings.Cut(m[1]+m[2]+m[3], "#")
			if elsewhere.MatchString(file) {
				continue
			}
			to := filepath.Join(filepath.Dir(name), file)
			if file == "" {
				to = name
			}
			if _, err := os.Stat(to); err != nil || anchor != "" && !hasHeading(pages[to], anchor) {
				t.Errorf("%s: a link to %s: no such file, or no such heading in it", name, m[0])
			}
		}
	}
}
