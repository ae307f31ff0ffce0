package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordedRegistries(t *testing.T) {
	for name, want := range map[string]int{"registry_example.json": 2, "registry_v2_5.json": 120} {
		lite, err := ParseLite(recorded(t, name))
		if err != nil || len(lite.Entries) != want || lite.Skipped != 0 {
			t.Fatalf("%s: %d entries, %d skipped, %v", name, len(lite.Entries), lite.Skipped, err)
		}
		// What is written is read again, and holds v1.3.0's members alone.
		again, err := ParseLite(AppendLite(nil, noon, lite.Entries))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lite.Entries, again.Entries); diff != "" {
			t.Errorf("%s (-read +written and read):\n%s", name, diff)
		}
	}
}

// The example is in the form v1.3.0 takes; what we write of it differs in blanks
// and in the time.
func TestLiteForm(t *testing.T) {
	lite, err := ParseLite(recorded(t, "registry_example.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := jsontext.Value(recorded(t, "registry_example.json"))
	got := jsontext.Value(AppendLite(nil, time.Date(2026, 2, 7, 0, 0, 0, 0, time.UTC), lite.Entries))
	if err := errors.Join(want.Canonicalize(), got.Canonicalize()); err != nil || string(got) != string(want) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
	empty := string(AppendLite(nil, time.Time{}, nil))
	if want := `{"version":"1.0","updated_at":"0001-01-01T00:00:00Z","agents":[]}`; empty != want {
		t.Errorf("empty: %s", empty)
	}
}

func TestParseLiteIsTolerant(t *testing.T) {
	good := `{"id":"urn:asap:agent:a","name":"A","description":"","endpoints":{"x":"1","manifest":"m","ws":"w","http":"h"},"skills":["s"],"asap_version":"1"}`
	with := func(old, replacement string) string { return strings.Replace(good, old, replacement, 1) }
	for name, c := range map[string]struct {
		entry  string
		reason string
	}{
		"later members":     {with(`{"id"`, `{"category":"x","tags":[1],"verification":null,"id"`), ""},
		"no skills":         {with(`"skills":["s"],`, ``), ""},
		"list":              {`[]`, "not an object"},
		"null":              {`null`, "not an object"},
		"member twice":      {with(`"name":"A"`, `"name":"A","name":"B"`), "twice"},
		"wrong type":        {with(`"name":"A"`, `"name":1`), "wrong type"},
		"no endpoints":      {with(`"endpoints":{"x":"1","manifest":"m","ws":"w","http":"h"},`, ``), "are needed"},
		"null version":      {with(`"asap_version":"1"`, `"asap_version":null`), "are needed"},
		"urn":               {with(`agent:a"`, `agent:A"`), "id: "},
		"urn and line feed": {with(`agent:a"`, `agent:a\n"`), "id: "},
		"long name":         {with(`"A"`, `"`+strings.Repeat("x", maxName+1)+`"`), "too long"},
		"long skill":        {with(`"s"`, `"`+strings.Repeat("x", maxName+1)+`"`), "too long"},
		"long address":      {with(`"h"`, `"`+strings.Repeat("x", maxText+1)+`"`), "too long"},
	} {
		lite, err := ParseLite([]byte(` {"agents":[` + c.entry + `,` + with(`agent:a`, `agent:b`) + `],"extra":{}}`))
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason == "" && (lite.Skipped != 0 || len(lite.Entries) != 2):
			t.Errorf("%s: skipped: %+v", name, lite.SkippedFirst)
		case c.reason != "" && (lite.Skipped != 1 || len(lite.Entries) != 1 || lite.SkippedFirst[0].Index != 0 || !strings.Contains(lite.SkippedFirst[0].Reason, c.reason)):
			t.Errorf("%s: %+v", name, lite)
		}
	}
	var many strings.Builder
	for range maxSkipped + 50 {
		many.WriteString("," + good)
	}
	lite, err := ParseLite([]byte(`{"agents":[` + many.String()[1:] + `]}`))
	if err != nil || len(lite.Entries) != 1 || lite.Skipped != maxSkipped+49 || len(lite.SkippedFirst) != maxSkipped {
		t.Errorf("repeated: %d, %d, %v", len(lite.Entries), lite.Skipped, err)
	}
	if e := lite.Entries[0]; e.Address("http") != "h" || e.Address("none") != "" || fmt.Sprint(e.Endpoints) != "[{http h} {ws w} {manifest m} {x 1}]" {
		t.Errorf("%+v", e)
	}
	for name, document := range map[string]string{"empty": ``, "list": `[]`, "no agents": `{}`, "agents null": `{"agents":null}`, "agents no list": `{"agents":{}}`,
		"cut": `{"agents":[`, "too many": `{"agents":[` + strings.Repeat("1,", MaxEntries) + `1]}`} {
		if _, err := ParseLite([]byte(document)); !errors.Is(err, ErrNotLite) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImportRules(t *testing.T) {
	entry := Entry{ID: alpha, Name: "Imported", Endpoints: []Address{{"http", "https://a.example"}}, ASAPVersion: "1.0"}
	first := entry.Apply(nil, noon)
	if first.Change != Registered || first.Agent.Source != Imported || first.Agent.Keys != nil {
		t.Fatalf("%+v", first)
	}
	if again := entry.Apply(&first.Agent, noon.Add(time.Hour)); again.Change != Unchanged {
		t.Errorf("again: %+v", again)
	}
	renamed := entry
	renamed.Name = "Renamed"
	if got := renamed.Apply(&first.Agent, noon.Add(time.Hour)); got.Change != Updated || !got.Agent.RegisteredAt.Equal(noon) || got.Agent.Lite().Name != "Renamed" {
		t.Errorf("renamed: %+v", got)
	}
	// A signed manifest takes its place, whatever its version, and stays.
	signed, err := attempt{by: itself, version: "0.1", key: 1}.on(t, &first.Agent, noon.Add(time.Hour))
	if err != nil || signed.Change != Registered {
		t.Fatalf("%+v, %v", signed, err)
	}
	removed, err := (&Removal{By: operator, ID: alpha}).Apply(&signed.Agent, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range []*Agent{&signed.Agent, &removed.Agent} {
		if got := entry.Apply(have, noon); got.Change != Unchanged {
			t.Errorf("over a signed one: %+v", got)
		}
	}
	gone, err := (&Removal{By: operator, ID: alpha}).Apply(&first.Agent, noon)
	if err != nil {
		t.Fatal(err)
	}
	if got := entry.Apply(&gone.Agent, noon); got.Change != Registered {
		t.Errorf("imported again: %+v", got)
	}
	for _, c := range []Change{Unchanged, Registered, Updated, Removed} {
		if c.String() == "" {
			t.Error(int(c))
		}
	}
}

func FuzzParseLite(f *testing.F) {
	f.Add(recorded(f, "registry_example.json"))
	f.Add([]byte(`{"agents":[{"id":"urn:asap:agent:a","name":"","description":"","endpoints":{},"asap_version":""},[],{}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		lite, err := ParseLite(document)
		if err != nil {
			return
		}
		again, err := ParseLite(AppendLite(nil, noon, lite.Entries))
		if err != nil || again.Skipped != 0 || len(again.Entries) != len(lite.Entries) {
			t.Fatalf("%d of %d entries are read back, %v", len(again.Entries), len(lite.Entries), err)
		}
	})
}
