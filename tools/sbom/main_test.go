package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"runtime/debug"
	"testing"
)

// The test's own binary is one that was built from modules.
func TestDescribesABinary(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := run(self, out); err != nil {
			t.Fatal(err)
		}
	}
	if first.String() != second.String() {
		t.Error("two documents of one binary differ")
	}
	var doc document
	if err := json.Unmarshal(first.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	uuid := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if doc.Format != "CycloneDX" || !uuid.MatchString(doc.Serial) || doc.Metadata.Component.Hashes[0].Content == "" || doc.Components[0].Name != "std" {
		t.Errorf("%s", first.String())
	}
}

func TestDescribesModules(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8 X:jsonv2", Main: debug.Module{Path: "example.com/a", Version: "v1.0.0+dirty"}, Deps: []*debug.Module{
		{Path: "example.com/b", Version: "v1.2.3", Sum: "h1:x="},
		{Path: "example.com/c", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v1.0.1", Sum: "h1:y="}},
	}}
	doc := describe(info, [32]byte{1})
	got := []string{doc.Metadata.Component.PURL}
	for _, c := range doc.Components {
		got = append(got, c.PURL)
	}
	want := []string{"pkg:golang/example.com/a@v1.0.0%2Bdirty", "pkg:golang/std@1.26.8", "pkg:golang/example.com/b@v1.2.3", "pkg:golang/example.com/fork@v1.0.1"}
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	if err := run("main.go", &bytes.Buffer{}); err == nil {
		t.Error("a text file is described")
	}
}
