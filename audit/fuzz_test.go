package audit

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

// What ParseEntry accepts is strict, canonical JSON by another implementation's
// judgement, within the limits, and can be exported and read back.
func FuzzParseEntry(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.octets))
	}
	f.Add([]byte(`{"actor":"urn:a","details":{"a":[1e+21,-0.5,"\u0007",{}]},"event_type":"x","id":"i","previous_hash":"","seq":0,"subject":"","timestamp":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		if err := canonicaljson.Check(b, canonicaljson.Options{}); err != nil {
			t.Fatalf("not strict: %v", err)
		}
		c := jsontext.Value(bytes.Clone(b))
		if err := c.Canonicalize(); err != nil || !bytes.Equal(c, b) {
			t.Fatalf("not canonical: %v", err)
		}
		if e.Hash != sha256.Sum256(b) || len(b) > MaxOctets || e.Seq < 0 {
			t.Fatalf("%+v", e)
		}
		line, err := AppendLine(nil, b, e.Hash)
		if err != nil {
			t.Fatal(err)
		}
		var fields fields
		if err := fields.parse(line, true); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if back := append(bytes.Clone(line[:fields.hashFrom]), line[fields.hashTo:]...); !bytes.Equal(back, b) {
			t.Fatalf("%s is not %s", back, b)
		}
	})
}

// Nothing that is read makes verification fail or panic, and only the log
// itself is valid under its key.
func FuzzVerifyExport(f *testing.F) {
	l := newLog(f, goldenOrigin, 1)
	l.grow(f, 4, 2, 4)
	for _, format := range []Format{JSONL, JSON} {
		b := l.export(f, format)
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := VerifyExport(bytes.NewReader(b), int64(len(b)), l.pinned())
		if err != nil {
			t.Fatal(err)
		}
		if v.Valid == (v.Reason != "") {
			t.Fatalf("%+v", v)
		}
		// A valid one can leave out checkpoints, or have unsealed entries that
		// anybody could have added; what is sealed is what was sealed.
		if v.Valid && v.UnsealedTail == 0 && v.HeadHash != hexOf([32]byte(l.rows[1].Hash)) && v.HeadHash != hexOf([32]byte(l.rows[3].Hash)) {
			t.Fatalf("another log is valid: %+v", v)
		}
	})
}
