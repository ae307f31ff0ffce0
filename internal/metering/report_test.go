package metering

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	asap "github.com/asap-protocol/asap-go"
	"github.com/asap-protocol/asap-go/internal/canonicaljson"
)

var noon = time.Date(2026, 2, 20, 12, 0, 0, 0, time.UTC) // of the recordings

func recorded[T any](t *testing.T, name string) (v T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Where this project deliberately differs from the recorded verdicts.
var reportDifferences = map[string]string{
	"empty_task_ok":    "a task must have a name, or nobody can ask for it",
	"agent_not_urn_ok": "an agent is named by its URN, or the audit log cannot name it",
	"tokens_2p53p1":    "beyond what a record may report",
	"tokens_2p63":      "beyond what a record may report",
	"tokens_1e30_int":  "beyond what a record may report",
}

func TestReportsAsRecorded(t *testing.T) {
	type issue struct {
		Type string `json:"type"`
		Loc  []any  `json:"loc"`
	}
	vectors := recorded[struct {
		Cases []struct {
			Name   string         `json:"name"`
			Input  jsontext.Value `json:"input"`
			Result struct {
				Accepted bool           `json:"accepted"`
				JSON     map[string]any `json:"json"`
				Errors   []issue        `json:"errors"`
			} `json:"result"`
		} `json:"usage_metrics"`
	}](t, "usage_model.json")
	if len(vectors.Cases) < 30 {
		t.Fatalf("only %d cases", len(vectors.Cases))
	}
	seen := map[string]bool{}
	for _, c := range vectors.Cases {
		r, err := ParseReport(c.Input, noon)
		if why, ok := reportDifferences[c.Name]; ok {
			seen[c.Name] = true
			if (err == nil) == c.Result.Accepted {
				t.Errorf("%s: %v is no difference any more (%s)", c.Name, err, why)
			}
			continue
		}
		if (err == nil) != c.Result.Accepted {
			t.Errorf("%s: %v, recorded as accepted %t", c.Name, err, c.Result.Accepted)
			continue
		}
		if err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) || refusal.Code != CodeInvalid {
				t.Fatalf("%s: %v", c.Name, err)
			}
			var got, want []string
			for _, is := range refusal.Issues {
				got = append(got, is.Field+" "+is.Type)
			}
			for _, is := range c.Result.Errors {
				loc := ""
				if len(is.Loc) > 0 {
					loc = fmt.Sprint(is.Loc[0])
				}
				want = append(want, loc+" "+strings.Replace(is.Type, "datetime_from_date_parsing", "datetime_parsing", 1))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: issues %q, recorded %q", c.Name, got, want)
			}
			continue
		}
		var wire map[string]any
		if err := json.Unmarshal(r.AppendJSON(nil), &wire); err != nil {
			t.Fatal(err)
		}
		for name, want := range c.Result.JSON {
			got := wire[name]
			if name == "timestamp" {
				when, err := asap.ParseTimestamp(want.(string))
				if err != nil || !r.Timestamp.Equal(when) {
					t.Errorf("%s: timestamp %s, recorded %s", c.Name, r.Timestamp, want)
				}
				continue
			}
			if got == nil && want == 0.0 && c.Name == "only_required" {
				continue // what nobody reported is unknown, not 0
			}
			if got != want {
				t.Errorf("%s: %s = %v, recorded %v", c.Name, name, got, want)
			}
		}
	}
	if len(seen) != len(reportDifferences) {
		t.Errorf("only %v of the differences are in the recording", seen)
	}
}

