package metering

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	asap "github.com/asap-protocol/asap-go"
)

// text draws names, also such that JSON, CSV and spreadsheets trip over.
var text = rapid.OneOf(
	rapid.StringMatching(`[a-z]{1,6}`),
	rapid.SampledFrom([]string{"=cmd()", "a,b\"c\nd", "café", "\u2028", "\x00\x1f\x7f", "+1", "-1", "@x", "\tt", "\r", "'", "<&>", "𝔘", "\\"}),
)

func maybe[T any](t *rapid.T, g *rapid.Generator[T], name string) (v T) {
	if rapid.Bool().Draw(t, name+"?") {
		v = g.Draw(t, name)
	}
	return v
}

func drawCount(t *rapid.T, name string) Count {
	if !rapid.Bool().Draw(t, name+"?") {
		return nil
	}
	n := rapid.Int64Range(0, 1000).Draw(t, name)
	return &n
}

// instants around the changes of clocks of several zones.
var instant = rapid.Custom(func(t *rapid.T) time.Time {
	base := rapid.SampledFrom([]time.Time{
		time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC),
		time.Date(2026, 3, 8, 7, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC),
		time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC),
	}).Draw(t, "near")
	return base.Add(time.Duration(rapid.Int64Range(-30*3600e6, 30*3600e6).Draw(t, "us")) * time.Microsecond)
})

func drawRecord(t *rapid.T) Record {
	r := Record{
		ID: rapid.StringMatching(`[0-9A-Z]{26}`).Draw(t, "id"), Kind: Usage,
		TaskID: asap.TaskID(text.Draw(t, "task")), Agent: asap.AgentURN(rapid.SampledFrom([]string{"urn:asap:agent:a", "urn:asap:agent:b", "urn:asap:agent:b:2"}).Draw(t, "agent")),
		Consumer: asap.AgentURN(rapid.SampledFrom([]string{"urn:asap:agent:c", "urn:asap:agent:d"}).Draw(t, "consumer")),
		Verified: rapid.Bool().Draw(t, "verified"), Skill: maybe(t, rapid.SampledFrom([]string{"echo", "=s"}), "skill"),
		Outcome:  rapid.SampledFrom([]Outcome{Completed, Failed, Cancelled, TimedOut, Rejected}).Draw(t, "outcome"),
		TokensIn: drawCount(t, "in"), TokensOut: drawCount(t, "out"), APICalls: drawCount(t, "calls"),
		DurationMS: drawCount(t, "ms"), Model: maybe(t, text, "model"),
		ParentTask: asap.TaskID(maybe(t, text, "parent")), TraceID: maybe(t, text, "trace"),
		Evidence:  rapid.SampledFrom([]Evidence{Estimated, SelfReported, Observed, ProviderReported}).Draw(t, "evidence"),
		Timestamp: instant.Draw(t, "timestamp"), ReceivedAt: maybe(t, instant, "received"),
		Overrun: rapid.Bool().Draw(t, "overrun"), Indeterminate: rapid.Bool().Draw(t, "indeterminate"),
	}
	if r.TokensIn != nil && rapid.Bool().Draw(t, "in buckets") {
		read := rapid.Int64Range(0, *r.TokensIn).Draw(t, "read")
		rest := *r.TokensIn - read
		r.Tokens.InputCacheRead, r.Tokens.InputUncached = &read, &rest
	}
	if r.TokensOut != nil && rapid.Bool().Draw(t, "out buckets") {
		all := *r.TokensOut
		r.Tokens.OutputText = &all
	}
	if rapid.Bool().Draw(t, "delegated") {
		id := rapid.SampledFrom([]string{"del_1", "del_2"}).Draw(t, "delegation")
		r.Delegation = &Delegation{Issuer: "urn:asap:agent:i", TokenID: id, RootIssuer: "urn:asap:agent:r", RootID: maybe(t, text, "root")}
	}
	if rapid.Bool().Draw(t, "priced") {
		cost := NanoUSD(rapid.Int64Range(0, int64(MaxCost)).Draw(t, "cost") / 1000)
		r.CostNanoUSD, r.PriceList = &cost, strings.Repeat("0", 64)
	}
	if rapid.Bool().Draw(t, "signed") {
		r.Signature, r.PublicKey = rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "signature"), rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
	}
	return r
}

func TestCanonicalFormIsThatOfRFC8785AndReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		if err := r.Validate(); err != nil {
			t.Fatal(err)
		}
		canonical := r.AppendCanonical(nil)
		v := jsontext.Value(bytes.Clone(canonical))
		if err := v.Canonicalize(); err != nil || !bytes.Equal(v, canonical) {
			t.Fatalf("%v:\n%s\n%s", err, canonical, v)
		}
		back, err := ParseRecord(canonical)
		if err != nil {
			t.Fatalf("%v: %s", err, canonical)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Fatalf("%s\n%s", canonical, diff)
		}
		if r.Hash() != back.Hash() {
			t.Fatal("the hash changed")
		}

		priced := r
		cost := NanoUSD(7)
		priced.CostNanoUSD, priced.PriceList, priced.ReceivedAt, priced.Sequence, priced.Signature = &cost, "x", noon, 9, nil
		if priced.ContentDigest() != r.ContentDigest() {
			t.Fatal("what the node adds changes the content")
		}
		other := r
		other.DurationMS = new(int64(-7))
		if other.ContentDigest() == r.ContentDigest() || other.Hash() == r.Hash() {
			t.Fatal("another quantity has the same digest")
		}
	})
}

