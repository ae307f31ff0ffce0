package housetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A row of layers says which packages of this module a package may import. The
// picture it is drawn from, and the reasons, are in docs/architecture.md.
type layer struct {
	pkg    string   // directory; "." is package asap
	may    []string // directories it may import; "..." at the end covers what is below
	why    string   // printed when it imports another
	noHTTP bool     // net/http is for the edges only
}

const (
	whyProtocol = "package asap is the protocol alone: whoever speaks ASAP imports it, so it stays free of everything else"
	whyDomain   = "domain packages hold pure rules and do not know each other; internal/ledger is the one that joins them"
	whyStore    = "a storage backend implements what the ledger and the readers declare, and never knows the other backend"
	whyEdge     = "an edge package translates between wire and domain; it declares the small interfaces it needs, and internal/node plugs the implementations in"
	whyPublic   = "a public package must not pull the node's insides into a program that only calls or serves an agent"
	whyIdentity = "who is calling is decided from values - a header's text, a certificate, keys - so that it can be tested without a server; internal/node hands them over and fetches what is to be fetched"
	whyNode     = "internal/node is the composition root: nothing but the binary and host sits above it"
)

var domain = []string{".", "internal/canonicaljson"}

var layers = []layer{
	{pkg: ".", may: []string{"internal/canonicaljson"}, why: whyProtocol, noHTTP: true},
	{pkg: "internal/canonicaljson", why: whyProtocol, noHTTP: true},

	{pkg: "audit", may: domain, why: whyDomain, noHTTP: true},
	{pkg: "delegation", may: domain, why: whyDomain, noHTTP: true},
	{pkg: "internal/metering", may: domain, why: whyDomain, noHTTP: true},
	{pkg: "internal/sla", may: append([]string{"internal/sla/sketch"}, domain...), why: whyDomain, noHTTP: true},
	{pkg: "internal/sla/sketch", why: "the histogram is stored evidence and knows nothing but numbers", noHTTP: true},
	{pkg: "internal/registry", may: domain, why: whyDomain, noHTTP: true},

	{pkg: "internal/ledger", may: []string{".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry"}, why: whyDomain, noHTTP: true},
	{pkg: "internal/auditlog", may: []string{".", "audit", "internal/metering", "internal/ledger"}, why: "internal/auditlog joins the rules of package audit with a store and the ledger; stores and servers implement and serve what it declares", noHTTP: true},
	{pkg: "internal/notify", may: []string{".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger"}, why: whyDomain, noHTTP: true},

	{pkg: "internal/slawatch", may: []string{".", "internal/sla", "internal/sla/sketch", "internal/registry", "internal/ledger"}, why: "the watch feeds the rules from the ledger and tells what they say; stores, clocks and senders are handed in", noHTTP: true},

	{pkg: "internal/sqlite", may: []string{"internal/auditlog", "internal/slawatch", "internal/sla/sketch", ".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger"}, why: whyStore, noHTTP: true},
	{pkg: "internal/postgres", may: []string{"internal/auditlog", "internal/slawatch", "internal/sla/sketch", ".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger"}, why: whyStore, noHTTP: true},
	{pkg: "internal/storetest", may: []string{"internal/auditlog", "internal/slawatch", ".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger"}, why: whyStore, noHTTP: true},
	{pkg: "internal/postgrestest", why: whyStore, noHTTP: true},

	{pkg: "agent", may: []string{".", "delegation", "internal/canonicaljson"}, why: whyPublic},
	{pkg: "client", may: []string{".", "delegation"}, why: "client shares only package asap and delegation with the server: a bug on one side must not hide the same bug on the other"},
	{pkg: "internal/httpapi", may: []string{"internal/auditlog", "internal/slawatch", ".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger", "internal/notify"}, why: whyEdge},
	{pkg: "internal/dashboard", may: []string{".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry", "internal/ledger", "internal/notify"}, why: whyEdge},
	{pkg: "internal/prober", may: []string{".", "internal/canonicaljson", "client", "internal/sla", "internal/registry", "internal/ledger"}, why: whyEdge},

	{pkg: "internal/load", may: []string{".", "client", "delegation"}, why: "load is put on a node from outside, as a caller puts it"},

	{pkg: "internal/identity", may: []string{".", "delegation"}, why: whyIdentity, noHTTP: true},

	{pkg: "internal/node", may: []string{".", "agent", "audit", "client", "delegation", "internal/..."}, why: whyNode},
	{pkg: "host", may: []string{".", "agent", "internal/node"}, why: "host is the public door to internal/node and adds nothing of its own"},
	{pkg: "cmd/asap", may: []string{".", "agent", "audit", "client", "delegation", "host", "internal/canonicaljson", "internal/load", "internal/metering", "internal/sla", "internal/registry", "internal/node"}, why: "the command line reaches stores and servers through internal/node, so that it obeys the same rules as a running node"},
	{pkg: "examples/...", may: []string{".", "agent", "audit", "client", "delegation", "host"}, why: "an example uses what a reader of it can use: the public packages"},

	{pkg: "internal/housetest", why: "nothing of the product belongs here", noHTTP: true},
}

