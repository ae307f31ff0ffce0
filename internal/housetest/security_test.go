package housetest

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var namedTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// A defence that a page says is tested is; and every fuzz target is on the page
// that says what a node is defended against.
func TestPagesNameTestsThatExist(t *testing.T) {
	exists := map[string]bool{}
	var fuzz []string
	for _, file := range readTree(t).files {
		if !file.test {
			continue
		}
		for _, decl := range file.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				exists[fn.Name.Name] = true
				if strings.HasPrefix(fn.Name.Name, "Fuzz") {
					fuzz = append(fuzz, fn.Name.Name)
				}
			}
		}
	}
	for _, page := range []string{"docs/security.md", "docs/operations.md"} {
		text, err := os.ReadFile(filepath.Join(repositoryRoot, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedTest.FindAllStringSubmatch(string(text), -1) {
			if !exists[m[1]] && m[1] != "TestHostile" && m[1] != "TestFault" { // the beginnings of names
				t.Errorf("%s names %s, which there is not", page, m[1])
			}
		}
		if page != "docs/security.md" {
			continue
		}
		for _, name := range fuzz {
			if !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("%s does not say what %s defends against", page, name)
			}
		}
	}
}
