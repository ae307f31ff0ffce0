package main

import (
	"bytes"
	"strings"
	"testing"
)

const fuzzedReceipt = `{"id":"x","seq":3,"hash":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}`

// FuzzReceipt: what anybody may have sent is searched for a receipt in a time
// that its length bounds, and the receipt is one that the file spells out.
func FuzzReceipt(f *testing.F) {
	f.Add([]byte(fuzzedReceipt))
	f.Add([]byte(`{"result":{"extensions":{"asap-receipt":` + fuzzedReceipt + `}}}`))
	f.Add([]byte(`[1] {"asap-receipt":[` + fuzzedReceipt + `]}`))
	f.Add([]byte(`{"id":"x","seq":9223372036854775808,"hash":"` + strings.Repeat("00", 32) + `"}`))
	f.Add([]byte(strings.Repeat(`{"asap-receipt":`, 200) + "1" + strings.Repeat("}", 200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := findReceipt(b)
		if r != nil && (r.ID == "" || r.Seq < 0 || r.Seq > 1<<53) {
			t.Fatalf("%+v", r)
		}
	})
}

// FuzzTraceLog: any log gives at most one hop a line, and drawing them does not
// bring control characters to the terminal.
func FuzzTraceLog(f *testing.F) {
	f.Add([]byte(`{"event":"asap.request.received","trace_id":"t","envelope_id":"e","sender":"urn:asap:agent:a","recipient":"urn:asap:agent:b","timestamp":"2026-01-01T00:00:00Z"}
{"event":"asap.request.processed","trace_id":"t","envelope_id":"e","duration_ms":1.5}
not json`))
	f.Add([]byte(`{"msg":"asap.request.received","trace_id":"t","sender":"\u001b[2J"}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		hops, err := traceHops(bytes.NewReader(log), "t")
		if err != nil {
			t.Fatal(err)
		}
		if len(hops) > bytes.Count(log, []byte("\n"))+1 {
			t.Fatalf("%d hops", len(hops))
		}
		if len(hops) == 0 {
			return
		}
		if line := drawHops(hops); strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("%q", line)
		}
	})
}
