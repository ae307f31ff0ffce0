package asap_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	asap "github.com/asap-protocol/asap-go"
)

var update = flag.Bool("update", false, "write the generated documents instead of comparing them")

// docs/errors.md says what the table of codes says. After a change to the table:
//
//	go test . -run TestErrorsDocument -update
func TestErrorsDocument(t *testing.T) {
	const file = "docs/errors.md"
	var b strings.Builder
	b.WriteString(`# Errors

Every refusal has a stable code. This page is written from the table in codes.go; a test holds the two together (` + "`go test . -run TestErrorsDocument -update`" + `
writes it anew).

REST routes answer with the HTTP status and a problem document (RFC 9457) whose member ` + "`code`" + ` is the code. ` + "`POST /asap`" + ` and the WebSocket answer with a JSON-RPC
error of that number under HTTP 200, with the code in ` + "`error.data.code`" + `; codes of HTTP status 503 come as HTTP 503 with ` + "`Retry-After`" + ` on ` + "`POST /asap`" + `. Codes that
begin with ` + "`asap:`" + ` are v1.3.0's. "Again" says whether the same request may succeed later.

| code | HTTP | JSON-RPC | again | what it says |
| --- | --- | --- | --- | --- |
`)
	for _, row := range asap.CodeTable() {
		again := "no"
		if row.Retryable {
			again = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %d | %d | %s | %s |\n", row.Code, row.HTTP, row.RPC, again, strings.ReplaceAll(row.Sentence, "|", `\|`))
	}
	want := b.String()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the table of codes says; run go test . -run TestErrorsDocument -update", file)
	}
}