func TestTimesAsRecorded(t *testing.T) {
	vectors := recorded[struct {
		Cases []struct {
			Input    jsontext.Value `json:"input"`
			Accepted bool           `json:"accepted"`
			JSONMode string         `json:"json_mode"`
			Unix     *float64       `json:"unix_if_aware"`
		} `json:"parsing"`
	}](t, "timestamps.json")
	if len(vectors.Cases) < 50 {
		t.Fatalf("only %d cases", len(vectors.Cases))
	}
	for _, c := range vectors.Cases {
		got, ok := laxTime(c.Input)
		if ok != c.Accepted {
			t.Errorf("%s: accepted %t, recorded %t", c.Input, ok, c.Accepted)
			continue
		}
		if !ok {
			continue
		}
		if c.Unix != nil && float64(got.UnixMicro())/1e6 != *c.Unix {
			t.Errorf("%s: %s, recorded as Unix time %f", c.Input, got, *c.Unix)
		}
		if want, err := asap.ParseTimestamp(c.JSONMode); err != nil || !want.Equal(got) || got.Location() != time.UTC {
			t.Errorf("%s: %s, recorded %s", c.Input, got, c.JSONMode)
		}
	}
}

func report(members string) jsontext.Value {
	return jsontext.Value(`{"task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:c","timestamp":"2026-02-20T11:59:00Z"` + members + `}`)
}

