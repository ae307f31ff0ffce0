// Command sbom writes what is in a Go binary as a CycloneDX 1.5 document: the
// module it was built from, the Go release, and every module linked into it, with
// the checksum that go.sum has. It reads the binary alone, so it says what is in
// it and not what was meant to be; the same binary gives the same bytes.
//
//	sbom BINARY >asap.cdx.json
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

type document struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(path string, out io.Writer) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	doc, err := json.MarshalIndent(describe(info, sha256.Sum256(b)), "", "  ")
	if err != nil {
		return err
	}
	_, err = out.Write(append(doc, '\n'))
	return err
}

func describe(info *debug.BuildInfo, sum [32]byte) document {
	main := module("application", info.Main)
	main.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", sum)}}
	for _, s := range info.Settings {
		main.Properties = append(main.Properties, property{"go:build:" + s.Key, s.Value})
	}
	release := strings.TrimPrefix(strings.Fields(info.GoVersion)[0], "go")
	std := component{Type: "library", Ref: "pkg:golang/std@" + release, Name: "std", Version: release, PURL: "pkg:golang/std@" + release}
	list := []component{std}
	refs := []string{std.Ref}
	for _, m := range info.Deps { // in the order of their paths
		if m.Replace != nil {
			m = m.Replace
		}
		list = append(list, module("library", *m))
		refs = append(refs, list[len(list)-1].Ref)
	}
	return document{
		Format: "CycloneDX", Spec: "1.5", Serial: serial(sum),
		Version: 1, Metadata: metadata{main}, Components: list, Dependencies: []dependency{{main.Ref, refs}},
	}
}

// serial makes a UUID of version 8, which is for makers to fill, of the binary's
// hash.
func serial(sum [32]byte) string {
	u := [16]byte(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func module(kind string, m debug.Module) component {
	url := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	c := component{Type: kind, Ref: url, Name: m.Path, Version: m.Version, PURL: url}
	if m.Sum != "" {
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c
}