// matches tells whether dir is covered by pattern, a directory or one with a
// final "/...".
func matches(pattern, dir string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == prefix || strings.HasPrefix(dir, prefix+"/")
	}
	return pattern == dir
}

func layerOf(pkg string) (layer, bool) {
	for _, l := range layers {
		if matches(l.pkg, pkg) {
			return l, true
		}
	}
	return layer{}, false
}

// importFault says what is wrong with pkg importing imported, or "".
func importFault(pkg, imported string) string {
	l, known := layerOf(pkg)
	if !known {
		return fmt.Sprintf("package %s has no row in the table of internal/housetest/imports_test.go: say there and in docs/architecture.md what it may import, and why", pkg)
	}
	if imported == "net/http" && l.noHTTP {
		return fmt.Sprintf("%s imports net/http: only agent, client, host, httpapi, dashboard, load, prober, node and the binary speak HTTP", pkg)
	}
	dir, ours := own(imported)
	if !ours || slices.ContainsFunc(l.may, func(pattern string) bool { return matches(pattern, dir) }) {
		return ""
	}
	return fmt.Sprintf("%s imports %s: %s", pkg, dir, l.why)
}

// Tests may import more than the code they test (a store behind a reader, a
// server before a client), so the table is for the product's own files.
func TestImportDirections(t *testing.T) {
	for _, file := range readTree(t).files {
		if file.test {
			continue
		}
		for _, imported := range append(file.imports, "") { // "" so that a package without imports needs a row too
			if fault := importFault(file.pkg, imported); fault != "" {
				t.Errorf("%s: %s", file.name, fault)
			}
		}
	}
}

// What package asap and canonicaljson may use from outside this module.
var protocolModules = []string{"github.com/go-json-experiment/json", "github.com/oklog/ulid/v2"}

// The standard packages that do I/O. Package asap and the domain packages get
// bytes and times passed in, which is what makes them testable and replayable.
var ioPackages = []string{"database/sql", "net", "net/http", "os", "os/exec", "log", "log/slog", "syscall"}

// ioFiles are the files of pure packages that may do I/O all the same, each with
// its reason.
var ioFiles = map[string]string{
	"audit/signerfile.go": "the signer's memory is a file outside the store, and an outside witness needs the same one",
}

func TestProtocolAndRulesDoNoIO(t *testing.T) {
	pure := []string{".", "internal/canonicaljson", "audit", "delegation", "internal/metering", "internal/sla", "internal/registry"}
	for _, file := range readTree(t).files {
		if file.test || !slices.Contains(pure, file.pkg) || ioFiles[file.name] != "" {
			continue
		}
		protocol := file.pkg == "." || file.pkg == "internal/canonicaljson"
		for _, imported := range file.imports {
			_, ours := own(imported)
			switch {
			case slices.Contains(ioPackages, imported):
				t.Errorf("%s imports %s: this package does no I/O; let its caller read, and pass the values in", file.name, imported)
			case protocol && !ours && !standard(imported) && !slices.ContainsFunc(protocolModules, func(m string) bool { return matches(m+"/...", imported) }):
				t.Errorf("%s imports %s: %s", file.name, imported, whyProtocol)
			}
		}
	}
}

// The table must refuse what it is there to refuse.
func TestImportTableRefuses(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		refused       bool
	}{
		{".", modulePath + "/internal/canonicaljson", false},
		{".", modulePath + "/audit", true},
		{".", "net/http", true},
		{"internal/metering", modulePath, false},
		{"internal/metering", modulePath + "/internal/sla", true},
		{"internal/metering", modulePath + "/internal/ledger", true},
		{"internal/ledger", modulePath + "/internal/metering", false},
		{"internal/ledger", modulePath + "/internal/sqlite", true},
		{"internal/sqlite", modulePath + "/internal/postgres", true},
		{"internal/sqlite", modulePath + "/internal/ledger", false},
		{"internal/httpapi", modulePath + "/internal/sqlite", true},
		{"internal/httpapi", "net/http", false},
		{"agent", modulePath + "/internal/ledger", true},
		{"client", modulePath + "/agent", true},
		{"internal/node", modulePath + "/internal/sqlite", false},
		{"cmd/asap", modulePath + "/internal/sqlite", true},
		{"examples/echo", modulePath + "/internal/node", true},
		{"internal/util", "strings", true},
	} {
		if fault := importFault(c.pkg, c.imported); (fault != "") != c.refused {
			t.Errorf("%s importing %s: refused %t, want %t (%s)", c.pkg, c.imported, fault != "", c.refused, fault)
		}
	}
}
