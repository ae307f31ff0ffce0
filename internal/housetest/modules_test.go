package housetest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// dependencyRow matches a row of the table in docs/dependencies.md:
// | `module/path` | product or tests | why |.
var dependencyRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|([^|]*)\\|([^|]*)\\|$")

// Every module that the code imports is on the list, with where it is used and
// why it is worth depending on; and the list holds no other.
func TestDependenciesAreListed(t *testing.T) {
	list, err := os.ReadFile(filepath.Join(repositoryRoot, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	type reason struct {
		testsOnly bool
		why       string
	}
	listed := map[string]reason{}
	for _, row := range dependencyRow.FindAllStringSubmatch(string(list), -1) {
		listed[row[1]] = reason{strings.TrimSpace(row[2]) == "tests", strings.TrimSpace(row[3])}
	}

	data, err := os.ReadFile(filepath.Join(repositoryRoot, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]bool{}
	for _, r := range mod.Require {
		required[r.Mod.Path] = true
	}

	reported := map[string]bool{}
	for _, file := range readTree(t).files {
		for _, imported := range file.imports {
			if _, ours := own(imported); ours || standard(imported) || imported == "C" {
				continue
			}
			module := moduleOf(imported, required)
			why, ok := listed[module]
			switch {
			case module == "":
				t.Errorf("%s: %s belongs to no module that go.mod requires", file.name, imported)
			case !ok && !reported[module]:
				reported[module] = true
				t.Errorf("%s: module %s is not in the table of docs/dependencies.md: add it with the reason why it is worth depending on, or do without", file.name, module)
			case ok && why.testsOnly && !file.test && !strings.HasSuffix(file.pkg, "test"):
				t.Errorf("%s: module %s is listed for tests only", file.name, module)
			}
		}
	}
	for module, r := range listed {
		if r.why == "" {
			t.Errorf("docs/dependencies.md: %s has no reason", module)
		}
		if !required[module] {
			t.Errorf("docs/dependencies.md: %s is listed, but go.mod does not require it", module)
		}
	}
}

// moduleOf returns the longest required module path that holds a package.
func moduleOf(imported string, required map[string]bool) string {
	for p := imported; p != "." && p != ""; {
		if required[p] {
			return p
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return ""
		}
		p = p[:i]
	}
	return ""
}
