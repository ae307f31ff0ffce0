package canonicaljson

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// lossyOnly lists the recorded values that the reference signs and that we only
// verify: integers beyond ±(2^53-1) written digit by digit. (Row
// signing-lossy-numbers of docs/compatibility.md.)
var lossyOnly = map[string]bool{
	"9007199254740992": true, "9007199254740993": true, "9223372036854775808": true,
	"18446744073709551616": true, "1000000000000000000000": true, "10000000000000000000000": true,
}

func TestRecordedForms(t *testing.T) {
	b, err := os.ReadFile("testdata/jcs.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Values []struct {
			Text      string  `json:"json_text"`
			Canonical *string `json:"canonical"`
			Hex       string  `json:"canonical_hex"`
		} `json:"values"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Values) != 45 {
		t.Fatalf("%d values", len(v.Values))
	}
	for _, c := range v.Values {
		got, err := Canonical([]byte(c.Text), Options{LossyNumbers: true})
		if c.Canonical == nil {
			if err == nil {
				t.Errorf("%s: accepted as %s", c.Text, got)
			}
			continue
		}
		if err != nil || string(got) != *c.Canonical || hex.EncodeToString(got) != c.Hex {
			t.Errorf("%s: %s %v, want %s", c.Text, got, err, *c.Canonical)
		}
		strict, err := Canonical([]byte(c.Text), Options{})
		switch {
		case lossyOnly[c.Text] && !errors.Is(err, ErrNumber):
			t.Errorf("%s: strict: %s %v, want ErrNumber", c.Text, strict, err)
		case !lossyOnly[c.Text] && (err != nil || !bytes.Equal(strict, got)):
			t.Errorf("%s: strict: %s %v", c.Text, strict, err)
		}
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{
		"9007199254740991": "9007199254740991", "-9007199254740991": "-9007199254740991", "1e21": "1e+21", "1e20": "100000000000000000000",
		"9.007199254740992e15": "9007199254740992", "9007199254740992e0": "9007199254740992", "-0": "0", "-0.0": "0", "0e5": "0", "1E+22": "1e+22", "3.141592653589793238": "3.141592653589793",
		"9007199254740993e0": "", "9.007199254740993e15": "", "9007199254740993.0": "", "9007199254740993": "", "123456789012345680000": "", "1e400": "", "-1e400": "",
	} {
		got, err := Canonical([]byte(text), Options{})
		if want == "" {
			if !errors.Is(err, ErrNumber) {
				t.Errorf("%s: %s %v, want ErrNumber", text, got, err)
			}
			continue
		}
		if err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", text, got, err, want)
		}
	}
	if _, err := Canonical([]byte("1e400"), Options{LossyNumbers: true}); !errors.Is(err, ErrNumber) {
		t.Errorf("1e400: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		text string
		o    Options
		want error // nil: any
	}{
		{deep(DefaultMaxDepth + 1), Options{}, ErrDepth},
		{deep(5), Options{MaxDepth: 4}, ErrDepth},
		{"{}{}", Options{}, ErrTrailing},
		{"{} x", Options{}, ErrTrailing},
		{"", Options{}, nil},
		{"{", Options{}, nil},
		{`{"a":1,"a":2}`, Options{}, jsontext.ErrDuplicateName},
		{`{"a":1,"\u0061":2}`, Options{}, jsontext.ErrDuplicateName},
		{`"\ud83d"`, Options{}, nil},
		{"\"\xff\"", Options{}, nil},
		{"NaN", Options{}, nil},
	} {
		got, err := Canonical([]byte(c.text), c.o)
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%.40q: %s %v, want %v", c.text, got, err, c.want)
		}
		if err := Check([]byte(c.text), c.o); err == nil {
			t.Errorf("%.40q: Check accepts it", c.text)
		}
	}
	for _, text := range []string{deep(DefaultMaxDepth), ` {"b":[], "a":{}} `} {
		if err := Check([]byte(text), Options{}); err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestSourceIsNotModified(t *testing.T) {
	src := []byte(`{"b": 1, "a": 2}`)
	before := bytes.Clone(src)
	if _, err := Canonical(src, Options{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(src, before) {
		t.Errorf("changed to %s", src)
	}
}

func TestDoublesAreStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := math.Float64frombits(rapid.Uint64().Draw(t, "bits"))
		if math.IsNaN(f) || math.IsInf(f, 0) {
			f = 0
		}
		once, err := Canonical(jsontext.AppendFloat(nil, f, 64), Options{LossyNumbers: true})
		if err != nil {
			t.Fatal(err)
		}
		twice, err := Canonical(once, Options{LossyNumbers: true})
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s then %s, %v", once, twice, err)
		}
	})
}

// FuzzCanonical: whatever is accepted has a canonical form that is valid, says
// the same, is its own canonical form, and does not depend on the spelling.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":[1.0,-0,1e21,"\u00e9\/"]}`, `"\ud83d\ude00"`, `9007199254740993`, `{"\ufb33":1,"😀":2}`, `[[[]]]`, `{"a":1,"a":2}`, `1e20`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		lossy := Options{LossyNumbers: true}
		once, err := Canonical(src, lossy)
		strict, strictErr := Canonical(src, Options{})
		if err != nil {
			if strictErr == nil {
				t.Fatalf("strict accepts what lossy refuses: %v", err)
			}
			return
		}
		if strictErr == nil && !bytes.Equal(strict, once) {
			t.Fatalf("strict %s, lossy %s", strict, once)
		}
		twice, err := Canonical(once, lossy)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s is not its own canonical form: %s %v", once, twice, err)
		}
		respelled := jsontext.Value(bytes.Clone(src))
		if err := respelled.Format(jsontext.Multiline(true), jsontext.EscapeForHTML(true), jsontext.EscapeForJS(true)); err != nil {
			t.Fatal(err)
		}
		if again, err := Canonical(respelled, lossy); err != nil || !bytes.Equal(again, once) {
			t.Fatalf("spelled otherwise: %s %v, want %s", again, err, once)
		}
	})
}
