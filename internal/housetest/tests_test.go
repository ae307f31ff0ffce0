package housetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// A test that sleeps is slow when it passes and wrong when the machine is slow.
// In a file that imports testing/synctest, sleeping moves the bubble's clock,
// which costs nothing.
func TestTestsDoNotSleep(t *testing.T) {
	tr := readTree(t)
	for _, file := range tr.files {
		local := localName(file.syntax, "time")
		if !file.test || local == "" || localName(file.syntax, "testing/synctest") != "" {
			continue
		}
		ast.Inspect(file.syntax, func(n ast.Node) bool {
			if selects(n, local, "Sleep") {
				t.Errorf("%s: time.Sleep in a test: wait for the event itself, or use testing/synctest", tr.position(n.Pos()))
			}
			return true
		})
	}
}

// A skipped test is a check nobody makes. What cannot run must fail and say what
// is missing, or live in a target of its own (see the Makefile).
func TestTestsAreNotSkipped(t *testing.T) {
	tr := readTree(t)
	for _, file := range tr.files {
		if !file.test {
			continue
		}
		for _, pos := range skips(file.syntax) {
			t.Errorf("%s: a skipped test: make it run, or make it fail and say what is missing", tr.position(pos))
		}
	}
}

// skips returns where file calls Skip, SkipNow or Skipf on a *testing.T, B or F
// or on a testing.TB. (Skip of a *rapid.T discards one generated case.)
func skips(file *ast.File) []token.Pos {
	var found []token.Pos
	local := localName(file, "testing")
	if local == "" {
		return nil
	}
	// scopes holds, innermost last, the parameters of the functions around the
	// node at hand: name, and whether its type is of package testing.
	var scopes []map[string]bool
	var visit func(n ast.Node) bool
	inside := func(fn *ast.FuncType, body *ast.BlockStmt) {
		params := map[string]bool{}
		for _, field := range fn.Params.List {
			for _, name := range field.Names {
				params[name.Name] = fromPackage(field.Type, local)
			}
		}
		scopes = append(scopes, params)
		if body != nil {
			ast.Inspect(body, visit)
		}
		scopes = scopes[:len(scopes)-1]
	}
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			inside(n.Type, n.Body)
			return false
		case *ast.FuncLit:
			inside(n.Type, n.Body)
			return false
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || (n.Sel.Name != "Skip" && n.Sel.Name != "SkipNow" && n.Sel.Name != "Skipf") {
				return true
			}
			for i := len(scopes) - 1; i >= 0; i-- {
				if testing, declared := scopes[i][x.Name]; declared {
					if testing {
						found = append(found, n.Pos())
					}
					break
				}
			}
		}
		return true
	}
	ast.Inspect(file, visit)
	return found
}

// fromPackage tells whether typ is pkg.X or *pkg.X.
func fromPackage(typ ast.Expr, pkg string) bool {
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	sel, ok := typ.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func TestSkipsAreSeen(t *testing.T) {
	const source = `package p
import ("testing"; "pgregory.net/rapid")
func a(t *testing.T) { t.Skip() }                                              // 1
func b(tb testing.TB) { func() { tb.Skipf("x") }() }                           // 2
func c(t *testing.T) { rapid.Check(t, func(t *rapid.T) { t.Skip("again") }) }
func d(t *testing.T) { t.Run("x", func(t *testing.T) { t.SkipNow() }) }        // 3
func e(s scanner) { s.Skip() }
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(skips(file)); got != 3 {
		t.Errorf("found %d skips, want 3", got)
	}
}
