package delegation

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// strictObject is what the reader does to a payload whose members are unknown.
func strictObject(text string) error {
	r := reader{s: text}
	if err := r.object(func(string) error { return r.skip() }); err != nil {
		return err
	}
	return r.end()
}

// oracleObject is the same by jsontext.
func oracleObject(text string) error {
	d := jsontext.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return err
		}
		if d.StackDepth() > MaxJSONDepth {
			return errJSONDepth
		}
		if d.StackDepth() == 0 {
			if tok.Kind() != '}' {
				return errJSONObject
			}
			break
		}
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errJSONTrailing
	}
	return nil
}

var jsonSeeds = []string{
	`{}`, ` {"a":1} `, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1 "b":2}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`,
	`[]`, `null`, ``, ` `, `{`, `{"a`, `{"a":[1,2,{"b":[]}]}`, `{"a":[[[]]]}`, `{"a":[[[[]]]]}`, `{"a":[1,]}`, `{"a":[,1]}`,
	`{"a":"\ud800"}`, `{"a":"\ud800\udc00"}`, `{"a":"\udc00\ud800"}`, `{"a":"\ud800x"}`, `{"a":"\ud800\n"}`, `{"a":"\u12"}`, `{"a":"\u12G4"}`, `{"a":"\uABCdé"}`, `{"a":"\u12`, `{"a":{"b":{"c":{"d":1}}}}`, `{"a":{"b":{"c":[1]}}}`,
	`{"a":"\x"}`, `{"a":"\`, `{"a":"\"}`, "{\"a\":\"\x00\"}", "{\"a\":\"\\n\x1f\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\\n\xff\"}", "{\"a\":\"é\"}", `{"a":"\u00e9\uABCD\uabcd"}`,
	`{"a":0,"b":-0,"c":0.0,"d":1e5,"e":1E+5,"f":-1.25e-7}`, `{"a":00}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":+1}`, `{"a":-}`, `{"a":1e}`, `{"a":1e+}`,
	`{"a":true,"b":false,"c":null}`, `{"a":tru}`, `{"a":True}`, `{"a":nul}`, `{"a":NaN}`, "{}\x00", "{}\x00x", "\ufeff{}", `{} {}`, `{}}`, "{\"a\":1\v}",
}

func TestReaderAgainstJSONText(t *testing.T) {
	for _, seed := range jsonSeeds {
		compareReaders(t, seed)
	}
}

func compareReaders(t *testing.T, text string) {
	t.Helper()
	ours, theirs := strictObject(text), oracleObject(text)
	if (ours == nil) != (theirs == nil) {
		t.Errorf("%q: ours %v, jsontext %v", text, ours, theirs)
	}
}

func FuzzReader(f *testing.F) {
	for _, seed := range jsonSeeds {
		f.Add(seed)
	}
	f.Add(rootClaims + "}")
	f.Fuzz(compareReaders)
}

// FuzzReaderStrings holds what strings and numbers read as against jsontext.
func FuzzReaderStrings(f *testing.F) {
	for _, seed := range []string{`"a"`, `"\u0041\n"`, `"\ud83d\ude00é"`, `"\/"`, `12`, `-1.5e3`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := reader{s: text}
		var got string
		var err error
		switch r.peek() {
		case '"':
			got, err = r.str()
		default:
			got, err = r.number()
		}
		if err == nil {
			err = r.end()
		}
		d := jsontext.NewDecoder(bytes.NewReader([]byte(text)))
		tok, oracleErr := d.ReadToken()
		want := ""
		if oracleErr == nil {
			if kind := tok.Kind(); kind != '"' && kind != '0' {
				return
			}
			want = tok.String()
			if _, end := d.ReadToken(); !errors.Is(end, io.EOF) {
				oracleErr = errJSONTrailing
			}
		}
		if (err == nil) != (oracleErr == nil) || (err == nil && got != want) {
			t.Errorf("%q: got %q, %v; jsontext %q, %v", text, got, err, want, oracleErr)
		}
	})
}
