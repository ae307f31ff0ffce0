package housetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/asap-protocol/asap-go"

// repositoryRoot is where this package's directory finds the module's root.
const repositoryRoot = "../.."

// sourceFile is one parsed Go file of the module, whatever its build tags.
type sourceFile struct {
	name    string // slash-separated, relative to the root of the repository
	pkg     string // directory of the package, "." for the root
	test    bool   // a _test.go file
	syntax  *ast.File
	imports []string
}

// tree is the Go source of the module, without nested modules and testdata.
type tree struct {
	fset  *token.FileSet
	files []sourceFile
}

// position says where pos is, for a failure message.
func (tr *tree) position(pos token.Pos) string {
	p := tr.fset.Position(pos)
	name, err := filepath.Rel(repositoryRoot, p.Filename)
	if err != nil {
		name = p.Filename
	}
	return filepath.ToSlash(name) + ":" + strconv.Itoa(p.Line)
}

// skipDir tells whether the tests leave a directory out: hidden ones, test
// data, and modules of their own, which have rules of their own.
func skipDir(dir string, entry fs.DirEntry) bool {
	name := entry.Name()
	if dir == repositoryRoot {
		return false
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func readTree(t *testing.T) *tree {
	t.Helper()
	tr := &tree{fset: token.NewFileSet()}
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
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(tr.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(repositoryRoot, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		file := sourceFile{name: rel, pkg: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), syntax: syntax}
		for _, spec := range syntax.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			file.imports = append(file.imports, imported)
		}
		tr.files = append(tr.files, file)
		return nil
	})
	if err != nil {
		t.Fatalf("read the source tree: %v", err)
	}
	if len(tr.files) == 0 {
		t.Fatal("the source tree holds no Go file: these tests would check nothing")
	}
	return tr
}

// own returns the directory of an imported package of this module, "." for the
// root package; ok is false for packages of others.
func own(imported string) (dir string, ok bool) {
	if imported == modulePath {
		return ".", true
	}
	return strings.CutPrefix(imported, modulePath+"/")
}

// standard tells whether an import path is the standard library's.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// localName returns the name a file knows an import by, or "" if it does not
// import it (or only for its effects).
func localName(file *ast.File, imported string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value != strconv.Quote(imported) {
			continue
		}
		if spec.Name == nil {
			return path.Base(imported)
		}
		if spec.Name.Name != "_" {
			return spec.Name.Name
		}
	}
	return ""
}
