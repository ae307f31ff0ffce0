package httpapi

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	asap "github.com/asap-protocol/asap-go"
)

// within returns a part of the OpenAPI document.
func within(t *testing.T, doc map[string]any, names ...string) map[string]any {
	t.Helper()
	for _, name := range names {
		next, ok := doc[name].(map[string]any)
		if !ok {
			t.Fatalf("%v: no %s", names, name)
		}
		doc = next
	}
	return doc
}

// What schemathesis found: the document says of every answer what it is.
func TestOpenAPIDescribesEveryAnswer(t *testing.T) {
	n := newNode(t, nil)
	doc := n.do("", "GET", "/openapi.json", "").is(200)
	for _, c := range []struct {
		path, method, status string
		media                []string
	}{
		{"/audit/checkpoint", "get", "200", []string{"application/json", "text/plain"}},
		{"/audit/export", "get", "200", []string{"application/json", "application/x-ndjson", "text/csv"}},
		{"/audit/verify", "get", "200", []string{"application/json", "application/x-ndjson"}},
		{"/usage/export", "get", "200", []string{"application/json", "application/x-ndjson", "text/csv"}},
		{"/usage", "get", "401", []string{"application/problem+json"}},
		{"/usage/batch", "post", "413", []string{"application/problem+json"}},
		{"/registry/agents/{id}", "get", "404", []string{"application/problem+json"}},
		{"/openapi.json", "get", "200", []string{"application/openapi+json"}},
		{"/metrics", "get", "403", []string{"application/json"}},
		{"/asap", "post", "413", []string{"application/json"}},
	} {
		responses := within(t, doc, "paths", c.path, c.method, "responses")
		if responses["default"] != nil {
			t.Errorf("%s %s: everything is documented by a default", c.method, c.path)
		}
		var media []string
		for m := range within(t, responses, c.status, "content") {
			media = append(media, m)
		}
		slices.Sort(media)
		if !slices.Equal(media, c.media) {
			t.Errorf("%s %s %s: %v, want %v", c.method, c.path, c.status, media, c.media)
		}
	}
	schemas := within(t, doc, "components", "schemas")
	for _, c := range [][2]string{{"UsageRecord", "delegation"}, {"UsageRecord", "tokens"}, {"AgentAnswer", "price"}, {"AgentAnswer", "capabilities"},
		{"AgentSLA", "sla_score"}, {"ImportedAnswer", "receipt"}} {
		property := within(t, schemas, c[0], "properties", c[1])
		either, _ := property["anyOf"].([]any)
		if len(either) != 2 || either[1].(map[string]any)["type"] != "null" {
			t.Errorf("%s.%s can be null, and is described as %v", c[0], c[1], property)
		}
	}
	if kind := within(t, schemas, "VerdictAnswer", "properties", "reconciliation")["type"]; !slices.Equal(kind.([]any), []any{"object", "null"}) {
		t.Errorf("reconciliation is described as %v", kind)
	}
	for _, c := range [][2]string{{"BreachView", "duration_seconds"}, {"OpenBreach", "duration_seconds"}, {"Outage", "duration_seconds"}, {"Period", "down_seconds"}} {
		if kind := within(t, schemas, c[0], "properties", c[1])["type"]; kind != "number" {
			t.Errorf("%s.%s is described as %v, and has a fraction", c[0], c[1], kind)
		}
	}
	if kind := within(t, schemas, "RecordPage", "properties", "data")["type"]; kind != "array" {
		t.Errorf("a list that is never null is described as %v", kind)
	}
}