func TestWireFormCarriesBothSpellings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		r.Sequence = 7
		b, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var wire map[string]any
		if err := json.Unmarshal(b, &wire); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if wire["agent"] != wire["agent_id"] || wire["consumer"] != wire["consumer_id"] || wire["agent"] != string(r.Agent) || wire["sequence"] != 7.0 {
			t.Fatalf("%s", b)
		}
		if (wire["tokens_in"] == nil) != (r.TokensIn == nil) || (wire["cost_usd"] == nil) != (wire["cost_status"] == "unpriced") {
			t.Fatalf("unknown is not null: %s", b)
		}
	})
}

func TestTouchedRecordsDoNotComeBack(t *testing.T) {
	r, err := ParseReport(report(`,"id":"x","api_calls":1`), noon)
	if err != nil {
		t.Fatal(err)
	}
	good := string(r.AppendCanonical(nil))
	if _, err := ParseRecord([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"blank":             good + " ",
		"two values":        good + good,
		"order":             strings.Replace(strings.Replace(good, `"api_calls":1,`, "", 1), "{", `{"api_calls":1,`, 1),
		"respelt number":    strings.Replace(good, `"api_calls":1`, `"api_calls":1.0`, 1),
		"escaped":           strings.Replace(good, `"x"`, `"\u0078"`, 1),
		"unknown member":    strings.Replace(good, "{", `{"a":1,`, 1),
		"other case":        strings.Replace(good, `"id"`, `"ID"`, 1),
		"respelt time":      strings.Replace(good, "11:59:00Z", "11:59:00.0Z", 1),
		"time with offset":  strings.Replace(good, "11:59:00Z", "11:59:00+00:00", 1),
		"no time":           strings.Replace(good, "11:59:00Z", "noon", 1),
		"received nonsense": strings.Replace(good, `"task_id"`, `"received_at":"x","task_id"`, 1),
		"cost nonsense":     strings.Replace(good, `,"evidence"`, `,"cost_usd":"x","evidence"`, 1),
		"negative":          strings.Replace(good, `"api_calls":1`, `"api_calls":-1`, 1),
		"not JSON":          good[:10],
	} {
		if bad == good {
			t.Fatalf("%s changes nothing", name)
		}
		if got, err := ParseRecord([]byte(bad)); err == nil {
			t.Errorf("%s was read: %+v", name, got)
		}
	}
}

func TestValidate(t *testing.T) {
	n, negative, huge, over := int64(5), int64(-5), int64(MaxQuantity+1), MaxCost+1
	good := Record{ID: "i", Kind: Usage, TaskID: "t", Agent: "urn:asap:agent:a", Consumer: "urn:asap:agent:c", Outcome: Completed, Evidence: Observed, Timestamp: noon}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field  string
		change func(*Record)
	}{
		{"kind", func(r *Record) { r.Kind = "" }},
		{"ref", func(r *Record) { r.Ref = "x" }},
		{"ref", func(r *Record) { r.Kind = Void }},
		{"outcome", func(r *Record) { r.Outcome = "" }},
		{"evidence", func(r *Record) { r.Evidence = "" }},
		{"id", func(r *Record) { r.ID = "" }},
		{"task_id", func(r *Record) { r.TaskID = "" }},
		{"agent_id", func(r *Record) { r.Agent = "" }},
		{"agent_id", func(r *Record) { r.Agent = "agent" }},
		{"model", func(r *Record) { r.Model = strings.Repeat("é", 257) }},
		{"consumer_id", func(r *Record) { r.Consumer = asap.AgentURN(strings.Repeat("x", 257)) }},
		{"skill", func(r *Record) { r.Skill = "\xff" }},
		{"delegation.token_id", func(r *Record) { r.Delegation = &Delegation{Issuer: "i"} }},
		{"tokens_in", func(r *Record) { r.TokensIn = &negative }},
		{"tokens_out", func(r *Record) { r.TokensOut = &huge }},
		{"duration_ms", func(r *Record) { r.DurationMS = new(int64(-1)) }},
		{"tokens_in", func(r *Record) { r.Tokens.InputCacheWrite = &n }},
		{"cost_usd", func(r *Record) { r.CostNanoUSD = &over }},
		{"cost_usd", func(r *Record) { c := NanoUSD(-1); r.CostNanoUSD = &c }},
		{"timestamp", func(r *Record) { r.Timestamp = time.Time{} }},
		{"timestamp", func(r *Record) { r.Timestamp = noon.Add(time.Nanosecond) }},
		{"timestamp", func(r *Record) { r.Timestamp = noon.AddDate(8000, 0, 0) }},
		{"received_at", func(r *Record) { r.ReceivedAt = noon.In(time.FixedZone("", 3600)) }},
	} {
		r := good
		c.change(&r)
		var refusal *Error
		if err := r.Validate(); !errors.As(err, &refusal) || refusal.Code != CodeInvalid || refusal.Issues[0].Field != c.field {
			t.Errorf("%s: %v", c.field, err)
		}
	}
}

func BenchmarkAppendCanonical(b *testing.B) {
	r, err := ParseReport(report(`,"tokens_in":7,"tokens_out":9,"api_calls":1,"skill":"echo"`), noon)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendCanonical(buf[:0])
	}
}

func BenchmarkParseRecord(b *testing.B) {
	r, err := ParseReport(report(`,"tokens_in":7,"tokens_out":9,"api_calls":1,"skill":"echo"`), noon)
	if err != nil {
		b.Fatal(err)
	}
	canonical := r.AppendCanonical(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(canonical); err != nil {
			b.Fatal(err)
		}
	}
}
