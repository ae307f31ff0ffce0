package slawatch_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/asap-protocol/asap-go/internal/slawatch"
)

// FuzzFilter: whatever a subscriber sends is a filter within its words, or is
// refused with a sentence.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`{"agents":["urn:asap:agent:a"],"objectives":["latency"],"windows":["30d"],"min_severity":"critical","since_seq":-1}`, `null`, `[]`, `{"windows":["1H"]}`, `{"since_seq":1e9}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		filter, err := slawatch.ParseFilter(params)
		if err != nil {
			if !errors.Is(err, slawatch.ErrFilter) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if filter.SinceSeq != nil && *filter.SinceSeq < -1 {
			t.Fatalf("%+v", filter)
		}
	})
}

// FuzzInput: a journaled input that is read is written to the same text again.
func FuzzInput(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"register","agent":"urn:asap:agent:a","interval_ms":1000,"ttl_ms":3000,"tz":"UTC"}`,
		`{"kind":"promise","agent":"urn:asap:agent:a","sla":{"availability":"99%"}}`,
		`{"kind":"probe","agent":"urn:asap:agent:a","state":"up","observer":"self","probed_at":"2026-02-20T12:00:00.5Z"}`,
		`{"kind":"tasks","from":1,"to":9}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var in, again slawatch.Input
		if json.Unmarshal(text, &in) != nil {
			return
		}
		once, err := json.Marshal(in)
		if err != nil {
			return // a state that is none, or a time nobody can write
		}
		if err := json.Unmarshal(once, &again); err != nil {
			t.Fatalf("%v in %s", err, once)
		}
		if twice, err := json.Marshal(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
	})
}
