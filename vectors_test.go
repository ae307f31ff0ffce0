package asap

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// load reads a recorded file below testdata.
func load(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// ordered returns v compact and with sorted members; numbers keep their text.
func ordered(t testing.TB, v []byte) string {
	t.Helper()
	out := jsontext.Value(v).Clone()
	if err := out.Format(jsontext.ReorderRawObjects(true)); err != nil {
		t.Fatalf("%v in %s", err, v)
	}
	return string(out)
}

// A verdict is what the reference decided about an input.
type verdict struct {
	Accepted bool            `json:"accepted"`
	Errors   []recordedIssue `json:"errors"`
	Raises   string          `json:"raises"`
}

type recordedIssue struct {
	Type string           `json:"type"`
	Loc  []jsontext.Value `json:"loc"`
}

func (r recordedIssue) String() string {
	s := r.Type + " at"
	for _, step := range r.Loc {
		if step.Kind() == '"' {
			s += " " + string(unquote(step))
		} else {
			s += " " + string(step)
		}
	}
	return s
}

// compareVerdict fails the test unless err agrees with the recorded verdict, to
// the type and place of every issue.
func compareVerdict(t *testing.T, want verdict, err error) {
	t.Helper()
	if want.Accepted {
		if err != nil {
			t.Errorf("refused, but the reference accepts it: %v", err)
		}
		return
	}
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		t.Fatalf("the reference refuses this with %v; got error %v", want, err)
	}
	if want.Raises != "" { // the reference crashed instead of listing issues
		return
	}
	var got, expected []string
	for _, issue := range invalid.Issues {
		s := issue.Type + " at"
		for _, step := range issue.Loc {
			s += " " + step
		}
		got = append(got, s)
	}
	for _, issue := range want.Errors {
		expected = append(expected, issue.String())
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("issues differ from the reference's (-want +got):\n%s", diff)
	}
}

// A difference is a case in which this implementation decides otherwise on
// purpose: what we do, and why. Each also stands in docs/compatibility.md.
type difference struct {
	accept bool
	why    string
}

// differ checks a case against the list of deliberate differences. It reports
// whether the case was one. A difference that is none fails the test.
func differ(t *testing.T, list map[string]difference, name string, want verdict, err error) bool {
	t.Helper()
	d, ok := list[name]
	if !ok {
		return false
	}
	if d.accept == want.Accepted {
		t.Errorf("%q is listed as a difference (%s) but the reference decides the same", name, d.why)
	}
	if (err == nil) != d.accept {
		t.Errorf("listed difference (%s): accept=%v, got error %v", d.why, d.accept, err)
	}
	return true
}

func TestDifferencesAreExplained(t *testing.T) {
	text, err := os.ReadFile("docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []map[string]difference{envelopeDifferences, manifestDifferences, percentageDifferences, slaFieldDifferences, rpcDifferences} {
		for name, d := range list {
			if !contains(string(text), "`"+d.why+"`") {
				t.Errorf("difference %q: docs/compatibility.md has no row `%s`", name, d.why)
			}
		}
	}
}

func contains(text, part string) bool {
	for i := 0; i+len(part) <= len(text); i++ {
		if text[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// refusalOf returns err as the *Error it must be.
func refusalOf(t *testing.T, err error) *Error {
	t.Helper()
	var refusal *Error
	if !errors.As(err, &refusal) {
		t.Fatalf("%T %v is no *Error", err, err)
	}
	return refusal
}

func quoteName(s string) string { return strconv.Quote(s) }
