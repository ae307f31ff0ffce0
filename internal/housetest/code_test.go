package housetest

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// packageNames that say nothing about what is inside.
var vagueNames = []string{"util", "utils", "common", "helpers", "misc", "service", "manager", "models", "types", "shared", "base"}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	opening := map[string]bool{} // directory of each package with product files: has its sentence been found
	for _, file := range readTree(t).files {
		if file.test {
			continue
		}
		name := file.syntax.Name.Name
		if slices.Contains(vagueNames, name) {
			t.Errorf("%s: package name %q says nothing about what is inside; name it after its idea", file.name, name)
		}
		want := "Package " + name + " "
		if name == "main" {
			want = "Command "
		}
		opening[file.pkg] = opening[file.pkg] || strings.HasPrefix(file.syntax.Doc.Text(), want)
	}
	for pkg, found := range opening {
		if !found {
			t.Errorf("package %s: no file opens with a comment that starts \"Package x ...\" (or \"Command x ...\") and says what its model is", pkg)
		}
	}
}

// forbiddenCalls are the process-wide defaults: whoever uses them acts on state
// that nobody handed over.
var forbiddenUses = []struct{ pkg, name, instead string }{
	{"log/slog", "Default", "take a *slog.Logger"},
	{"log/slog", "SetDefault", "hand the *slog.Logger over"},
	{"net/http", "DefaultClient", "take an *http.Client"},
	{"net/http", "DefaultTransport", "clone or make an *http.Transport"},
	{"net/http", "DefaultServeMux", "make an http.ServeMux"},
	{"net/http", "Get", "use a client with a context"},
	{"net/http", "Post", "use a client with a context"},
	{"net/http", "Handle", "register on a mux that was handed over"},
	{"net/http", "HandleFunc", "register on a mux that was handed over"},
}

func TestNoProcessWideState(t *testing.T) {
	tr := readTree(t)
	for _, file := range tr.files {
		if file.test {
			continue
		}
		for _, decl := range file.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init: importing a package must change nothing; make a constructor", tr.position(fn.Pos()))
			}
		}
		for _, use := range forbiddenUses {
			local := localName(file.syntax, use.pkg)
			if local == "" {
				continue
			}
			ast.Inspect(file.syntax, func(n ast.Node) bool {
				if selects(n, local, use.name) {
					t.Errorf("%s: %s.%s: %s", tr.position(n.Pos()), local, use.name, use.instead)
				}
				return true
			})
		}
	}
}

// Rules get the time passed in: that is what makes replay and tests exact.
func TestRulesDoNotReadTheClock(t *testing.T) {
	rules := []string{".", "audit", "delegation", "internal/canonicaljson", "internal/metering", "internal/sla", "internal/registry"}
	tr := readTree(t)
	for _, file := range tr.files {
		local := localName(file.syntax, "time")
		if file.test || local == "" || !slices.Contains(rules, file.pkg) {
			continue
		}
		ast.Inspect(file.syntax, func(n ast.Node) bool {
			for _, name := range []string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker"} {
				if selects(n, local, name) {
					t.Errorf("%s: time.%s in a package of pure rules: take the time as a parameter", tr.position(n.Pos()), name)
				}
			}
			return true
		})
	}
}

// selects tells whether n is the expression pkg.name.
func selects(n ast.Node, pkg, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}
