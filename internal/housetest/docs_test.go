package housetest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	markdownLink    = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	markdownFence   = regexp.MustCompile("(?s)```.*?```")
	markdownHeading = regexp.MustCompile(`(?m)^#+ +(.*?) *$`)
	notInAnchor     = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the fragments that code hosts give the headings of a page.
func anchors(page []byte) map[string]bool {
	found := map[string]bool{}
	for _, h := range markdownHeading.FindAllSubmatch(markdownFence.ReplaceAll(page, nil), -1) {
		found[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(string(h[1])), ""), " ", "-")] = true
	}
	return found
}

// A link within the repository leads somewhere, to a heading if it names one.
func TestLinksInDocumentationLead(t *testing.T) {
	err := filepath.WalkDir(repositoryRoot, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if skipDir(name, entry) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".md") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, link := range markdownLink.FindAllSubmatch(markdownFence.ReplaceAll(text, nil), -1) {
			target := string(link[1])
			if strings.Contains(target, ":") { // another scheme: not ours to check
				continue
			}
			file := filepath.Join(filepath.Dir(name), filepath.FromSlash(target))
			if target == "" {
				file = name
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", name, target)
				continue
			}
			if heading := string(link[2]); heading != "" && strings.HasSuffix(file, ".md") {
				page, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if !anchors(page)[heading] {
					t.Errorf("%s: %s has no heading #%s", name, file, heading)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever looks for a page finds it in the index.
func TestIndexNamesEveryPage(t *testing.T) {
	index, err := os.ReadFile(filepath.Join(repositoryRoot, "docs/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"docs/*.md", "docs/reference/*.md"} {
		pages, err := filepath.Glob(filepath.Join(repositoryRoot, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			name, err := filepath.Rel(filepath.Join(repositoryRoot, "docs"), page)
			if err != nil {
				t.Fatal(err)
			}
			if name != "README.md" && !strings.Contains(string(index), "]("+filepath.ToSlash(name)+")") {
				t.Errorf("docs/README.md does not lead to %s", filepath.ToSlash(name))
			}
		}
	}
}

// Whoever looks for a place to put something reads docs/architecture.md first.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repositoryRoot, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range readTree(t).files {
		name := file.pkg
		if name == "." {
			name = "asap"
		}
		if file.test || seen[name] || strings.HasPrefix(name, "examples/") {
			continue
		}
		seen[name] = true
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/architecture.md does not say what package %s is for: add it to the table of packages", name)
		}
	}
}
