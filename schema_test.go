package asap

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

// staleSchemas names, per file, what the published schemas lack although the
// reference's code has it (core.md 9.10), as paths into the document.
var staleSchemas = map[string][]string{
	"envelope":     {"properties.requires_ack"},
	"manifest":     {"properties.sla", "properties.ttl_seconds", "$defs.SLADefinition"},
	"task":         {"properties.depth"},
	"agent":        {"properties.capabilities.minItems"},
	"conversation": {"properties.participants.minItems"},
	"message_send": {"properties.role", "$defs"},
	"message":      {"properties.role", "$defs"},
}

func TestSchemasHaveThePublishedShape(t *testing.T) {
	all := Schemas()
	if len(all) != 25 {
		t.Fatalf("%d schemas", len(all))
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/schemas/" + s.Path)
			if err != nil {
				t.Fatal(err)
			}
			var want, got any
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(s.JSON(), &got); err != nil {
				t.Fatalf("%v in %s", err, s.JSON())
			}
			want, got = withoutDescriptions(want), withoutDescriptions(got)
			for _, path := range staleSchemas[s.Name] {
				remove(want, strings.Split(path, "."))
				if !remove(got, strings.Split(path, ".")) {
					t.Errorf("our schema has no %s", path)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-published +ours):\n%s", diff)
			}
		})
	}
}

func withoutDescriptions(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if _, text := value.(string); text && name == "description" {
				delete(v, name)
				continue
			}
			v[name] = withoutDescriptions(value)
		}
	case []any:
		for i := range v {
			v[i] = withoutDescriptions(v[i])
		}
	}
	return v
}

func remove(v any, path []string) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	if len(path) == 1 {
		_, ok := m[path[0]]
		delete(m, path[0])
		return ok
	}
	return remove(m[path[0]], path[1:])
}

func TestValidate(t *testing.T) {
	if err := Validate("envelope", []byte(goodEnvelope)); err != nil {
		t.Error(err)
	}
	if err := Validate("message_ack", []byte(goodEnvelope)); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("%v", err)
	}
	if DetectSchema([]byte(goodEnvelope)) != "envelope" || DetectSchema([]byte(`{"payload_type":1}`)) != "" || DetectSchema([]byte(`{`)) != "" || DetectSchema([]byte(`[]`)) != "" {
		t.Error("DetectSchema")
	}
	for _, s := range Schemas() {
		var invalid *ValidationError
		for _, bad := range []string{``, `{`, `[]`, `{"no_such_member":1}`, `{"type":"text","type":"text"}`} {
			if err := Validate(s.Name, []byte(bad)); !errors.As(err, &invalid) {
				t.Errorf("%s: %s: %v", s.Name, bad, err)
			}
		}
	}
	for name, good := range map[string]string{
		"text_part": `{"type":"text","content":""}`, "data_part": `{"type":"data","data":{}}`, "file_part": `{"type":"file","uri":"","mime_type":"a/b"}`,
		"resource_part": `{"type":"resource","resource_uri":""}`, "template_part": `{"type":"template","template":"","variables":{}}`, "manifest": goodManifest,
	} {
		if err := Validate(name, []byte(good)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Validate("text_part", []byte(`{"type":"data","content":""}`)); err == nil {
		t.Error("a part of another type passed as text_part")
	}
}