// What schemathesis found: a parameter is described as narrowly as it is read.
func TestOpenAPIDescribesParameters(t *testing.T) {
	n := newNode(t, nil)
	doc := n.do("", "GET", "/openapi.json", "").is(200)
	of := func(path, name string) map[string]any {
		for _, p := range within(t, doc, "paths", path, "get")["parameters"].([]any) {
			if p := p.(map[string]any); p["name"] == name {
				return p["schema"].(map[string]any)
			}
		}
		t.Fatalf("%s has no parameter %s", path, name)
		return nil
	}
	for _, c := range []struct {
		path, name, member string
		want               any
	}{
		{"/usage", "limit", "minimum", 1.0}, {"/usage", "limit", "maximum", 1000.0}, {"/usage", "agent", "minLength", 1.0},
		{"/usage", "cursor", "format", "cursor"}, {"/usage", "offset", "minimum", 0.0}, {"/usage/agents", "limit", "maximum", 10000.0},
		{"/usage/aggregate", "tz", "format", "time-zone"}, {"/audit/proof/inclusion", "size", "minimum", 1.0},
		{"/registry/agents/{id}", "id", "pattern", urnPattern}, {"/registry/agents", "min_availability", "pattern", percentagePattern},
	} {
		if got := of(c.path, c.name)[c.member]; got != c.want {
			t.Errorf("%s %s: %s is %v, want %v", c.path, c.name, c.member, got, c.want)
		}
	}
	if either := of("/usage", "start")["anyOf"].([]any); len(either) != 2 {
		t.Errorf("start: %v", either)
	}
}

// What schemathesis found: null passed for a question, and 1.0 not for a whole
// number.
func TestVerifyDelegationReadsItsForm(t *testing.T) {
	n := newNode(t, nil)
	for _, body := range []string{"null", "[]", `"x"`, "{}", `{"token":null}`, `{"token":"x","at":1.5}`, `{"token":"x","at":1e15}`, `{"token":"x","surprise":1}`,
		`{"token":"x","roots":[null]}`, `{"token":"x","revoked":[null]}`,
		`{"token":"x","revoked":[""]}`, `{"token":"x","revoked":["# x|y"]}`, `{"token":"x","revoked":["urn:asap:agent:a|x\n"]}`} {
		n.post("/delegations/verify", body).refuses(422, asap.CodeValidation)
	}
	n.post("/delegations", "null").refuses(403, asap.CodeForbidden) // the operator delegates nothing
	n.do("urn:asap:agent:a", "POST", "/delegations", "null").refuses(422, asap.CodeValidation)
	n.post("/delegations/verify", `{"token":"x","at":1.0}`).refuses(503, asap.CodeDelegationStateUnavailable) // as far as this node goes
}

// What schemathesis found: the name of an unknown member, cut in the middle of a
// character, brought the answer down.
func TestRefusalsThatRepeatWhatWasSent(t *testing.T) {
	n := newNode(t, nil)
	for _, name := range []string{strings.Repeat("é", 80), "x" + strings.Repeat("é", 80), "0" + strings.Repeat("\U00010000", 30), strings.Repeat("a", 500)} {
		body := `{"manifest":{"` + name + `":null},"signature":{"alg":"ed25519","signature":""}}`
		n.do("operator", "PUT", "/registry/agents/urn:asap:agent:a", body).refuses(422, asap.CodeValidation)
	}
	for _, c := range [][2]string{
		{"GET", "/usage?agent=%FF&agent_id=%FE"}, {"GET", "/usage/aggregate?group_by=%FF"}, {"GET", "/usage/aggregate?group_by=day&tz=%FF"}, {"GET", "/usage?cursor=%FF"},
		{"GET", "/usage?start=%FF"}, {"GET", "/registry/agents/%FF"}, {"GET", "/registry/agents?sort=%FF"}, {"GET", "/registry/agents?min_availability=%FF"},
		{"GET", "/usage/%FF"}, {"GET", "/delegations/%FF"}, {"GET", "/audit/logs/%FF"}, {"GET", "/sla?window=%FF"}, {"DELETE", "/delegations/x?issuer=%FF"}, {"GET", "/usage?%zz"},
	} {
		got := n.do("operator", c[0], c[1], "")
		if got.Code < 400 || got.Code >= 500 || got.Header().Get("Content-Type") != "application/problem+json" || !utf8.Valid(got.Body.Bytes()) {
			t.Errorf("%s %s: %d %s", c[0], c[1], got.Code, got.Body)
		}
	}
}