func TestReportRefusals(t *testing.T) {
	at := func(s string) jsontext.Value {
		return jsontext.Value(`{"task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:c","timestamp":"` + s + `"}`)
	}
	for _, c := range []struct {
		name  string
		input jsontext.Value
		code  asap.Code
		field string
	}{
		{"more than five minutes ahead", at("2026-02-20T12:05:00.000001Z"), CodeInFuture, "timestamp"},
		{"more than 35 days late", at("2026-01-16T11:59:59.999999Z"), CodeTooLate, "timestamp"},
		{"year 0", at("0000-01-01T00:00:00Z"), CodeInvalid, "timestamp"},
		{"negative", report(`,"api_calls":-1`), CodeInvalid, "api_calls"},
		{"negative text", report(`,"api_calls":"-1"`), CodeInvalid, "api_calls"},
		{"too many", report(`,"tokens_in":1000000000001`), CodeInvalid, "tokens_in"},
		{"far too many", report(`,"tokens_in":1e400`), CodeInvalid, "tokens_in"},
		{"agent no URN", jsontext.Value(`{"task_id":"t","agent":"café","consumer":"urn:asap:agent:c","timestamp":"2026-02-20T12:00:00Z"}`), CodeInvalid, "agent_id"},
		{"consumer no URN", jsontext.Value(`{"task_id":"t","agent":"urn:asap:agent:a","consumer":"=cmd()","timestamp":"2026-02-20T12:00:00Z"}`), CodeInvalid, "consumer_id"},
		{"two agents", report(`,"agent_id":"urn:asap:agent:b"`), CodeInvalid, "agent_id"},
		{"input buckets", report(`,"tokens_in":5,"tokens":{"input.uncached":2,"input.cache_read":2}`), CodeInvalid, "tokens_in"},
		{"output buckets", report(`,"tokens_out":5,"tokens":{"output.text":6}`), CodeInvalid, "tokens_out"},
		{"unknown bucket", report(`,"tokens":{"output.audio":6}`), CodeInvalid, "tokens.output.audio"},
		{"buckets no object", report(`,"tokens":6`), CodeInvalid, "tokens"},
		{"bad bucket", report(`,"tokens":{"output.text":"x"}`), CodeInvalid, "tokens.output.text"},
		{"outcome", report(`,"outcome":"done"`), CodeInvalid, "outcome"},
		{"evidence of the node", report(`,"evidence":"observed"`), CodeInvalid, "evidence"},
		{"unknown evidence", report(`,"evidence":"sworn"`), CodeInvalid, "evidence"},
		{"a void", report(`,"kind":"void"`), CodeInvalid, "kind"},
		{"a price", report(`,"cost_usd":"1"`), CodeInvalid, "cost_usd"},
		{"long id", report(`,"id":"` + strings.Repeat("é", 257) + `"`), CodeInvalid, "id"},
		{"id is a number", report(`,"id":1`), CodeInvalid, "id"},
		{"duplicate member", report(`,"api_calls":1,"api_calls":1`), CodeInvalid, ""},
		{"bad UTF-8", report(`,"skill":"` + "\xff" + `"`), CodeInvalid, ""},
		{"cut", report("")[:40], CodeInvalid, ""},
		{"cut after a member", jsontext.Value(`{"a":1`), CodeInvalid, ""},
		{"two values", append(report(""), '1'), CodeInvalid, ""},
		{"no JSON", jsontext.Value(`{task`), CodeInvalid, ""},
	} {
		r, err := ParseReport(c.input, noon)
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Code != c.code || refusal.Issues[0].Field != c.field {
			t.Errorf("%s: %v; want %s of %q", c.name, err, c.code, c.field)
		}
		if r.ID != "" || refusal != nil && refusal.Error() == "" {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	for _, s := range []string{"2026-02-20T12:05:00Z", "2026-01-16T12:00:00Z"} {
		if _, err := ParseReport(at(s), noon); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	wide := Bounds{MaxAhead: time.Hour * 24 * 365, MaxLate: time.Hour * 24 * 365}
	if _, err := wide.ParseReport(at("2027-01-01T00:00:00Z"), noon); err != nil {
		t.Error(err)
	}
}

func TestReportIsReadInBothSpellings(t *testing.T) {
	ours, err := ParseReport(report(`,"tokens_in":7,"tokens":{"output.text":1,"output.reasoning":"2"},"skill":"s","model":"m","outcome":"failed","evidence":"estimated","parent_task_id":"p","trace_id":null`), noon)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ParseReport(jsontext.Value(`{"timestamp":"2026-02-20T12:59:00+01:00","agent_id":"urn:asap:agent:a","consumer_id":"urn:asap:agent:c","consumer":"urn:asap:agent:c",
		"task_id":"t","tokens_in":"0_7","tokens_out":3.0,"tokens":{"output.reasoning":2,"output.text":1},"skill":"s","model":"m","outcome":"failed","evidence":"estimated","parent_task_id":"p"}`), noon)
	if err != nil {
		t.Fatal(err)
	}
	if ours.ID != theirs.ID || !strings.HasPrefix(ours.ID, "rpt_") || ours.ContentDigest() != theirs.ContentDigest() || *ours.TokensOut != 3 {
		t.Errorf("the same report reads differently:\n%s\n%s", ours.AppendJSON(nil), theirs.AppendJSON(nil))
	}
	other, err := ParseReport(report(`,"tokens_in":8`), noon)
	if err != nil || other.ID == ours.ID {
		t.Errorf("another report has id %s, %v", other.ID, err)
	}
	named, err := ParseReport(report(`,"id":"mine","tokens":{"input.uncached":1}`), noon)
	if err != nil || named.ID != "mine" || *named.TokensIn != 1 || named.TokensOut != nil {
		t.Errorf("%s, %v", named.AppendJSON(nil), err)
	}
	zoneless, err := ParseReport(jsontext.Value(`{"task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:c","timestamp":"2026-02-20T12:00:00"}`), noon)
	if err != nil || !zoneless.Timestamp.Equal(noon) || zoneless.Timestamp.Location() != time.UTC {
		t.Errorf("a zoneless time is %s, %v", zoneless.Timestamp, err)
	}
	if a, b := IDFromKey("urn:asap:agent:a", "k"), IDFromKey("urn:asap:agent:b", "k"); a == b || len(a) != 44 {
		t.Errorf("keys of two senders meet: %s, %s", a, b)
	}
}

func TestSignedReports(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	usage := `{ "timestamp":"2026-02-20T11:59:00Z", "task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:c","tokens_in":1.0}`
	canonical, err := canonicaljson.Canonical([]byte(usage), canonicaljson.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sig := base64.StdEncoding.EncodeToString(ed25519.Sign(key, canonical))
	pub := base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	sign := func(usage, sig, pub, more string) jsontext.Value {
		return jsontext.Value(`{"usage":` + usage + `,"signature":"` + sig + `","public_key":"` + pub + `"` + more + `}`)
	}
	got, signature, public, signed, err := OpenReport(sign(usage, sig, pub, ""))
	if err != nil || !signed || !bytes.Equal(got, []byte(usage)) || len(signature) != 64 || !bytes.Equal(public, key.Public().(ed25519.PublicKey)) {
		t.Fatalf("%s %t %v", got, signed, err)
	}
	plain, _, _, signed, err := OpenReport(report(""))
	if err != nil || signed || !bytes.Equal(plain, report("")) {
		t.Errorf("a plain report: %s, %t, %v", plain, signed, err)
	}
	if v, _, _, signed, err := OpenReport(jsontext.Value(`[]`)); signed || err != nil || string(v) != "[]" {
		t.Error("what is no report is for ParseReport to refuse")
	}
	for name, v := range map[string]jsontext.Value{
		"changed":         sign(strings.Replace(usage, "1.0", "2", 1), sig, pub, ""),
		"more members":    sign(usage, sig, pub, `,"x":1`),
		"no signature":    jsontext.Value(`{"usage":{},"x":1,"public_key":"` + pub + `"}`),
		"signature text":  sign(usage, "!", pub, ""),
		"signature short": sign(usage, "AAAA", pub, ""),
		"key number":      jsontext.Value(`{"usage":{},"signature":"` + sig + `","public_key":1}`),
		"key short":       sign(usage, sig, "AAAA", ""),
		"not canonical":   sign(`{"tokens_in":9007199254740993}`, sig, pub, ""),
	} {
		_, _, _, signed, err := OpenReport(v)
		var refusal *Error
		if !signed || !errors.As(err, &refusal) || refusal.Code != CodeSignature {
			t.Errorf("%s: %t, %v", name, signed, err)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(report(`,"tokens_in":"1_000","tokens":{"output.text":5}`)))
	f.Add([]byte(report(`,"id":"x","outcome":"failed","api_calls":1e3`)))
	f.Add([]byte(`{"usage":{},"signature":"","public_key":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, _, _ = OpenReport(b)
		_ = ReadMetrics(b)
		_, _, _ = ParseCorrection(b)
		r, err := ParseReport(b, noon)
		if err != nil {
			var refusal *Error
			if !errors.As(err, &refusal) || len(refusal.Issues) == 0 {
				t.Fatalf("a refusal without a reason: %v", err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("accepted an invalid record: %v", err)
		}
		canonical := r.AppendCanonical(nil)
		back, err := ParseRecord(canonical)
		if err != nil || !bytes.Equal(back.AppendCanonical(nil), canonical) {
			t.Fatalf("%v\n%s", err, canonical)
		}
		// What is shown is a report again, after taking out what the node adds.
		again, err := ParseReport(b, noon)
		if err != nil || again.ID != r.ID {
			t.Fatalf("read twice: %v", err)
		}
	})
}

// A duration nobody reported is not one of 0 ms.
func TestDurationLeftOut(t *testing.T) {
	const body = `{"task_id":"t","agent":"urn:asap:agent:a","consumer":"urn:asap:agent:c","timestamp":"2026-02-20T11:59:00Z"`
	unknown, err := ParseReport(jsontext.Value(body+"}"), noon)
	if err != nil || unknown.DurationMS != nil {
		t.Fatalf("%v, %v", unknown.DurationMS, err)
	}
	zero, err := ParseReport(jsontext.Value(body+`,"duration_ms":0}`), noon)
	if err != nil || zero.DurationMS == nil || *zero.DurationMS != 0 {
		t.Fatalf("%v, %v", zero.DurationMS, err)
	}
	if zero.ID == unknown.ID {
		t.Error("the two are one report")
	}
	if wire := string(unknown.AppendJSON(nil)); !strings.Contains(wire, `"duration_ms":null`) {
		t.Error(wire)
	}
}
